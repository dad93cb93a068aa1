//! `up`: starts or updates the platform, and waits until it is ready.

use std::sync::Arc;

use lifecycle_core::bootstrap::describe_estimate;
use lifecycle_core::bootstrap::{
    Bootstrapper, OperatorState as _, Outcome, StateDirectory, StateLock, UpOptions,
};
use lifecycle_core::platform::{Declaration, UnsupportedKey};

use crate::arguments::{Arguments, Up};
use crate::commands::{self, overrides, publish};
use crate::confirm::confirm;
use crate::documents::BroughtUp;
use crate::failure::Failure;
use crate::identity::{Identity, NOT_UP_YET, concurrent_up};
use crate::paint::{Tone, paint};
use crate::printer;
use crate::progress::ProgressLines;
use crate::project::Project;
use crate::wiring::{self, Parts};

pub(crate) async fn run(arguments: &Arguments, options: &Up) -> Result<(), Failure> {
    let project = Project::find(arguments)?;
    let known = project.identity()?;
    let id = known.as_ref().map_or(NOT_UP_YET, |i| i.id);
    let progress = ProgressLines::new(arguments.json);
    let loaded = if options.simulate {
        commands::load_offline(&project, id, progress.as_ref()).await?
    } else {
        publish::before_up(&project, options, progress.as_ref()).await?;
        let mut loaded = commands::load(&project, id, progress.as_ref()).await?;
        let reporter = progress.as_ref();
        let found = commands::image_logins(&project, &loaded.declaration, reporter).await?;
        loaded.access.credentials.images = found.logins;
        loaded.warnings.extend(found.warnings);
        loaded
    };
    printer::warnings(&loaded.warnings);
    accept(loaded.unsupported, options.accept_unsupported)?;
    let mut declaration = loaded.declaration;
    let reporter = Arc::clone(&progress);
    // The lock is held until the command ends.
    let mut _lock = None;
    let bootstrapper = if options.simulate {
        printer::message("Simulation: nothing is changed, nothing is kept.");
        let code = Arc::new(project.local_code());
        let mut bootstrapper = wiring::simulated(&declaration, code, reporter)?;
        bootstrapper.registry = loaded.registry;
        bootstrapper
    } else {
        let identity = project.identity_for(&declaration.name)?;
        declaration.id = identity.id;
        let state = wiring::state(&identity)?;
        let secrets = wiring::secrets(&state, &identity).await?;
        if let Some(placed) = state.placement().await? {
            declaration.cloud.continue_from(&placed.cloud);
        }
        let mut bootstrapper = wiring::bootstrapper(Parts {
            identity: &identity,
            cloud: &declaration.cloud,
            manager_node: &declaration.manager.node,
            state: state.clone(),
            secrets,
            access: loaded.access,
            directory: project.directory(),
            reporter,
            trusted: project.trusted(),
            waits_for_roles: true,
        })?;
        bootstrapper.registry = loaded.registry;
        commands::check_secrets(&bootstrapper, state.path()).await?;
        // Before anything is stored, reject a declaration that cannot work.
        let report = bootstrapper.preflight(&declaration).await?;
        for remark in &report.remarks {
            printer::warning(remark);
        }
        if let Some(predicted) = report.predicted {
            printer::message(&describe_estimate(predicted));
        }
        _lock = Some(store_and_lock(&project, &identity, &state, &bootstrapper).await?);
        confirm_removals(&bootstrapper, &declaration, options.yes).await?;
        bootstrapper
    };
    let is_simulated = options.simulate;
    let options = UpOptions {
        chunks: loaded.chunks,
        all_nodes: options.all_nodes,
    };
    let outcome = bootstrapper.up(&declaration, options).await?;
    if !outcome.failures.is_empty() {
        if !arguments.json {
            printer::data(&text(&outcome))?;
        }
        return Err(Failure::Services(outcome));
    }
    if arguments.json {
        return printer::document(&BroughtUp::from(&outcome));
    }
    printer::data(&text(&outcome))?;
    if !is_simulated {
        overrides::notes(&bootstrapper.overrides(declaration.id).await?);
        let next = "`bootstrapper status`, `logs`, `why NAME` and `exec NAME -- CMD` show details; \
                    `bootstrapper down` removes the platform";
        printer::message(&format!("\n{} {next}", paint(Tone::Accent, "next:")));
    }
    Ok(())
}

/// Warns about unsupported keys. Fails if a key affects how a service behaves, unless
/// `accept_changes` is set.
fn accept(unsupported: Vec<UnsupportedKey>, accept_changes: bool) -> Result<(), Failure> {
    let (changing, harmless): (Vec<_>, Vec<_>) =
        unsupported.into_iter().partition(|k| k.changes_behaviour);
    printer::warnings(&harmless);
    if !changing.is_empty() && !accept_changes {
        return Err(Failure::Unsupported(changing));
    }
    printer::warnings(&changing);
    Ok(())
}

/// Stores the platform's identity and secrets, and locks the state for this process. If two
/// processes run the first `up` concurrently, one of them fails here.
async fn store_and_lock(
    project: &Project,
    identity: &Identity,
    state: &StateDirectory,
    bootstrapper: &Bootstrapper,
) -> Result<StateLock, Failure> {
    project.store_identity(identity)?;
    let lock = state.lock()?;
    let secrets = &bootstrapper.secrets;
    match state.secrets().await? {
        Some(kept) if kept.key.to_hex() != secrets.key.to_hex() => {
            return Err(concurrent_up().into());
        }
        Some(_) => {}
        None => state.store_secrets(secrets).await?,
    }
    Ok(lock)
}

async fn confirm_removals(
    bootstrapper: &Bootstrapper,
    declaration: &Declaration,
    yes: bool,
) -> Result<(), Failure> {
    let removals = bootstrapper.removed_by_up(declaration).await?;
    if removals.is_empty() {
        return Ok(());
    }
    for removal in &removals {
        let outcome = if removal.node.created {
            "will be deleted, with everything on it"
        } else {
            "will be released; the platform's resources on it will be removed, except volumes"
        };
        printer::message(&format!(
            "node {} is no longer declared and {outcome} ({})",
            removal.node.name, removal.contents
        ));
    }
    confirm(yes, "Remove the nodes that are no longer declared?").await
}

fn text(outcome: &Outcome) -> String {
    format!(
        "\n{}",
        commands::status::tables(&outcome.nodes, &outcome.services, printer::width()),
    )
}
