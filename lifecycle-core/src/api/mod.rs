//! The manager's API as other programs see it: what goes over the wire, a client, and the
//! platform's own certificate authority (feature `api`).

pub mod authority;
pub mod client;
pub mod exec;
pub mod local;
pub mod problem;
mod service;
pub mod tail;
pub mod view;
pub mod why;
pub mod wire;

use std::fmt::Debug;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use authority::{Authority, ServerIdentity};
pub use client::{ApiClient, Dial};
pub use local::LocalApi;

use self::why::WhyV1;
use self::wire::{
    AppliedV1, EventsV1, NodeV1, OperationV1, PlatformV1, ProgressV1, RestartV1, RetriedV1,
    ServiceLogLine, ServiceV1,
};
use crate::error::Result;
use crate::manager::Conversation;
use crate::model::{OperationId, ServiceName};
use crate::platform::Declaration;
use crate::reconcile::{Plan, RecordedPlan};
use crate::runtime::{ExecCommand, LogOptions};

/// The manager's API, wherever the manager runs.
///
/// # Errors
/// A manager that does not answer, or does not lead at the moment, is an error that may be
/// tried again; an unknown name is [`crate::Error::NotFound`], as are events that are not kept.
#[async_trait]
pub trait ManagerApi: Debug + Send + Sync + 'static {
    /// Whether the manager answers at all.
    async fn health(&self) -> Result<()>;

    /// The platform as a whole.
    async fn platform(&self) -> Result<PlatformV1>;

    /// All nodes.
    async fn nodes(&self) -> Result<Vec<NodeV1>>;

    /// All services with their replicas.
    async fn services(&self) -> Result<Vec<ServiceV1>>;

    /// The progress of the current round. The plan grows with the platform, so a caller that polls
    /// leaves it out.
    async fn progress(&self, with_plan: bool) -> Result<ProgressV1>;

    /// A page of events after a cursor.
    async fn events(&self, after: u64) -> Result<EventsV1>;

    /// The cursor behind the latest event.
    async fn last_event(&self) -> Result<u64>;

    /// Hands a declaration over. An identical one changes nothing.
    async fn apply(&self, declaration: &Declaration) -> Result<AppliedV1>;

    /// What a declaration would change.
    async fn plan(&self, declaration: &Declaration) -> Result<Plan>;

    /// The latest plan, and what it was made from.
    async fn recorded_plan(&self) -> Result<RecordedPlan>;

    /// Begins to take everything down. Asked again, the same operation is meant.
    async fn delete_platform(&self, volumes: bool) -> Result<OperationV1>;

    /// Begins to start a service's containers anew, or one replica's (`web-2`). With `replaces`,
    /// only those that are still in the run that began then: a repeated call restarts once.
    async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1>;

    /// Forgets the failures of a service, one of its replicas (`web-2`) or a node, so that what
    /// failed is tried again at once.
    async fn retry(&self, name: &str) -> Result<RetriedV1>;

    /// An operation.
    async fn operation(&self, id: OperationId) -> Result<OperationV1>;

    /// Why a service, one of its replicas (`web-2`) or a node stands as it does.
    async fn why(&self, name: &str) -> Result<WhyV1>;

    /// Runs a command in a container of a service: of the replica that is named (`web-2`), or of
    /// one that is ready. Not repeated by itself: whether a command may run twice is for who asks.
    async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation>;

    /// Lines of all instances of a service.
    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<ServiceLogLine>>>;
}
