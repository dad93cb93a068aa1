//! The number by which a registry rejects the writes of a previous leader.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The fencing number of a leader: each new holder of the lease gets the next one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
