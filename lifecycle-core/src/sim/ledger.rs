//! Records the effects on a world, and checks the world's invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};

use crate::model::{InstanceId, NodeName, PlatformId, SpecDigest};

/// The outcome of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectOutcome {
    /// The effect changed something.
    Changed,
    /// There was nothing to change.
    Unchanged,
    /// The effect failed with this error.
    Refused(String),
    /// The process crashed before the effect.
    NotDone,
}

/// The record of a call that changes something. Records are in the order in which the effects
/// happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectRecord {
    /// The number of the effect, starting at 1; numbers continue across incarnations.
    pub number: u64,
    /// When the effect happened.
    pub at: DateTime<Utc>,
    /// The incarnation that caused the effect.
    pub incarnation: u64,
    /// The node that the effect changes, if any.
    pub node: Option<NodeName>,
    /// The effect, for example `ensure demo-ab12cd-db-1-0123456789ab`.
    pub what: String,
    pub outcome: EffectOutcome,
}

impl fmt::Display for EffectRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} [{}] ",
            self.number,
            self.at.format("%H:%M:%S%.6f"),
            self.incarnation
        )?;
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.outcome {
            EffectOutcome::Changed => Ok(()),
            EffectOutcome::Unchanged => f.write_str(" (nothing to do)"),
            EffectOutcome::Refused(why) => write!(f, " (refused: {why})"),
            EffectOutcome::NotDone => f.write_str(" (crashed before)"),
        }
    }
}

/// A container on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerOnNode {
    pub node: NodeName,
    pub container: String,
}

impl fmt::Display for ContainerOnNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.container, self.node)
    }
}

/// A violation of one of the world's invariants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// One instance ran in two containers with the same specification. A move that starts the new
    /// container first does this intentionally.
    Duplicated {
        /// When the violation was detected.
        at: DateTime<Utc>,
        instance: InstanceId,
        /// The containers.
        containers: Vec<ContainerOnNode>,
    },
    /// One instance ran in two containers with different specifications. An update that starts the
    /// new container first does this intentionally.
    Overlapping {
        /// When the violation was detected.
        at: DateTime<Utc>,
        instance: InstanceId,
        /// The containers.
        containers: Vec<ContainerOnNode>,
    },
    /// A container started on a fenced node before the platform started the node again.
    StartedWhileFenced {
        at: DateTime<Utc>,
        container: ContainerOnNode,
    },
    /// An image was built although a reachable node already had it.
    BuiltTwice {
        at: DateTime<Utc>,
        image: String,
        /// The node that built the image again.
        node: NodeName,
        /// The node that already had the image.
        holder: NodeName,
    },
}

/// A replica of a platform.
pub(super) type InstanceKey = (PlatformId, InstanceId);

/// Identifies a running container by its machine's number and its own name.
pub(super) type Running = (u64, String);

/// The state of a change in the cloud.
#[derive(Debug, Clone)]
pub(super) enum OperationStatus {
    UnderWay,
    Done,
    Failed(String),
    Overtaken,
}

/// Records the effects on a world and the facts that its invariants depend on.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) effects: Vec<EffectRecord>,
    pub(super) violations: Vec<Violation>,
    pub(super) operations: BTreeMap<String, (u64, OperationStatus)>,
    /// The containers that run an instance, with their node and digest.
    running: BTreeMap<InstanceKey, BTreeMap<Running, (NodeName, SpecDigest)>>,
    /// Instances for which a container has started since the last check.
    suspects: BTreeSet<InstanceKey>,
    /// The machines on which an image was built.
    built: BTreeMap<(PlatformId, String), BTreeSet<u64>>,
}

impl Ledger {
    pub(super) fn started(
        &mut self,
        key: InstanceKey,
        running: Running,
        node: NodeName,
        digest: SpecDigest,
    ) {
        let all = self.running.entry(key.clone()).or_default();
        all.insert(running, (node, digest));
        if all.len() > 1 {
            self.suspects.insert(key);
        }
    }

    pub(super) fn ended(&mut self, key: &InstanceKey, running: &Running) {
        if let Some(all) = self.running.get_mut(key) {
            all.remove(running);
            if all.is_empty() {
                self.running.remove(key);
            }
        }
    }

    pub(super) fn take_suspect(&mut self) -> Option<InstanceKey> {
        self.suspects.pop_first()
    }

    pub(super) fn machines_running(&self, key: &InstanceKey) -> BTreeSet<u64> {
        self.running
            .get(key)
            .map(|all| all.keys().map(|(machine, _)| *machine).collect())
            .unwrap_or_default()
    }

    /// Records a violation if the instance runs in two containers.
    pub(super) fn check(&mut self, key: &InstanceKey, at: DateTime<Utc>) {
        let Some(all) = self.running.get(key).filter(|all| all.len() > 1) else {
            return;
        };
        let containers = all
            .iter()
            .map(|((_, container), (node, _))| ContainerOnNode {
                node: node.clone(),
                container: container.clone(),
            })
            .collect();
        let digests: BTreeSet<&SpecDigest> = all.values().map(|(_, digest)| digest).collect();
        let instance = key.1.clone();
        self.violations.push(if digests.len() < all.len() {
            Violation::Duplicated {
                at,
                instance,
                containers,
            }
        } else {
            Violation::Overlapping {
                at,
                instance,
                containers,
            }
        });
    }

    /// Records that an image was built; returns the machines on which it was built before.
    pub(super) fn built(&mut self, platform: PlatformId, image: &str, machine: u64) -> Vec<u64> {
        let all = self.built.entry((platform, image.to_owned())).or_default();
        let before = all.iter().copied().collect();
        all.insert(machine);
        before
    }
}
