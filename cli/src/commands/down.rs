//! `down`: stops the platform and removes it, after a confirmation.

use lifecycle_core::model::{PlatformId, PlatformName};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Down};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;
use crate::{commands, wiring};

/// The document of `down --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Removed {
    /// The name of the removed platform.
    name: PlatformName,
    /// The UUID of the removed platform.
    id: PlatformId,
}

pub(crate) async fn run(arguments: &Arguments, options: &Down) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let _lock = wiring::state(&identity)?.lock()?;
    for removal in bootstrapper.removed_by_down().await? {
        let outcome = match (removal.node.created, options.volumes) {
            (true, _) => "will be deleted, with everything on it",
            (false, true) => "will be kept; the platform's resources on it will be removed",
            (false, false) => {
                "will be kept; the platform's resources on it will be removed, except named volumes"
            }
        };
        printer::message(&format!(
            "node {}: {outcome} ({})",
            removal.node.name, removal.contents
        ));
    }
    for node in bootstrapper.known_to_manager_only(identity.id).await? {
        printer::message(&format!(
            "node {node}: the manager will remove it from the platform"
        ));
    }
    let question = format!("Remove the platform {}?", identity.name);
    confirm(options.yes, &question).await?;
    bootstrapper.down(identity.id, options.volumes).await?;
    if arguments.json {
        return printer::document(&Removed {
            name: identity.name,
            id: identity.id,
        });
    }
    printer::message(&format!("Removed the platform {}.", identity.name));
    Ok(())
}
