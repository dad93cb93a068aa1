//! `operation`: lists operations, waits for the end of one of them, and cancels one.

use lifecycle_core::Error;
use lifecycle_core::api::wire::{OperationStateV1, OperationV1};
use lifecycle_core::model::{OperationId, Subject};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Operation, OperationAction};
use crate::commands;
use crate::failure::Failure;
use crate::paint::Tone;
use crate::printer;
use crate::progress::ProgressLines;
use crate::table::Table;

/// The document of `operation list --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Listed {
    /// The latest operations, oldest first.
    operations: Vec<OperationV1>,
}

/// The document of `operation watch --json` and `operation cancel --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ended {
    /// The operation, which has succeeded or, for `cancel`, was cancelled.
    operation: OperationV1,
}

pub(crate) async fn run(arguments: &Arguments, options: &Operation) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    match options.action {
        OperationAction::List => {
            let operations = bootstrapper.operations(identity.id).await?;
            if arguments.json {
                return printer::document(&Listed { operations });
            }
            printer::data(&table(&operations, printer::width()))
        }
        OperationAction::Watch { id } => {
            let watched = bootstrapper.watch_operation(identity.id, OperationId(id));
            let operation = watched.await?;
            check(&operation)?;
            if operation.state == OperationStateV1::Cancelled {
                return Err(Error::failed(what(&operation), "it was cancelled").into());
            }
            ended(arguments, operation)
        }
        OperationAction::Cancel { id } => {
            let cancelled = bootstrapper.cancel_operation(identity.id, OperationId(id));
            let operation = cancelled.await?;
            check(&operation)?;
            ended(arguments, operation)
        }
    }
}

/// Fails if the operation has failed.
fn check(operation: &OperationV1) -> Result<(), Error> {
    match &operation.why {
        Some(why) => Err(Error::failed(what(operation), why.clone())),
        None => Ok(()),
    }
}

fn ended(arguments: &Arguments, operation: OperationV1) -> Result<(), Failure> {
    if arguments.json {
        return printer::document(&Ended { operation });
    }
    let how = match operation.state {
        OperationStateV1::Cancelled => "Cancelled",
        _ => "Succeeded",
    };
    printer::message(&format!("{how}: {}.", what(&operation)));
    Ok(())
}

/// Describes an operation, for example `restart, service web`.
fn what(operation: &OperationV1) -> String {
    let kind = operation.kind.to_string();
    let what = operation.request.as_ref().unwrap_or(&kind);
    match &operation.subject {
        None | Some(Subject::Platform) => what.clone(),
        Some(subject) => format!("{what}, {subject}"),
    }
}

fn table(operations: &[OperationV1], width: Option<usize>) -> String {
    let mut table = Table::of(&["ID", "OPERATION", "STATE", "REQUESTED", "WHY"]);
    for operation in operations {
        let tone = match operation.state {
            OperationStateV1::Succeeded => Tone::Faint,
            OperationStateV1::Failed => Tone::Bad,
            OperationStateV1::Cancelled => Tone::Caution,
            _ => Tone::Good,
        };
        let requested = operation.requested_at;
        let cells = vec![
            operation.id.to_string(),
            what(operation),
            operation.state.to_string(),
            requested.map_or_else(String::new, |at| at.format("%F %T").to_string()),
            operation.why.clone().unwrap_or_default(),
        ];
        table.row(tone, cells);
    }
    table.text(width)
}
