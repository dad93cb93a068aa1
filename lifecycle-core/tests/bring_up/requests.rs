//! Tests that a request with a key is carried out once, and that its repetition gets the same answer,
//! although the manager crashes in between.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lifecycle_core::api::wire::{NewNodeV1, OperationStateV1, OperationV1, RestartNodeV1};
use lifecycle_core::manager::KeyedRequest;
use lifecycle_core::model::{
    EventKind, Generation, NodeName, NodeRequest, OperationId, RolloutRequest, ServiceClass,
    ServiceName,
};
use lifecycle_core::platform::{OverrideChange, RestoredSecrets};
use lifecycle_core::runtime::ExecCommand;
use lifecycle_core::sim::Edge;
use lifecycle_core::{Error, Result, Retry};
use serde_json::Value;

use crate::stage::Stage;

const APPLICATION: &str = "{image: 'debian:bookworm-slim', command: [sleep, infinity]}";

/// A kind of request. All of them are answered with an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Apply,
    Scale,
    Stop,
    Start,
    ApplyService,
    RemoveService,
    AddNode,
    RemoveNode,
    Drain,
    StopNode,
    RemoveOverride,
    Rollback,
    Restart,
    RestartNode,
    PrepareNode,
    Rollout,
    DeletePlatform,
}

const KINDS: [Kind; 17] = [
    Kind::Apply,
    Kind::Scale,
    Kind::Stop,
    Kind::Start,
    Kind::ApplyService,
    Kind::RemoveService,
    Kind::AddNode,
    Kind::RemoveNode,
    Kind::Drain,
    Kind::StopNode,
    Kind::RemoveOverride,
    Kind::Rollback,
    Kind::Restart,
    Kind::RestartNode,
    Kind::PrepareNode,
    Kind::Rollout,
    Kind::DeletePlatform,
];

fn keyed(client: &str, key: &str, contents: &str) -> KeyedRequest {
    KeyedRequest::new(client, key, &[contents.as_bytes()])
}

fn answer(answer: impl serde::Serialize) -> Value {
    serde_json::to_value(answer).unwrap()
}

impl Kind {
    /// Returns a platform on which the request changes something.
    async fn stage(self) -> Stage {
        let mut stage = Stage::new(140).await;
        stage.up().await.unwrap();
        let bootstrapper = stage.bootstrapper().await;
        let id = stage.declaration.id;
        let api = ServiceName::try_from("api").unwrap();
        match self {
            Self::Start => {
                let stopped = bootstrapper.override_service(id, &api, OverrideChange::Stop);
                drop(stopped.await.unwrap());
            }
            Self::RemoveOverride | Self::Rollback => {
                let scaled = bootstrapper.override_service(id, &api, OverrideChange::Scale(1));
                drop(scaled.await.unwrap());
            }
            Self::RemoveService => {
                let (class, name) = (ServiceClass::Application, "shop".try_into().unwrap());
                let applied = bootstrapper.apply_service(id, class, &name, APPLICATION);
                drop(applied.await.unwrap());
            }
            Self::RemoveNode => {
                let node = NewNodeV1::new(NodeName::try_from("n3").unwrap(), None);
                bootstrapper.add_node(id, &node).await.unwrap();
            }
            Self::Apply => stage.declaration.services.get_mut(&api).unwrap().replicas = 3,
            Self::Rollout => {
                // The second version does not become ready, so its rollout does not end by itself.
                stage.command("api", "sleep 1; exit 3");
                let api = stage.api().await;
                api.apply(&stage.declaration).await.unwrap();
                let begun = async || {
                    let operations = api.operations().await.unwrap();
                    operations
                        .iter()
                        .any(|one| one.kind.to_string() == "rollout")
                };
                while !begun().await {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            _ => {}
        }
        stage
    }

    /// Sends the request, and returns the answer.
    async fn send(self, stage: &Stage) -> Result<Value> {
        let api = stage.api().await;
        let service = |change| api.override_service("api", change);
        let nodes = |request| async move {
            let names = ["n2".to_owned()];
            stage.api().await.change_nodes(&names, request).await
        };
        let application = ServiceClass::Application;
        Ok(match self {
            Self::Apply => answer(api.apply(&stage.declaration).await?),
            Self::Scale => answer(service(OverrideChange::Scale(3)).await?),
            Self::Stop => answer(service(OverrideChange::Stop).await?),
            Self::Start => answer(service(OverrideChange::Start).await?),
            Self::ApplyService => {
                let name = "shop".try_into().unwrap();
                answer(api.apply_service(application, &name, APPLICATION).await?)
            }
            Self::RemoveService => answer(api.remove_service(application, "shop").await?),
            Self::AddNode => {
                let node = NewNodeV1::new(NodeName::try_from("n3").unwrap(), None);
                answer(api.add_node(&node).await?)
            }
            Self::RemoveNode => answer(api.remove_node("n3", false).await?),
            Self::Drain => answer(nodes(NodeRequest::Drain).await?),
            Self::StopNode => answer(nodes(NodeRequest::Stop).await?),
            Self::RemoveOverride => answer(api.remove_override("api.replicas").await?),
            Self::Rollback => {
                let rolled_back = api.rollback(Generation(1), RestoredSecrets::Current);
                answer(rolled_back.await?)
            }
            Self::Restart => answer(api.restart("api", None).await?),
            Self::RestartNode => answer(api.restart_node("n2", &RestartNodeV1::default()).await?),
            Self::PrepareNode => answer(api.prepare_node("n2").await?),
            Self::Rollout => answer(api.rollout("api", RolloutRequest::Rollback).await?),
            Self::DeletePlatform => answer(api.delete_platform(false).await?),
        })
    }

    /// Sends the request with its key.
    async fn send_keyed(self, stage: &Stage) -> Result<Value> {
        let request = keyed("ci", "key", &format!("{self:?}"));
        request.perform(self.send(stage)).await
    }

    /// Returns the parts of an answer that do not change while its operation is carried out.
    fn lasting(answer: &Value) -> Value {
        let mut answer = answer.clone();
        for key in ["state", "ended_at", "why", "outcome"] {
            answer.as_object_mut().unwrap().remove(key);
        }
        answer
    }
}

fn operation_of(answer: &Value) -> OperationId {
    let id = answer.get("operation").unwrap_or(&answer["id"]);
    OperationId(id.as_str().unwrap().parse().unwrap())
}

/// Waits until an operation ends.
async fn ended(stage: &Stage, id: OperationId) -> OperationV1 {
    let wait = async {
        loop {
            let api = stage.api().await;
            if let Ok(operation) = api.operation(id).await
                && operation.state != OperationStateV1::Running
            {
                break operation;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_hours(1), wait).await;
    ended.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Returns the number of requests in the audit.
async fn audited(stage: &Stage) -> usize {
    let mut after = 0;
    let mut found = 0;
    loop {
        let page = stage.api().await.events(after).await.unwrap();
        if page.cursor == after {
            return found;
        }
        let kinds = page.events.iter().map(|event| event.event.kind);
        found += kinds.filter(|kind| *kind == EventKind::Audit).count();
        after = page.cursor;
    }
}

#[tokio::test(start_paused = true)]
async fn a_repetition_gets_the_same_answer_and_changes_nothing() {
    for kind in KINDS {
        let stage = kind.stage().await;
        let before = audited(&stage).await;
        let first = kind.send_keyed(&stage).await.unwrap();
        let again = kind.send_keyed(&stage).await.unwrap();
        let lasting = Kind::lasting;
        assert_eq!(lasting(&again), lasting(&first), "{kind:?}");
        ended(&stage, operation_of(&first)).await;
        let late = kind.send_keyed(&stage).await.unwrap();
        assert_eq!(lasting(&late), lasting(&first), "{kind:?}");
        assert_eq!(audited(&stage).await, before + 1, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_belong_to_one_request_of_one_client() {
    let stage = Kind::Scale.stage().await;
    let api = stage.api().await;
    let scale = async |client, key, replicas: u16| {
        let change = OverrideChange::Scale(replicas);
        keyed(client, key, &replicas.to_string())
            .perform(api.override_service("api", change))
            .await
    };
    let first = scale("ci", "a", 3).await.unwrap();
    assert!(first.changed);
    let reused = scale("ci", "a", 4).await.unwrap_err();
    assert!(matches!(reused, Error::Invalid { .. }), "{reused:?}");
    assert!(reused.to_string().contains("Idempotency-Key"), "{reused}");
    let other = scale("deployer", "a", 4).await.unwrap();
    assert!(other.changed);
    // The repetition does not scale to 3 again.
    assert_eq!(scale("ci", "a", 3).await.unwrap(), first);
    let now = api.service("api").await.unwrap();
    assert_eq!(now.instances.len(), 4);
    // An unchanged declaration is an answer, too.
    let same = scale("ci", "b", 4).await.unwrap();
    assert!(!same.changed);
    assert!(scale("ci", "c", 5).await.unwrap().changed);
    assert_eq!(scale("ci", "b", 4).await.unwrap(), same);
    let command = keyed("ci", "d", "exec").perform(async {
        let command = ExecCommand::new(["true"]);
        api.exec("api", command).await.map(drop)
    });
    let rejected = command.await.unwrap_err();
    assert!(
        rejected.to_string().contains("Idempotency-Key"),
        "{rejected}"
    );
}

/// A request that has failed is not recorded, so it can be repeated.
#[tokio::test(start_paused = true)]
async fn a_failed_request_is_carried_out_when_it_is_repeated() {
    let stage = Kind::Scale.stage().await;
    let api = stage.api().await;
    let restart = async || {
        let request = keyed("ci", "key", "restart shop");
        request.perform(api.restart("shop", None)).await
    };
    assert!(matches!(restart().await, Err(Error::NotFound { .. })));
    let (class, name) = (ServiceClass::Application, "shop".try_into().unwrap());
    let bootstrapper = stage.bootstrapper().await;
    let applied = bootstrapper.apply_service(stage.declaration.id, class, &name, APPLICATION);
    drop(applied.await.unwrap());
    let begun = restart().await.unwrap();
    assert_eq!(restart().await.unwrap().id, begun.id);
}

/// The repetition of a request from before the deletion must not revive the platform.
#[tokio::test(start_paused = true)]
async fn a_repetition_does_not_interrupt_the_deletion_of_the_platform() {
    for kind in [Kind::Scale, Kind::Rollback, Kind::Restart] {
        let stage = kind.stage().await;
        let first = kind.send_keyed(&stage).await.unwrap();
        let api = stage.api().await;
        let deletion = api.delete_platform(false).await.unwrap();
        for _ in 0..20 {
            let again = kind.send_keyed(&stage).await.unwrap();
            assert_eq!(Kind::lasting(&again), Kind::lasting(&first));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let ended = ended(&stage, deletion.id()).await;
        assert_eq!(ended.state, OperationStateV1::Succeeded, "{kind:?}");
        let services = api.services().await.unwrap();
        assert_eq!(services, [], "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_services_end_once_although_the_manager_crashes() {
    each_ends_once(&KINDS[..4]).await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_classes_and_nodes_end_once_although_the_manager_crashes() {
    each_ends_once(&KINDS[4..8]).await;
}

#[tokio::test(start_paused = true)]
async fn moves_and_rollbacks_end_once_although_the_manager_crashes() {
    each_ends_once(&KINDS[8..12]).await;
}

#[tokio::test(start_paused = true)]
async fn restarts_and_preparations_end_once_although_the_manager_crashes() {
    each_ends_once(&KINDS[12..15]).await;
}

#[tokio::test(start_paused = true)]
async fn rollouts_and_deletions_end_once_although_the_manager_crashes() {
    each_ends_once(&KINDS[15..]).await;
}

/// Crashes the manager before and after each effect of each of these kinds of requests.
async fn each_ends_once(kinds: &[Kind]) {
    for kind in kinds {
        let whole = kind.stage().await;
        let (begin, audits) = (whole.world.effects().len(), audited(&whole).await);
        let first = kind.send_keyed(&whole).await.unwrap();
        let expected = ended(&whole, operation_of(&first)).await;
        let end = whole.world.effects().len();
        for effect in begin + 1..=end {
            for edge in [Edge::Before, Edge::After] {
                let stage = kind.stage().await;
                let number = u64::try_from(effect).unwrap();
                stage.world.faults().crash_at(number, edge);
                let mut answers = Vec::new();
                tokio::select! {
                    biased;
                    () = stage.world.crashed() => {}
                    () = async {
                        answers.extend(kind.send_keyed(&stage).await);
                        tokio::time::sleep(Duration::from_hours(1)).await;
                    } => panic!("{kind:?}: effect {effect} {edge:?} did not occur"),
                }
                stage.world.next_incarnation();
                let context = || {
                    format!(
                        "{kind:?}: effect {effect} {edge:?}\n{}",
                        stage.world.transcript()
                    )
                };
                // The new manager may not lead yet.
                let answer = loop {
                    match kind.send_keyed(&stage).await {
                        Ok(answer) => break answer,
                        Err(error) if !matches!(error.retry(), Retry::After(_)) => {
                            panic!("{error}: {}", context());
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                    }
                };
                for before in &answers {
                    assert_eq!(
                        Kind::lasting(before),
                        Kind::lasting(&answer),
                        "{}",
                        context()
                    );
                }
                let operation = ended(&stage, operation_of(&answer)).await;
                assert_eq!(operation.state, expected.state, "{}", context());
                let again = kind.send_keyed(&stage).await.unwrap();
                assert_eq!(
                    Kind::lasting(&again),
                    Kind::lasting(&answer),
                    "{}",
                    context()
                );
                assert_eq!(audited(&stage).await, audits + 1, "{}", context());
            }
        }
    }
}
