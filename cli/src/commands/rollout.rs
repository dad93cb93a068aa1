//! `rollout`: pauses, resumes or rolls back the rollout of a service.

use lifecycle_core::model::RolloutRequest;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Rollout};
use crate::commands;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `rollout --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Requested {
    /// The service.
    service: String,
    /// The id of the rollout's operation.
    #[schemars(extend("format" = "uuid"))]
    operation: String,
}

pub(crate) async fn run(arguments: &Arguments, options: &Rollout) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let (request, service) = options.request();
    let operation = bootstrapper.rollout(identity.id, service, request).await?;
    if arguments.json {
        return printer::document(&Requested {
            service: service.to_owned(),
            operation: operation.to_string(),
        });
    }
    let what = match request {
        RolloutRequest::Pause => "No further replicas will be replaced",
        RolloutRequest::Resume => "The remaining replicas will be replaced",
        RolloutRequest::Rollback => "The replaced replicas will be restored",
    };
    printer::message(&format!(
        "{what}. Follow the progress with `bootstrapper status` and `bootstrapper why {service}`."
    ));
    Ok(())
}
