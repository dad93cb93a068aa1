//! Reads `deploy.update_config`, `rollback_config` and `restart_policy`.

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, supported_entries};
use super::value;
use crate::model::{OnFailure, Replacement, ReplacementOrder, RestartPolicy};

/// The maximum number of replicas that are replaced at a time.
const MOST: u32 = 10_000;

/// Reads how replicas are replaced.
pub(super) fn update(field: &Field<'_>, report: &mut Report) -> Replacement {
    let actions = [
        ("pause", OnFailure::Pause),
        ("continue", OnFailure::Continue),
        ("rollback", OnFailure::Rollback),
    ];
    replacement(field, &actions, report)
}

/// Reads how replicas are restored. A rollback cannot be rolled back.
pub(super) fn rollback(field: &Field<'_>, report: &mut Report) -> Replacement {
    let actions = [
        ("pause", OnFailure::Pause),
        ("continue", OnFailure::Continue),
    ];
    replacement(field, &actions, report)
}

fn replacement(
    field: &Field<'_>,
    actions: &[(&str, OnFailure)],
    report: &mut Report,
) -> Replacement {
    let mut replacement = Replacement::default();
    for (key, field) in supported_entries(field, keys::REPLACEMENT, report) {
        if field.is_null() {
            continue;
        }
        match key {
            "parallelism" => replacement.parallelism = field.number(report, 0, MOST),
            "delay" => replacement.delay = field.parse(report, value::duration),
            "monitor" => replacement.monitor = field.parse(report, value::duration),
            "max_failure_ratio" => {
                replacement.max_failure_millionths = field.parse_number(report, value::millionths);
            }
            "order" => {
                let orders = [
                    ("stop-first", ReplacementOrder::StopFirst),
                    ("start-first", ReplacementOrder::StartFirst),
                ];
                replacement.order = field.word(report, &orders);
            }
            _ => replacement.on_failure = field.word(report, actions),
        }
    }
    replacement
}

/// Reads `restart_policy` and converts it to a value of `restart`.
pub(super) fn restart(field: &Field<'_>, report: &mut Report) -> Option<RestartPolicy> {
    let mut condition = Some("any");
    let mut attempts = None;
    for (key, field) in supported_entries(field, keys::RESTART_POLICY, report) {
        if field.is_null() {
            continue;
        }
        match key {
            "condition" => {
                let words = [
                    ("none", "none"),
                    ("on-failure", "on-failure"),
                    ("any", "any"),
                ];
                condition = field.word(report, &words);
            }
            _ => attempts = field.number(report, 0, u32::MAX),
        }
    }
    match condition? {
        "none" => Some(RestartPolicy::No),
        "on-failure" => Some(RestartPolicy::OnFailure {
            max_retries: attempts.filter(|attempts| *attempts > 0),
        }),
        _ => Some(RestartPolicy::Always),
    }
}
