//! `retry`: makes the manager retry failed operations immediately.

use lifecycle_core::reconcile::RetryOptions;
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
    /// Descriptions of the operations that are retried; empty if nothing had failed.
    retried: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Retry) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let recreate = RetryOptions {
        recreate_volumes: options.recreate_volume,
    };
    let mut retried = Vec::new();
    for name in &options.names {
        for what in bootstrapper.retry(identity.id, name, recreate).await? {
            if !retried.contains(&what) {
                retried.push(what);
            }
        }
    }
    if arguments.json {
        return printer::document(&Retried { retried });
    }
    if retried.is_empty() {
        printer::message(
            "Nothing was retried: no step of these names has failed. `bootstrapper why NAME` shows what \
             they wait for.",
        );
    } else {
        printer::message(&format!(
            "Retrying now: {}. Follow the progress with `bootstrapper events --follow`.",
            retried.join(", ")
        ));
    }
    Ok(())
}
