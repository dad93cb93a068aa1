//! `history` and `rollback`: list the revisions of what is declared, and return to an earlier one.

use lifecycle_core::api::wire::{RevisionV1, SecretV1};
use lifecycle_core::model::{Generation, Subject};
use lifecycle_core::platform::RestoredSecrets;
use lifecycle_core::reconcile::{Held, Step};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Rollback};
use crate::commands::{self, overrides};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::paint::Tone;
use crate::printer;
use crate::progress::ProgressLines;
use crate::table::Table;

/// How many changes of a revision the table shows.
const SHOWN_CHANGES: usize = 4;

/// The document of `history --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct History {
    /// The stored revisions, oldest first. The last one is the current one.
    revisions: Vec<RevisionV1>,
}

/// The document of `rollback --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RolledBack {
    /// The number of the revision whose services were restored.
    restored: u64,
    /// The values that were not restored, because they may be secrets.
    kept: Vec<SecretV1>,
    /// The values that may be secrets, and were restored, because they have no current value.
    without_current: Vec<SecretV1>,
}

/// The document of `rollback --dry-run --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Previewed {
    /// The number of the revision whose services would be restored.
    restored: u64,
    /// The steps. Each step is listed after the steps that it depends on.
    steps: Vec<Step>,
    /// The steps that cannot be carried out yet, each with the reason.
    held: Vec<Held>,
    /// The values that would not be restored, because they may be secrets.
    kept: Vec<SecretV1>,
    /// The values that may be secrets, and would be restored, because they have no current value.
    without_current: Vec<SecretV1>,
}

pub(crate) async fn history(arguments: &Arguments) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let revisions = bootstrapper.revisions(identity.id).await?;
    if arguments.json {
        return printer::document(&History { revisions });
    }
    printer::data(&table(&revisions, printer::width()))
}

pub(crate) async fn rollback(arguments: &Arguments, options: &Rollback) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let platform = identity.id;
    let to = match options.revision {
        Some(number) => Generation(number),
        None => bootstrapper.previous_revision(platform).await?,
    };
    let secrets = if options.with_secrets {
        RestoredSecrets::Earlier
    } else {
        RestoredSecrets::Current
    };
    let planned = bootstrapper.plan_rollback(platform, to, secrets).await?;
    let plan = planned.plan;
    let (kept, without_current) = (planned.kept, planned.without_current);
    if options.dry_run && arguments.json {
        return printer::document(&Previewed {
            restored: to.0,
            steps: plan.steps,
            held: plan.held,
            kept,
            without_current,
        });
    }
    if options.dry_run {
        printer::data(plan.to_string().trim_end())?;
    } else {
        printer::message(&format!("To return to revision {to}:"));
        printer::message(plan.to_string().trim_end());
    }
    note(
        &kept,
        "current values that may be secrets are kept; `--with-secrets` restores them",
    );
    note(
        &without_current,
        "earlier values that may be secrets are restored, because they have no current value",
    );
    if options.dry_run {
        return Ok(());
    }
    if !plan.steps.is_empty() {
        confirm(options.yes, &format!("Roll back to revision {to}?")).await?;
    }
    let outcome = bootstrapper.rollback(platform, to, secrets).await?;
    overrides::all_up(arguments, outcome)?;
    if arguments.json {
        return printer::document(&RolledBack {
            restored: to.0,
            kept,
            without_current,
        });
    }
    printer::message(&format!(
        "The services of revision {to} run again. The next `bootstrapper up` applies the files."
    ));
    Ok(())
}

fn note(values: &[SecretV1], what: &str) {
    if !values.is_empty() {
        let names: Vec<String> = values.iter().map(SecretV1::to_string).collect();
        printer::note(&format!("{what}: {}", names.join(", ")));
    }
}

/// Returns a table of the revisions, in which the current one is marked with `*`.
fn table(revisions: &[RevisionV1], width: Option<usize>) -> String {
    let mut table = Table::of(&["REVISION", "TIME", "REQUEST", "BY", "CHANGES"]);
    for (index, revision) in revisions.iter().enumerate() {
        let is_current = index + 1 == revisions.len();
        let request = match (&revision.request, &revision.subject) {
            (None, _) => "unknown".to_owned(),
            (Some(request), None | Some(Subject::Platform)) => request.clone(),
            (Some(request), Some(subject)) => format!("{request}, {subject}"),
        };
        let current = if is_current { " *" } else { "" };
        let cells = vec![
            format!("{}{current}", revision.generation),
            revision.at.format("%F %T").to_string(),
            request,
            by(revision),
            changes(revision),
        ];
        table.row(if is_current { Tone::Good } else { Tone::Faint }, cells);
    }
    table.text(width)
}

/// Returns the name of the token that was used, without its id and the address.
fn by(revision: &RevisionV1) -> String {
    let by = revision.by.as_deref().unwrap_or_default();
    let token = by
        .strip_prefix("token ")
        .and_then(|by| by.split(' ').next());
    token.unwrap_or(by).to_owned()
}

fn changes(revision: &RevisionV1) -> String {
    let shown = revision.changes.iter().take(SHOWN_CHANGES);
    let mut shown: Vec<String> = shown.map(ToString::to_string).collect();
    let more = revision.changes.len().saturating_sub(SHOWN_CHANGES);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}
