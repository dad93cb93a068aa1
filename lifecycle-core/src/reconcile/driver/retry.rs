//! Handles requested retries: clears the failures of a subject, so that its steps run immediately.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};

use super::{Driver, Target};
use crate::error::Result;
use crate::model::{ContainerRun, InstanceId, InstanceState, NodeName, Subject, VolumeName};
use crate::reconcile::observe::Observed;
use crate::reconcile::step::Action;
use crate::registry::{Batch, Change, RejectedSpec};
use crate::runtime::{ContainerState, Role};

/// The options of a retry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryOptions {
    /// Allow empty volumes in place of those that vanished.
    pub recreate_volumes: bool,
}

/// A request to retry failed steps immediately.
#[derive(Debug)]
pub struct RetryRequest {
    /// The subject whose failures are cleared; the platform means all subjects.
    pub subject: Subject,
    pub options: RetryOptions,
    /// Receives a description of each retried action.
    pub answer: Option<oneshot::Sender<Vec<String>>>,
}

/// The observations that the latest retry requested.
#[derive(Debug, Default)]
pub(super) struct Retried {
    nodes: Vec<(NodeName, u64)>,
    cloud: Option<u64>,
}

impl Driver {
    /// Returns the sender for retry requests. Pending requests and all failures are dropped when
    /// the loop ends.
    pub fn retries(&self) -> mpsc::UnboundedSender<RetryRequest> {
        self.retry_sender.clone()
    }

    /// Handles all queued requests.
    pub(super) async fn take_retries(&mut self) -> Result<()> {
        while let Ok(request) = self.retry_requests.try_recv() {
            self.retry(request).await?;
        }
        Ok(())
    }

    pub(super) async fn retry(&mut self, request: RetryRequest) -> Result<()> {
        let mut retried = self.forget(&request.subject).await?;
        if request.options.recreate_volumes {
            retried.extend(self.forget_vanished_volumes(&request.subject).await?);
        }
        // Also poll the cloud and the nodes again: they may have recovered.
        let nodes = match &request.subject {
            Subject::Platform => self.observed_nodes(),
            subject => self.nodes_of(subject),
        };
        self.retried = Retried {
            nodes: nodes
                .into_iter()
                .map(|node| {
                    let request = self.watcher.request_node(&node);
                    (node, request)
                })
                .collect(),
            cloud: Some(self.watcher.request_cloud()),
        };
        if let Some(answer) = request.answer {
            // Ignore the result: the caller may be gone.
            drop(answer.send(retried));
        }
        Ok(())
    }

    /// Returns whether the observations that the latest retry requested are complete.
    pub(super) fn has_seen_retried(&self) -> bool {
        let Retried { nodes, cloud } = &self.retried;
        nodes
            .iter()
            .all(|(node, request)| self.watcher.has_seen_node(node, *request))
            && cloud.is_none_or(|request| self.watcher.has_seen_cloud(request))
    }

    /// Clears a subject's failed steps, rejected specifications and failed containers. Returns a
    /// description of each action that is retried.
    async fn forget(&mut self, subject: &Subject) -> Result<Vec<String>> {
        let mut forgotten = BTreeSet::new();
        let failed: Vec<_> = self
            .failures
            .iter()
            .filter(|(_, (action, _))| self.is_about(action, subject))
            .map(|(id, (action, _))| (id.clone(), action.to_string()))
            .collect();
        for (id, what) in failed {
            self.failures.remove(&id);
            forgotten.insert(what);
        }
        let specs: Vec<RejectedSpec> = self
            .registry
            .rejected
            .values()
            .filter(|spec| is_of(&spec.id, subject))
            .cloned()
            .collect();
        let rejected: Vec<InstanceId> = specs.iter().map(|spec| spec.id.clone()).collect();
        if !rejected.is_empty() {
            let cleared = rejected.iter().cloned().map(Change::ClearRejected);
            let batch = Batch {
                changes: cleared.collect(),
                ..Batch::default()
            };
            self.write(batch).await?;
            let what = |id: &InstanceId| format!("replace {id} as declared");
            forgotten.extend(rejected.iter().map(what));
        }
        forgotten.extend(self.forgive_containers(subject, self.backends.clock.now()));
        self.start_rejected_again(&specs);
        Ok(forgotten.into_iter().collect())
    }

    /// Deletes the records of vanished volumes that the subject uses, so that empty ones may be created.
    /// Returns a description of each of them.
    async fn forget_vanished_volumes(&mut self, subject: &Subject) -> Result<Vec<String>> {
        let declared = self.declared.borrow().clone();
        let services = declared
            .iter()
            .flat_map(|declared| declared.services.values());
        let mounted: BTreeSet<&VolumeName> = services
            .filter(|service| match subject {
                Subject::Platform | Subject::Node(_) => true,
                Subject::Service(name) => service.spec.name == *name,
                Subject::Instance(id) => service.spec.name == id.service,
            })
            .flat_map(|service| &service.spec.container.volumes)
            .map(|mount| &mount.volume)
            .collect();
        let is_there = |node: &NodeName| !matches!(subject, Subject::Node(only) if only != node);
        let vanished = self
            .registry
            .volumes
            .values()
            .filter(|record| record.is_missing);
        let vanished: Vec<(NodeName, VolumeName)> = vanished
            .filter(|record| mounted.contains(&record.volume) && is_there(&record.node))
            .map(|record| (record.node.clone(), record.volume.clone()))
            .collect();
        if vanished.is_empty() {
            return Ok(Vec::new());
        }
        let deleted = vanished.iter().cloned();
        let batch = Batch {
            changes: deleted
                .map(|(node, volume)| Change::DeleteVolume(node, volume))
                .collect(),
            ..Batch::default()
        };
        self.write(batch).await?;
        let what = |(node, volume)| format!("allow an empty volume {volume} on {node}");
        Ok(vanished.into_iter().map(what).collect())
    }

    /// Starts the stopped containers of rejected specifications again. Their exits do not count:
    /// the rollback stopped them.
    fn start_rejected_again(&mut self, specs: &[RejectedSpec]) {
        let Some(latest) = &self.latest else {
            return;
        };
        let views = latest.input.observed.nodes.values();
        let states = views.filter_map(|view| view.engine_state());
        for container in states.flat_map(|state| &state.containers) {
            let Role::Instance(id) = &container.role else {
                continue;
            };
            let is_rejected =
                |spec: &RejectedSpec| spec.id == *id && spec.digest == container.digest;
            if let ContainerState::Exited { .. } = container.state
                && let Some(started_at) = container.started_at
                && specs.iter().any(is_rejected)
            {
                let run = ContainerRun {
                    container: container.id.clone(),
                    started_at,
                };
                self.runs_again.insert(id.clone(), run);
            }
        }
    }

    /// Lets failed containers start again, and restarts the time limit of unready ones. Returns
    /// descriptions of the starts.
    fn forgive_containers(&mut self, subject: &Subject, now: DateTime<Utc>) -> Vec<String> {
        let Some(latest) = &self.latest else {
            return Vec::new();
        };
        let mut forgiven = BTreeSet::new();
        let mut retried = Vec::new();
        for (node, view) in &latest.input.observed.nodes {
            let containers = view.engine_state().map(|state| &state.containers);
            for container in containers.into_iter().flatten() {
                let Role::Instance(id) = &container.role else {
                    continue;
                };
                if !is_of(id, subject) && *subject != Subject::Node(node.clone()) {
                    continue;
                }
                forgiven.insert(container.id.clone());
                let is_failed = latest.plan.instances.get(id).is_some_and(|status| {
                    status.container.as_ref() == Some(&container.id)
                        && !matches!(
                            status.state,
                            InstanceState::Ready | InstanceState::Completed
                        )
                });
                if let ContainerState::Exited { code, .. } = container.state
                    && code != 0
                    && is_failed
                    && let Some(started_at) = container.started_at
                {
                    let run = ContainerRun {
                        container: container.id.clone(),
                        started_at,
                    };
                    self.runs_again.insert(id.clone(), run);
                    retried.push(format!("start {id}"));
                }
            }
        }
        self.watcher.forgive(&forgiven, now);
        retried
    }

    /// Returns the runs of containers for which a restart or a retry was requested.
    pub(super) fn restarts(
        &mut self,
        target: &Target,
        observed: &Observed,
    ) -> Arc<BTreeMap<InstanceId, ContainerRun>> {
        let nodes = observed.nodes.values();
        let states = nodes.filter_map(|view| view.engine_state());
        let containers: Vec<_> = states.flat_map(|state| &state.containers).collect();
        self.runs_again.retain(|_, run| {
            containers
                .iter()
                .any(|c| c.id == run.container && c.started_at == Some(run.started_at))
        });
        if self.runs_again.is_empty() {
            return Arc::clone(&target.restarts);
        }
        let mut runs = self.runs_again.clone();
        runs.extend(
            target
                .restarts
                .iter()
                .map(|(id, run)| (id.clone(), run.clone())),
        );
        Arc::new(runs)
    }

    fn observed_nodes(&self) -> BTreeSet<NodeName> {
        let latest = self.latest.iter();
        latest
            .flat_map(|l| l.input.observed.nodes.keys().cloned())
            .collect()
    }

    /// Returns the subject itself if it is a node; otherwise, returns the nodes of the subject's
    /// replicas.
    fn nodes_of(&self, subject: &Subject) -> BTreeSet<NodeName> {
        if let Subject::Node(node) = subject {
            return BTreeSet::from([node.clone()]);
        }
        let latest = self.latest.iter();
        let instances = latest.flat_map(|latest| &latest.plan.instances);
        instances
            .filter(|(id, _)| is_of(id, subject))
            .filter_map(|(_, status)| status.node.clone())
            .collect()
    }

    fn is_about(&self, action: &Action, subject: &Subject) -> bool {
        let service = match subject {
            Subject::Platform => return true,
            Subject::Node(node) => return action.node() == node,
            Subject::Service(service) => service,
            Subject::Instance(id) => &id.service,
        };
        if let Some(id) = action.instance() {
            return is_of(id, subject);
        }
        let declared = self.declared.borrow();
        let declared = declared.as_ref().and_then(|d| d.services.get(service));
        let image = action.image();
        image.is_some_and(|image| declared.is_some_and(|d| d.image == image))
    }
}

fn is_of(id: &InstanceId, subject: &Subject) -> bool {
    match subject {
        Subject::Platform => true,
        Subject::Node(_) => false,
        Subject::Service(service) => id.service == *service,
        Subject::Instance(instance) => id == instance,
    }
}
