//! `service`, `app` and `model`: list the services of a class, and add, replace and remove services
//! without the files.

use std::path::Path;

use lifecycle_core::api::wire::ServiceV1;
use lifecycle_core::bootstrap::Bootstrapper;
use lifecycle_core::model::{PlatformId, ServiceClass};
use lifecycle_core::reconcile::{Held, Step};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Class, ClassAction};
use crate::commands::{self, overrides, status};
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `list`, `apply` and `remove` with `--json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Listed {
    /// The services of the class with their replicas.
    services: Vec<ServiceV1>,
}

/// The document of `apply --dry-run --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Previewed {
    /// The steps. Each step is listed after the steps that it depends on.
    steps: Vec<Step>,
    /// The steps that cannot be carried out yet, each with the reason.
    held: Vec<Held>,
}

pub(crate) async fn run(
    arguments: &Arguments,
    class: ServiceClass,
    options: &Class,
) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let platform = identity.id;
    let done = match &options.action {
        ClassAction::List => None,
        ClassAction::Apply {
            name,
            file,
            dry_run,
        } => {
            let text = read(file).await?;
            if *dry_run {
                let client = bootstrapper.client(platform).await?;
                let plan = bootstrapper
                    .wait("the manager's plan", commands::ANSWERED_WITHIN)
                    .until(client.plan_service(class, name, &text))
                    .await?;
                if arguments.json {
                    return printer::document(&Previewed {
                        steps: plan.steps,
                        held: plan.held,
                    });
                }
                return printer::data(plan.to_string().trim_end());
            }
            let outcome = bootstrapper
                .apply_service(platform, class, name, &text)
                .await?;
            overrides::all_up(arguments, outcome)?;
            Some(format!("The {class} {name} runs as declared."))
        }
        ClassAction::Remove { name } => {
            bootstrapper
                .remove_service(platform, class, name.as_str())
                .await?;
            Some(format!("Removed {class} {name}."))
        }
    };
    if let Some(done) = done.filter(|_| !arguments.json) {
        printer::message(&done);
        return Ok(());
    }
    list(arguments, &bootstrapper, platform, class).await
}

async fn list(
    arguments: &Arguments,
    bootstrapper: &Bootstrapper,
    platform: PlatformId,
    class: ServiceClass,
) -> Result<(), Failure> {
    let client = bootstrapper.client(platform).await?;
    let mut services = bootstrapper
        .wait("the manager's response", commands::ANSWERED_WITHIN)
        .until(client.services())
        .await?;
    services.retain(|service| service.class == class);
    if arguments.json {
        return printer::document(&Listed { services });
    }
    printer::data(&status::services_text(&services, printer::width()))
}

async fn read(file: &Path) -> Result<String, Failure> {
    let file = file.to_owned();
    let name = file.display().to_string();
    let text = tokio::task::spawn_blocking(move || {
        if file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        }
    });
    let text = text.await.unwrap_or_else(|error| Err(error.into()));
    text.map_err(|error| {
        let what = format!("the file {name}");
        let hint = "specify a UTF-8 text file that you have permission to read";
        lifecycle_core::Error::invalid(what, error.to_string(), hint).into()
    })
}
