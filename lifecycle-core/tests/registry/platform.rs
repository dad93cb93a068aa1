//! Builds records for the tests that are not part of the conformance suite.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::cloud::{CloudOperation, NodeChange};
use lifecycle_core::code::CodeBaseRef;
use lifecycle_core::model::{
    BuildSource, Chunk, ContainerId, Endpoint, EventKind, FileContents, FileTree, ImageSource,
    InstanceId, InstanceRecord, InstanceState, NewEvent, NodeName, PlatformId, PlatformName,
    Protocol, Replica, ServiceClass, ServiceName, ServiceSpec, ShippedFile, ShippedMount,
    SpecDigest, Subject,
};
use lifecycle_core::platform::{CloudSpec, Declaration, ManagerSpec};
use lifecycle_core::registry::{Batch, Change, NodeRecord};
use lifecycle_core::secret::Sensitive;

/// Secrets that must never be stored in plain text. There is one for each field that may contain a
/// secret.
pub(crate) const PLANTED: [&str; 5] = [
    "planted-in-environment",
    "planted-in-build-argument",
    "planted-in-credential",
    "planted-in-cloud-token",
    "planted-in-mounted-file",
];

pub(crate) fn at(second: u32) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(second.into())
}

pub(crate) fn node_name(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

pub(crate) fn declaration(replicas: u16) -> Declaration {
    let name = ServiceName::try_from("app").unwrap();
    let build = BuildSource {
        code: CodeBaseRef {
            name: "app".into(),
            digest: "00".into(),
        },
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::from([("TOKEN".into(), Sensitive::new(PLANTED[1]))]),
        bases: Vec::new(),
        exposes: std::collections::BTreeSet::new(),
        options: lifecycle_core::model::BuildOptions::default(),
    };
    let mut service = ServiceSpec::new(name.clone(), ImageSource::Build(build));
    service.class = ServiceClass::Model;
    service.replicas = replicas;
    let environment = &mut service.container.environment;
    environment.insert("PASSWORD".into(), Sensitive::new(PLANTED[0]));
    service.container.files.push(ShippedMount {
        target: "/etc/app".into(),
        tree: FileTree::File(ShippedFile {
            mode: 0o444,
            uid: 0,
            gid: 0,
            contents: FileContents::Chunked(PLANTED[4].len() as u64),
        }),
        chunks: vec![chunk().digest()],
    });
    Declaration {
        name: PlatformName::try_from("demo").unwrap(),
        id: PlatformId::new(uuid::Uuid::from_u128(7)),
        manager: ManagerSpec {
            node: node_name("vm1"),
            port: ManagerSpec::PORT,
        },
        cloud: CloudSpec::Local { subnet: None },
        nodes: BTreeMap::new(),
        services: BTreeMap::from([(name, service)]),
        volumes: BTreeSet::new(),
        network: lifecycle_core::platform::NetworkSpec::default(),
        deadlines: lifecycle_core::cloud::CloudDeadlines::default(),
        overrides: lifecycle_core::platform::Overrides::default(),
    }
}

/// Returns the chunk that the declaration refers to.
pub(crate) fn chunk() -> Chunk {
    Chunk::new(PLANTED[4].into()).unwrap()
}

pub(crate) fn node(name: &str, why: Option<&str>) -> NodeRecord {
    NodeRecord {
        name: node_name(name),
        observed: None,
        engine: None,
        host_keys: Vec::new(),
        unknown: why.map(|why| lifecycle_core::registry::Unknown {
            since: at(1),
            why: why.into(),
        }),
        operation: Some(CloudOperation {
            change: NodeChange::Start {
                node: node_name(name),
            },
            token: PLANTED[3].into(),
        }),
    }
}

pub(crate) fn instance(replica: u16, container: &str, endpoints: u16) -> InstanceRecord {
    InstanceRecord {
        id: InstanceId {
            service: ServiceName::try_from("app").unwrap(),
            replica: Replica(replica),
        },
        node: node_name("vm1"),
        container: ContainerId(container.into()),
        digest: SpecDigest::from_hex("ab".repeat(32)),
        state: InstanceState::Ready,
        started_at: Some(at(1)),
        ready_at: Some(at(2)),
        endpoints: (0..endpoints)
            .map(|n| Endpoint {
                ip: [10, 0, 0, 5].into(),
                port: 20_000 + n,
                container_port: 80 + n,
                protocol: Protocol::Tcp,
            })
            .collect(),
    }
}

pub(crate) fn event(message: &str) -> NewEvent {
    NewEvent {
        at: at(1),
        kind: EventKind::Ready,
        subject: Subject::Platform,
        message: message.into(),
        data: serde_json::Value::Null,
    }
}

/// Returns a batch with a record of each kind. The records contain all secrets in `PLANTED`.
pub(crate) fn everything() -> Batch {
    Batch {
        changes: vec![
            Change::Declare {
                expected: None,
                declaration: Box::new(declaration(2)),
                note: None,
            },
            Change::PutChunk(chunk()),
            Change::PutNode(Box::new(node("vm1", None))),
            Change::PutInstance(Box::new(instance(1, "c1", 2))),
            Change::PutCredential {
                name: "read-token".into(),
                credential: Sensitive::new(PLANTED[2]),
            },
        ],
        events: vec![event("plain text")],
    }
}
