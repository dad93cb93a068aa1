//! Creates the API's responses from the registry's snapshot and the control loop's latest round,
//! without I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{
    AddressesV1, DockerV1, EndedV1, EndpointV1, InstanceStateV1, InstanceV1, ManagerV1,
    NodeStateV1, NodeV1, OperationStateV1, OperationV1, PlatformState, PlatformV1, ProgressV1,
    PublicAddressV1, ServiceV1, WaitV1,
};
use crate::cloud::Power;
use crate::model::{
    InstanceId, InstanceRecord, InstanceState, NodeName, Operation, OperationKind, OperationState,
    PlatformId, PlatformName, Replica, ServiceSpec, Subject,
};
use crate::reconcile::{HeldBy, Plan, Round};
use crate::registry::Snapshot;

/// Returns the state of the platform as a whole.
pub fn platform(
    name: &PlatformName,
    id: PlatformId,
    snapshot: &Snapshot,
    round: &Round,
) -> PlatformV1 {
    let is_up = |s: &InstanceState| matches!(s, InstanceState::Ready | InstanceState::Completed);
    // A standby manager has no plan of its own, so use the leader's records.
    let has_planned = round.input.is_some();
    let (settled, all_up) = if has_planned || !snapshot.first_round_done {
        let mut planned = round.plan.instances.values();
        (round.settled, planned.all(|i| is_up(&i.state)))
    } else {
        let declared = snapshot.declaration.iter();
        let services = declared.flat_map(|(_, d)| d.services.values());
        let declared: usize = services.map(|s| usize::from(s.replicas)).sum();
        let recorded = snapshot.instances.values();
        let up = recorded.filter(|record| is_up(&record.state)).count();
        (true, up == declared && up == snapshot.instances.len())
    };
    let unknown = snapshot.nodes.values().any(|n| n.unknown.is_some());
    PlatformV1 {
        name: name.to_string(),
        id: id.to_string(),
        generation: snapshot.declaration.as_ref().map_or(0, |(g, _)| g.0),
        state: if round.is_deleting() {
            PlatformState::Deleting
        } else if !settled && !unknown {
            PlatformState::Converging
        } else if all_up && !unknown {
            PlatformState::Running
        } else {
            PlatformState::Degraded
        },
        manager: snapshot.manager.as_ref().map(|m| ManagerV1 {
            url: m.url(),
            node: m.node.clone(),
        }),
    }
}

/// Returns all declared or recorded nodes.
pub fn nodes(snapshot: &Snapshot) -> Vec<NodeV1> {
    let declared = snapshot
        .declaration
        .iter()
        .flat_map(|(_, declaration)| declaration.nodes.keys());
    let names: std::collections::BTreeSet<&NodeName> =
        declared.chain(snapshot.nodes.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let record = snapshot.nodes.get(name);
            let machine = record.and_then(|r| r.observed.as_ref());
            let unknown = record.and_then(|r| r.unknown.as_ref());
            let state = match (machine.map(|m| m.power), unknown) {
                (_, Some(_)) => NodeStateV1::Unknown,
                (None, None) => NodeStateV1::Absent,
                (Some(Power::Starting), None) => NodeStateV1::Starting,
                (Some(Power::Running), None) => NodeStateV1::Running,
                (Some(Power::Stopping), None) => NodeStateV1::Stopping,
                (Some(Power::Stopped), None) => NodeStateV1::Stopped,
                (Some(Power::Failed), None) => NodeStateV1::Failed,
            };
            let engine = record.and_then(|r| r.engine.as_ref());
            let declaration = snapshot.declaration.as_ref();
            let spec = declaration.and_then(|(_, declared)| declared.nodes.get(name));
            NodeV1 {
                name: name.clone(),
                state,
                unknown_since: unknown.map(|u| u.since),
                unknown_why: unknown.map(|u| u.why.clone()),
                boot_id: machine.and_then(|m| m.boot_id.clone()),
                addresses: AddressesV1 {
                    private: machine.and_then(|m| m.addresses.private),
                    public: machine.and_then(|m| m.addresses.public),
                },
                docker: DockerV1 {
                    version: engine.map(|e| e.version.clone()),
                    ready: engine.is_some() && state == NodeStateV1::Running,
                },
                scheduling: spec.map(|spec| spec.scheduling.into()).unwrap_or_default(),
            }
        })
        .collect()
}

/// Returns all declared services with their replicas.
pub fn services(snapshot: &Snapshot, round: &Round) -> Vec<ServiceV1> {
    let mut records: BTreeMap<&InstanceId, &InstanceRecord> = BTreeMap::new();
    for record in snapshot.instances.values() {
        // Prefer a ready container: during a rollout, the old container serves until the planned one
        // is ready. Then prefer the planned container.
        let planned = round.plan.instances.get(&record.id);
        let merit = |r: &InstanceRecord| {
            let is_planned = planned.is_some_and(|p| p.container.as_ref() == Some(&r.container));
            (r.state == InstanceState::Ready, is_planned)
        };
        if records
            .get(&record.id)
            .is_none_or(|known| merit(record) > merit(known))
        {
            records.insert(&record.id, record);
        }
    }
    let Some((_, declaration)) = &snapshot.declaration else {
        return Vec::new();
    };
    declaration
        .services
        .values()
        .map(|service| ServiceV1 {
            name: service.name.clone(),
            class: service.class,
            instances: (1..=service.replicas)
                .map(|n| {
                    let id = InstanceId {
                        service: service.name.clone(),
                        replica: Replica(n),
                    };
                    let record = records.get(&id).copied();
                    let mut instance = instance(&id, record, round);
                    if instance.why.is_none() {
                        instance.why = closed_ports(snapshot, service, &instance, round);
                    }
                    instance
                })
                .collect(),
            rollout: round.plan.rollouts.get(&service.name).cloned(),
            public: public_addresses(snapshot, service),
        })
        .collect()
}

/// Returns the open ports of a public service, on the nodes that run a replica and have a public
/// address.
fn public_addresses(snapshot: &Snapshot, service: &ServiceSpec) -> Vec<PublicAddressV1> {
    let instances = snapshot.instances.values();
    let of_service = instances.filter(|record| record.id.service == service.name);
    let nodes: BTreeSet<&NodeName> = of_service.map(|record| &record.node).collect();
    let machines = nodes
        .into_iter()
        .filter_map(|node| snapshot.nodes.get(node)?.observed.as_ref());
    let addresses = machines.flat_map(|machine| {
        let ip = machine.addresses.public;
        let ports = service.public_ports();
        let open = ports.filter(|port| machine.open_ports.open.0.contains(port));
        open.filter_map(move |port| Some(PublicAddressV1::new(machine.name.clone(), ip?, port)))
    });
    addresses.collect()
}

/// Returns why the ports of a public service are not open on the node of a replica that is up, if
/// opening them has failed.
fn closed_ports(
    snapshot: &Snapshot,
    service: &ServiceSpec,
    instance: &InstanceV1,
    round: &Round,
) -> Option<String> {
    let node = instance.node.as_ref()?;
    let machine = snapshot.nodes.get(node)?.observed.as_ref()?;
    let mut ports = service.public_ports();
    let port = ports.find(|port| !machine.open_ports.open.0.contains(port))?;
    round.plan.held.iter().find_map(|held| match &held.by {
        HeldBy::Backoff { step, why, .. } if step.opens_ports() && step.node() == node => Some(
            format!("its port {port} is not reachable from outside: {why}"),
        ),
        _ => None,
    })
}

fn instance(id: &InstanceId, record: Option<&InstanceRecord>, round: &Round) -> InstanceV1 {
    let planned = round.plan.instances.get(id);
    let state = shown_state(record.map(|r| &r.state), planned.map(|p| &p.state));
    let subject = Subject::Instance(id.clone());
    let held = round.plan.held.iter().find(|h| h.subject == subject);
    let held = held.map(|held| &held.by);
    let is_up =
        |state: &InstanceState| matches!(state, InstanceState::Ready | InstanceState::Completed);
    // The container of an earlier specification may be ready although the replica is not started
    // as declared.
    let is_as_declared = is_up(&state) && planned.is_none_or(|p| p.state != InstanceState::Stopped);
    InstanceV1 {
        id: id.to_string(),
        replica: id.replica.0,
        container: record.map(|r| r.container.to_string()),
        node: record
            .map(|r| r.node.clone())
            .or_else(|| planned.and_then(|p| p.node.clone())),
        state: InstanceStateV1::from(&state),
        // The plan contains the reason why a ready replica still has its previous specification.
        why: InstanceV1::why_of(&state)
            .or_else(|| {
                let why = planned.and_then(|p| InstanceV1::why_of(&p.state))?;
                Some(if is_up(&state) {
                    format!("its new specification failed: {why}")
                } else {
                    why
                })
            })
            .or_else(|| held.filter(|_| !is_as_declared).map(HeldBy::to_string)),
        waits_for: held
            .filter(|_| !is_as_declared)
            .and_then(|by| by.dependency().cloned()),
        ended: round.input.as_ref().and_then(|input| {
            if state == InstanceState::Completed {
                return None;
            }
            let endings = input.history.endings.get(&record?.container)?;
            (endings.recent > 0).then(|| EndedV1::new(endings.recent, endings.last.clone()))
        }),
        started_at: record.and_then(|r| r.started_at),
        ready_at: record.and_then(|r| r.ready_at),
        endpoints: record
            .map(|r| r.endpoints.iter().copied().map(EndpointV1::from).collect())
            .unwrap_or_default(),
    }
}

/// Returns the state of a replica from its recorded and its planned state.
fn shown_state(recorded: Option<&InstanceState>, planned: Option<&InstanceState>) -> InstanceState {
    match (recorded, planned) {
        (Some(InstanceState::Stopped) | None, Some(planned)) => match planned {
            // The replica's endpoints are not recorded yet.
            InstanceState::Ready => InstanceState::Starting,
            planned => planned.clone(),
        },
        (Some(recorded), _) => recorded.clone(),
        (None, None) => InstanceState::Stopped,
    }
}

/// Returns the progress of the current round, with the plan if requested.
pub fn progress(round: &Round, open: bool, with_plan: bool) -> ProgressV1 {
    ProgressV1 {
        generation: round.generation().0,
        open,
        settled: round.settled,
        ready: is_ready(round),
        running: round.running.clone(),
        waits: waits(&round.plan),
        plan: with_plan.then(|| round.plan.as_ref().clone()),
    }
}

/// The maximum number of waits in a response; further waits mostly have the same causes.
const WAITS: usize = 50;

/// Returns what the round waits for, without duplicates.
pub fn waits(plan: &Plan) -> Vec<WaitV1> {
    let mut waits: Vec<WaitV1> = Vec::new();
    for held in &plan.held {
        let Some(until) = held.waits_until.filter(|_| waits.len() < WAITS) else {
            continue;
        };
        let what = match &held.by {
            // The texts of these reasons already contain the subject.
            HeldBy::CloudUnknown { .. }
            | HeldBy::NodeUnknown { .. }
            | HeldBy::NodeNotResponding { .. }
            | HeldBy::NodeChanging { .. } => held.by.to_string(),
            by => format!("{}: {by}", held.subject),
        };
        if waits.iter().all(|known| known.what != what) {
            waits.push(WaitV1 {
                what,
                since: held.by.since(),
                until,
            });
        }
    }
    waits
}

/// Returns whether every declared replica is ready or completed, and no change is in progress.
pub fn is_ready(round: &Round) -> bool {
    round.settled
        && !round.is_deleting()
        && round
            .plan
            .instances
            .values()
            .all(|i| matches!(i.state, InstanceState::Ready | InstanceState::Completed))
}

/// Returns the state of an operation.
pub fn operation(operation: &Operation) -> OperationV1 {
    let (state, why) = match &operation.state {
        OperationState::Running => (OperationStateV1::Running, None),
        OperationState::Succeeded { .. } => (OperationStateV1::Succeeded, None),
        OperationState::Failed { why, .. } => (OperationStateV1::Failed, Some(why.clone())),
        OperationState::Cancelled { .. } => (OperationStateV1::Cancelled, None),
    };
    let declares = match &operation.kind {
        OperationKind::Declare {
            generation,
            request,
            ..
        } => Some((request.clone(), generation.0)),
        _ => None,
    };
    let (request, generation) = declares.unzip();
    let outcome = match &operation.kind {
        OperationKind::PrepareNode { outcome, .. } => outcome.clone(),
        _ => None,
    };
    OperationV1 {
        id: operation.id.0,
        kind: (&operation.kind).into(),
        subject: Some(operation.subject()),
        request,
        generation,
        state,
        why,
        outcome,
        requested_at: Some(operation.requested_at),
        ended_at: operation.ended_at(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{ObservedNode, OpenPorts, SshAddress};
    use crate::model::{
        Addresses, ContainerId, ImageSource, Protocol, PublicPort, PublishedPort, ServiceName,
        SpecDigest,
    };
    use crate::reconcile::{Held, StepId};
    use crate::registry::NodeRecord;

    /// Returns a public service whose replica is on node `n1`, with these open ports.
    fn with_public_service(open: &[u16]) -> (Snapshot, ServiceSpec) {
        let name = ServiceName::try_from("web").unwrap();
        let mut service = ServiceSpec::new(name.clone(), ImageSource::Image("nginx".into()));
        service.public = true;
        service.container.ports = [80, 443]
            .map(|port| PublishedPort {
                host_port: Some(port),
                container_port: port,
                protocol: Protocol::Tcp,
                host_ip: None,
            })
            .into();
        let node = |name: &str, number: u8| {
            let name = NodeName::try_from(name).unwrap();
            let open = open.iter().map(|port| PublicPort {
                port: *port,
                protocol: Protocol::Tcp,
            });
            let machine = ObservedNode {
                name: name.clone(),
                provider_id: String::new(),
                power: Power::Running,
                addresses: Addresses {
                    private: None,
                    public: Some([203, 0, 113, number].into()),
                },
                ssh: SshAddress::new("root"),
                boot_id: None,
                created: true,
                open_ports: OpenPorts {
                    open: open.collect(),
                    ..OpenPorts::default()
                },
            };
            let record = NodeRecord {
                observed: Some(machine),
                ..NodeRecord::new(name.clone())
            };
            (name, record)
        };
        let nodes = [node("n1", 7), node("n2", 8)];
        let record = InstanceRecord {
            container: ContainerId("c".into()),
            id: InstanceId {
                service: name,
                replica: Replica(1),
            },
            node: nodes[0].0.clone(),
            digest: SpecDigest::from_hex("ab"),
            state: InstanceState::Ready,
            started_at: None,
            ready_at: None,
            endpoints: Vec::new(),
        };
        let snapshot = Snapshot {
            nodes: nodes.into(),
            instances: [(record.container.clone(), record)].into(),
            ..Snapshot::default()
        };
        (snapshot, service)
    }

    #[test]
    fn public_addresses_are_those_of_open_ports_on_the_replicas_nodes() {
        let shown = |open: &[u16]| -> Vec<String> {
            let (snapshot, service) = with_public_service(open);
            let addresses = public_addresses(&snapshot, &service);
            addresses.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            shown(&[80, 443, 9090]),
            ["203.0.113.7:80", "203.0.113.7:443"]
        );
        assert_eq!(shown(&[443]), ["203.0.113.7:443"]);
        assert!(shown(&[]).is_empty());
        let (snapshot, mut service) = with_public_service(&[80]);
        service.public = false;
        assert!(public_addresses(&snapshot, &service).is_empty());
    }

    #[test]
    fn a_replica_whose_port_cannot_be_opened_shows_the_reason() {
        let (snapshot, service) = with_public_service(&[80]);
        let step: StepId = "node/n1/public-ports".parse().unwrap();
        let mut round = Round::default();
        let mut instance = InstanceV1::new(
            &"web-1".to_owned().try_into().unwrap(),
            InstanceStateV1::Ready,
        );
        instance.node = NodeName::try_from("n1").ok();
        let why = |round: &Round| closed_ports(&snapshot, &service, &instance, round);
        assert_eq!(why(&round), None);
        let plan = Plan {
            held: vec![Held {
                subject: Subject::Node(step.node().clone()),
                by: HeldBy::Backoff {
                    step,
                    until: chrono::DateTime::UNIX_EPOCH,
                    failures: 1,
                    why: "no security group".into(),
                },
                waits_until: None,
            }],
            ..Plan::default()
        };
        round.plan = std::sync::Arc::new(plan);
        let expected = "its port 443/tcp is not reachable from outside: no security group";
        assert_eq!(why(&round).unwrap(), expected);
    }

    #[test]
    fn a_replica_is_ready_only_when_that_is_recorded() {
        use InstanceState::{Ready, Starting, Stopped};
        let failed = InstanceState::Failed { why: "x".into() };
        for (recorded, planned, shown) in [
            (Some(&Stopped), Some(&Ready), &Starting),
            (None, Some(&Ready), &Starting),
            (Some(&Ready), Some(&Ready), &Ready),
            (Some(&Ready), None, &Ready),
            (Some(&Stopped), Some(&failed), &failed),
            (None, None, &Stopped),
        ] {
            assert_eq!(shown_state(recorded, planned), *shown);
        }
    }
}
