//! Manages a node's agent: its container, its directory, and the resolver configuration in that
//! directory.

use std::collections::BTreeMap;

use tracing::Instrument as _;

use super::declared::{Agents, Declared};
use super::execute::{engine_call, node_directory};
use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeHandle};
use crate::model::{ContainerTemplate, NodeName, PlatformId};
use crate::runtime::{ContainerSpec, ExecCommand, HostBind, Role};

/// The path of the manager's program in the manager's image.
const PROGRAM: &str = "/lifecycle-manager";

/// Returns the agent's directory. The path is the same on the node and in the agent's container.
fn directory(platform: PlatformId) -> String {
    format!("{}/agent", node_directory(platform))
}

/// Returns the mount of the resolver configuration, a file that the agent writes.
pub(super) fn resolver_file(platform: PlatformId) -> HostBind {
    HostBind {
        source: format!("{}/resolv.conf", directory(platform)),
        target: "/etc/resolv.conf".into(),
        read_only: true,
    }
}

/// Returns the command that feeds tables to an agent. The command must run in the agent's
/// container.
pub(super) fn feed_command(platform: PlatformId) -> ExecCommand {
    let directory = directory(platform);
    ExecCommand::new([PROGRAM, "agent", "feed", "--state", &directory])
}

/// Starts the agent if it is not running, and removes older agents.
pub(super) async fn ensure(
    handle: &NodeHandle,
    declared: &Declared,
    container: &str,
    node: &NodeName,
) -> Result<()> {
    let agents = declared
        .agents
        .as_ref()
        .filter(|agents| declared.agent_container(agents) == container)
        .ok_or_else(|| Error::Conflict {
            what: format!("preparing the agent {container} failed"),
            why: "this agent is no longer needed".into(),
        })?;
    let directory = directory(declared.owner.id);
    // Every user must be able to open this directory: containers mount a file from it.
    let create = HostCommand::new(format!(
        "mkdir -p '{directory}' && chmod 0755 '{directory}'"
    ));
    handle
        .host
        .exec(create.as_root())
        .await?
        .success("creating the agent's directory")?;
    let state = handle.runtime.state();
    let state = state.instrument(engine_call("state", node)).await?;
    let agents_here = state.containers.iter().filter(|c| c.role == Role::Agent);
    for old in agents_here.filter(|old| old.name != container) {
        // Remove the old agent without a grace period: its connections end in any case.
        let remove = handle.runtime.remove_container(&old.name);
        let span = engine_call("remove_container", node);
        remove.instrument(span).await?;
    }
    let spec = spec(declared, agents, container, directory);
    let ensure = handle.runtime.ensure_container(&spec);
    let span = engine_call("ensure_container", node);
    ensure.instrument(span).await?;
    if *node == declared.manager_node {
        // Keep outdated images on this node: a rollback of the manager needs the previous image.
        return Ok(());
    }
    let (repository, _) = agents.image.rsplit_once(':').unwrap_or((&agents.image, ""));
    let outdated = state.images.keys().filter(|image| {
        let its = image.rsplit_once(':').map(|(repository, _)| repository);
        **image != agents.image && its == Some(repository)
    });
    for image in outdated {
        let remove = handle.runtime.remove_image(image);
        let span = engine_call("remove_image", node);
        remove.instrument(span).await?;
    }
    Ok(())
}

fn spec(declared: &Declared, agents: &Agents, container: &str, directory: String) -> ContainerSpec {
    ContainerSpec {
        name: container.to_owned(),
        owner: declared.owner.clone(),
        role: Role::Agent,
        digest: agents.digest.clone(),
        template_digest: None,
        image: agents.image.clone(),
        template: ContainerTemplate {
            command: Some(vec!["agent".into(), "--state".into(), directory.clone()]),
            ..ContainerTemplate::default()
        },
        ports: BTreeMap::new(),
        binds: vec![HostBind {
            source: directory.clone(),
            target: directory,
            read_only: false,
        }],
        host_network: true,
        starts_with_engine: true,
    }
}
