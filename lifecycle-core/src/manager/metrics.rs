//! Returns the manager's metrics. The gauges about the platform are computed from the latest round when
//! they are read, without I/O, so that reading them neither delays the control loop nor needs the
//! registry. Counters and histograms begin at 0 when the process starts.

mod gauges;
mod registry;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::Manager;
use crate::metrics::{Family, Metric, Recorder};
use crate::model::{Epoch, NodeName, OperationKind, ServiceName};
use crate::reconcile::driver::measures;
use crate::reconcile::{Backends, Round};

use registry::Measured;

static LEADS_ENDED: Metric = Metric::counter(
    "lifecycle_leads_ended_total",
    &[],
    "How often this manager stopped leading because of an error, for example because it lost the lease",
);

/// What the gauges contain in addition to the round.
#[derive(Debug)]
struct State {
    /// The epoch under which the manager leads; 0 while it does not lead.
    epoch: u64,
    /// The declared generation.
    generation: Option<u64>,
    is_open: bool,
    /// The open operations, without the deletion of the platform.
    operations: Vec<OperationKind>,
}

/// Returns backends whose registry records metrics, the recorder, and a receiver that is notified after
/// each commit.
pub(super) fn measured(mut backends: Backends) -> (Backends, Arc<Recorder>, watch::Receiver<u64>) {
    let recorder = Arc::new(Recorder::default());
    registry::begin(&recorder);
    let measured = Measured::new(backends.registry, Arc::clone(&recorder));
    let commits = measured.commits();
    backends.registry = Arc::new(measured);
    (backends, recorder, commits)
}

impl Manager {
    /// Returns all metrics. A metric without values at this time has no samples. With the feature
    /// `metrics`, [`crate::metrics`] converts them to text.
    pub fn metrics(&self) -> Vec<Family> {
        let round = self.round();
        self.forget_removed(&round);
        let target = self.target.borrow();
        let declared = target.as_ref().map(|target| target.declared.generation.0);
        drop(target);
        let operations = self.open_operations();
        let kinds = operations.iter().map(|operation| operation.kind.clone());
        let kinds = kinds.collect();
        drop(operations);
        let state = State {
            epoch: self.leads_under.load(Ordering::SeqCst),
            generation: declared,
            is_open: self.is_open(),
            operations: kinds,
        };
        let recorded = [&LEADS_ENDED]
            .into_iter()
            .chain(registry::METRICS)
            .chain(measures::METRICS);
        let mut families = gauges::gauges(&state, &round);
        families.extend(recorded.map(|metric| self.recorder.family(metric)));
        families
    }

    /// Forgets the values of services and nodes that no longer exist.
    fn forget_removed(&self, round: &Round) {
        let Some(input) = &round.input else { return };
        let services = input.declared.services.keys();
        let services: BTreeSet<&str> = services.map(ServiceName::as_str).collect();
        let nodes = input.observed.nodes.keys();
        let nodes: BTreeSet<&str> = nodes.map(NodeName::as_str).collect();
        self.recorder.retain(&measures::RESETS, |labels| {
            matches!(labels, [service, node]
                if services.contains(service.as_str()) && nodes.contains(node.as_str()))
        });
    }

    /// Records that this manager leads under `epoch`.
    pub(super) fn lead_began(&self, epoch: Epoch) {
        self.leads_under.store(epoch.0, Ordering::SeqCst);
    }

    /// Records that this manager does not lead. Counts the end of a lead.
    pub(super) fn lead_ended(&self) {
        if self.leads_under.swap(0, Ordering::SeqCst) > 0 {
            self.recorder.add(&LEADS_ENDED, &[], 1);
        }
        self.recorder.set(&measures::SETTLED_GENERATION, &[], 0);
    }
}
