//! Starts, stops, restarts, deletes, and fences nodes, and reports the progress of these
//! operations.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, KillContainerOptions, LogsOptions, RemoveContainerOptions,
    RestartContainerOptions, StopContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use lifecycle_core::clock::{Clock, SystemClock};
use lifecycle_core::cloud::{CloudProgress, Fenced, Power};
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};

use super::engine::{absent_is_none, engine_error, status};
use super::node_container::{NodeContainer, READY, moment};
use super::provision::start_error;
use super::{LocalNodes, STOP_GRACE, is_on, soon};

/// Time limit for the engine to stop or remove a killed container.
const END_LIMIT: Duration = Duration::from_mins(1);
/// The token of a deletion that found no node.
const ABSENT: &str = "absent";

/// Returns an operation's token, which identifies the container and its boot at the operation's
/// start.
fn token(node_container: &NodeContainer) -> String {
    let boot = node_container.running_boot().unwrap_or_default();
    format!("{}@{boot}", node_container.id)
}

impl LocalNodes {
    async fn existing(&self, docker: &Docker, node: &NodeName) -> Result<NodeContainer> {
        self.node_container(docker, node)
            .await?
            .ok_or_else(|| Error::not_found(format!("node {node}")))
    }

    /// Rejects a change of a node that is still booting, because the change would interrupt the
    /// boot.
    async fn is_up(&self, docker: &Docker, node_container: &NodeContainer) -> Result<()> {
        if node_container.power != Power::Running || self.is_ready(docker, node_container).await? {
            return Ok(());
        }
        Err(Error::conflict(
            format!("node {}", node_container.node),
            "the node is still booting",
        ))
    }

    pub(super) async fn start(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let node_container = self.existing(docker, node).await?;
        if !is_on(node_container.power) {
            self.seed(docker, &node_container).await?;
            docker
                .start_container(&node_container.id, None)
                .await
                .map_err(|error| start_error(node, error))?;
        }
        Ok(token(&node_container))
    }

    pub(super) async fn started(&self, docker: &Docker, node: &NodeName) -> Result<CloudProgress> {
        let node_container = self.existing(docker, node).await?;
        self.booted(docker, &node_container.id, node).await
    }

    pub(super) async fn stop(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let node_container = self.existing(docker, node).await?;
        if is_on(node_container.power) {
            self.is_up(docker, &node_container).await?;
            let options = StopContainerOptions {
                t: Some(grace_seconds()),
                ..StopContainerOptions::default()
            };
            absent_is_none(
                docker
                    .stop_container(&node_container.id, Some(options))
                    .await,
            )
            .map_err(|error| engine_error(&format!("stopping node {node}"), error))?;
        }
        Ok(token(&node_container))
    }

    pub(super) async fn stopped(
        &self,
        docker: &Docker,
        node: &NodeName,
        begun: &str,
    ) -> Result<CloudProgress> {
        let node_container = self.node_container(docker, node).await?;
        // Another boot means that the node was stopped and started again.
        let still = node_container.filter(|now| is_on(now.power) && token(now) == begun);
        Ok(match still {
            Some(_) => soon("shutting down"),
            None => CloudProgress::Done,
        })
    }

    pub(super) async fn restart(
        &self,
        docker: &Docker,
        node: &NodeName,
        boot_id: &str,
    ) -> Result<String> {
        let node_container = self.existing(docker, node).await?;
        if node_container.boot.as_deref() == Some(boot_id) {
            if is_on(node_container.power) {
                self.is_up(docker, &node_container).await?;
                let options = RestartContainerOptions {
                    t: Some(grace_seconds()),
                    ..RestartContainerOptions::default()
                };
                docker
                    .restart_container(&node_container.id, Some(options))
                    .await
                    .map_err(|error| start_error(node, error))?;
            } else {
                // An interrupted restart has already stopped the node.
                docker
                    .start_container(&node_container.id, None)
                    .await
                    .map_err(|error| start_error(node, error))?;
            }
        }
        Ok(token(&node_container))
    }

    pub(super) async fn restarted(
        &self,
        docker: &Docker,
        node: &NodeName,
        boot_id: &str,
    ) -> Result<CloudProgress> {
        let node_container = self.existing(docker, node).await?;
        if node_container.boot.as_deref() == Some(boot_id) {
            return Ok(soon("restarting"));
        }
        if is_on(node_container.power) {
            self.booted(docker, &node_container.id, node).await
        } else {
            // The node was restarted and has been stopped since, so the restart is complete.
            Ok(CloudProgress::Done)
        }
    }

    pub(super) async fn delete(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let node_container = self.node_container(docker, node).await?;
        if let Some(node_container) = &node_container {
            self.remove(docker, node_container).await?;
        }
        // Remove the volume even if the container is gone: an earlier deletion may have been
        // interrupted at this point.
        self.remove_volume(docker, node).await?;
        Ok(node_container.map_or_else(|| ABSENT.to_owned(), |node_container| node_container.id))
    }

    pub(super) async fn deleted(
        &self,
        docker: &Docker,
        node: &NodeName,
        begun: &str,
    ) -> Result<CloudProgress> {
        let node_container = self.node_container(docker, node).await?;
        Ok(match node_container.filter(|now| now.id == begun) {
            Some(_) => soon("being deleted"),
            None => CloudProgress::Done,
        })
    }

    async fn remove(&self, docker: &Docker, node_container: &NodeContainer) -> Result<()> {
        let what = format!("deleting node {}", node_container.node);
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = docker
            .remove_container(&node_container.id, Some(options))
            .await;
        match absent_is_none(removed) {
            Ok(_) => {}
            // Another call is removing the container, so wait until it is gone.
            Err(error) if status(&error) == Some(409) => {
                self.wait(docker, &node_container.id, "removed", &what)
                    .await?;
            }
            Err(error) => return Err(engine_error(&what, error)),
        }
        self.known_keys().remove(&node_container.id);
        Ok(())
    }

    /// Stops a node immediately. Returns as soon as the engine reports that the node is not
    /// running.
    pub(super) async fn kill(&self, docker: &Docker, node: &NodeName) -> Result<Fenced> {
        let what = format!("fencing node {node}");
        if let Some(node_container) = self.node_container(docker, node).await?
            && is_on(node_container.power)
        {
            let options = KillContainerOptions {
                signal: "SIGKILL".to_owned(),
            };
            let killed = docker
                .kill_container(&node_container.id, Some(options))
                .await;
            match absent_is_none(killed) {
                Ok(_) => {}
                // The node stopped by itself meanwhile.
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(engine_error(&what, error)),
            }
            self.wait(docker, &node_container.id, "not-running", &what)
                .await?;
        }
        match self.node_container(docker, node).await? {
            Some(node_container) if is_on(node_container.power) => Err(Error::interrupted(
                what,
                Some("the node was started again in the meantime".into()),
            )),
            Some(_) | None => Ok(Fenced {
                node: node.clone(),
                at: SystemClock.now(),
            }),
        }
    }

    /// Waits until a container meets a condition of the engine's `wait` call.
    pub(super) async fn wait(
        &self,
        docker: &Docker,
        id: &str,
        condition: &str,
        what: &str,
    ) -> Result<()> {
        let options = WaitContainerOptions {
            condition: condition.to_owned(),
        };
        let mut waiting = Box::pin(docker.wait_container(id, Some(options)));
        match tokio::time::timeout(END_LIMIT, waiting.next()).await {
            Err(_) => Err(Error::timed_out(what, END_LIMIT)),
            // The client returns the container's own non-zero exit code as an error.
            Ok(
                None | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })),
            ) => Ok(()),
            Ok(Some(Err(error))) if status(&error) == Some(404) => Ok(()),
            Ok(Some(Err(error))) => Err(engine_error(what, error)),
        }
    }

    /// Returns the progress of a boot. It is done when sshd is listening and the host keys are
    /// readable.
    pub(super) async fn booted(
        &self,
        docker: &Docker,
        id: &str,
        node: &NodeName,
    ) -> Result<CloudProgress> {
        let node_container = self.existing(docker, node).await?;
        if node_container.id != id {
            return Err(Error::conflict(
                format!("node {node}"),
                "the node was deleted and created again",
            ));
        }
        match node_container.power {
            Power::Starting | Power::Stopping => Ok(soon("starting")),
            Power::Running if self.is_ready(docker, &node_container).await? => {
                Ok(CloudProgress::Done)
            }
            Power::Running => Ok(soon("booting")),
            Power::Stopped | Power::Failed => {
                let code = node_container.exit_code.unwrap_or_default();
                Err(Error::failed(
                    format!("starting node {node}"),
                    format!(
                        "the node stopped with exit code {code}: {}",
                        self.last_output(docker, &node_container).await
                    ),
                ))
            }
        }
    }

    async fn is_ready(&self, docker: &Docker, node_container: &NodeContainer) -> Result<bool> {
        let options = ContainerArchiveInfoOptions {
            path: READY.to_owned(),
        };
        let info = docker
            .get_container_archive_info(&node_container.id, Some(options))
            .await;
        let info = absent_is_none(info).map_err(|error| {
            engine_error(&format!("inspecting node {}", node_container.node), error)
        })?;
        let touched = info
            .and_then(|info| info.modification_time)
            .and_then(|at| moment(&at));
        // Compare the times, because a killed node still has the file from its previous boot.
        Ok(touched > node_container.previous_end && touched.is_some())
    }

    /// Returns the last lines of a node's console, for an error.
    async fn last_output(&self, docker: &Docker, node_container: &NodeContainer) -> String {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: "5".to_owned(),
            ..LogsOptions::default()
        };
        let lines: Result<Vec<_>, _> = docker
            .logs(&node_container.id, Some(options))
            .map_ok(|line| line.to_string().trim().to_owned())
            .try_collect()
            .await;
        match lines {
            Ok(lines) if !lines.is_empty() => lines.join(" / "),
            Ok(_) | Err(_) => "no output".to_owned(),
        }
    }
}

fn grace_seconds() -> i32 {
    i32::try_from(STOP_GRACE.as_secs()).unwrap_or(i32::MAX)
}
