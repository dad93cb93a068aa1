//! Restarts a node, and waits until its services are ready again.

use std::sync::Arc;
use std::time::Duration;

use super::follow::{Following, follow_operation};
use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::api::ManagerApi;
use crate::api::wire::RestartNodeV1;
use crate::error::{Error, Result};
use crate::model::{OperationId, PlatformId};

/// How long the manager may be unreachable until a new connection is made. The manager's own node may
/// be the one that restarts.
const RECONNECTS_AFTER: Duration = Duration::from_secs(5);

/// How long a restart of the manager's node may take.
const BOOTS_WITHIN: Duration = Duration::from_mins(10);

impl Bootstrapper {
    /// Restarts a node, and waits until its services are ready again. Its containers are stopped first;
    /// a node that does not respond is restarted at once.
    pub async fn restart_node(&self, platform: PlatformId, name: &str) -> Result<()> {
        let mut client = self.client(platform).await?;
        let asked = async { tokio::try_join!(client.last_event(), client.nodes()) };
        let (cursor, nodes) = self
            .wait("the manager's response", ACCEPTED_WITHIN * 2)
            .until::<_, Error>(asked)
            .await?;
        let mut known = nodes.iter();
        let node = { known.clone() }.find(|node| node.name.as_str() == name);
        let node = node.ok_or_else(|| {
            let names = known.by_ref().map(|node| node.name.as_str());
            Error::unknown_name(format!("node {name}"), name, names)
        })?;
        let boot_id = node.boot_id.clone();
        let request = boot_id.map_or_else(RestartNodeV1::default, RestartNodeV1::ending);
        // The request identifies the boot that it ends, so it can safely be repeated.
        let operation = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.restart_node(name, &request))
            .await?;
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let mut following =
            Following::new(reporter, clock, cursor).unreachable_for(RECONNECTS_AFTER);
        let ended = loop {
            let id = operation.id();
            match follow_operation(client.as_ref(), id, &mut following).await {
                Ok(ended) => break ended,
                Err(_) if following.is_unanswered() => {
                    client = self
                        .wait("the manager's response", BOOTS_WITHIN)
                        .repeat(|| self.answering_client(platform, id))
                        .await?;
                    following.expect_answer();
                }
                Err(error) => return Err(error),
            }
        };
        ended.succeeded(format!("restarting node {name}"))?;
        Ok(())
    }

    async fn answering_client(
        &self,
        platform: PlatformId,
        operation: OperationId,
    ) -> Result<Arc<dyn ManagerApi>> {
        let client = self.client(platform).await?;
        client.operation(operation).await?;
        Ok(client)
    }
}
