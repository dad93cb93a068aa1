//! How long new nodes will take, from how long former ones took.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Bootstrapper;
use super::durations::{Durations, Timed, about};
use super::progress::{Progress, Reporter};
use crate::error::Result;
use crate::platform::Declaration;

impl Bootstrapper {
    /// How long the nodes that do not exist yet will take, as far as that can be said: as long as
    /// the slowest, since they are made beside each other. `usual` is what the provider says.
    pub(super) async fn predict(
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
            // Of some it may not be known, and then not of all.
            let all: Option<Vec<Duration>> = each.into_iter().collect();
            Ok::<_, crate::Error>(all.and_then(|all| all.into_iter().max()))
        };
        predicted.await.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "how long nodes will take is not known");
            usual
        })
    }

    /// The reporter, which tells of each node's steps also how long they usually take.
    pub(super) async fn expecting(&self, declaration: &Declaration) -> Arc<dyn Reporter> {
        let durations = self.state.durations().await.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "how long nodes usually take is not known");
            Durations::default()
        });
        let provider = self.backends.cloud.capabilities().name;
        let nodes = declaration.nodes.values();
        Arc::new(Expecting {
            inner: Arc::clone(&self.reporter),
            usual: nodes
                .flat_map(|spec| durations.steps(provider, spec))
                .collect(),
        })
    }

    /// Keeps how long nodes took. What cannot be kept is missed by nothing but the next forecast.
    pub(super) async fn learn(&self, declaration: &Declaration, seen: &[Timed]) {
        let provider = self.backends.cloud.capabilities().name;
        let kept: Result<()> = async {
            let mut durations = self.state.durations().await?;
            if durations.learn(provider, declaration.nodes.values(), seen) {
                self.state.keep_durations(&durations).await?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = kept {
            tracing::warn!(error = %error.chain(), "how long nodes took could not be kept");
        }
    }
}

/// Passes news on, and says of steps that were seen before how long they usually take.
#[derive(Debug)]
struct Expecting {
    inner: Arc<dyn Reporter>,
    usual: BTreeMap<String, Duration>,
}

impl Reporter for Expecting {
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
                says,
            } => {
                let says = [says, usual(&key)].into_iter().flatten();
                let says = says.reduce(|says, usual| format!("{says}; {usual}"));
                self.inner.report(Progress::Waiting {
                    key,
                    what,
                    since,
                    until,
                    says,
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
    struct Heard(Mutex<Vec<Progress>>);

    impl Reporter for Heard {
        fn report(&self, progress: Progress) {
            self.0.lock().unwrap().push(progress);
        }
    }

    #[test]
    fn what_was_seen_before_is_told_beside_what_the_cloud_says() {
        let heard = Arc::new(Heard::default());
        let expecting = Expecting {
            inner: Arc::clone(&heard) as _,
            usual: BTreeMap::from([("node/a/provision".into(), Duration::from_secs(126))]),
        };
        let line = |key: &str, text: &str| Progress::Line {
            key: key.into(),
            text: text.into(),
        };
        expecting.report(Progress::Began {
            key: "node/a/provision".into(),
            what: "make it".into(),
        });
        for key in ["node/a/provision", "node/b/provision"] {
            expecting.report(line(key, "Azure says Creating"));
        }
        let told = heard.0.lock().unwrap().split_off(1);
        let expected = [
            line("node/a/provision", "usually 2m 10s"),
            line("node/a/provision", "Azure says Creating; usually 2m 10s"),
            line("node/b/provision", "Azure says Creating"),
        ];
        assert_eq!(told, expected);
    }
}
