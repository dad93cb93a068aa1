//! `down`: takes the platform down, after asking.

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
pub(crate) struct TakenDown {
    /// The name of the platform that is down.
    name: PlatformName,
    /// Its UUID.
    id: PlatformId,
}

pub(crate) async fn run(arguments: &Arguments, options: &Down) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let _lock = wiring::state(&identity)?.lock()?;
    for removal in bootstrapper.removed_by_down().await? {
        let fate = match (removal.node.created, options.volumes) {
            (true, _) => "will be deleted, with everything on it",
            (false, true) => "stays; what the platform put on it will be removed",
            (false, false) => {
                "stays; what the platform put on it will be removed, but for named volumes"
            }
        };
        printer::talk(&format!(
            "node {}: {fate} ({})",
            removal.node.name, removal.contents
        ));
    }
    let question = format!("Take the platform {} down?", identity.name);
    confirm(options.yes, &question).await?;
    bootstrapper.down(identity.id, options.volumes).await?;
    if arguments.json {
        return printer::document(&TakenDown {
            name: identity.name,
            id: identity.id,
        });
    }
    printer::talk(&format!("The platform {} is down.", identity.name));
    Ok(())
}
