//! Records how long creating nodes took, to estimate how long creating new nodes will take.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{NodeName, NodeSpec};
use crate::reconcile::Action;

/// How many durations are kept for each provider, step and node size.
const KEPT: usize = 20;

/// A successful step that created or prepared a node, and the duration of the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    pub step: String,
    pub took: Duration,
}

/// The recorded durations of steps, in seconds, by provider, type of step and size of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Durations(BTreeMap<String, Vec<f64>>);

/// The types of steps that create a node.
const KINDS: [&str; 2] = ["provision", "prepare"];

fn key(provider: &str, kind: &str, size: Option<&str>) -> String {
    match size {
        Some(size) => format!("{provider} {kind} {size}"),
        None => format!("{provider} {kind}"),
    }
}

fn id(kind: &str, node: &NodeName) -> String {
    let node = node.clone();
    let action = match kind {
        "provision" => Action::ProvisionNode { node },
        _ => Action::PrepareNode {
            node,
            operation: None,
        },
    };
    action.id().to_string()
}

impl Durations {
    /// Records how long the steps that create these nodes took. Ignores other steps. Returns
    /// whether anything was recorded.
    pub fn record<'n>(
        &mut self,
        provider: &str,
        nodes: impl IntoIterator<Item = &'n NodeSpec>,
        seen: &[Timed],
    ) -> bool {
        let mut recorded = false;
        for spec in nodes {
            for kind in KINDS {
                let id = id(kind, &spec.name);
                for timed in seen.iter().filter(|timed| timed.step == id) {
                    let key = key(provider, kind, spec.size.as_deref());
                    let all = self.0.entry(key).or_default();
                    all.push(timed.took.as_secs_f64());
                    let surplus = all.len().saturating_sub(KEPT);
                    all.drain(..surplus);
                    recorded = true;
                }
            }
        }
        recorded
    }

    /// Estimates how long creating and preparing a node will take, from the median of the recorded
    /// durations for its size. Without recorded creations, uses `otherwise` for the creation.
    pub fn of(
        &self,
        provider: &str,
        spec: &NodeSpec,
        otherwise: Option<Duration>,
    ) -> Option<Duration> {
        let usual = |kind| self.usual(provider, kind, spec);
        let creation = usual("provision").or(otherwise)?;
        Some(creation.saturating_add(usual("prepare").unwrap_or_default()))
    }

    /// Returns the id and the usual duration of each step that has recorded durations.
    pub fn steps(&self, provider: &str, spec: &NodeSpec) -> Vec<(String, Duration)> {
        let step = |kind| Some((id(kind, &spec.name), self.usual(provider, kind, spec)?));
        KINDS.into_iter().filter_map(step).collect()
    }

    fn usual(&self, provider: &str, kind: &str, spec: &NodeSpec) -> Option<Duration> {
        median(self.0.get(&key(provider, kind, spec.size.as_deref()))?)
    }
}

/// Formats an estimate for people. Rounds durations over a minute to ten seconds.
pub(super) fn about(duration: Duration) -> String {
    let seconds = duration.as_secs().max(1);
    let rounded = if seconds < 60 {
        seconds
    } else {
        seconds.saturating_add(5) / 10 * 10
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// Returns the estimate for new nodes as a message.
pub fn describe_estimate(predicted: Duration) -> String {
    format!("new nodes will take about {}", about(predicted))
}

/// Returns the lower median. Values that are not valid durations are ignored.
fn median(all: &[f64]) -> Option<Duration> {
    let mut all: Vec<Duration> = all
        .iter()
        .filter_map(|seconds| Duration::try_from_secs_f64(*seconds).ok())
        .collect();
    all.sort();
    let last = all.len().checked_sub(1)?;
    all.get(last / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, size: Option<&str>) -> NodeSpec {
        NodeSpec {
            size: size.map(str::to_owned),
            ..NodeSpec::new(NodeName::try_from(name).unwrap())
        }
    }

    fn timed(step: &str, seconds: u64) -> Timed {
        Timed {
            step: step.into(),
            took: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn estimates_the_median_for_the_same_size() {
        let mut seen = Durations::default();
        let (one, two) = (spec("a", Some("large")), spec("b", None));
        let steps = [
            timed("node/a/provision", 100),
            timed("node/b/provision", 7),
            timed("service/web/build", 3),
        ];
        assert!(seen.record("azure", [&one, &two], &steps));
        for seconds in [1, 90, 80] {
            let steps = [timed("node/a/provision", seconds)];
            assert!(seen.record("azure", [&one], &steps));
        }
        assert!(seen.record("azure", [&one], &[timed("node/a/prepare", 5)]));
        assert!(!seen.record("azure", [&two], &[timed("node/a/prepare", 5)]));
        let second = Duration::from_secs;
        assert_eq!(seen.of("azure", &one, None), Some(second(85)));
        assert_eq!(seen.of("azure", &two, Some(second(60))), Some(second(7)));
        let unseen = spec("c", Some("small"));
        assert_eq!(
            seen.of("azure", &unseen, Some(second(60))),
            Some(second(60))
        );
        assert_eq!(seen.of("local", &one, None), None);
    }

    #[test]
    fn rounds_long_estimates_to_ten_seconds() {
        let described = |millis| describe_estimate(Duration::from_millis(millis));
        assert_eq!(described(3), "new nodes will take about 1s");
        assert_eq!(described(59_900), "new nodes will take about 59s");
        assert_eq!(described(126_000), "new nodes will take about 2m 10s");
    }

    #[test]
    fn keeps_the_latest_and_ignores_invalid_durations() {
        let mut seen: Durations =
            serde_json::from_str(r#"{"azure provision": [-1.0, 1e300, 9.0]}"#).unwrap();
        let one = spec("a", None);
        assert_eq!(seen.of("azure", &one, None), Some(Duration::from_secs(9)));
        for seconds in 1..=50 {
            seen.record("azure", [&one], &[timed("node/a/provision", seconds)]);
        }
        assert_eq!(seen.of("azure", &one, None), Some(Duration::from_secs(40)));
    }
}
