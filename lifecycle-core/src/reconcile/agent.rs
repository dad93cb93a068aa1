//! Manages a node's agent: its container, its directory, and the resolver configuration in that
//! directory.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use tracing::Instrument as _;

use super::declared::{Agents, Declared};
use super::execute::engine_call;
use super::node_directory::{node_directory, private};
use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeHandle};
use crate::model::{ContainerTemplate, NodeName, PlatformId};
use crate::runtime::{ContainerSpec, ExecCommand, ExecOutput, HostBind, ObservedContainer, Role};

/// The path of the manager's program in the manager's image.
const PROGRAM: &str = "/lifecycle-manager";

/// Returns the agent's directory. The path is the same on the node and in the agent's container.
fn directory(platform: PlatformId) -> String {
    format!("{}/agent", node_directory(platform))
}

/// Returns the script that creates the agent's directory. The file `current` names the agent that
/// may take over from a running one.
fn create_directory(platform: PlatformId, container: &str) -> String {
    let (private, directory) = (private(platform), directory(platform));
    format!(
        "{private}
mkdir -p '{directory}'
chmod 0700 '{directory}'
printf %s '{container}' > '{directory}/current.new'
mv '{directory}/current.new' '{directory}/current'"
    )
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

/// Returns the command that waits until the agent in a container serves. The command must run in
/// this container.
fn serves_command(platform: PlatformId, container: &str) -> ExecCommand {
    let directory = directory(platform);
    ExecCommand::new([PROGRAM, "agent", "serves", "--state", &directory, container])
}

/// Starts the agent if it is not running. If another agent serves on the node, waits until the
/// agent has taken over from it.
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
    let create = HostCommand::new(create_directory(declared.owner.id, container));
    handle
        .host
        .exec(create.as_root())
        .await?
        .success("creating the agent's directory")?;
    let state = handle.runtime.state();
    let state = state.instrument(engine_call("state", node)).await?;
    let spec = spec(declared, agents, container, directory);
    let mut started = start(handle, &spec, node).await?;
    let agents_here = state.containers.iter().filter(|c| c.role == Role::Agent);
    let others: Vec<_> = agents_here
        .filter(|other| other.name != container && other.state.is_running())
        .collect();
    if others.is_empty() {
        return remove_outdated_images(handle, declared, node).await;
    }
    if serves(handle, declared.owner.id, container, node).await? {
        return Ok(());
    }
    let mut before = state.containers.iter().filter(|c| c.name == container);
    if before.any(|agent| agent.state.is_running()) {
        // After a rollback, this agent may still finish the connections from before the upgrade.
        // Meanwhile, it cannot take over.
        tracing::warn!(%node, container, "recreating the agent, because it does not take over");
        let remove = handle.runtime.remove_container(container);
        let span = engine_call("remove_container", node);
        remove.instrument(span).await?;
        started = start(handle, &spec, node).await?;
        if serves(handle, declared.owner.id, container, node).await? {
            return Ok(());
        }
    }
    let now = handle.runtime.container(container);
    let now = now.instrument(engine_call("container", node)).await?;
    let runs_since =
        |agent: &ObservedContainer| agent.started_at.filter(|_| agent.state.is_running());
    if now.as_ref().and_then(runs_since) != started.started_at {
        return Err(Error::failed(
            format!("starting the agent on {node}"),
            "its container ended before the agent served",
        ));
    }
    // The running agent does not pass its sockets, for example because it belongs to a version that
    // cannot do so. Its connections are cut.
    for other in others {
        tracing::warn!(%node, container = other.name, "removing an agent that does not hand over");
        remove(handle, declared, &other.name, node).await?;
    }
    if serves(handle, declared.owner.id, container, node).await? {
        return Ok(());
    }
    Err(Error::failed(
        format!("starting the agent on {node}"),
        "its container is running, but the agent does not respond",
    ))
}

async fn start(
    handle: &NodeHandle,
    spec: &ContainerSpec,
    node: &NodeName,
) -> Result<ObservedContainer> {
    let ensure = handle.runtime.ensure_container(spec);
    let span = engine_call("ensure_container", node);
    ensure.instrument(span).await
}

/// Waits for a limited time until the agent serves; returns whether it does.
async fn serves(
    handle: &NodeHandle,
    platform: PlatformId,
    container: &str,
    node: &NodeName,
) -> Result<bool> {
    let command = serves_command(platform, container);
    let exec = handle.runtime.exec(container, &command);
    let mut session = exec.instrument(engine_call("exec", node)).await?;
    while let Some(output) = session.output.next().await {
        match output? {
            ExecOutput::Exit(0) => return Ok(true),
            ExecOutput::Exit(1) => return Ok(false),
            // For example, the container has ended.
            ExecOutput::Exit(code) => {
                return Err(Error::failed(
                    format!("waiting for the agent on {node}"),
                    format!("the command in its container ended with exit code {code}"),
                ));
            }
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => {
                let line = String::from_utf8_lossy(&bytes);
                tracing::debug!(%node, line = line.trim_end(), "waiting for the agent");
            }
        }
    }
    Err(Error::Interrupted {
        what: format!("waiting for the agent on {node}"),
        source: None,
    })
}

/// Removes an agent's container, and the images that agents of other versions ran from.
pub(super) async fn remove(
    handle: &NodeHandle,
    declared: &Declared,
    container: &str,
    node: &NodeName,
) -> Result<()> {
    let remove = handle.runtime.remove_container(container);
    let span = engine_call("remove_container", node);
    remove.instrument(span).await?;
    remove_outdated_images(handle, declared, node).await
}

/// Removes the images of other versions that no agent on the node uses.
async fn remove_outdated_images(
    handle: &NodeHandle,
    declared: &Declared,
    node: &NodeName,
) -> Result<()> {
    let Some(agents) = &declared.agents else {
        return Ok(());
    };
    if *node == declared.manager_node {
        // Keep outdated images on this node: a rollback of the manager needs the previous image.
        return Ok(());
    }
    let state = handle.runtime.state();
    let state = state.instrument(engine_call("state", node)).await?;
    let (repository, _) = agents.image.rsplit_once(':').unwrap_or((&agents.image, ""));
    let is_used = |id: &String| state.containers.iter().any(|c| c.image == *id);
    let outdated = state.images.iter().filter(|(image, id)| {
        let its = image.rsplit_once(':').map(|(repository, _)| repository);
        **image != agents.image && its == Some(repository) && !is_used(id)
    });
    for (image, _) in outdated {
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
            command: Some(
                ["agent", "--state", directory.as_str(), "--name", container]
                    .map(str::to_owned)
                    .into(),
            ),
            ..ContainerTemplate::default()
        },
        used_volumes: BTreeSet::new(),
        ports: BTreeMap::new(),
        binds: vec![HostBind {
            source: directory.clone(),
            target: directory,
            read_only: false,
        }],
        host_network: true,
        joins: None,
        starts_with_engine: true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::node_directory::tests::{Node, PLATFORM};
    use super::*;

    #[test]
    fn only_root_can_open_the_agents_directory() {
        let (new, old) = (Node::new(), Node::new());
        old.create_open(&directory(PLATFORM));
        for node in [new, old] {
            node.run(&create_directory(PLATFORM, "demo-agent-0123"));
            assert_eq!(node.mode(&node_directory(PLATFORM)), 0o700);
            assert_eq!(node.mode(&directory(PLATFORM)), 0o700);
            let current = format!("{}/current", directory(PLATFORM));
            assert_eq!(node.mode(&current), 0o600);
        }
    }
}
