//! Estimates how long creating new nodes will take, from the durations of previous creations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Bootstrapper;
use super::durations::{Durations, Timed, about};
use super::progress::{Progress, Reporter};
use crate::error::Result;
use crate::platform::Declaration;

impl Bootstrapper {
    /// Estimates how long creating the missing nodes in parallel will take. `usual` is the
    /// provider's estimate.
    pub(super) async fn estimate_new_nodes(
        &self,
        declaration: &Declaration,
        usual: Option<Duration>,
    ) -> Option<Duration> {
        let predicted = async {
            let known = self.list_nodes().await?;
            let durations = self.state.durations().await?;
            let provider = self.backends.cloud.capabilities().name;
            let new = declaration
                .nodes
                .values()
                .filter(|spec| !known.iter().any(|node| node.name == spec.name));
            let each: Vec<_> = new
                .map(|spec| durations.of(provider, spec, usual))
                .collect();
            // If the duration of one node is unknown, so is the total duration.
            let all: Option<Vec<Duration>> = each.into_iter().collect();
            Ok::<_, crate::Error>(all.and_then(|all| all.into_iter().max()))
        };
        predicted.await.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "cannot read how long creating nodes takes");
            usual
        })
    }

    /// Returns a reporter that also shows how long steps of nodes usually take.
    pub(super) async fn reporter_with_estimates(
        &self,
        declaration: &Declaration,
    ) -> Arc<dyn Reporter> {
        let durations = self.state.durations().await.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "cannot read how long creating nodes takes");
            Durations::default()
        });
        let provider = self.backends.cloud.capabilities().name;
        let nodes = declaration.nodes.values();
        Arc::new(WithEstimates {
            inner: Arc::clone(&self.reporter),
            usual: nodes
                .flat_map(|spec| durations.steps(provider, spec))
                .collect(),
        })
    }

    /// Records how long creating nodes took. A failure affects only later estimates, so it is only
    /// logged.
    pub(super) async fn record_durations(&self, declaration: &Declaration, timed: &[Timed]) {
        let provider = self.backends.cloud.capabilities().name;
        let kept: Result<()> = async {
            let mut durations = self.state.durations().await?;
            if durations.record(provider, declaration.nodes.values(), timed) {
                self.state.store_durations(&durations).await?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = kept {
            tracing::warn!(error = %error.chain(), "cannot store how long creating nodes took");
        }
    }
}

/// Forwards reports, and adds the usual duration to reports about known steps.
#[derive(Debug)]
struct WithEstimates {
    inner: Arc<dyn Reporter>,
    usual: BTreeMap<String, Duration>,
}

impl Reporter for WithEstimates {
    fn report(&self, progress: Progress) {
        let usual = |key: &str| {
            let usual = self.usual.get(key)?;
            Some(format!("usually {}", about(*usual)))
        };
        match progress {
            Progress::Began { key, what } => {
                let text = usual(&key);
                let again = key.clone();
                self.inner.report(Progress::Began { key, what });
                if let Some(text) = text {
                    self.inner.report(Progress::Line { key: again, text });
                }
            }
            Progress::Line { key, text } => {
                let text = match usual(&key) {
                    Some(usual) => format!("{text}; {usual}"),
                    None => text,
                };
                self.inner.report(Progress::Line { key, text });
            }
            Progress::Waiting {
                key,
                what,
                since,
                until,
                detail,
            } => {
                let detail = [detail, usual(&key)].into_iter().flatten();
                let detail = detail.reduce(|detail, usual| format!("{detail}; {usual}"));
                self.inner.report(Progress::Waiting {
                    key,
                    what,
                    since,
                    until,
                    detail,
                });
            }
            other => self.inner.report(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<Progress>>);

    impl Reporter for Recorder {
        fn report(&self, progress: Progress) {
            self.0.lock().unwrap().push(progress);
        }
    }

    #[test]
    fn adds_the_usual_duration_to_reports_of_known_steps() {
        let recorder = Arc::new(Recorder::default());
        let estimating = WithEstimates {
            inner: Arc::clone(&recorder) as _,
            usual: BTreeMap::from([("node/a/provision".into(), Duration::from_secs(126))]),
        };
        let line = |key: &str, text: &str| Progress::Line {
            key: key.into(),
            text: text.into(),
        };
        estimating.report(Progress::Began {
            key: "node/a/provision".into(),
            what: "create it".into(),
        });
        for key in ["node/a/provision", "node/b/provision"] {
            estimating.report(line(key, "Azure: Creating"));
        }
        let reports = recorder.0.lock().unwrap().split_off(1);
        let expected = [
            line("node/a/provision", "usually 2m 10s"),
            line("node/a/provision", "Azure: Creating; usually 2m 10s"),
            line("node/b/provision", "Azure: Creating"),
        ];
        assert_eq!(reports, expected);
    }
}
