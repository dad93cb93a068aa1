//! Measures how long each phase of a run takes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use benches::example::Project;

use crate::RUNS;

/// The phases of a bring-up, in the order in which they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Nodes,
    Sending,
    Manager,
    Images,
    Services,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes and their engines",
            Self::Sending => "code bases and images sent to the manager's node",
            Self::Manager => "the manager's image and start",
            Self::Images => "the services' images",
            Self::Services => "containers, until they are ready",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) total: Duration,
    spans: BTreeMap<Phase, Vec<(Duration, Duration)>>,
}

impl Timeline {
    /// Adds a span of time to a phase.
    pub(crate) fn add(&mut self, phase: Phase, from: Duration, to: Duration) {
        self.spans.entry(phase).or_default().push((from, to));
    }

    /// Returns the median of an odd number of runs.
    pub(crate) fn median(mut runs: Vec<Self>) -> Option<Self> {
        runs.sort_by_key(|run| run.total);
        runs.into_iter().nth(RUNS / 2)
    }
}

/// Brings the example platform up and measures the phases.
pub(crate) fn up(project: &Project<'_>) -> Result<Timeline, String> {
    let mut timeline = Timeline::default();
    let mut started = Vec::new();
    timeline.total = project.up(|now, line| {
        // A line looks like this: `[ 2.1 s] ✓ provision node hub (2.1 s)`
        let Some((_, what)) = line.split_once("] ") else {
            return;
        };
        let what = what.trim_start();
        if let Some(done) = what.strip_prefix("✓ ") {
            let took = done
                .rsplit_once('(')
                .and_then(|(_, took)| took.strip_suffix(" s)")?.parse().ok())
                .map_or(Duration::ZERO, Duration::from_secs_f64);
            let from = now.saturating_sub(took);
            started.push((phase(done), from, now));
        } else if what.contains(" is ready on ") {
            started.push((Phase::Services, now, now));
        }
    })?;
    // A service's span is from the start of its container until the service is ready.
    let mut services: Vec<_> = Vec::new();
    for (phase, from, to) in started {
        match phase {
            Phase::Services => services.push((from, to)),
            other => timeline.add(other, from, to),
        }
    }
    if let (Some(from), Some(to)) = (
        services.iter().map(|span| span.0).min(),
        services.iter().map(|span| span.1).max(),
    ) {
        timeline.add(Phase::Services, from, to);
    }
    Ok(timeline)
}

fn phase(what: &str) -> Phase {
    if what.contains("lifecycle-manager") || what.contains("lifecycle manager") {
        Phase::Manager
    } else if what.starts_with("send ") {
        Phase::Sending
    } else if ["build ", "copy ", "pull "]
        .iter()
        .any(|w| what.starts_with(w))
    {
        Phase::Images
    } else if what.starts_with("start ") && !what.starts_with("start node") {
        Phase::Services
    } else {
        Phase::Nodes
    }
}

/// Returns the total time that is covered by at least one of the spans.
fn covered(spans: &[(Duration, Duration)]) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort();
    let mut covered = Duration::ZERO;
    let mut end = Duration::ZERO;
    for (from, to) in sorted {
        covered += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    covered
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<46}{:>8}{:>8}{:>10}", "phase", "from", "to", "busy")?;
        for (phase, spans) in &self.spans {
            let from = spans.iter().map(|span| span.0).min().unwrap_or_default();
            let to = spans.iter().map(|span| span.1).max().unwrap_or_default();
            writeln!(
                f,
                "{:<46}{:>7.1}s{:>7.1}s{:>9.1}s",
                phase.name(),
                from.as_secs_f64(),
                to.as_secs_f64(),
                covered(spans).as_secs_f64()
            )?;
        }
        let busy: Vec<_> = self.spans.values().flatten().copied().collect();
        let idle = self.total.saturating_sub(covered(&busy));
        write!(
            f,
            "{:<46}{:>8}{:>7.1}s{:>9.1}s",
            "total; time outside these phases",
            "",
            self.total.as_secs_f64(),
            idle.as_secs_f64()
        )
    }
}
