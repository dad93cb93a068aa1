//! Formats a plan as text: one line per step, then the rejected specifications and the held
//! subjects.

use std::collections::BTreeMap;
use std::fmt;

use crate::reconcile::step::{Plan, StepId};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Lines { f, first: true };
        if self.is_empty() && self.rejects.is_empty() {
            lines.line(format_args!("nothing to do"))?;
        }
        let numbers: BTreeMap<&StepId, usize> =
            self.steps.iter().map(|s| &s.id).zip(1_usize..).collect();
        let width = self.steps.len().to_string().len();
        for (step, number) in self.steps.iter().zip(1_usize..) {
            let mut after: Vec<usize> = step
                .needs
                .iter()
                .filter_map(|need| numbers.get(need).copied())
                .collect();
            after.sort_unstable();
            let after: Vec<String> = after.iter().map(ToString::to_string).collect();
            let after = match after.as_slice() {
                [] => String::new(),
                [one] => format!(" (after {one})"),
                [first @ .., last] => format!(" (after {} and {last})", first.join(", ")),
            };
            lines.line(format_args!(
                "{number:>width$}. {}{after}: {}",
                step.action, step.reason
            ))?;
        }
        for rejected in &self.rejects {
            lines.line(format_args!(
                "rejected: specification {} of instance {}: {}",
                rejected.digest.short(),
                rejected.id,
                rejected.why
            ))?;
        }
        for held in &self.held {
            lines.line(format_args!("held: {}: {}", held.subject, held.by))?;
        }
        for service in &self.unchanged {
            lines.line(format_args!(
                "image unchanged: containers of {service} are kept"
            ))?;
        }
        Ok(())
    }
}

/// Writes lines separated by line breaks, with no line break after the last line.
struct Lines<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    first: bool,
}

impl Lines<'_, '_> {
    fn line(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.f.write_str("\n")?;
        }
        self.f.write_fmt(text)
    }
}
