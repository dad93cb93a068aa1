//! `node`: lists and restarts nodes.

use lifecycle_core::api::wire::NodeV1;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Node, NodeAction};
use crate::commands::{self, status};
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `node list --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Listed {
    /// All nodes that are declared or exist.
    nodes: Vec<NodeV1>,
}

/// The document of `node restart --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Restarted {
    /// The restarted nodes; their services are ready again.
    restarted: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Node) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    match &options.action {
        NodeAction::List => {
            let client = bootstrapper.client(identity.id).await?;
            let nodes = bootstrapper
                .wait("the manager's response", commands::ANSWERED_WITHIN)
                .until(client.nodes())
                .await?;
            if arguments.json {
                return printer::document(&Listed { nodes });
            }
            printer::data(&status::nodes_text(&nodes, printer::width()))
        }
        NodeAction::Restart { names } => {
            for name in names {
                bootstrapper.restart_node(identity.id, name).await?;
            }
            if arguments.json {
                return printer::document(&Restarted {
                    restarted: names.clone(),
                });
            }
            printer::message(&format!("Restarted: {}.", names.join(", ")));
            Ok(())
        }
    }
}
