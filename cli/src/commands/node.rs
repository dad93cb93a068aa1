//! `node`: lists, adds, prepares, cordons, drains, stops, starts, restarts and removes nodes.

use lifecycle_core::api::wire::{NewNodeV1, NodeV1, StayingV1};
use lifecycle_core::bootstrap::Bootstrapper;
use lifecycle_core::model::{NodeRequest, PlatformId};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Node, NodeAction, Nodes};
use crate::commands::{self, overrides, status};
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

/// The document of `node prepare --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AllPrepared {
    /// The prepared nodes; their engines respond.
    prepared: Vec<Prepared>,
}

/// A prepared node.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Prepared {
    /// The node's name.
    node: String,
    /// What was done, for example `engine 20.10.24 was started`.
    outcome: String,
}

/// The document of `--json` for `node cordon`, `node drain`, `node uncordon`, `node stop` and `node
/// start`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Scheduled {
    /// All nodes that are declared or exist.
    nodes: Vec<NodeV1>,
    /// The replicas that stay on the drained nodes, or have stopped with their nodes.
    staying: Vec<StayingV1>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Node) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let platform = identity.id;
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
        NodeAction::Cordon(nodes) => {
            change(
                arguments,
                &bootstrapper,
                platform,
                nodes,
                NodeRequest::Cordon,
            )
            .await
        }
        NodeAction::Drain(nodes) => {
            change(
                arguments,
                &bootstrapper,
                platform,
                nodes,
                NodeRequest::Drain,
            )
            .await
        }
        NodeAction::Uncordon(nodes) => {
            change(
                arguments,
                &bootstrapper,
                platform,
                nodes,
                NodeRequest::Uncordon,
            )
            .await
        }
        NodeAction::Stop(nodes) => {
            change(arguments, &bootstrapper, platform, nodes, NodeRequest::Stop).await
        }
        NodeAction::Start(nodes) => {
            change(
                arguments,
                &bootstrapper,
                platform,
                nodes,
                NodeRequest::Start,
            )
            .await
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
        NodeAction::Prepare { names } => {
            let mut prepared = Vec::new();
            for name in names {
                let outcome = bootstrapper.prepare_node(platform, name).await?;
                let node = name.clone();
                prepared.push(Prepared { node, outcome });
            }
            if arguments.json {
                return printer::document(&AllPrepared { prepared });
            }
            for Prepared { node, outcome } in &prepared {
                printer::message(&format!("Prepared node {node}: {outcome}."));
            }
            Ok(())
        }
    }
}

/// Cordons, drains, stops or starts nodes, all at once.
async fn change(
    arguments: &Arguments,
    bootstrapper: &Bootstrapper,
    platform: PlatformId,
    options: &Nodes,
    request: NodeRequest,
) -> Result<(), Failure> {
    let changed = bootstrapper.change_nodes(platform, &options.names, request);
    let (outcome, staying) = changed.await?;
    let nodes = outcome.nodes.clone();
    overrides::all_up(arguments, outcome)?;
    if arguments.json {
        return printer::document(&Scheduled { nodes, staying });
    }
    for StayingV1 { instance, why, .. } in &staying {
        let verb = match request {
            NodeRequest::Stop => "has stopped with its node",
            _ => "stays",
        };
        printer::note(&format!(
            "{instance} {verb}, because it fits on no other node: {why}"
        ));
    }
    printer::data(&status::nodes_text(&nodes, printer::width()))
}
