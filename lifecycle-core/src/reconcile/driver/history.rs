//! Assembles the planner's input from observations and history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Driver, Target};
use crate::model::{InstanceId, InstanceRecord, NodeName, VolumeName};
use crate::reconcile::input::{History, PlanningInput, Preparation};
use crate::reconcile::observe::{EngineView, NodeView};
use crate::reconcile::observe_once::is_complete;
use crate::reconcile::step::Action;
use crate::registry::Snapshot;
use crate::runtime::ObservedContainer;

impl Driver {
    /// Returns the input of the next plan; `None` until every running node has been polled once.
    pub(super) fn input(&mut self, target: &Target) -> Option<PlanningInput> {
        let (mut observed, endings) = self.watcher.observed()?;
        // Until every node has been polled once, make no plan: unobserved containers would count as
        // absent.
        self.has_observed_all |= is_complete(&observed);
        if !self.has_observed_all {
            return None;
        }
        for view in observed.nodes.values_mut() {
            take_back_renamed(view, &self.registry);
        }
        let watcher = &self.watcher;
        self.settling.retain(|_, settling| {
            let node = settling.action.node();
            !(watcher.has_seen_node(node, settling.node_request)
                && settling
                    .cloud_request
                    .is_none_or(|request| watcher.has_seen_cloud(request)))
        });
        let declared = &target.declared;
        let agents = declared.agents.as_ref();
        let current = agents.map(|agents| declared.agent_container(agents));
        self.feeder.follow(&observed, current.as_deref());
        observed.agents = self.feeder.views();
        // A failure counts only for the request during which it happened.
        self.failures.retain(|_, (action, _)| match action {
            Action::RestartNode { node, boot_id } => {
                target.node_restarts.get(node) == Some(boot_id)
            }
            // A new request is carried out at once.
            Action::PrepareNode { node, operation } => {
                let requested = target.preparations.get(node);
                requested.is_none() || requested == operation.as_ref()
            }
            Action::StopNode { node } => {
                let spec = target.declared.nodes.get(node);
                spec.is_some_and(|spec| spec.stopped)
            }
            _ => true,
        });
        let failures = self.failures.iter();
        let failures = failures.map(|(id, (_, failure))| (id.clone(), failure.clone()));
        let history = History {
            last_seen: Arc::clone(&self.last_seen),
            placed: self.placed(),
            rejected: self.registry.rejected.clone(),
            builds: self.builds(),
            volumes: used_volumes(&self.registry),
            failures: failures.collect(),
            endings,
            restarts: self.restarts(target, &observed),
            node_restarts: Arc::clone(&target.node_restarts),
            preparations: self.preparations(target),
            rollouts: Arc::clone(&target.rollouts),
        };
        Some(PlanningInput {
            declared: Arc::clone(&target.declared),
            observed: Arc::new(observed),
            history,
            policy: self.options.policy.clone(),
            now: self.backends.clock.now(),
        })
    }

    /// Returns the requested preparations, with the outcomes of those that have succeeded.
    fn preparations(&mut self, target: &Target) -> BTreeMap<NodeName, Preparation> {
        let requested = &target.preparations;
        self.prepared
            .retain(|node, prepared| requested.get(node) == Some(&prepared.operation));
        let open = requested.iter().map(|(node, operation)| {
            let prepared = self.prepared.get(node).cloned();
            let open = Preparation {
                operation: *operation,
                outcome: None,
            };
            (node.clone(), prepared.unwrap_or(open))
        });
        open.collect()
    }

    /// Returns the nodes on which images are being built, or were built without being observed yet.
    fn builds(&self) -> BTreeMap<String, NodeName> {
        let running = self.running.values().map(|step| &step.action);
        let settling = self.settling.values().map(|step| &step.action);
        let builds = running.chain(settling).filter_map(|action| match action {
            Action::BuildImage { image, node, .. } => Some((image.clone(), node.clone())),
            _ => None,
        });
        builds.collect()
    }

    /// Returns where the latest plan for this declaration placed replicas that have no container
    /// yet.
    fn placed(&self) -> BTreeMap<InstanceId, NodeName> {
        let declared = self.declared.borrow();
        let latest = self.latest.as_ref().filter(|latest| {
            let now = declared.as_ref();
            now.is_some_and(|now| Arc::ptr_eq(now, &latest.target.declared))
        });
        let instances = latest.into_iter().flat_map(|latest| &latest.plan.instances);
        instances
            .filter(|(_, status)| status.container.is_none())
            .filter_map(|(id, status)| Some((id.clone(), status.node.clone()?)))
            .collect()
    }
}

/// Returns the node on which each replica was last started.
pub(super) fn last_seen(registry: &Snapshot) -> BTreeMap<InstanceId, NodeName> {
    let mut records: Vec<&InstanceRecord> = registry.instances.values().collect();
    records.sort_by_key(|record| (&record.id, record.started_at));
    let places = records.into_iter().map(|r| (r.id.clone(), r.node.clone()));
    places.collect()
}

/// Returns the volumes that instances have used on each node.
fn used_volumes(registry: &Snapshot) -> BTreeMap<NodeName, BTreeSet<VolumeName>> {
    let mut used: BTreeMap<NodeName, BTreeSet<VolumeName>> = BTreeMap::new();
    for (node, volume) in registry.volumes.keys() {
        used.entry(node.clone()).or_default().insert(volume.clone());
    }
    used
}

/// Takes strangers that are recorded as instances back: the platform created them, and they were renamed.
/// A second container of such an instance would use the same volumes.
fn take_back_renamed(view: &mut Arc<NodeView>, registry: &Snapshot) {
    let is_recorded = |stranger: &ObservedContainer| registry.instances.contains_key(&stranger.id);
    if !view.strangers.iter().any(is_recorded) {
        return;
    }
    let view = Arc::make_mut(view);
    let renamed = view.strangers.extract_if(.., |one| is_recorded(one));
    if let EngineView::Known { state, .. } = &mut view.engine {
        state.containers.extend(renamed);
        state.containers.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
