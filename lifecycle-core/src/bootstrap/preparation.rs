//! Prepares a node for Docker again, and waits until this has ended.

use super::follow::{Following, follow_operation};
use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::error::Result;
use crate::model::PlatformId;

impl Bootstrapper {
    /// Prepares a node for Docker again: what is missing is installed, and what does not run is
    /// started. Returns what was done.
    pub async fn prepare_node(&self, platform: PlatformId, name: &str) -> Result<String> {
        let client = self.client(platform).await?;
        let cursor = self
            .wait("the manager's response", ACCEPTED_WITHIN * 2)
            .until(client.last_event())
            .await?;
        // A repetition joins the preparation in progress, or checks the node again.
        let operation = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.prepare_node(name))
            .await?;
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let mut following = Following::new(reporter, clock, cursor);
        let ended = follow_operation(client.as_ref(), operation.id(), &mut following).await?;
        ended.succeeded(format!("preparing node {name}"))?;
        Ok(ended.outcome.unwrap_or_default())
    }
}
