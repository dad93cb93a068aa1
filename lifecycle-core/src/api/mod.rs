//! The manager's API for other programs: the wire types, a client, and the platform's own
//! certificate authority (feature `api`).

pub mod authority;
pub mod client;
mod endpoint_list;
pub mod exec;
mod last_output;
pub mod local;
pub mod problem;
mod scoped;
mod service;
pub mod tail;
pub mod view;
mod watches;
pub mod why;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use authority::{Authority, ServerIdentity};
pub use client::{ApiClient, Dial};
pub use endpoint_list::EndpointList;
pub use local::LocalApi;
pub use scoped::ScopedApi;

use self::why::WhyV1;
use self::wire::{
    AdoptedV1, AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, ExportV1, InstanceStateV1,
    NewMachineV1, NewNodeV1, NewTokenV1, NodeV1, OperationV1, OverrideV1, PlatformV1, ProgressV1,
    RestartNodeV1, RestartV1, RetriedV1, RevisionV1, RollbackPlanV1, RolledBackV1, ServiceLogLine,
    ServiceV1, TokenV1,
};
use crate::error::{Error, Result};
use crate::manager::Conversation;
use crate::model::{
    Chunk, ChunkDigest, Event, Generation, NodeRequest, OperationId, RolloutRequest, ServiceClass,
    ServiceName,
};
use crate::platform::{Declaration, OverrideChange, RestoredSecrets};
use crate::reconcile::{Plan, RecordedPlan, RetryOptions};
use crate::runtime::{ExecCommand, ImageLogins, LogOptions};

/// Returns the item with this name.
fn one<T>(kind: &str, name: &str, mut all: Vec<T>, name_of: fn(&T) -> &str) -> Result<T> {
    if let Some(index) = all.iter().position(|item| name_of(item) == name) {
        return Ok(all.swap_remove(index));
    }
    let known = all.iter().map(name_of);
    Err(Error::unknown_name(format!("{kind} {name}"), name, known))
}

/// The manager's API. The manager may run in this process or be reached over HTTP.
///
/// # Errors
/// If the manager does not respond or is not the leader, a call returns an error that may be
/// retried. A call returns [`crate::Error::NotFound`] for an unknown name, and for a cursor whose
/// events are no longer stored.
#[async_trait]
pub trait ManagerApi: Debug + Send + Sync + 'static {
    /// Checks that the manager responds.
    async fn health(&self) -> Result<()>;

    /// Returns the state of the platform as a whole.
    async fn platform(&self) -> Result<PlatformV1>;

    /// Returns all nodes.
    async fn nodes(&self) -> Result<Vec<NodeV1>>;

    /// Returns all services with their replicas.
    async fn services(&self) -> Result<Vec<ServiceV1>>;

    /// Returns one node.
    async fn node(&self, name: &str) -> Result<NodeV1> {
        let nodes = self.nodes().await?;
        one("node", name, nodes, |node| node.name.as_str())
    }

    /// Returns one service with its replicas.
    async fn service(&self, name: &str) -> Result<ServiceV1> {
        let services = self.services().await?;
        one("service", name, services, |service| service.name.as_str())
    }

    /// Returns the addresses of a service's ready replicas.
    async fn endpoints(&self, service: &ServiceName) -> Result<Vec<EndpointV1>> {
        let instances = self.service(service.as_str()).await?.instances.into_iter();
        Ok(instances.flat_map(|instance| instance.endpoints).collect())
    }

    /// Returns the addresses of the ready replicas of all services, also of services without any.
    async fn all_endpoints(&self) -> Result<BTreeMap<ServiceName, Vec<EndpointV1>>> {
        let services = self.services().await?.into_iter();
        let endpoints = services.map(|service| {
            let instances = service.instances.into_iter();
            let endpoints = instances.flat_map(|instance| instance.endpoints);
            (service.name, endpoints.collect())
        });
        Ok(endpoints.collect())
    }

    /// Returns the addresses of a service's ready replicas, and again after each change. Changes that
    /// follow each other quickly may be merged. The stream ends with an error if the manager ends or
    /// does not respond; a new stream starts with the current endpoints. [`EndpointList`] does this.
    async fn watch_endpoints(
        &self,
        service: &ServiceName,
    ) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>>;

    /// Returns whether at least one replica of a service is ready.
    async fn is_ready(&self, service: &ServiceName) -> Result<bool> {
        let instances = self.service(service.as_str()).await?.instances;
        Ok(instances
            .iter()
            .any(|one| one.state == InstanceStateV1::Ready))
    }

    /// Returns the progress of the current round. A caller that polls should not request the plan,
    /// because the plan grows with the platform.
    async fn progress(&self, with_plan: bool) -> Result<ProgressV1>;

    /// Returns a page of the events after a cursor, oldest first.
    async fn events(&self, after: u64) -> Result<EventsV1>;

    /// Returns the events after a cursor, oldest first, and new events as they are recorded. The stream
    /// ends with an error if the manager ends or does not respond; a new stream that starts after the
    /// last event continues without a gap.
    async fn watch_events(&self, after: u64) -> Result<BoxStream<'static, Result<Event>>>;

    /// Returns the cursor of the latest event.
    async fn last_event(&self) -> Result<u64>;

    /// Replaces the declaration. An identical declaration changes nothing. Returns
    /// [`crate::Error::Conflict`] and changes nothing if the manager does not have all chunks of the
    /// mounted files ([`Self::put_chunk`]).
    async fn apply(&self, declaration: &Declaration) -> Result<AppliedV1>;

    /// Returns which of these chunks of mounted files the manager does not have.
    async fn missing_chunks(&self, of: &BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>>;

    /// Stores a chunk of mounted files, before the declaration that refers to it. A repeated call
    /// changes nothing.
    async fn put_chunk(&self, chunk: &Chunk) -> Result<()>;

    /// Replaces the logins for the registries of images. They are used from the next pull on; a
    /// following [`Self::apply`] retries failed pulls.
    async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()>;

    /// Plans what a declaration would change, without changing anything.
    async fn plan(&self, declaration: &Declaration) -> Result<Plan>;

    /// Returns the latest plan and its input.
    async fn recorded_plan(&self) -> Result<RecordedPlan>;

    /// Starts to delete the platform. A repeated call returns the same operation.
    async fn delete_platform(&self, volumes: bool) -> Result<OperationV1>;

    /// Starts to restart the containers of a service, or of one replica (`web-2`). With `replaces`,
    /// restarts only replicas whose containers last started at the given times, so that a repeated
    /// call causes no second restart.
    async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1>;

    /// Starts to restart a node, after its containers were stopped; they start again afterwards. A node
    /// that does not respond is restarted at once. If the request contains a boot, restarts only a
    /// node in this boot, so that a repeated call causes no second restart.
    async fn restart_node(&self, name: &str, request: &RestartNodeV1) -> Result<OperationV1>;

    /// Starts to prepare a node for Docker again: what is missing is installed, and what does not run is
    /// started. A call during a preparation returns the same operation.
    async fn prepare_node(&self, name: &str) -> Result<OperationV1>;

    /// Adds a service of a class, or replaces one that was added before. `text` is a service in the
    /// format of a Compose file, as YAML or JSON. A repeated call changes nothing.
    async fn apply_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<AppliedV1>;

    /// Plans what [`Self::apply_service`] would change, without changing anything.
    async fn plan_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Plan>;

    /// Removes a service that was added at run time.
    async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<AppliedV1>;

    /// Adds a node, which is then created and prepared. A repeated call changes nothing.
    async fn add_node(&self, node: &NewNodeV1) -> Result<AppliedV1>;

    /// Takes over a machine that exists already, and declares it as a node, which is then prepared. Returns
    /// when the machine is taken over. A repeated call continues an interrupted one, and otherwise changes
    /// nothing.
    async fn adopt_node(&self, machine: &NewMachineV1) -> Result<AdoptedV1>;

    /// Removes a node that was added at run time, after its replicas have moved to other nodes.
    /// `volumes` permits the deletion of its named volumes.
    async fn remove_node(&self, name: &str, volumes: bool) -> Result<AppliedV1>;

    /// Cordons, drains, stops or starts nodes, all at once. The replicas on a drained or stopped node move
    /// to other nodes. Those that fit on no other node stay on a drained node, and stop with a stopped
    /// one. A repeated call changes nothing.
    async fn change_nodes(&self, names: &[String], request: NodeRequest) -> Result<AppliedV1>;

    /// Scales, stops or starts a service. Returns the generation with the change, which may be the
    /// current one.
    async fn override_service(&self, service: &str, change: OverrideChange) -> Result<AppliedV1>;

    /// Returns the overrides in force: changes that were requested at run time, on top of the user's
    /// files.
    async fn overrides(&self) -> Result<Vec<OverrideV1>>;

    /// Returns the overrides in force, with what the user's files need to declare them. Contains the
    /// texts of added services, which may contain secrets.
    async fn export(&self) -> Result<ExportV1>;

    /// Removes an override, so that the value in the files applies again.
    async fn remove_override(&self, id: &str) -> Result<AppliedV1>;

    /// Returns the stored revisions, oldest first: the generations that can be restored. The last one
    /// is the current one.
    async fn revisions(&self) -> Result<Vec<RevisionV1>>;

    /// Restores the services of an earlier revision, and their overrides, as a new revision. Nodes and
    /// the settings of the platform stay. A repeated call changes nothing.
    async fn rollback(&self, to: Generation, secrets: RestoredSecrets) -> Result<RolledBackV1>;

    /// Plans what [`Self::rollback`] would change, without changing anything.
    async fn plan_rollback(
        &self,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<RollbackPlanV1>;

    /// Pauses, resumes or rolls back the rollout of a service. A repeated call returns the same
    /// operation.
    async fn rollout(&self, service: &str, request: RolloutRequest) -> Result<OperationV1>;

    /// Clears the failures of a service, a replica (`web-2`) or a node, so that its failed steps
    /// are retried immediately.
    async fn retry(&self, name: &str, options: RetryOptions) -> Result<RetriedV1>;

    /// Returns the latest operations, oldest first, also those that have ended in the last 30 days.
    async fn operations(&self) -> Result<Vec<OperationV1>>;

    /// Returns the state of an operation.
    async fn operation(&self, id: OperationId) -> Result<OperationV1>;

    /// Cancels a restart or a preparation. A restart completes what it has begun, so the returned operation
    /// may still be running. Returns [`crate::Error::Conflict`] if the operation has ended, or if
    /// operations of its kind cannot be cancelled.
    async fn cancel(&self, id: OperationId) -> Result<OperationV1>;

    /// Creates a token of the API. Returns [`crate::Error::Conflict`] if a valid token has this
    /// name. If the response is lost, the token exists but is unknown; revoke it and create it again.
    async fn create_token(&self, new: &NewTokenV1) -> Result<CreatedTokenV1>;

    /// Returns the tokens of the API, oldest first, also those that ended in the last 30 days.
    async fn tokens(&self) -> Result<Vec<TokenV1>>;

    /// Revokes the token with this id or name. A repeated call changes nothing. Returns
    /// [`crate::Error::Conflict`] for the last admin token that does not expire.
    async fn revoke_token(&self, name: &str) -> Result<TokenV1>;

    /// Explains the state of a service, a replica (`web-2`) or a node.
    async fn why(&self, name: &str) -> Result<WhyV1>;

    /// Runs a command in a container of the named replica (`web-2`) or service (`web`). For a
    /// service, prefers a ready replica. Never repeats the request: only the caller knows whether
    /// the command may run twice.
    async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation>;

    /// Returns the output lines of all instances of a service.
    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<ServiceLogLine>>>;
}
