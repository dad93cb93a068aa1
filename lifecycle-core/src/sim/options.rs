//! Options for the durations of operations in a simulated world, and for random failures.

use std::collections::BTreeSet;
use std::time::Duration;

/// A range from which a duration is drawn; both limits are part of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub least: Duration,
    pub most: Duration,
}

impl Span {
    /// Creates a range in milliseconds.
    pub const fn millis(least: u64, most: u64) -> Self {
        Self {
            least: Duration::from_millis(least),
            most: Duration::from_millis(most),
        }
    }
}

/// The durations of operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    /// A call to the cloud.
    pub cloud_call: Span,
    /// A call to a host or an engine, apart from the work that the call causes.
    pub node_call: Span,
    /// Creating a VM.
    pub provision: Span,
    /// Starting, stopping, restarting or deleting a VM.
    pub power: Span,
    /// The time from a VM's start until its SSH server and its engine answer.
    pub boot: Span,
    /// Installing an engine.
    pub prepare: Span,
    /// Building an image.
    pub build: Span,
    /// Pulling, exporting or importing an image.
    pub transfer: Span,
    /// Creating and starting a container.
    pub start: Span,
    /// The time from a container's start until it answers.
    pub ready: Span,
    /// The time from a container's stop request until it exits.
    pub stop: Span,
    /// The timeout of calls to an unreachable node.
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

/// The rates of random failures, each from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FaultRates {
    /// How often a call to the cloud is throttled.
    pub throttled: f64,
    /// How often a call to a host or an engine is interrupted before it takes effect.
    pub interrupted: f64,
    /// How often an effect happens but its response is lost.
    pub reply_lost: f64,
    /// How often creating a VM fails.
    pub provision_fails: f64,
}

/// The options of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct SimOptions {
    /// The seed of all random draws.
    pub seed: u64,
    /// The durations of operations.
    pub latencies: Latencies,
    /// The percentage by which all durations are scaled: 10 makes everything ten times as fast.
    pub pace_percent: u32,
    /// The rates of random failures.
    pub rates: FaultRates,
    /// The VM sizes of the cloud; any size if not set.
    pub sizes: Option<BTreeSet<String>>,
}

impl SimOptions {
    /// Returns the default options with this seed.
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
