//! Tests that an embedded manager and a manager behind HTTP accept and reject the same changes.

use std::collections::BTreeSet;

use lifecycle_core::api::ManagerApi as _;
use lifecycle_core::api::wire::{NewMachineV1, NewNodeV1, NewTokenV1, RestartNodeV1};
use lifecycle_core::cloud::{MachineLogin, MachineSpec};
use lifecycle_core::model::{
    Chunk, Generation, NodeName, NodeRequest, NodeSpec, OperationId, RolloutRequest, ServiceClass,
    ServiceName, TokenName, TokenRole,
};
use lifecycle_core::platform::{OverrideChange, RestoredSecrets};
use lifecycle_core::reconcile::RetryOptions;
use lifecycle_core::runtime::{ExecCommand, ImageLogin, ImageLogins, ImageRegistry};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use serde_json::Value;
use uuid::Uuid;

use super::client::client;
use super::{ROUTES, Served};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Write {
    Apply,
    ImageLogins,
    MissingChunks,
    Chunk,
    Plan,
    DeletePlatform,
    Restart,
    RestartNode,
    PrepareNode,
    Cancel,
    AddNode,
    AdoptNode,
    RemoveNode,
    ChangeNode(NodeRequest),
    ApplyService(ServiceClass),
    RemoveService(ServiceClass),
    Rollout,
    Scale,
    Stop,
    Start,
    RemoveOverride,
    Rollback,
    Retry,
    Exec,
    CreateToken,
    RevokeToken,
}

const WRITES: [Write; 34] = [
    Write::Apply,
    Write::ImageLogins,
    Write::MissingChunks,
    Write::Chunk,
    Write::Plan,
    Write::DeletePlatform,
    Write::Restart,
    Write::RestartNode,
    Write::PrepareNode,
    Write::Cancel,
    Write::AddNode,
    Write::AdoptNode,
    Write::RemoveNode,
    Write::ChangeNode(NodeRequest::Cordon),
    Write::ChangeNode(NodeRequest::Drain),
    Write::ChangeNode(NodeRequest::Uncordon),
    Write::ChangeNode(NodeRequest::Stop),
    Write::ChangeNode(NodeRequest::Start),
    Write::ApplyService(ServiceClass::Microservice),
    Write::RemoveService(ServiceClass::Microservice),
    Write::ApplyService(ServiceClass::Application),
    Write::RemoveService(ServiceClass::Application),
    Write::ApplyService(ServiceClass::Model),
    Write::RemoveService(ServiceClass::Model),
    Write::Rollout,
    Write::Scale,
    Write::Stop,
    Write::Start,
    Write::RemoveOverride,
    Write::Rollback,
    Write::Retry,
    Write::Exec,
    Write::CreateToken,
    Write::RevokeToken,
];

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Another manager leads.
    Standby,
    /// The first round cannot complete, because the service's image does not exist.
    FirstRound,
    /// The first round has completed.
    Open,
}

impl Phase {
    async fn reach(self) -> Served {
        match self {
            Self::Standby => Served::standby(),
            Self::FirstRound => {
                let mut served = Served::with_image("absent:1");
                served.run();
                let mut rounds = served.manager.rounds();
                let planned = rounds.wait_for(|s| !s.plan.instances.is_empty()).await;
                drop(planned.unwrap());
                assert!(!served.manager.is_open());
                served
            }
            Self::Open => {
                let served = Served::ready().await;
                let mut rounds = served.manager.rounds();
                while !served.manager.is_open() {
                    rounds.changed().await.unwrap();
                }
                served
            }
        }
    }
}

fn command() -> ExecCommand {
    ExecCommand {
        command: vec!["true".into()],
        user: None,
        working_dir: None,
        terminal: None,
    }
}

fn logins() -> ImageLogins {
    let token = ImageLogin::RegistryToken(Sensitive::new("token"));
    ImageLogins::from([(ImageRegistry::of("registry:5000/x"), token)])
}

fn new_token() -> NewTokenV1 {
    NewTokenV1::new(TokenName::try_from("ci").unwrap(), TokenRole::Viewer)
}

fn new_node() -> NewNodeV1 {
    NewNodeV1::new(NodeName::try_from("added").unwrap(), None)
}

fn machine() -> (NodeSpec, MachineSpec) {
    let machine = MachineSpec {
        address: "192.0.2.1".into(),
        private_address: None,
        port: 22,
        user: "ops".into(),
        host_keys: Vec::new(),
    };
    (NodeSpec::new(new_node().name), machine)
}

fn new_machine() -> NewMachineV1 {
    let (spec, machine) = machine();
    NewMachineV1::new(spec.name, machine.address, machine.user)
}

fn new_service() -> ServiceName {
    ServiceName::try_from("new").unwrap()
}

fn chunk() -> Chunk {
    Chunk::new("contents".into()).unwrap()
}

fn override_of(write: Write) -> OverrideChange {
    match write {
        Write::Stop => OverrideChange::Stop,
        Write::Start => OverrideChange::Start,
        _ => OverrideChange::Scale(2),
    }
}

async fn embedded(served: &Served, write: Write) -> Result<()> {
    let manager = &served.manager;
    match write {
        Write::Apply => manager.apply(served.declaration.clone()).await.map(drop),
        Write::ImageLogins => manager.set_image_logins(&logins()).await,
        Write::MissingChunks => {
            let digests = BTreeSet::from([chunk().digest()]);
            manager.missing_chunks(digests).await.map(drop)
        }
        Write::Chunk => manager.put_chunk(chunk()).await,
        Write::Plan => manager.plan(&served.declaration).await.map(drop),
        Write::DeletePlatform => manager.delete_platform(false).await.map(drop),
        Write::Restart => manager.restart("web", None).await.map(drop),
        Write::RestartNode => manager.restart_node("absent", None).await.map(drop),
        Write::PrepareNode => manager.prepare_node("absent").await.map(drop),
        Write::Cancel => manager.cancel(OperationId(Uuid::nil())).await.map(drop),
        Write::AddNode => {
            let node = new_node();
            manager.add_node(node.name, None).await.map(drop)
        }
        Write::AdoptNode => {
            let (spec, machine) = machine();
            let login = MachineLogin::default();
            let adopted = manager.adopt_node(spec, machine, &login);
            adopted.await.map(drop)
        }
        Write::RemoveNode => manager.remove_node("absent", false).await.map(drop),
        Write::ChangeNode(to) => manager.change_nodes(&["absent".into()], to).await.map(drop),
        Write::ApplyService(class) => {
            let name = new_service();
            let applied = manager.apply_service(class, &name, "image: base:1");
            applied.await.map(drop)
        }
        Write::RemoveService(class) => manager.remove_service(class, "absent").await.map(drop),
        Write::Rollout => {
            let paused = manager.rollout("web", RolloutRequest::Pause);
            paused.await.map(drop)
        }
        Write::Scale | Write::Stop | Write::Start => {
            let changed = manager.override_service("web", override_of(write));
            changed.await.map(drop)
        }
        Write::RemoveOverride => manager.remove_override("absent").await.map(drop),
        Write::Rollback => {
            let done = manager.rollback(Generation(1), RestoredSecrets::Current);
            done.await.map(drop)
        }
        Write::Retry => manager
            .retry("web", RetryOptions::default())
            .await
            .map(drop),
        Write::Exec => manager.exec("web", &command()).await.map(drop),
        Write::CreateToken => {
            let token = manager.create_token(new_token().into());
            token.await.map(drop)
        }
        Write::RevokeToken => manager.revoke_token("absent").await.map(drop),
    }
}

async fn over_http(served: &Served, write: Write) -> Result<()> {
    let api = client(&served.router, &served.admin);
    match write {
        Write::Apply => api.apply(&served.declaration).await.map(drop),
        Write::ImageLogins => api.set_image_logins(&logins()).await,
        Write::MissingChunks => {
            let digests = BTreeSet::from([chunk().digest()]);
            api.missing_chunks(&digests).await.map(drop)
        }
        Write::Chunk => api.put_chunk(&chunk()).await,
        Write::Plan => api.plan(&served.declaration).await.map(drop),
        Write::DeletePlatform => api.delete_platform(false).await.map(drop),
        Write::Restart => api.restart("web", None).await.map(drop),
        Write::RestartNode => {
            let request = RestartNodeV1::default();
            api.restart_node("absent", &request).await.map(drop)
        }
        Write::PrepareNode => api.prepare_node("absent").await.map(drop),
        Write::Cancel => api.cancel(OperationId(Uuid::nil())).await.map(drop),
        Write::AddNode => api.add_node(&new_node()).await.map(drop),
        Write::AdoptNode => api.adopt_node(&new_machine()).await.map(drop),
        Write::RemoveNode => api.remove_node("absent", false).await.map(drop),
        Write::ChangeNode(to) => api.change_nodes(&["absent".into()], to).await.map(drop),
        Write::ApplyService(class) => {
            let name = new_service();
            let applied = api.apply_service(class, &name, "image: base:1");
            applied.await.map(drop)
        }
        Write::RemoveService(class) => api.remove_service(class, "absent").await.map(drop),
        Write::Rollout => api.rollout("web", RolloutRequest::Pause).await.map(drop),
        Write::Scale | Write::Stop | Write::Start => {
            let changed = api.override_service("web", override_of(write));
            changed.await.map(drop)
        }
        Write::RemoveOverride => api.remove_override("absent").await.map(drop),
        Write::Rollback => {
            let done = api.rollback(Generation(1), RestoredSecrets::Current);
            done.await.map(drop)
        }
        Write::Retry => api.retry("web", RetryOptions::default()).await.map(drop),
        Write::Exec => api.exec("web", command()).await.map(drop),
        Write::CreateToken => api.create_token(&new_token()).await.map(drop),
        Write::RevokeToken => api.revoke_token("absent").await.map(drop),
    }
}

fn error(outcome: &Result<()>) -> Value {
    let error = outcome.as_ref().err();
    error.map_or(Value::Null, |error| serde_json::to_value(error).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_embedded_manager_and_one_behind_http_reject_the_same_changes() {
    let changing = ROUTES
        .iter()
        .filter(|(method, _, role)| *role > TokenRole::Viewer && *method != "GET");
    assert_eq!(changing.count(), WRITES.len(), "a route is missing here");
    for phase in [Phase::Standby, Phase::FirstRound, Phase::Open] {
        for write in WRITES {
            let near = embedded(&phase.reach().await, write).await;
            let far = over_http(&phase.reach().await, write).await;
            assert_eq!(error(&near), error(&far), "{write:?} in {phase:?}");
            let must_wait = matches!(near, Err(Error::NotReady { .. }));
            let expected = match phase {
                // The registry is empty, so a retry and a command do not find the service.
                Phase::Standby => matches!(
                    write,
                    Write::Apply
                        | Write::ImageLogins
                        | Write::Chunk
                        | Write::Plan
                        | Write::DeletePlatform
                        | Write::Restart
                        | Write::RestartNode
                        | Write::PrepareNode
                        | Write::Cancel
                        | Write::AddNode
                        | Write::AdoptNode
                        | Write::RemoveNode
                        | Write::ChangeNode(_)
                        | Write::ApplyService(_)
                        | Write::RemoveService(_)
                        | Write::Rollout
                        | Write::Scale
                        | Write::Stop
                        | Write::Start
                        | Write::RemoveOverride
                        | Write::Rollback
                        | Write::CreateToken
                        | Write::RevokeToken
                ),
                Phase::FirstRound => matches!(
                    write,
                    Write::Restart
                        | Write::RestartNode
                        | Write::PrepareNode
                        | Write::AddNode
                        | Write::AdoptNode
                        | Write::RemoveNode
                        | Write::ChangeNode(_)
                        | Write::ApplyService(_)
                        | Write::RemoveService(_)
                        | Write::Rollout
                        | Write::Scale
                        | Write::Stop
                        | Write::Start
                        | Write::RemoveOverride
                ),
                Phase::Open => false,
            };
            assert_eq!(must_wait, expected, "{write:?} in {phase:?}: {near:?}");
        }
    }
}
