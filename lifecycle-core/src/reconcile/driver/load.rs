//! Limits how many steps run concurrently, per node and per platform.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::NodeName;
use crate::reconcile::step::{Action, Work};

/// The limits on how many steps run concurrently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of concurrent steps on one node.
    pub per_node: usize,
    /// The maximum number of images that are built, copied or pulled concurrently on one node.
    pub images_per_node: usize,
    /// The maximum number of concurrent steps on all nodes together.
    pub per_platform: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_node: 8,
            images_per_node: 2,
            per_platform: 64,
        }
    }
}

/// Counts the running steps, per node and in total.
#[derive(Debug, Default)]
pub(super) struct Load {
    total: usize,
    nodes: BTreeMap<NodeName, (usize, usize)>,
    /// The nodes on which nothing else may start.
    exclusive: BTreeSet<NodeName>,
}

impl Load {
    pub(super) fn of<'a>(actions: impl Iterator<Item = &'a Action>) -> Self {
        let mut load = Self::default();
        for action in actions {
            load.add(action);
        }
        load
    }

    pub(super) fn add(&mut self, action: &Action) {
        self.total += 1;
        let (all, images) = self.nodes.entry(action.node().clone()).or_default();
        *all += 1;
        *images += usize::from(is_image(action));
        if matches!(
            action.work(),
            Work::DeleteNode | Work::StopNode | Work::RestartNode
        ) {
            self.exclusive.insert(action.node().clone());
        }
    }

    pub(super) fn admits(&self, action: &Action, bounds: &Bounds) -> bool {
        let (all, images) = self.nodes.get(action.node()).copied().unwrap_or_default();
        let is_possible = match action.work() {
            Work::DeleteNode => all == 0,
            // These may interrupt work on images, which can take an hour and is repeated.
            Work::StopNode | Work::RestartNode => all == images,
            Work::Image => all < bounds.per_node && images < bounds.images_per_node,
            _ => all < bounds.per_node,
        };
        self.total < bounds.per_platform && !self.exclusive.contains(action.node()) && is_possible
    }
}

fn is_image(action: &Action) -> bool {
    action.work() == Work::Image
}
