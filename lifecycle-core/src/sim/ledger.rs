//! What was done to the world, and what may never happen in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};

use crate::model::{InstanceId, NodeName, PlatformId, SpecDigest};

/// How an effect ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectOutcome {
    /// It changed something.
    Changed,
    /// There was nothing to change.
    Unchanged,
    /// It was refused with this error.
    Refused(String),
    /// A crash came before it.
    NotDone,
}

/// A call that changes something, in the order in which they took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectRecord {
    /// Its number, from 1; it goes on across incarnations.
    pub number: u64,
    /// When it took effect.
    pub at: DateTime<Utc>,
    /// Who did it.
    pub incarnation: u64,
    /// The node that it was about.
    pub node: Option<NodeName>,
    /// What was done, for example `ensure demo-ab12cd-db-1-0123456789ab`.
    pub what: String,
    /// How it ended.
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
pub struct Place {
    /// The node.
    pub node: NodeName,
    /// The container's name.
    pub container: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.container, self.node)
    }
}

/// Something that may never happen, whatever goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// One instance ran in two containers of one specification.
    Doubled {
        /// When it was seen.
        at: DateTime<Utc>,
        /// The instance.
        instance: InstanceId,
        /// Where it ran.
        places: Vec<Place>,
    },
    /// One instance ran in two containers of different specifications. A shift or a roll-out
    /// that starts the new one first does so on purpose.
    Overlapping {
        /// When it was seen.
        at: DateTime<Utc>,
        /// The instance.
        instance: InstanceId,
        /// Where it ran.
        places: Vec<Place>,
    },
    /// A container started on a node that was fenced and that nobody of us started again.
    StartedWhileFenced {
        /// When.
        at: DateTime<Utc>,
        /// Which.
        place: Place,
    },
    /// An image was built although a node that could be reached had it already.
    BuiltTwice {
        /// When.
        at: DateTime<Utc>,
        /// The image.
        image: String,
        /// Where it was built again.
        node: NodeName,
        /// Who had it.
        holder: NodeName,
    },
}

/// One replica of one platform.
pub(super) type InstanceKey = (PlatformId, InstanceId);

/// A container that runs: its machine's number and its name.
pub(super) type Running = (u64, String);

/// How a change at the cloud stands.
#[derive(Debug, Clone)]
pub(super) enum OperationStatus {
    UnderWay,
    Done,
    Failed(String),
    Overtaken,
}

/// The world's books.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) effects: Vec<EffectRecord>,
    pub(super) violations: Vec<Violation>,
    pub(super) operations: BTreeMap<String, (u64, OperationStatus)>,
    /// Which containers run an instance, with the node and the digest of each.
    running: BTreeMap<InstanceKey, BTreeMap<Running, (NodeName, SpecDigest)>>,
    /// Instances of which a container started since the last check.
    suspects: BTreeSet<InstanceKey>,
    /// Where an image was built.
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

    /// Records it if the instance runs in two containers now.
    pub(super) fn judge(&mut self, key: &InstanceKey, at: DateTime<Utc>) {
        let Some(all) = self.running.get(key).filter(|all| all.len() > 1) else {
            return;
        };
        let places = all
            .iter()
            .map(|((_, container), (node, _))| Place {
                node: node.clone(),
                container: container.clone(),
            })
            .collect();
        let digests: BTreeSet<&SpecDigest> = all.values().map(|(_, digest)| digest).collect();
        let instance = key.1.clone();
        self.violations.push(if digests.len() < all.len() {
            Violation::Doubled {
                at,
                instance,
                places,
            }
        } else {
            Violation::Overlapping {
                at,
                instance,
                places,
            }
        });
    }

    /// Notes that an image was built, and says where it had been built before.
    pub(super) fn built(&mut self, platform: PlatformId, image: &str, machine: u64) -> Vec<u64> {
        let all = self.built.entry((platform, image.to_owned())).or_default();
        let before = all.iter().copied().collect();
        all.insert(machine);
        before
    }
}
