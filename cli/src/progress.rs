//! Shows progress: a line for each step, with times, and on a terminal also a spinner for each
//! running step.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lifecycle_core::bootstrap::{Progress, Reporter};

use crate::printer;

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

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        let line = format!("[{:>6}] {text}", seconds(self.began.elapsed()));
        match &self.spinners {
            Some(spinners) => spinners.suspend(|| printer::message(&line)),
            None => printer::message(&line),
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

    /// Shows a wait: next to the spinner of the waiting step or, without a spinner, as a line.
    fn waiting(
        &self,
        key: &str,
        what: &str,
        (since, until): (DateTime<Utc>, DateTime<Utc>),
        detail: Option<String>,
    ) {
        let until = if since.date_naive() == until.date_naive() {
            until.format("%T")
        } else {
            until.format("%F %T")
        };
        let times = format!("since {}, until {until} UTC", since.format("%T"));
        let text = match detail {
            Some(detail) => format!("{detail} ({times})"),
            None => times.clone(),
        };
        if let Some(running) = self.running().get(key)
            && let Some(spinner) = &running.spinner
        {
            spinner.set_message(text);
            return;
        }
        let running = self.running().contains_key(key);
        let waiting = if running { "" } else { "waiting: " };
        let separator = if text == times { " " } else { ": " };
        let text = if text == times {
            format!("({times})")
        } else {
            text
        };
        self.line(&format!("  … {waiting}{what}{separator}{text}"));
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
                let running = Running { what, spinner };
                self.running().insert(key, running);
            }
            Progress::Line { key, text } => {
                if let Some(running) = self.running().get(&key)
                    && let Some(spinner) = &running.spinner
                {
                    spinner.set_message(text);
                }
            }
            Progress::Waiting {
                key,
                what,
                since,
                until,
                detail,
            } => self.waiting(&key, &what, (since, until), detail),
            Progress::Done { key, what, took } => {
                let what = self.end(&key).unwrap_or(what);
                self.line(&format!("  ✓ {what} ({})", seconds(took)));
            }
            Progress::Failed { key, what, why } => {
                let what = self.end(&key).unwrap_or(what);
                self.line(&format!("  ✗ {what}: {why}"));
            }
            Progress::Note { text } => self.line(&format!("  · {text}")),
            // Ignore types of progress that this version does not know.
            _ => {}
        }
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
