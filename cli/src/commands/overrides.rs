//! `scale`, `stop`, `start` and `override`: change what is declared, on top of the files.

use lifecycle_core::api::wire::OverrideV1;
use lifecycle_core::bootstrap::{Bootstrapper, Outcome};
use lifecycle_core::model::{PlatformId, ServiceName};
use lifecycle_core::platform::OverrideChange;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Override, OverrideAction, Scale, Services};
use crate::commands;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `override list --json`, and of the commands that change overrides.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InForce {
    /// The overrides in force, by service.
    overrides: Vec<OverrideV1>,
}

pub(crate) async fn scale(arguments: &Arguments, options: &Scale) -> Result<(), Failure> {
    let changes = options.services.iter().map(|(service, replicas)| {
        let change = OverrideChange::Scale(*replicas);
        (service, change)
    });
    let done: Vec<String> = { options.services.iter() }
        .map(|(service, replicas)| format!("{service} to {replicas}"))
        .collect();
    let done = format!("Scaled {}.", done.join(", "));
    change(arguments, changes, &done).await
}

pub(crate) async fn stop(arguments: &Arguments, options: &Services) -> Result<(), Failure> {
    let services = options.services.iter();
    let done = format!("Stopped {}.", listed(&options.services));
    let changes = services.map(|service| (service, OverrideChange::Stop));
    change(arguments, changes, &done).await
}

pub(crate) async fn start(arguments: &Arguments, options: &Services) -> Result<(), Failure> {
    let services = options.services.iter();
    let done = format!("Started {}.", listed(&options.services));
    let changes = services.map(|service| (service, OverrideChange::Start));
    change(arguments, changes, &done).await
}

pub(crate) async fn run(arguments: &Arguments, options: &Override) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    match &options.action {
        OverrideAction::List => {
            let overrides = bootstrapper.overrides(identity.id).await?;
            if arguments.json {
                return printer::document(&InForce { overrides });
            }
            if overrides.is_empty() {
                printer::message("Nothing is changed on top of the files.");
            }
            for one in &overrides {
                printer::data(&format!("{}: {one}", one.id))?;
            }
            Ok(())
        }
        OverrideAction::Remove { ids } => {
            for id in ids {
                let outcome = bootstrapper.remove_override(identity.id, id).await?;
                all_up(arguments, outcome)?;
            }
            let done = format!("Removed {}.", ids.join(", "));
            report(arguments, &bootstrapper, identity.id, &done).await
        }
    }
}

async fn change<'a>(
    arguments: &Arguments,
    changes: impl Iterator<Item = (&'a ServiceName, OverrideChange)>,
    done: &str,
) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    for (service, change) in changes {
        let outcome = bootstrapper
            .override_service(identity.id, service, change)
            .await?;
        all_up(arguments, outcome)?;
    }
    report(arguments, &bootstrapper, identity.id, done).await
}

/// Fails if a replica of a changed service is not up.
pub(crate) fn all_up(arguments: &Arguments, outcome: Outcome) -> Result<(), Failure> {
    if outcome.failures.is_empty() {
        return Ok(());
    }
    if !arguments.json {
        let (nodes, services) = (&outcome.nodes, &outcome.services);
        printer::data(&commands::status::tables(nodes, services, printer::width()))?;
    }
    Err(Failure::Services(outcome))
}

/// Prints what was done, and the overrides that are in force afterwards.
async fn report(
    arguments: &Arguments,
    bootstrapper: &Bootstrapper,
    platform: PlatformId,
    done: &str,
) -> Result<(), Failure> {
    let overrides = bootstrapper.overrides(platform).await?;
    if arguments.json {
        return printer::document(&InForce { overrides });
    }
    printer::message(done);
    notes(&overrides);
    Ok(())
}

/// Prints the overrides in force.
pub(crate) fn notes(overrides: &[OverrideV1]) {
    for one in overrides {
        printer::note(&one.to_string());
    }
}

fn listed(services: &[ServiceName]) -> String {
    let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    names.join(", ")
}
