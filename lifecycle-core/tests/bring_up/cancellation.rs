//! Tests that a cancelled operation ends, that no container stays stopped, and that what had not begun is
//! left out, whenever the request arrives and whenever the manager dies.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{InstanceStateV1, OperationStateV1, OperationV1, RestartNodeV1};
use lifecycle_core::model::{NodeName, OperationId, RestartPolicy, ServiceName};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::sim::Edge;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::stage::Stage;

const AT_MOST: Duration = Duration::from_hours(1);

/// Returns a platform whose `api` does not start again by itself.
async fn running(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    let api = ServiceName::try_from("api").unwrap();
    let spec = stage.declaration.services.get_mut(&api).unwrap();
    spec.restart = Some(RestartPolicy::No);
    stage.up().await.unwrap();
    stage
}

/// The container of each replica, and when it started.
type Runs = BTreeMap<String, (Option<String>, Option<chrono::DateTime<chrono::Utc>>)>;

/// Returns the runs of all replicas; `None` if one is not ready.
async fn ready(stage: &Stage) -> Option<Runs> {
    let services = stage.api().await.services().await.ok()?;
    let instances = services.into_iter().flat_map(|service| service.instances);
    let runs = instances.map(|one| {
        let is_ready = one.state == InstanceStateV1::Ready;
        is_ready.then_some((one.id, (one.container, one.started_at)))
    });
    runs.collect()
}

async fn all_ready(stage: &Stage) -> Runs {
    let wait = async {
        loop {
            if let Some(runs) = ready(stage).await {
                break runs;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    if let Ok(runs) = timeout(AT_MOST, wait).await {
        return runs;
    }
    let api = stage.api().await;
    let (services, operations) = (api.services().await, api.operations().await);
    panic!(
        "{}\n{services:#?}\n{operations:#?}",
        stage.world.transcript()
    );
}

/// Waits until an operation ends.
async fn ended(stage: &Stage, id: OperationId) -> OperationV1 {
    let wait = async {
        loop {
            if let Ok(operation) = stage.api().await.operation(id).await
                && operation.state != OperationStateV1::Running
            {
                break operation;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = timeout(AT_MOST, wait).await;
    ended.unwrap_or_else(|_| panic!("{}", stage.world.transcript()))
}

/// Cancels an operation, once a manager leads. Returns false if it had ended before.
async fn cancel(stage: &Stage, id: OperationId) -> bool {
    let wait = async {
        loop {
            match stage.api().await.cancel(id).await {
                Ok(_) => break true,
                Err(Error::Conflict { .. }) => break false,
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    };
    timeout(AT_MOST, wait).await.unwrap()
}

/// The restart that a test requests and then cancels.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Restarted {
    Service,
    Node,
}

impl Restarted {
    async fn begin(self, stage: &Stage) -> OperationId {
        let api = stage.api().await;
        let operation = match self {
            Self::Service => api.restart("api", None).await,
            Self::Node => api.restart_node("n2", &RestartNodeV1::default()).await,
        };
        operation.unwrap().id()
    }
}

fn boot(stage: &Stage) -> Option<String> {
    let node = NodeName::try_from("n2").unwrap();
    stage.world.node(&node)?.boot_id
}

/// Cancels after each effect of the restart. With a crash, the manager dies there first.
async fn is_cancelled_anywhere(seed: u64, of: Restarted, crash: Option<Edge>) {
    let whole = running(seed).await;
    let first = whole.world.effects().len();
    let id = of.begin(&whole).await;
    let operation = ended(&whole, id).await;
    assert_eq!(operation.state, OperationStateV1::Succeeded);
    let count = whole.world.effects().len() - first;
    assert!(count >= 4, "{}", whole.world.transcript());
    let mut cancelled = 0;
    let last = if crash.is_some() { count - 1 } else { count };
    for effect in 0..=last {
        let stage = running(seed).await;
        let (before, boot_before) = (all_ready(&stage).await, boot(&stage));
        let begun = stage.world.effects().len();
        if let Some(edge) = crash {
            let effect = u64::try_from(begun + effect + 1).unwrap();
            stage.world.faults().crash_at(effect, edge);
        }
        let id = of.begin(&stage).await;
        let reached = async {
            while stage.world.effects().len() < begun + effect {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if crash.is_some() {
            stage.world.crashed().await;
            stage.world.next_incarnation();
        } else {
            timeout(AT_MOST, reached).await.unwrap();
        }
        let context = || format!("{of:?}, effect {effect}\n{}", stage.world.transcript());
        let is_in_time = cancel(&stage, id).await;
        let operation = ended(&stage, id).await;
        let after = all_ready(&stage).await;
        let same_boot = boot(&stage) == boot_before;
        let restarted = |name: &str| after[name].1 != before[name].1;
        for (name, (container, _)) in &before {
            assert_eq!(&after[name].0, container, "{name}: {}", context());
        }
        let names = ["api-1", "api-2"];
        let all = names.iter().all(|name| restarted(name));
        match operation.state {
            OperationStateV1::Cancelled if of == Restarted::Service => {
                assert!(is_in_time && !all, "{}", context());
            }
            OperationStateV1::Cancelled => assert!(is_in_time && same_boot, "{}", context()),
            OperationStateV1::Succeeded if of == Restarted::Service => {
                assert!(all, "{}", context());
            }
            OperationStateV1::Succeeded => assert!(!same_boot, "{}", context()),
            other => panic!("{other:?}: {}", context()),
        }
        // A repeated request changes nothing.
        if operation.state == OperationStateV1::Cancelled {
            cancelled += 1;
            let again = stage.api().await.cancel(id).await.unwrap();
            assert_eq!(again, operation);
        }
        assert_eq!(stage.world.violations(), [], "{}", context());
    }
    // A new manager restarts a node, whose containers were stopped, before the request can arrive.
    assert!(cancelled > 0 || (of, crash.is_some()) == (Restarted::Node, true));
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_service_is_cancelled_at_any_effect() {
    is_cancelled_anywhere(181, Restarted::Service, None).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_service_is_cancelled_after_a_crash_at_any_effect() {
    is_cancelled_anywhere(181, Restarted::Service, Some(Edge::Before)).await;
    is_cancelled_anywhere(181, Restarted::Service, Some(Edge::After)).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_node_is_cancelled_at_any_effect() {
    is_cancelled_anywhere(182, Restarted::Node, None).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_node_is_cancelled_after_a_crash_at_any_effect() {
    is_cancelled_anywhere(182, Restarted::Node, Some(Edge::Before)).await;
    is_cancelled_anywhere(182, Restarted::Node, Some(Edge::After)).await;
}

/// Waits until another client has started an operation, and cancels it.
async fn cancel_the_running_one(stage: &Stage) {
    let wait = async {
        loop {
            let operations = stage.api().await.operations().await.unwrap();
            let mut running = operations.iter();
            if let Some(one) = running.find(|one| one.state == OperationStateV1::Running) {
                break one.id();
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let id = timeout(AT_MOST, wait).await.unwrap();
    assert!(cancel(stage, id).await);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_restart_learns_that_it_was_cancelled() {
    let stage = running(185).await;
    let (restarted, ()) = tokio::join!(stage.restart("api"), cancel_the_running_one(&stage));
    let error = restarted.unwrap_err().to_string();
    assert!(error.contains("it was cancelled"), "{error}");
}

/// A node is out of reach while the operation ends. Its containers, which were not stopped, keep running.
#[tokio::test(start_paused = true)]
async fn a_cancelled_restart_leaves_containers_on_a_lost_node_alone() {
    for outage in [Duration::from_secs(10), Duration::from_secs(40)] {
        let stage = running(186).await;
        let before = all_ready(&stage).await;
        let node = NodeName::try_from("n2").unwrap();
        let id = Restarted::Service.begin(&stage).await;
        stage.world.faults().partition(&node).unwrap();
        assert!(cancel(&stage, id).await);
        sleep(outage).await;
        stage.world.faults().heal(&node).unwrap();
        let operation = ended(&stage, id).await;
        assert_eq!(operation.state, OperationStateV1::Cancelled);
        let after = all_ready(&stage).await;
        sleep(Duration::from_mins(1)).await;
        assert_eq!(all_ready(&stage).await, after);
        assert_eq!(
            after["api-2"],
            before["api-2"],
            "{}",
            stage.world.transcript()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_preparation_is_cancelled_and_the_node_stays_in_use() {
    let stage = Stage::new(183).await;
    stage.up().await.unwrap();
    let node = NodeName::try_from("n2").unwrap();
    let denied = || Error::denied("installing the engine", "the mirror rejects us", "log in");
    stage.world.faults().fail_next("n2: prepare", denied());
    stage.world.faults().remove_engine(&node).unwrap();
    let api = stage.api().await;
    let operation = api.prepare_node("n2").await.unwrap();
    let cancelled = api.cancel(operation.id()).await.unwrap();
    assert_eq!(cancelled.state, OperationStateV1::Cancelled);
    assert!(cancelled.ended_at.is_some());
    all_ready(&stage).await;
    let operation = api.operation(operation.id()).await.unwrap();
    assert_eq!(operation, cancelled);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_cancelled_is_rejected_with_a_reason() {
    let stage = running(184).await;
    let api = stage.api().await;
    let rejected = async |id: OperationId, why: &str| {
        let error = api.cancel(id).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    };
    let id = Restarted::Service.begin(&stage).await;
    ended(&stage, id).await;
    rejected(id, "it has succeeded already").await;
    let scaled = api.override_service("api", OverrideChange::Scale(3));
    let declared = scaled.await.unwrap().operation.unwrap();
    rejected(OperationId(declared), "undo the change").await;
    let unknown = api.cancel(OperationId(Uuid::nil())).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    let deletion = api.delete_platform(false).await.unwrap();
    rejected(deletion.id(), "declares them again").await;
}
