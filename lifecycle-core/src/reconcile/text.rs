//! A plan as text, for people: a line for each step with its reason and what it waits for, then
//! what is held up and why.

use std::collections::BTreeMap;
use std::fmt;

use super::step::{Plan, StepId};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to do");
        }
        let numbers: BTreeMap<&StepId, usize> = self.steps.iter().map(|s| &s.id).zip(1..).collect();
        for (number, step) in (1..).zip(&self.steps) {
            write!(f, "{number:>4}. {}", step.action)?;
            let mut needs: Vec<usize> = step
                .needs
                .iter()
                .filter_map(|need| numbers.get(need).copied())
                .collect();
            needs.sort_unstable();
            if !needs.is_empty() {
                let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
                write!(f, ", after {}", needs.join(", "))?;
            }
            writeln!(f, "\n      because: {}", step.reason)?;
        }
        for held in &self.held {
            writeln!(f, "   -  {}: {}", held.subject, held.by)?;
        }
        Ok(())
    }
}
