//! `retry`: has the manager try again at once what failed.

use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Retry};
use crate::commands;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `retry --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Retried {
    /// What had failed and is tried again, in words; empty if nothing had.
    retried: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Retry) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let mut retried = Vec::new();
    for name in &options.names {
        for what in bootstrapper.retry(identity.id, name).await? {
            if !retried.contains(&what) {
                retried.push(what);
            }
        }
    }
    if arguments.json {
        return printer::document(&Retried { retried });
    }
    if retried.is_empty() {
        printer::talk("Nothing of this had failed.");
    } else {
        printer::talk(&format!(
            "Tried again now: {}. `bootstrapper events --follow` shows how it goes.",
            retried.join(", ")
        ));
    }
    Ok(())
}
