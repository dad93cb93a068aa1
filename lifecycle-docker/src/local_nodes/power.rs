//! Switching nodes: start, stop, restart, delete, fence, and how far each is.

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
use super::machine::{Machine, READY, moment};
use super::provision::start_error;
use super::{LocalNodes, STOP_GRACE, is_on, soon};

/// How long the engine may take to end or remove a container that it has killed.
const END_LIMIT: Duration = Duration::from_mins(1);
/// The token of an operation on a node that was absent.
const ABSENT: &str = "absent";

/// The container and its boot at the moment when an operation began.
fn token(machine: &Machine) -> String {
    let boot = machine.running_boot().unwrap_or_default();
    format!("{}@{boot}", machine.id)
}

impl LocalNodes {
    async fn existing(&self, docker: &Docker, node: &NodeName) -> Result<Machine> {
        self.machine(docker, node)
            .await?
            .ok_or_else(|| Error::not_found(format!("node {node}")))
    }

    /// Refuses to change a node whose boot is under way: it would not come to its end.
    async fn is_up(&self, docker: &Docker, machine: &Machine) -> Result<()> {
        if machine.power != Power::Running || self.is_ready(docker, machine).await? {
            return Ok(());
        }
        Err(Error::conflict(
            format!("node {}", machine.node),
            "it is booting",
        ))
    }

    pub(super) async fn start(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let machine = self.existing(docker, node).await?;
        if !is_on(machine.power) {
            self.seed(docker, &machine).await?;
            docker
                .start_container(&machine.id, None)
                .await
                .map_err(|error| start_error(node, error))?;
        }
        Ok(token(&machine))
    }

    pub(super) async fn started(&self, docker: &Docker, node: &NodeName) -> Result<CloudProgress> {
        let machine = self.existing(docker, node).await?;
        self.booted(docker, &machine.id, node).await
    }

    pub(super) async fn stop(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let machine = self.existing(docker, node).await?;
        if is_on(machine.power) {
            self.is_up(docker, &machine).await?;
            let options = StopContainerOptions {
                t: Some(grace_seconds()),
                ..StopContainerOptions::default()
            };
            absent_is_none(docker.stop_container(&machine.id, Some(options)).await)
                .map_err(|error| engine_error(&format!("stopping node {node}"), error))?;
        }
        Ok(token(&machine))
    }

    pub(super) async fn stopped(
        &self,
        docker: &Docker,
        node: &NodeName,
        begun: &str,
    ) -> Result<CloudProgress> {
        let machine = self.machine(docker, node).await?;
        // In another boot it has been stopped, and started again since.
        let still = machine.filter(|now| is_on(now.power) && token(now) == begun);
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
        let machine = self.existing(docker, node).await?;
        if machine.boot.as_deref() == Some(boot_id) {
            if is_on(machine.power) {
                self.is_up(docker, &machine).await?;
                let options = RestartContainerOptions {
                    t: Some(grace_seconds()),
                    ..RestartContainerOptions::default()
                };
                docker
                    .restart_container(&machine.id, Some(options))
                    .await
                    .map_err(|error| start_error(node, error))?;
            } else {
                // A restart of this boot that broke off half-way.
                docker
                    .start_container(&machine.id, None)
                    .await
                    .map_err(|error| start_error(node, error))?;
            }
        }
        Ok(token(&machine))
    }

    pub(super) async fn restarted(
        &self,
        docker: &Docker,
        node: &NodeName,
        boot_id: &str,
    ) -> Result<CloudProgress> {
        let machine = self.existing(docker, node).await?;
        if machine.boot.as_deref() == Some(boot_id) {
            return Ok(soon("restarting"));
        }
        if is_on(machine.power) {
            self.booted(docker, &machine.id, node).await
        } else {
            // That boot is over, and what came after it was stopped: nothing is to be done.
            Ok(CloudProgress::Done)
        }
    }

    pub(super) async fn delete(&self, docker: &Docker, node: &NodeName) -> Result<String> {
        let machine = self.machine(docker, node).await?;
        if let Some(machine) = &machine {
            self.remove(docker, machine).await?;
        }
        // Even if the container is gone: an earlier deletion may have broken off here.
        self.remove_volume(docker, node).await?;
        Ok(machine.map_or_else(|| ABSENT.to_owned(), |machine| machine.id))
    }

    pub(super) async fn deleted(
        &self,
        docker: &Docker,
        node: &NodeName,
        begun: &str,
    ) -> Result<CloudProgress> {
        let machine = self.machine(docker, node).await?;
        Ok(match machine.filter(|now| now.id == begun) {
            Some(_) => soon("being deleted"),
            None => CloudProgress::Done,
        })
    }

    async fn remove(&self, docker: &Docker, machine: &Machine) -> Result<()> {
        let what = format!("deleting node {}", machine.node);
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = docker.remove_container(&machine.id, Some(options)).await;
        match absent_is_none(removed) {
            Ok(_) => {}
            // Another call is at it: what matters is that it is gone.
            Err(error) if status(&error) == Some(409) => {
                self.wait(docker, &machine.id, "removed", &what).await?;
            }
            Err(error) => return Err(engine_error(&what, error)),
        }
        self.known_keys().remove(&machine.id);
        Ok(())
    }

    /// Ends a node at once and returns when the engine says that it does not run.
    pub(super) async fn kill(&self, docker: &Docker, node: &NodeName) -> Result<Fenced> {
        let what = format!("fencing node {node}");
        if let Some(machine) = self.machine(docker, node).await?
            && is_on(machine.power)
        {
            let options = KillContainerOptions {
                signal: "SIGKILL".to_owned(),
            };
            let killed = docker.kill_container(&machine.id, Some(options)).await;
            match absent_is_none(killed) {
                Ok(_) => {}
                // It ended by itself meanwhile.
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(engine_error(&what, error)),
            }
            self.wait(docker, &machine.id, "not-running", &what).await?;
        }
        match self.machine(docker, node).await? {
            Some(machine) if is_on(machine.power) => Err(Error::interrupted(
                what,
                Some("something started it again".into()),
            )),
            Some(_) | None => Ok(Fenced {
                node: node.clone(),
                at: SystemClock.now(),
            }),
        }
    }

    /// Waits until a container has come to a condition that the engine knows.
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
            // The client takes the ended container's own exit code for an error.
            Ok(
                None | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })),
            ) => Ok(()),
            Ok(Some(Err(error))) if status(&error) == Some(404) => Ok(()),
            Ok(Some(Err(error))) => Err(engine_error(what, error)),
        }
    }

    /// Whether a node has come up: its sshd listens and its host keys can be read.
    pub(super) async fn booted(
        &self,
        docker: &Docker,
        id: &str,
        node: &NodeName,
    ) -> Result<CloudProgress> {
        let machine = self.existing(docker, node).await?;
        if machine.id != id {
            return Err(Error::conflict(
                format!("node {node}"),
                "it was deleted and made again",
            ));
        }
        match machine.power {
            Power::Starting | Power::Stopping => Ok(soon("starting")),
            Power::Running if self.is_ready(docker, &machine).await? => Ok(CloudProgress::Done),
            Power::Running => Ok(soon("booting")),
            Power::Stopped | Power::Failed => {
                let code = machine.exit_code.unwrap_or_default();
                Err(Error::failed(
                    format!("starting node {node}"),
                    format!(
                        "it ended with exit code {code}: {}",
                        self.last_words(docker, &machine).await
                    ),
                ))
            }
        }
    }

    async fn is_ready(&self, docker: &Docker, machine: &Machine) -> Result<bool> {
        let options = ContainerArchiveInfoOptions {
            path: READY.to_owned(),
        };
        let info = docker
            .get_container_archive_info(&machine.id, Some(options))
            .await;
        let info = absent_is_none(info)
            .map_err(|error| engine_error(&format!("node {}", machine.node), error))?;
        let touched = info
            .and_then(|info| info.modification_time)
            .and_then(|at| moment(&at));
        // A node that was killed keeps the file of its former boot.
        Ok(touched > machine.former_end && touched.is_some())
    }

    /// The last lines of a node's console, for an error.
    async fn last_words(&self, docker: &Docker, machine: &Machine) -> String {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: "5".to_owned(),
            ..LogsOptions::default()
        };
        let lines: Result<Vec<_>, _> = docker
            .logs(&machine.id, Some(options))
            .map_ok(|line| line.to_string().trim().to_owned())
            .try_collect()
            .await;
        match lines {
            Ok(lines) if !lines.is_empty() => lines.join(" / "),
            Ok(_) | Err(_) => "it left no word".to_owned(),
        }
    }
}

fn grace_seconds() -> i32 {
    i32::try_from(STOP_GRACE.as_secs()).unwrap_or(i32::MAX)
}
