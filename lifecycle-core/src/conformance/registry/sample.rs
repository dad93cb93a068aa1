//! Sample records for the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::clock::{IdSource, SeededIds};
use crate::cloud::{CloudOperation, NodeChange, ObservedNode, OpenPorts, Power, SshAddress};
use crate::error::Result;
use crate::model::{
    Addresses, ContainerId, Endpoint, Epoch, EventKind, Generation, ImageSource, InstanceId,
    InstanceRecord, InstanceState, NewEvent, NodeName, NodeSpec, Operation, OperationId,
    OperationKind, OperationState, PlatformId, PlatformName, Protocol, PublicPort, Replica,
    ServiceName, ServiceSpec, SpecDigest, Subject,
};
use crate::platform::{CloudSpec, Declaration, ManagerEndpoint, ManagerSpec, NetworkSpec};
use crate::registry::{Batch, Change, NodeRecord, Registry, RejectedSpec, Snapshot, Unknown};
use crate::runtime::EngineInfo;
use crate::secret::Sensitive;

/// Returns a time with a fraction of a second. Registries must preserve the fraction.
pub(super) fn at(second: u32) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH
        + TimeDelta::days(20_000)
        + TimeDelta::seconds(second.into())
        + TimeDelta::microseconds(120_034)
}

pub(super) fn node_name(name: &str) -> Result<NodeName> {
    Ok(NodeName::try_from(name)?)
}

pub(super) fn instance_id(service: &str, replica: u16) -> Result<InstanceId> {
    Ok(InstanceId {
        service: ServiceName::try_from(service)?,
        replica: Replica(replica),
    })
}

pub(super) fn operation_id(n: u128) -> OperationId {
    OperationId(Uuid::from_u128(n))
}

pub(super) fn bare_node(name: &str) -> Result<NodeRecord> {
    Ok(NodeRecord {
        name: node_name(name)?,
        observed: None,
        engine: None,
        host_keys: Vec::new(),
        unknown: None,
        operation: None,
    })
}

pub(super) fn put_node(name: &str) -> Result<Change> {
    Ok(Change::PutNode(Box::new(bare_node(name)?)))
}

pub(super) fn endpoint(port: u16, container_port: u16, protocol: Protocol) -> Endpoint {
    Endpoint {
        ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)),
        port,
        container_port,
        protocol,
    }
}

pub(super) fn ready_instance(
    service: &str,
    replica: u16,
    container: &str,
) -> Result<InstanceRecord> {
    Ok(InstanceRecord {
        id: instance_id(service, replica)?,
        node: node_name("vm1")?,
        container: ContainerId(container.into()),
        digest: SpecDigest::from_hex("ab".repeat(32)),
        state: InstanceState::Ready,
        started_at: Some(at(1)),
        ready_at: Some(at(2)),
        endpoints: vec![endpoint(20_001, 80, Protocol::Tcp)],
    })
}

pub(super) fn rejected(service: &str, replica: u16, digest: &str) -> Result<RejectedSpec> {
    Ok(RejectedSpec {
        id: instance_id(service, replica)?,
        digest: SpecDigest::from_hex(digest),
        at: at(3),
        why: "its container ended with exit code 1".into(),
    })
}

pub(super) fn operation(n: u128, requested: u32, state: OperationState) -> Operation {
    Operation {
        id: operation_id(n),
        kind: OperationKind::DeletePlatform { volumes: true },
        state,
        requested_at: at(requested),
    }
}

pub(super) fn event(message: &str, second: u32) -> NewEvent {
    NewEvent {
        at: at(second),
        kind: EventKind::Ready,
        subject: Subject::Platform,
        message: message.into(),
        data: serde_json::Value::Null,
    }
}

pub(super) fn declare(expected: Option<Generation>, declaration: &Declaration) -> Change {
    Change::Declare {
        expected,
        declaration: Box::new(declaration.clone()),
        note: None,
    }
}

/// Returns a platform with one service whose environment contains `text`.
pub(super) fn declaration(text: &str) -> Result<Declaration> {
    let mut service = ServiceSpec::new(
        ServiceName::try_from("db")?,
        ImageSource::Image("postgres:17".into()),
    );
    let environment = &mut service.container.environment;
    environment.insert("TEXT".into(), Sensitive::new(text));
    Ok(Declaration {
        name: PlatformName::try_from("demo")?,
        id: PlatformId::new(SeededIds::new(7).uuid()),
        manager: ManagerSpec {
            node: node_name("vm1")?,
            port: ManagerSpec::PORT,
        },
        cloud: CloudSpec::Local { subnet: None },
        nodes: BTreeMap::from([(node_name("vm1")?, NodeSpec::new(node_name("vm1")?))]),
        services: BTreeMap::from([(service.name.clone(), service)]),
        volumes: BTreeSet::new(),
        network: NetworkSpec::default(),
        deadlines: crate::cloud::CloudDeadlines::default(),
        overrides: crate::platform::Overrides::default(),
    })
}

/// Stores records of every kind, with all fields and states. Returns the expected snapshot.
pub(super) async fn populate(registry: &dyn Registry, epoch: Epoch) -> Result<Snapshot> {
    let mut full = Snapshot {
        declaration: Some((Generation(1), declaration("one")?)),
        manager: Some(ManagerEndpoint {
            node: node_name("vm1")?,
            ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4)),
            port: 7443,
        }),
        first_round_done: true,
        ..Snapshot::default()
    };
    let known = NodeRecord {
        observed: Some(ObservedNode {
            name: node_name("vm1")?,
            provider_id: "/subscriptions/x".into(),
            power: Power::Running,
            addresses: Addresses {
                private: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4))),
                public: None,
            },
            ssh: SshAddress {
                user: "lifecycle".into(),
                port: 22,
                host_keys: vec!["ssh-ed25519 AAAA".into()],
            },
            boot_id: Some("boot-1".into()),
            created: true,
            open_ports: OpenPorts {
                open: [PublicPort {
                    port: 8080,
                    protocol: Protocol::Tcp,
                }]
                .into_iter()
                .collect(),
                ..OpenPorts::default()
            },
        }),
        engine: Some(EngineInfo {
            version: "26.1".into(),
            api_version: "1.45".into(),
            architecture: "amd64".into(),
            cpus: 8,
            memory_bytes: 1 << 34,
        }),
        host_keys: vec!["ssh-ed25519 AAAA".into(), "ssh-rsa BBBB".into()],
        ..bare_node("vm1")?
    };
    let unknown = NodeRecord {
        unknown: Some(Unknown {
            since: at(4),
            why: "SSH does not respond".into(),
        }),
        operation: Some(CloudOperation {
            change: NodeChange::Restart {
                node: node_name("vm2")?,
                boot_id: "boot-2".into(),
            },
            token: "https://cloud/operations/1".into(),
        }),
        ..bare_node("vm2")?
    };
    for record in [known, unknown] {
        full.nodes.insert(record.name.clone(), record);
    }
    let states = [
        InstanceState::Ready,
        InstanceState::Starting,
        InstanceState::Unhealthy {
            why: "port 80: connection refused".into(),
        },
        InstanceState::Completed,
        InstanceState::Stopped,
        InstanceState::Failed {
            why: "exit 1".into(),
        },
        InstanceState::Unknown {
            since: at(5),
            why: "its node is unknown".into(),
        },
    ];
    for (state, n) in states.into_iter().zip(1_u16..) {
        let mut record = ready_instance("db", n, &format!("c{n}"))?;
        if state != InstanceState::Ready {
            record.endpoints = Vec::new();
            record.ready_at = None;
            record.started_at = None;
        }
        record.state = state;
        full.instances.insert(record.container.clone(), record);
    }
    let failed = rejected("db", 5, "d1")?;
    full.rejected.insert(failed.id.clone(), failed);
    for (service, last) in [("db", 7), ("front.v2", 9)] {
        let address = Ipv4Addr::new(10, 210, 0, last);
        let service = ServiceName::try_from(service)?;
        full.addresses.insert(service, address);
    }

    let mut changes = vec![Change::MarkFirstRoundDone];
    changes.extend(
        full.declaration
            .iter()
            .map(|(_, declared)| declare(None, declared)),
    );
    changes.extend(full.manager.clone().map(Change::PutManager));
    changes.push(Change::PutAddresses(full.addresses.clone()));
    changes.extend(
        full.nodes
            .values()
            .map(|node| Change::PutNode(Box::new(node.clone()))),
    );
    changes.extend(
        full.instances
            .values()
            .map(|instance| Change::PutInstance(Box::new(instance.clone()))),
    );
    changes.extend(full.rejected.values().cloned().map(Change::Reject));
    let batch = Batch {
        changes,
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    Ok(full)
}
