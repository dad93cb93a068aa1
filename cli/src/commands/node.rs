//! `node`: lists, adds, restarts and removes nodes.

use lifecycle_core::api::wire::{NewNodeV1, NodeV1};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Node, NodeAction};
use crate::commands::{self, status};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `node list --json`, `node add --json` and `node remove --json`.
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
        NodeAction::Add { name, like } => {
            let node = NewNodeV1::new(name.clone(), like.clone());
            let outcome = bootstrapper.add_node(identity.id, &node).await?;
            let nodes = outcome.nodes;
            if arguments.json {
                return printer::document(&Listed { nodes });
            }
            printer::message(&format!("Added node {name}."));
            printer::data(&status::nodes_text(&nodes, printer::width()))
        }
        NodeAction::Remove { name, volumes, yes } => {
            let removals = bootstrapper.removed_with(name).await?;
            for removal in &removals {
                let contents = &removal.contents;
                printer::message(&format!("node {name} will be deleted ({contents})"));
            }
            // If the node does not exist, the manager rejects its removal.
            if !removals.is_empty() {
                confirm(*yes, &format!("Remove node {name}?")).await?;
            }
            let removed = bootstrapper.remove_node(identity.id, name, *volumes);
            let nodes = removed.await?.nodes;
            if arguments.json {
                return printer::document(&Listed { nodes });
            }
            printer::message(&format!("Removed node {name}."));
            Ok(())
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
