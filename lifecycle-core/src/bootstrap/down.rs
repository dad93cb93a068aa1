//! Takes a platform down: the manager takes its own work down first, then the manager and what
//! it ran on go.

use std::time::Duration;

use super::progress::{Progress, Stage};
use super::{Bootstrapper, PACE};
use crate::api::ManagerApi;
use crate::cloud::{NodeChange, ObservedNode, Power, carry_out};
use crate::error::{Error, Result, Retry};
use crate::host::HostCommand;
use crate::model::PlatformId;
use crate::reconcile::execute::node_directory;
use crate::runtime::Role;

/// How long deleting one node may take.
const DELETION: Duration = Duration::from_mins(15);

/// How long the manager may take to take everything down.
const TAKE_DOWN: Duration = Duration::from_mins(30);

impl Bootstrapper {
    /// What `down` will remove, for the operator to confirm: our nodes, adopted ones apart.
    pub async fn removal(&self) -> Result<Vec<ObservedNode>> {
        self.backends.cloud.list().await
    }

    /// Takes everything of the platform down. Repeated after a failure, it goes on.
    pub async fn down(&self, platform: PlatformId, volumes: bool) -> Result<()> {
        let handed = match self.client(platform).await {
            Ok(client) => self.hand_down(client.as_ref(), volumes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &handed {
            self.without_manager(error);
        }
        let manager_node = self.state.placed().await?.map(|p| p.manager.node);
        let mut nodes = self.backends.cloud.list().await?;
        // A manager that took its work down goes last: until then it can be asked what went
        // wrong. One that cannot be asked goes first: it must not bring back what is removed.
        nodes.sort_by_key(|node| {
            let is_manager = Some(&node.name) == manager_node.as_ref();
            is_manager == handed.is_ok()
        });
        for node in &nodes {
            self.remove(node, platform).await?;
        }
        // What a manager that could not be asked began meanwhile.
        for node in self.backends.cloud.list().await? {
            self.remove(&node, platform).await?;
        }
        self.backends.cloud.delete_shared().await?;
        self.state.forget().await
    }

    fn without_manager(&self, error: &Error) {
        self.reporter.report(Progress::Told {
            text: format!(
                "the manager cannot be asked ({}); going by labels",
                error.chain()
            ),
        });
    }

    async fn hand_down(&self, client: &dyn ManagerApi, volumes: bool) -> Result<()> {
        let stage = Stage::begin(
            self.reporter.as_ref(),
            "stop all services and delete the other nodes".into(),
        );
        let operation = client.take_down(volumes).await?;
        let deadline = tokio::time::Instant::now() + TAKE_DOWN;
        loop {
            match client.operation(operation.id()).await {
                Ok(now) if now.state == "running" => {}
                Ok(now) if now.state == "failed" => {
                    let why = now.why.unwrap_or_default();
                    return Err(Error::failed("taking the platform down", why));
                }
                Ok(_) => break,
                Err(error) => match error.retry() {
                    Retry::After(_) => {}
                    Retry::Replan | Retry::Never => return Err(error),
                },
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::TimedOut {
                    what: "taking the platform down".into(),
                    after: TAKE_DOWN,
                });
            }
            tokio::time::sleep(PACE).await;
        }
        stage.done();
        Ok(())
    }

    /// Removes a node that we made; of any other, what is ours on it.
    async fn remove(&self, node: &ObservedNode, platform: PlatformId) -> Result<()> {
        if node.created {
            let stage = Stage::begin(self.reporter.as_ref(), format!("delete node {}", node.name));
            let change = NodeChange::Delete {
                node: node.name.clone(),
            };
            carry_out(self.backends.cloud.as_ref(), change, DELETION).await?;
            stage.done();
            return Ok(());
        }
        if node.power != Power::Running {
            return Err(Error::Unreachable {
                what: format!(
                    "node {} (it does not run; start it, so that what is ours can be removed)",
                    node.name
                ),
                source: None,
            });
        }
        let stage = Stage::begin(self.reporter.as_ref(), format!("clear node {}", node.name));
        let handle = self.backends.connector.connect(node).await?;
        let mut containers = handle.runtime.state().await?.containers;
        // The manager first, or it would start again what is removed.
        containers.sort_by_key(|c| c.role != Role::Manager);
        for container in containers {
            handle.runtime.remove_container(&container.name).await?;
        }
        let directory = node_directory(platform);
        handle
            .host
            .exec(HostCommand::new(format!("rm -rf '{directory}'")).as_root())
            .await?
            .success("removing the platform's directory")?;
        stage.done();
        Ok(())
    }
}
