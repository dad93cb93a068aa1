//! Polls the cloud for its nodes and runs one watch task per node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::node::NodeWatch;
use super::{CloudView, Shared, Slot};
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Retry};
use crate::reconcile::observe::NodeView;
use crate::registry::Unknown;

pub(super) async fn watch_cloud(shared: Arc<Shared>) {
    // Dropping this set ends the nodes' tasks, so they end together with this task.
    let mut tasks = JoinSet::new();
    loop {
        let as_of = shared.requests.load(Ordering::SeqCst);
        let mut required_pause = Duration::ZERO;
        let list = tokio::time::timeout(shared.policy.cloud_timeout, shared.backends.cloud.list());
        let answer = list.await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: "listing the cloud's nodes".into(),
                after: shared.policy.cloud_timeout,
            })
        });
        let wait = match answer {
            Ok(machines) => {
                let moving = machines.iter().any(is_changing);
                if publish_cloud(&shared, &mut tasks, machines, as_of) {
                    shared.changed.notify_one();
                }
                if moving {
                    shared.policy.eager_interval
                } else {
                    shared.policy.cloud_interval
                }
            }
            Err(error) => {
                let mut views = shared.views();
                let since = views
                    .cloud
                    .as_ref()
                    .and_then(|c| c.unknown.as_ref())
                    .map_or_else(|| shared.backends.clock.now(), |u| u.since);
                views.cloud = Some(CloudView {
                    as_of,
                    unknown: Some(Unknown {
                        since,
                        why: error.chain(),
                    }),
                });
                drop(views);
                shared.changed.notify_one();
                match error.retry() {
                    Retry::After(after) => {
                        required_pause = after;
                        after.max(Duration::from_secs(2))
                    }
                    Retry::Replan | Retry::Never => shared.policy.cloud_interval,
                }
            }
        };
        // A request for a new list does not shorten this pause, which limits the rate of requests
        // to the cloud.
        let least = required_pause.max(shared.policy.eager_interval);
        tokio::time::sleep(least).await;
        tokio::select! {
            biased;
            () = shared.cloud_requested.notified() => {}
            () = tokio::time::sleep(wait.saturating_sub(least)) => {}
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Stores a list of nodes. Returns whether the list differs from the previous one or was requested.
fn publish_cloud(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    machines: Vec<ObservedNode>,
    as_of: u64,
) -> bool {
    let mut views = shared.views();
    let mut is_awaited = match &views.cloud {
        Some(before) => before.unknown.is_some() || before.as_of < views.cloud_request,
        None => true,
    };
    let mut slots = std::mem::take(&mut views.nodes);
    for machine in machines {
        let name = machine.name.clone();
        let mut slot = if let Some(mut slot) = slots.remove(&name) {
            if slot.view.machine.provider_id != machine.provider_id {
                // A different machine now has this name, so everything on the old machine is gone.
                slot.view = Arc::new(NodeView::not_asked(machine.clone()));
            }
            is_awaited |= slot.machine.send_if_modified(|old| {
                let differs = *old != machine;
                if differs {
                    let view = Arc::make_mut(&mut slot.view);
                    let same = is_changing(&machine) && view.machine.power == machine.power;
                    view.changing_since = view.changing_since.filter(|_| same);
                    view.machine = machine.clone();
                    *old = machine;
                }
                differs
            });
            slot
        } else {
            is_awaited = true;
            let view = Arc::new(NodeView::not_asked(machine.clone()));
            let (sender, receiver) = watch::channel(machine);
            let requested = Arc::new(Notify::new());
            let node = NodeWatch {
                shared: Arc::clone(shared),
                name: name.clone(),
                machine: receiver,
                declared: shared.declared.clone(),
                requested: Arc::clone(&requested),
            };
            Slot {
                machine: sender,
                view,
                as_of: 0,
                request: 0,
                requested,
                task: tasks.spawn(node.run()),
            }
        };
        if is_changing(&slot.view.machine) && slot.view.changing_since.is_none() {
            let now = shared.backends.clock.now();
            Arc::make_mut(&mut slot.view).changing_since = Some(now);
        }
        views.nodes.insert(name, slot);
    }
    // Nodes that are left in `slots` no longer exist in the cloud. Dropping a slot ends its task.
    is_awaited |= !slots.is_empty();
    views.cloud = Some(CloudView {
        as_of,
        unknown: None,
    });
    is_awaited
}

fn is_changing(machine: &ObservedNode) -> bool {
    matches!(machine.power, Power::Starting | Power::Stopping)
}
