//! `down`: takes the platform down, after asking.

use std::sync::Arc;

use crate::arguments::{Arguments, Down};
use crate::commands;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

pub(crate) async fn run(arguments: &Arguments, options: &Down) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let reporter = Arc::clone(&progress);
    let (identity, bootstrapper) = commands::running(arguments, reporter).await?;
    let nodes = bootstrapper.removal().await?;
    for node in &nodes {
        let fate = if node.created {
            "will be deleted, with everything on it"
        } else {
            "stays; what the platform put on it will be removed"
        };
        printer::talk(&format!("node {}: {fate}", node.name));
    }
    let question = format!("Take the platform {} down?", identity.name);
    confirm(options.yes, &question).await?;
    tokio::select! {
        outcome = bootstrapper.down(identity.id, options.volumes) => outcome?,
        () = progress.heartbeat() => {}
    }
    printer::talk(&format!("The platform {} is down.", identity.name));
    Ok(())
}
