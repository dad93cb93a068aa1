//! `node`: lists, adds, adopts, prepares, cordons, drains, stops, starts, restarts and removes nodes.

use std::path::Path;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{NewMachineV1, NewNodeV1, NodeV1, StayingV1};
use lifecycle_core::bootstrap::Bootstrapper;
use lifecycle_core::model::{NodeRequest, PlatformId};
use lifecycle_core::secret::Sensitive;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Adopt, Arguments, Node, NodeAction, Nodes};
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

/// The document of `node adopt --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Adopted {
    /// The adopted node.
    node: String,
    /// The pinned public host keys of the machine, in OpenSSH format.
    host_keys: Vec<String>,
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
        NodeAction::Adopt(options) => adopt(arguments, &bootstrapper, platform, options).await,
        NodeAction::Remove { name, volumes, yes } => {
            let removals = bootstrapper.removed_with(name).await?;
            let others = bootstrapper.known_to_manager_only(platform).await?;
            let is_other = others.iter().any(|node| node.as_str() == name);
            if is_other {
                printer::message(&format!("node {name} will be removed from the platform"));
            }
            for removal in &removals {
                let contents = &removal.contents;
                printer::message(&format!("node {name} will be deleted ({contents})"));
            }
            // If the node does not exist, the manager rejects its removal.
            if is_other || !removals.is_empty() {
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

/// Lets the manager take over a machine as a node.
async fn adopt(
    arguments: &Arguments,
    bootstrapper: &Bootstrapper,
    platform: PlatformId,
    options: &Adopt,
) -> Result<(), Failure> {
    let Adopt { name, address, .. } = options;
    let mut machine = NewMachineV1::new(name.clone(), address.clone(), options.user.clone());
    machine.private_address = options.private_address;
    machine.port = options.port;
    machine.host_key.clone_from(&options.host_key);
    machine.labels = options.labels.iter().cloned().collect();
    machine.password = options.password_env.as_deref().map(password).transpose()?;
    machine.key = options.key.as_deref().map(key).transpose()?;
    let (outcome, host_keys) = bootstrapper.adopt_node(platform, &machine).await?;
    let nodes = outcome.nodes;
    if arguments.json {
        return printer::document(&Adopted {
            node: name.to_string(),
            host_keys,
            nodes,
        });
    }
    if options.host_key.is_none() {
        let keys = host_keys.join(", ");
        printer::note(&format!(
            "trusting the host key of machine {name} on first use: {keys}"
        ));
    }
    printer::message(&format!("Adopted node {name}."));
    printer::data(&status::nodes_text(&nodes, printer::width()))
}

/// Returns the password in an environment variable.
fn password(variable: &str) -> Result<Sensitive, Error> {
    match std::env::var(variable) {
        Ok(password) if !password.is_empty() => Ok(Sensitive::new(password)),
        _ => Err(Error::invalid(
            format!("the variable {variable}"),
            "it is not set, or is not UTF-8",
            "set it to the password of the machine's account",
        )),
    }
}

/// Returns the private key in a file.
fn key(file: &Path) -> Result<Sensitive, Error> {
    let key = std::fs::read_to_string(file);
    let key = key.map_err(|error| Error::io(format!("reading {}", file.display()), error))?;
    Ok(Sensitive::new(key))
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
