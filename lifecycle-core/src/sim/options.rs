//! How long things take in a simulated world, and how often they go wrong by themselves.

use std::collections::BTreeSet;
use std::time::Duration;

/// A duration is drawn from between these two, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Span {
    /// From so many milliseconds to so many.
    pub const fn millis(least: u64, most: u64) -> Self {
        Self {
            least: Duration::from_millis(least),
            most: Duration::from_millis(most),
        }
    }
}

/// How long things take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    /// A call to the cloud.
    pub cloud_call: Span,
    /// A call to a host or an engine that needs no work there.
    pub node_call: Span,
    /// Making a VM.
    pub provision: Span,
    /// Starting, stopping, restarting or deleting a VM.
    pub power: Span,
    /// From a VM's start until its SSH server and its engine answer.
    pub boot: Span,
    /// Installing an engine.
    pub prepare: Span,
    /// Building an image.
    pub build: Span,
    /// Pulling, exporting or importing an image.
    pub transfer: Span,
    /// Making and starting a container.
    pub start: Span,
    /// From a container's start until it answers.
    pub ready: Span,
    /// From a container's being asked to stop until it has ended.
    pub stop: Span,
    /// After how long a node that is silent is given up.
    pub notice: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            cloud_call: Span::millis(20, 120),
            node_call: Span::millis(1, 8),
            provision: Span::millis(30_000, 90_000),
            power: Span::millis(5_000, 25_000),
            boot: Span::millis(5_000, 20_000),
            prepare: Span::millis(15_000, 40_000),
            build: Span::millis(5_000, 60_000),
            transfer: Span::millis(1_000, 6_000),
            start: Span::millis(200, 900),
            ready: Span::millis(100, 2_000),
            stop: Span::millis(50, 400),
            notice: Duration::from_secs(4),
        }
    }
}

/// How often calls go wrong by themselves, each from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FaultRates {
    /// A call to the cloud is throttled.
    pub throttled: f64,
    /// A call to a host or an engine breaks off before it did anything.
    pub interrupted: f64,
    /// An effect takes place, but its reply is lost.
    pub reply_lost: f64,
    /// A VM fails while it is being made.
    pub provision_fails: f64,
}

/// What a world is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct SimOptions {
    /// What everything is drawn from.
    pub seed: u64,
    /// How long things take.
    pub latencies: Latencies,
    /// All durations in hundredths of what is drawn: 10 makes everything ten times as quick.
    pub pace_percent: u32,
    /// How often calls go wrong by themselves.
    pub rates: FaultRates,
    /// The sizes of VM that the cloud has; any without it.
    pub sizes: Option<BTreeSet<String>>,
}

impl SimOptions {
    /// The defaults, with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            latencies: Latencies::default(),
            pace_percent: 100,
            rates: FaultRates::default(),
            sizes: None,
        }
    }
}
