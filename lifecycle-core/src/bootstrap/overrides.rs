//! Scales, stops and starts services, adds and removes services and nodes, cordons, drains, stops and
//! starts nodes, removes overrides, and waits until the platform has settled.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{ACCEPTED_WITHIN, Bootstrapper, Outcome, PACE, follow, retry_or};
use crate::api::ManagerApi;
use crate::api::wire::{
    AdoptedV1, AppliedV1, ExportV1, NewMachineV1, NewNodeV1, NodeV1, OverrideKindV1, OverrideV1,
    ServiceV1, StayingV1,
};
use crate::error::{Error, Result};
use crate::model::{NodeName, NodeRequest, PlatformId, ServiceClass, ServiceName};
use crate::platform::OverrideChange;

/// How long the manager may take to take a machine over, including the installation of sudo, and how
/// often the request is repeated.
const ADOPTED_WITHIN: Duration = Duration::from_mins(15);

/// How long the deletion of a node may take.
const DELETED_WITHIN: Duration = Duration::from_mins(30);

/// For how many polls no step may run on a node before its deletion counts as failed.
const IDLE_POLLS: u32 = 20;

impl Bootstrapper {
    /// Scales, stops or starts a service, and waits until the platform has settled. The outcome
    /// contains only failures of this service.
    pub async fn override_service(
        &self,
        platform: PlatformId,
        service: &ServiceName,
        change: OverrideChange,
    ) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        self.requested(
            client,
            |one| one == service,
            || client.override_service(service.as_str(), change),
        )
        .await
    }

    /// Adds a service of a class, or replaces one that was added before, and waits until the platform
    /// has settled. `text` is a service in the format of a Compose file. The outcome contains only
    /// failures of this service.
    pub async fn apply_service(
        &self,
        platform: PlatformId,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        self.requested(
            client,
            |one| one == name,
            || client.apply_service(class, name, text),
        )
        .await
    }

    /// Removes a service that was added at run time, and waits until its containers are removed.
    pub async fn remove_service(
        &self,
        platform: PlatformId,
        class: ServiceClass,
        name: &str,
    ) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        self.requested(client, |_| false, || client.remove_service(class, name))
            .await
    }

    /// Removes an override by its id, and waits until the platform has settled. The outcome contains
    /// only failures of the service that was overridden.
    pub async fn remove_override(&self, platform: PlatformId, id: &str) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let overrides = self.overrides_of(client).await?;
        let found = overrides.iter().find(|one| one.id == id);
        let service = found.and_then(|found| found.service.as_ref());
        self.requested(
            client,
            |one| Some(one) == service,
            || client.remove_override(id),
        )
        .await
    }

    /// Adds a node, and waits until it is prepared and the platform has settled.
    ///
    /// # Errors
    /// Those of [`ManagerApi::add_node`]; [`Error::Failed`] if the node could not be created or
    /// prepared.
    pub async fn add_node(&self, platform: PlatformId, node: &NewNodeV1) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let outcome = self
            .requested(client, |_| false, || client.add_node(node))
            .await?;
        self.ready_node(client, &node.name, "adding", outcome).await
    }

    /// Lets the manager take over a machine that exists already as a node, and waits until it is prepared
    /// and the platform has settled. Also returns the pinned host keys of the machine.
    ///
    /// # Errors
    /// Those of [`ManagerApi::adopt_node`]; [`Error::Failed`] if the node could not be prepared.
    pub async fn adopt_node(
        &self,
        platform: PlatformId,
        machine: &NewMachineV1,
    ) -> Result<(Outcome, Vec<String>)> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let what = format!("take over machine {}", machine.name);
        let adopting = adopt(client, machine);
        let adopted = self.stage(what, ADOPTED_WITHIN).run(adopting).await?;
        // The machine belongs to the platform now, so this changes nothing.
        let again = async || Ok(client.adopt_node(machine).await?.applied);
        let outcome = self.requested(client, |_| false, again).await?;
        let outcome = self.ready_node(client, &machine.name, "adopting", outcome);
        Ok((outcome.await?, adopted.host_keys))
    }

    /// Fails unless the node is prepared.
    async fn ready_node(
        &self,
        client: &dyn ManagerApi,
        name: &NodeName,
        request: &str,
        outcome: Outcome,
    ) -> Result<Outcome> {
        let is_ready = |one: &NodeV1| one.name == *name && one.docker.ready;
        if outcome.nodes.iter().any(is_ready) {
            return Ok(outcome);
        }
        let why = self
            .wait("the manager's response", ACCEPTED_WITHIN)
            .until(client.why(&format!("node:{name}")))
            .await?;
        Err(Error::failed(
            format!("{request} node {name}"),
            format!(
                "{}; `bootstrapper node remove {name}` ends the attempts",
                why.answer
            ),
        ))
    }

    /// Removes a node that was added at run time, and waits until it is deleted. `volumes` permits the
    /// deletion of its named volumes.
    pub async fn remove_node(
        &self,
        platform: PlatformId,
        name: &str,
        volumes: bool,
    ) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let outcome = self
            .requested(client, |_| false, || client.remove_node(name, volumes))
            .await?;
        self.wait(format!("the deletion of node {name}"), DELETED_WITHIN)
            .until(is_deleted(client, name))
            .await?;
        let nodes = outcome.nodes.into_iter();
        Ok(Outcome {
            nodes: nodes.filter(|node| node.name.as_str() != name).collect(),
            ..outcome
        })
    }

    /// Cordons, drains, stops or starts nodes, all at once, and waits until the platform has settled.
    /// Also returns the replicas that stay on drained nodes, or have stopped with their nodes. The outcome
    /// contains only other failures, and only those of services that had a replica on the nodes.
    pub async fn change_nodes(
        &self,
        platform: PlatformId,
        names: &[String],
        request: NodeRequest,
    ) -> Result<(Outcome, Vec<StayingV1>)> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let services = self
            .wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.services())
            .await?;
        let is_here = |node: &NodeName| names.iter().any(|name| name == node.as_str());
        let has_replica = |service: &&ServiceV1| {
            let mut instances = service.instances.iter();
            instances.any(|one| one.node.as_ref().is_some_and(is_here))
        };
        let here: BTreeSet<&ServiceName> = { services.iter() }
            .filter(has_replica)
            .map(|service| &service.name)
            .collect();
        let concerned = |service: &ServiceName| here.contains(service);
        let change = || client.change_nodes(names, request);
        let mut outcome = self.requested(client, concerned, change).await?;
        let progress = self
            .wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.progress(true))
            .await?;
        let staying = progress.plan.map(|plan| StayingV1::on(names, &plan));
        let staying = staying.unwrap_or_default();
        if request == NodeRequest::Stop {
            let stays = |name: &String| staying.iter().any(|one| one.instance == *name);
            outcome.failures.retain(|one| !stays(&one.instance));
        }
        Ok((outcome, staying))
    }

    /// Returns the overrides in force.
    pub async fn overrides(&self, platform: PlatformId) -> Result<Vec<OverrideV1>> {
        let client = self.client(platform).await?;
        self.overrides_of(client.as_ref()).await
    }

    /// Returns the overrides in force, with what the user's files need to declare them.
    pub async fn export(&self, platform: PlatformId) -> Result<ExportV1> {
        let client = self.client(platform).await?;
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.export())
            .await
    }

    pub(super) async fn overrides_of(&self, client: &dyn ManagerApi) -> Result<Vec<OverrideV1>> {
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.overrides())
            .await
    }

    /// Sends a request that may be repeated, and waits until the platform has settled. The outcome
    /// contains only failures of the services that `concerned` selects.
    pub(super) async fn requested<F>(
        &self,
        client: &dyn ManagerApi,
        concerned: impl Fn(&ServiceName) -> bool,
        request: impl FnMut() -> F,
    ) -> Result<Outcome>
    where
        F: Future<Output = Result<AppliedV1>>,
    {
        let cursor = self
            .wait("the manager's response", ACCEPTED_WITHIN)
            .until(client.last_event())
            .await?;
        let applied = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(request)
            .await?;
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let followed = follow::follow(client, applied.generation, cursor, reporter, clock).await?;
        let (mut outcome, _) = followed;
        let services = outcome.services.iter();
        let services = services.filter(|service| concerned(&service.name));
        let instances = services.flat_map(|service| &service.instances);
        let instances: Vec<&String> = instances.map(|instance| &instance.id).collect();
        outcome
            .failures
            .retain(|failure| instances.contains(&&failure.instance));
        Ok(outcome)
    }
}

/// Repeats a request until the manager has taken the machine over: for minutes if it has logged in to the
/// machine, which may install software then, and otherwise only for a short time.
async fn adopt(client: &dyn ManagerApi, machine: &NewMachineV1) -> Result<AdoptedV1> {
    let begun = Instant::now();
    loop {
        let error = match client.adopt_node(machine).await {
            Ok(adopted) => return Ok(adopted),
            Err(error) => error,
        };
        let overrides = client.overrides().await.unwrap_or_default();
        let is_adopting = overrides.iter().any(|one| {
            one.kind == OverrideKindV1::Adopting && one.node.as_ref() == Some(&machine.name)
        });
        let limit = if is_adopting {
            ADOPTED_WITHIN
        } else {
            ACCEPTED_WITHIN
        };
        retry_or(error, begun + limit).await?;
    }
}

/// Waits until a node no longer exists.
///
/// # Errors
/// [`Error::Failed`] with the reason if nothing is done about the node
async fn is_deleted(client: &dyn ManagerApi, name: &str) -> Result<()> {
    let mut idle = 0;
    while idle < IDLE_POLLS {
        let (nodes, progress) = tokio::try_join!(client.nodes(), client.progress(false))?;
        if !nodes.iter().any(|node| node.name.as_str() == name) {
            return Ok(());
        }
        let is_busy = !progress.settled || !progress.running.is_empty();
        idle = if is_busy { 0 } else { idle + 1 };
        tokio::time::sleep(PACE).await;
    }
    let why = client.why(&format!("node:{name}")).await?;
    Err(Error::failed(format!("removing node {name}"), why.answer))
}
