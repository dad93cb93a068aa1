//! Implements `CloudProvider` for the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::actor::{Actor, Call, Done, Target};
use super::ledger::OperationStatus;
use super::machine::{Goal, Machine, Transition};
use super::options::Span;
use super::world::State;
use crate::cloud::{
    AdoptedMachine, CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced,
    Firewall, MachineLogin, MachineSpec, NodeChange, ObservedNode, Power, PreflightReport,
};
use crate::error::{Error, Result};
use crate::model::{NodeName, NodeSpec, PublicPorts};
use crate::runtime::Owner;

/// The poll interval that the cloud requests.
const POLL: Duration = Duration::from_secs(5);

/// The simulated cloud as one platform sees it.
#[derive(Debug, Clone)]
pub struct SimCloud {
    actor: Actor,
    owner: Owner,
    /// The nodes whose machines were adopted at run time.
    adopted: Arc<Mutex<BTreeSet<NodeName>>>,
}

impl SimCloud {
    pub(super) fn new(actor: Actor, owner: Owner) -> Self {
        Self {
            actor,
            owner,
            adopted: Arc::default(),
        }
    }

    fn adopted(&self) -> MutexGuard<'_, BTreeSet<NodeName>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, node: Option<&NodeName>, what: &str, is_effect: bool) -> Call {
        let takes: Span = self.actor.world().lock().rules.latencies.cloud_call;
        Call {
            target: Target::Cloud,
            node: node.cloned(),
            what: what.to_owned(),
            is_effect,
            takes,
        }
    }
}

#[async_trait]
impl CloudProvider for SimCloud {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: "the simulation",
            provisions: true,
            powers: true,
            knows_host_keys: true,
            fences: true,
            adopts: true,
            firewall: Firewall::Managed,
        }
    }

    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        let owner = &self.owner;
        self.actor
            .call(self.call(None, "preflight", false), |state, now| {
                let mut problems: Vec<String> = specs
                    .iter()
                    .filter_map(|spec| missing_size(state, spec))
                    .map(|error| error.to_string())
                    .collect();
                let have = state.numbers(owner.id).len();
                let more = specs
                    .iter()
                    .filter(|spec| state.find(Some(owner.id), &spec.name, now).is_none())
                    .count();
                if let Some(quota) = state.faults.quota.filter(|quota| have + more > *quota) {
                    problems.push(format!(
                        "the quota is {quota} nodes, but {} are declared: request a higher quota or \
                         declare fewer nodes",
                        have + more
                    ));
                }
                Ok(Done::unchanged(PreflightReport {
                    problems,
                    ..PreflightReport::default()
                }))
            })
            .await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        let owner = &self.owner;
        let adopted = self.adopted().clone();
        self.actor
            .call(self.call(None, "list", false), |state, now| {
                let numbers = state.numbers(owner.id);
                let mut nodes = Vec::with_capacity(numbers.len());
                for number in numbers {
                    state.advance(number, now);
                    let machine = state.machines.get(&number);
                    let is_known = |one: &&Machine| !one.adopted || adopted.contains(&one.name);
                    if let Some(machine) = machine.filter(is_known) {
                        nodes.push(machine.observed(&state.rules));
                    }
                }
                Ok(Done::unchanged(nodes))
            })
            .await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        let owner = &self.owner;
        self.actor
            .call(self.call(Some(node), "get", false), |state, now| {
                let number = match state.find(Some(owner.id), node, now) {
                    Some(machine) => Some(machine.number),
                    None => state.find(None, node, now).map(|machine| machine.number),
                };
                let machine = number.and_then(|number| state.machines.get(&number));
                Ok(Done::unchanged(
                    machine.map(|machine| machine.observed(&state.rules)),
                ))
            })
            .await
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let owner = &self.owner;
        self.actor
            .call(self.call(Some(node), "adopt", true), |state, now| {
                let ours = state.find(Some(owner.id), node, now).is_some();
                if !ours {
                    state.find(None, node, now).ok_or_else(|| missing(node))?;
                    state.hand_over(node, owner).ok_or_else(|| missing(node))?;
                }
                let number = state
                    .find(Some(owner.id), node, now)
                    .map(|machine| {
                        // From now on, the files declare the machine.
                        machine.adopted = false;
                        machine.number
                    })
                    .ok_or_else(|| missing(node))?;
                let value = state
                    .machines
                    .get(&number)
                    .map(|machine| machine.observed(&state.rules))
                    .ok_or_else(|| missing(node))?;
                Ok(Done {
                    value,
                    changed: !ours,
                })
            })
            .await
    }

    async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
        let owner = &self.owner;
        let node = change.node().clone();
        let word = match &change {
            NodeChange::Provision { .. } => "provision",
            NodeChange::Start { .. } => "power on",
            NodeChange::Stop { .. } => "power off",
            NodeChange::Restart { .. } => "restart",
            NodeChange::Delete { .. } => "delete",
        };
        let call = self.call(Some(&node), word, true);
        self.actor
            .call(call, move |state, now| begin(state, owner, change, now))
            .await
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let node = operation.change.node();
        self.actor
            .call(self.call(Some(node), "poll", false), |state, now| {
                poll(state, operation, now).map(Done::unchanged)
            })
            .await
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        let owner = &self.owner;
        let until = self
            .actor
            .call(self.call(Some(node), "fence", true), |state, now| {
                fence(state, owner, node, now)
            })
            .await?;
        if let Some(until) = until {
            sleep_until(until).await;
        }
        // Check the power again, because the node may have been started in the meantime.
        self.actor
            .call(self.call(Some(node), "inspect", false), |state, now| {
                let at = state.rules.date(now);
                match state.find(Some(owner.id), node, now).map(|m| m.power) {
                    None | Some(Power::Stopped | Power::Failed) => Ok(Done::unchanged(Fenced {
                        node: node.clone(),
                        at,
                    })),
                    Some(_) => Err(Error::Interrupted {
                        what: format!("fencing node {node}"),
                        source: None,
                    }),
                }
            })
            .await
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        let owner = &self.owner;
        let call = self.call(Some(node), &format!("open ports [{ports}]"), true);
        self.actor
            .call(call, |state, now| {
                let machine = state.find(Some(owner.id), node, now);
                let machine = machine.ok_or_else(|| missing(node))?;
                let changed = machine.open_ports != *ports;
                machine.open_ports.clone_from(ports);
                Ok(Done { value: (), changed })
            })
            .await
    }

    fn set_adopted_machines(&self, machines: &BTreeMap<NodeName, AdoptedMachine>) {
        *self.adopted() = machines.keys().cloned().collect();
    }

    async fn check_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<MachineSpec> {
        let owner = &self.owner;
        self.actor
            .call(
                self.call(Some(node), "check machine", false),
                |state, now| {
                    let host_keys = host_keys(state, owner, node, login, now)?;
                    Ok(Done::unchanged(MachineSpec {
                        host_keys,
                        ..machine.clone()
                    }))
                },
            )
            .await
    }

    async fn take_over_machine(
        &self,
        node: &NodeName,
        machine: &MachineSpec,
        login: &MachineLogin,
    ) -> Result<()> {
        let owner = &self.owner;
        self.actor
            .call(
                self.call(Some(node), "take over machine", true),
                |state, now| {
                    let pinned = host_keys(state, owner, node, login, now)?;
                    if pinned != machine.host_keys {
                        return Err(Error::conflict(
                            format!("adopting node {node}"),
                            "the machine has another host key",
                        ));
                    }
                    let taken_over = state.hand_over(node, owner);
                    let changed = taken_over.is_some();
                    if let Some(machine) = taken_over {
                        machine.adopted = true;
                    }
                    Ok(Done { value: (), changed })
                },
            )
            .await
    }

    async fn delete_shared(&self) -> Result<()> {
        let owner = &self.owner;
        self.actor
            .call(self.call(None, "delete shared", true), |state, now| {
                for number in state.numbers(owner.id) {
                    state.advance(number, now);
                }
                let left = state.numbers(owner.id);
                let machines = left.iter().filter_map(|number| state.machines.get(number));
                if machines.into_iter().any(|machine| machine.created) {
                    return Err(Error::Conflict {
                        what: "deleting the nodes' shared resources failed".into(),
                        why: "nodes still use them".into(),
                    });
                }
                let changed = state.shared.remove(&owner.id);
                Ok(Done { value: (), changed })
            })
            .await
    }
}

fn missing(node: &NodeName) -> Error {
    Error::not_found(format!("node {node}"))
}

/// Returns the host keys of a machine that belongs to `owner`, or to no platform, which requires a
/// login.
fn host_keys(
    state: &mut State,
    owner: &Owner,
    node: &NodeName,
    login: &MachineLogin,
    now: Instant,
) -> Result<Vec<String>> {
    let ours = state.find(Some(owner.id), node, now).map(|m| m.number);
    let number = match ours.or_else(|| state.find(None, node, now).map(|m| m.number)) {
        Some(number) => number,
        None if state.numbers_named(node).is_empty() => return Err(missing(node)),
        None => {
            return Err(Error::conflict(
                format!("adopting node {node}"),
                "the machine belongs to another platform",
            ));
        }
    };
    if ours.is_none() && login.password.is_none() && login.key.is_none() {
        return Err(Error::denied(
            format!("the first login to machine {node}"),
            "there is no password or key",
            "specify the password or key of the account",
        ));
    }
    let machine = state.machines.get(&number).ok_or_else(|| missing(node))?;
    Ok(machine.observed(&state.rules).ssh.host_keys)
}

fn not_ours(node: &NodeName) -> Error {
    Error::Conflict {
        what: format!("node {node}"),
        why: "a machine with this name exists, but does not belong to this platform".into(),
    }
}

fn missing_size(state: &State, spec: &NodeSpec) -> Option<Error> {
    let size = spec.size.as_ref()?;
    let sizes = state.rules.sizes.as_ref()?;
    (!sizes.contains(size)).then(|| Error::Exhausted {
        what: format!("node {}", spec.name),
        why: format!("the cloud has no size `{size}`"),
        hint: format!("use one of {sizes:?}"),
    })
}

/// Completes a change that has no effect.
fn done_already(state: &mut State, change: NodeChange) -> Done<CloudOperation> {
    let token = state.new_token();
    let status = (0, OperationStatus::Done);
    state.ledger.operations.insert(token.clone(), status);
    Done::unchanged(CloudOperation { change, token })
}

fn begin(
    state: &mut State,
    owner: &Owner,
    change: NodeChange,
    now: Instant,
) -> Result<Done<CloudOperation>> {
    let node = change.node().clone();
    let found = state.find(Some(owner.id), &node, now).map(|m| m.number);
    let Some(number) = found else {
        if state.find(None, &node, now).is_some() {
            return Err(not_ours(&node));
        }
        return match &change {
            NodeChange::Provision { spec } => provision(state, owner, &spec.clone(), change, now),
            NodeChange::Delete { .. } => Ok(done_already(state, change)),
            NodeChange::Start { .. } | NodeChange::Stop { .. } | NodeChange::Restart { .. } => {
                Err(missing(&node))
            }
        };
    };
    let Some(machine) = state.machines.get(&number) else {
        return Err(missing(&node));
    };
    let boot_id = machine.boot_id(&state.rules);
    let goal = match &change {
        NodeChange::Provision { .. } if machine.power == Power::Failed => Some(Goal::Running),
        NodeChange::Provision { .. } => None,
        NodeChange::Start { .. } => (machine.power != Power::Running).then_some(Goal::Running),
        NodeChange::Stop { .. } => (machine.power != Power::Stopped).then_some(Goal::Stopped),
        NodeChange::Restart { boot_id: of, .. } => {
            (machine.power == Power::Running && *of == boot_id).then_some(Goal::Running)
        }
        NodeChange::Delete { .. } if machine.created => Some(Goal::Gone),
        NodeChange::Delete { .. } => {
            state.release(&node, owner);
            let done = done_already(state, change);
            return Ok(Done {
                changed: true,
                ..done
            });
        }
    };
    if let Some(under_way) = &machine.transition {
        let is_same = under_way.change == change
            || (matches!(change, NodeChange::Provision { .. })
                && matches!(under_way.change, NodeChange::Provision { .. }));
        if is_same {
            let token = under_way.token.clone();
            return Ok(Done::unchanged(CloudOperation { change, token }));
        }
        if goal != Some(Goal::Gone) {
            return Err(Error::Conflict {
                what: format!("node {node}"),
                why: "another change is in progress".into(),
            });
        }
    }
    let Some(goal) = goal else {
        return Ok(done_already(state, change));
    };
    let span = state.rules.latencies.power;
    let token = state.new_token();
    let takes = state.rules.chance.between(span, &["power", &token], number);
    let transition = Transition {
        until: now + takes,
        goal,
        token: token.clone(),
        change: change.clone(),
    };
    if let Some(machine) = state.machines.get_mut(&number) {
        let meanwhile = match goal {
            Goal::Running | Goal::Failed => Power::Starting,
            Goal::Stopped | Goal::Gone => Power::Stopping,
        };
        if goal == Goal::Running {
            machine.fenced = false;
        }
        machine.power_off(now, meanwhile, &mut state.ledger);
        machine.begin(transition, &mut state.ledger);
    }
    Ok(Done::changed(CloudOperation { change, token }))
}

fn provision(
    state: &mut State,
    owner: &Owner,
    spec: &NodeSpec,
    change: NodeChange,
    now: Instant,
) -> Result<Done<CloudOperation>> {
    if let Some(error) = missing_size(state, spec) {
        return Err(error);
    }
    let have = state.numbers(owner.id).len();
    if let Some(quota) = state.faults.quota.filter(|quota| have >= *quota) {
        return Err(Error::Exhausted {
            what: format!("node {}", spec.name),
            why: format!("the quota of {quota} nodes is exhausted"),
            hint: "request a higher quota or declare fewer nodes".into(),
        });
    }
    let token = state.new_token();
    state.shared.insert(owner.id);
    let number = state.add(spec, Some(owner.clone())).number;
    let rules = &state.rules;
    let purpose = ["provision", spec.name.as_str()];
    let takes = rules
        .chance
        .between(rules.latencies.provision, &purpose, number);
    let fails = rules
        .chance
        .happens(rules.rates.provision_fails, &purpose, number);
    let transition = Transition {
        until: now + takes,
        goal: if fails { Goal::Failed } else { Goal::Running },
        token: token.clone(),
        change: change.clone(),
    };
    if let Some(machine) = state.machines.get_mut(&number) {
        machine.begin(transition, &mut state.ledger);
    }
    Ok(Done::changed(CloudOperation { change, token }))
}

fn poll(state: &mut State, operation: &CloudOperation, now: Instant) -> Result<CloudProgress> {
    let lost = || Error::not_found(format!("operation {}", operation.token));
    let number = state
        .ledger
        .operations
        .get(&operation.token)
        .ok_or_else(lost)?
        .0;
    state.advance(number, now);
    let status = state.ledger.operations.get(&operation.token);
    let what = || format!("the change of node {}", operation.change.node());
    match status.map(|(_, status)| status).ok_or_else(lost)? {
        OperationStatus::Done => Ok(CloudProgress::Done),
        OperationStatus::Failed(why) => Err(Error::failed(what(), why.clone())),
        OperationStatus::Overtaken => Err(Error::Conflict {
            what: format!("{} failed", what()),
            why: "another change replaced this change".into(),
        }),
        OperationStatus::UnderWay => {
            let left = state
                .machines
                .get(&number)
                .and_then(|machine: &Machine| machine.transition.as_ref())
                .map(|transition| transition.until.saturating_duration_since(now));
            let poll = state.rules.chance.paced(POLL);
            Ok(CloudProgress::Running {
                after: Some(left.unwrap_or(poll).min(poll)),
                message: Some("InProgress".into()),
            })
        }
    }
}

/// Cuts the power. Returns the time at which the power is off; `None` if it is off now.
fn fence(
    state: &mut State,
    owner: &Owner,
    node: &NodeName,
    now: Instant,
) -> Result<Done<Option<Instant>>> {
    let Some(number) = state.find(Some(owner.id), node, now).map(|m| m.number) else {
        if state.find(None, node, now).is_some() {
            return Err(not_ours(node));
        }
        return Ok(Done::unchanged(None));
    };
    let token = state.new_token();
    let span = state.rules.latencies.power;
    let takes = state.rules.chance.between(span, &["fence", &token], number);
    let Some(machine) = state.machines.get_mut(&number) else {
        return Ok(Done::unchanged(None));
    };
    machine.fenced = true;
    let leads_down = |t: &Transition| matches!(t.goal, Goal::Stopped | Goal::Gone);
    if let Some(under_way) = machine.transition.as_ref().filter(|t| leads_down(t)) {
        return Ok(Done::unchanged(Some(under_way.until)));
    }
    if machine.transition.is_none() && matches!(machine.power, Power::Stopped | Power::Failed) {
        return Ok(Done::unchanged(None));
    }
    let until = now + takes;
    machine.power_off(now, Power::Stopping, &mut state.ledger);
    let transition = Transition {
        until,
        goal: Goal::Stopped,
        token,
        change: NodeChange::Stop { node: node.clone() },
    };
    machine.begin(transition, &mut state.ledger);
    Ok(Done::changed(Some(until)))
}
