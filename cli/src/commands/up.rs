//! `up`: brings the platform up and follows until it is.

use std::sync::Arc;

use lifecycle_core::bootstrap::{Outcome, UpOptions};

use crate::arguments::{Arguments, Up};
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;
use crate::project::{NOT_UP_YET, Project};
use crate::{commands, wiring};

pub(crate) async fn run(arguments: &Arguments, options: &Up) -> Result<(), Failure> {
    let project = Project::find(arguments)?;
    let identity = project.identity()?;
    // The files are read before anything is kept, so that bad ones touch nothing.
    let mut loaded = project
        .load(identity.as_ref().map_or(NOT_UP_YET, |i| i.id))
        .await?;
    for warning in &loaded.warnings {
        printer::talk(&format!("warning: {warning}"));
    }
    let (changing, harmless): (Vec<_>, Vec<_>) = loaded
        .unsupported
        .drain(..)
        .partition(|k| k.changes_behaviour);
    for key in &harmless {
        printer::talk(&format!("warning: {key}"));
    }
    if !changing.is_empty() {
        if !options.accept_unsupported {
            return Err(Failure::Unsupported(changing));
        }
        for key in &changing {
            printer::talk(&format!("warning: {key}"));
        }
    }
    let mut declaration = loaded.declaration;
    let progress = ProgressLines::new(arguments.json);
    let reporter = Arc::clone(&progress);
    let code = Arc::new(project.code());
    let mut bootstrapper = if options.simulate {
        printer::talk("Simulated: nothing is touched, nothing is kept.");
        wiring::simulated(&declaration, code, reporter)?
    } else {
        let identity = project.ensure_identity(&declaration.name)?;
        declaration.id = identity.id;
        let state = wiring::state(&identity)?;
        let secrets = wiring::ensure_secrets(&state, &identity).await?;
        wiring::bootstrapper(
            &identity,
            &declaration.cloud,
            &declaration.manager.node,
            state,
            secrets,
            code,
            reporter,
        )?
    };
    bootstrapper.registry = loaded.registry;
    let options = UpOptions {
        all_nodes: options.all_nodes,
    };
    let outcome = tokio::select! {
        outcome = bootstrapper.up(&declaration, options) => outcome?,
        () = progress.heartbeat() => return Ok(()),
    };
    show(&outcome, arguments.json);
    if outcome.failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::Services(outcome.failures))
    }
}

fn show(outcome: &Outcome, json: bool) {
    if json {
        printer::document(&serde_json::json!({
            "generation": outcome.generation,
            "services": outcome.services,
        }));
        return;
    }
    printer::data(&commands::status::services_table(&outcome.services));
}
