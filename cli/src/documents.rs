//! Types that several JSON documents share.

use lifecycle_core::api::wire::{NodeV1, ServiceV1};
use lifecycle_core::bootstrap::Outcome;
use lifecycle_core::platform::UnsupportedKey;
use schemars::JsonSchema;
use serde::Serialize;

/// The document of `up --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BroughtUp {
    /// The generation that is running.
    generation: u64,
    /// All nodes.
    nodes: Vec<NodeV1>,
    /// All services with their replicas.
    services: Vec<ServiceV1>,
}

impl From<&Outcome> for BroughtUp {
    fn from(outcome: &Outcome) -> Self {
        Self {
            generation: outcome.generation,
            nodes: outcome.nodes.clone(),
            services: outcome.services.clone(),
        }
    }
}

/// An unsupported key in the Compose files.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyWithoutEffect {
    /// The file that contains the key.
    file: String,
    /// The line, starting at 1.
    line: usize,
    /// The path of the key, for example `services.web.privileged`.
    key: String,
    /// The effect of ignoring the key.
    consequence: &'static str,
    /// Whether ignoring the key changes how the service behaves.
    changes_behaviour: bool,
}

impl From<&UnsupportedKey> for KeyWithoutEffect {
    fn from(key: &UnsupportedKey) -> Self {
        Self {
            file: key.file.clone(),
            line: key.line,
            key: key.path.clone(),
            consequence: key.consequence,
            changes_behaviour: key.changes_behaviour,
        }
    }
}
