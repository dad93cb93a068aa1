//! A line per step with times while something is being done: plain lines, or on a terminal
//! spinners for what runs beneath the lines of what is done.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lifecycle_core::bootstrap::{Progress, Reporter};

use crate::printer;

/// After how long something that runs is told again where no spinner shows it.
const STILL: Duration = Duration::from_secs(15);

/// Shows progress on standard error.
#[derive(Debug)]
pub(crate) struct ProgressLines {
    began: Instant,
    spinners: Option<MultiProgress>,
    running: Mutex<BTreeMap<String, Running>>,
}

#[derive(Debug)]
struct Running {
    what: String,
    since: Instant,
    told: Instant,
    line: String,
    spinner: Option<ProgressBar>,
}

impl ProgressLines {
    pub(crate) fn new(json: bool) -> Arc<Self> {
        let on_terminal = std::io::stderr().is_terminal() && !json;
        Arc::new(Self {
            began: Instant::now(),
            spinners: on_terminal.then(MultiProgress::new),
            running: Mutex::default(),
        })
    }

    /// Tells now and then of what takes long. Runs until it is dropped.
    pub(crate) async fn heartbeat(&self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            if self.spinners.is_some() {
                continue;
            }
            let mut lines = Vec::new();
            for running in self.running().values_mut() {
                if running.told.elapsed() >= STILL {
                    running.told = Instant::now();
                    let said = if running.line.is_empty() {
                        String::new()
                    } else {
                        format!(": {}", running.line)
                    };
                    let took = seconds(running.since.elapsed());
                    lines.push(format!("  … {} ({took}){said}", running.what));
                }
            }
            for line in lines {
                self.line(&line);
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        let line = format!("[{:>6}] {text}", seconds(self.began.elapsed()));
        match &self.spinners {
            Some(spinners) => spinners.suspend(|| printer::talk(&line)),
            None => printer::talk(&line),
        }
    }

    fn spinner(&self, what: &str) -> Option<ProgressBar> {
        let style =
            ProgressStyle::with_template("  {spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.spinners.as_ref()?.add(ProgressBar::new_spinner());
        bar.set_style(style);
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }

    fn end(&self, key: &str) -> Option<String> {
        let running = self.running().remove(key)?;
        if let Some(spinner) = running.spinner {
            spinner.finish_and_clear();
        }
        Some(running.what)
    }
}

impl Reporter for ProgressLines {
    fn report(&self, progress: Progress) {
        match progress {
            Progress::Began { key, what } => {
                if self.spinners.is_none() {
                    self.line(&format!("  > {what}"));
                }
                let spinner = self.spinner(&what);
                let running = Running {
                    what,
                    since: Instant::now(),
                    told: Instant::now(),
                    line: String::new(),
                    spinner,
                };
                self.running().insert(key, running);
            }
            Progress::Line { key, text } => {
                if let Some(running) = self.running().get_mut(&key) {
                    if let Some(spinner) = &running.spinner {
                        spinner.set_message(text.clone());
                    }
                    running.line = text;
                }
            }
            Progress::Done { key, what, took } => {
                let what = self.end(&key).unwrap_or(what);
                self.line(&format!("  ✓ {what} ({})", seconds(took)));
            }
            Progress::Failed { key, what, why } => {
                let what = self.end(&key).unwrap_or(what);
                self.line(&format!("  ✗ {what}: {why}"));
            }
            Progress::Told { text } => self.line(&format!("  · {text}")),
            // News of a kind that this version does not know.
            _ => {}
        }
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
