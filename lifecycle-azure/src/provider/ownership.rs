//! Whose a VM is: which one is a node, how one that exists becomes a node and ceases to be one.

use std::time::Duration;

use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::Azure;
use crate::compute::COMPUTE;
use crate::machine::{Machine, State};
use crate::tags::{self, Tags};

/// How long Azure may take to change tags, which takes seconds.
const TAGS: Duration = Duration::from_mins(5);

impl Azure {
    /// The VM that is a node, or would be if it were ours: the one of its name in the platform's
    /// group, or an adopted one.
    pub(super) async fn machine(&self, node: &NodeName) -> Result<Option<Machine>> {
        let found = self
            .compute
            .get(&self.options.group(), node.as_str())
            .await?;
        if found.is_some() {
            return Ok(found);
        }
        let named = self.compute.named(node).await?;
        let (ours, others): (Vec<_>, Vec<_>) = named
            .into_iter()
            .partition(|machine| machine.tags.are_of(&self.options.owner));
        let group = self.options.group();
        // Another platform's node of this name is not what is asked for.
        let mut others = others.into_iter().filter(|other| {
            other.tags.get(tags::PLATFORM_ID).is_none()
                || other.group().eq_ignore_ascii_case(&group)
        });
        match (ours.into_iter().next(), others.next(), others.next()) {
            (Some(ours), ..) => Ok(Some(ours)),
            (None, Some(_), Some(_)) => Err(Error::conflict(
                format!("VM {node}"),
                "several resource groups have one of this name",
            )),
            (None, other, _) => Ok(other),
        }
    }

    /// The node's VM, if it is ours.
    pub(super) async fn ours(&self, node: &NodeName) -> Result<Option<Machine>> {
        match self.machine(node).await? {
            Some(machine) if !machine.tags.are_of(&self.options.owner) => Err(Error::conflict(
                format!("VM {node}"),
                "it exists and does not carry this platform's id",
            )),
            found => Ok(found),
        }
    }

    /// Marks a VM that exists as ours; we did not make it, and so never delete it.
    pub(super) async fn mark(&self, node: &NodeName) -> Result<()> {
        let Some(machine) = self.machine(node).await? else {
            return Err(Error::not_found(format!("VM {node}")));
        };
        if !machine.tags.are_of(&self.options.owner) {
            if machine.tags.get(tags::PLATFORM_ID).is_some() {
                return Err(Error::conflict(
                    format!("VM {node}"),
                    "it is another platform's node",
                ));
            }
            let owner = &self.options.owner;
            let tags = machine
                .tags
                .clone()
                .with(tags::PLATFORM, owner.name.as_str())
                .with(tags::PLATFORM_ID, &owner.id.to_string())
                .with(tags::NODE, node.as_str())
                // Whatever a former platform has left there.
                .with(tags::CREATED, "no");
            self.set_tags(&machine, &tags).await?;
        }
        Ok(())
    }

    /// Removes a node that was adopted from the platform: it is nobody's then, and goes on.
    pub(super) async fn release(&self, machine: &Machine) -> Result<()> {
        let tags = machine.tags.clone();
        let ours = [tags::PLATFORM, tags::PLATFORM_ID, tags::NODE, tags::CREATED];
        let left = ours.iter().fold(tags, |tags, key| tags.without(key));
        self.set_tags(machine, &left).await
    }

    /// Gives a VM other tags, and waits until Azure has finished: it counts as changing until then,
    /// and refuses other changes.
    async fn set_tags(&self, machine: &Machine, tags: &Tags) -> Result<()> {
        let body = json!({ "tags": tags.to_value() });
        self.client.patch(&machine.id, COMPUTE, &body).await?;
        let settled = async {
            loop {
                let now = self.compute.get(machine.group(), &machine.name).await?;
                match now.map(|now| now.state) {
                    Some(State::Changing(_)) => sleep(self.options.poll_every).await,
                    Some(State::Deleting | State::Succeeded | State::Failed(_)) | None => {
                        return Ok(());
                    }
                }
            }
        };
        let what = || format!("changing the tags of VM {}", machine.name);
        timeout(TAGS, settled)
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(what(), TAGS)))
    }
}
