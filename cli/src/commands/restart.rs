//! `restart`: restarts the containers of a service and waits until they are ready.

use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Restart};
use crate::commands;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `restart --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Restarted {
    /// The restarted replicas, as `<service>-<replica>`; all are ready again.
    restarted: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Restart) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let mut restarted = Vec::new();
    for name in &options.names {
        restarted.extend(bootstrapper.restart(identity.id, name).await?);
    }
    if arguments.json {
        printer::document(&Restarted { restarted })
    } else {
        printer::message(&format!("Restarted: {}.", restarted.join(", ")));
        Ok(())
    }
}
