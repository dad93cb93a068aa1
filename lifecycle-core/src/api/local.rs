//! Provides the API of a manager in the same process, for programs that embed a manager and for the
//! simulation.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::why::WhyV1;
use super::wire::{
    AdoptedV1, AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, ExportV1, NewMachineV1, NewNodeV1,
    NewTokenV1, NodeV1, OperationV1, OverrideV1, PlatformV1, ProgressV1, RestartNodeV1, RestartV1,
    RetriedV1, RevisionV1, RollbackPlanV1, RolledBackV1, ServiceLogLine, ServiceV1, TokenV1,
};
use super::{ManagerApi, last_output, view, watches, why};
use crate::error::{Error, Result};
use crate::manager::{Conversation, Manager};
use crate::model::{
    Chunk, ChunkDigest, Event, Generation, NodeRequest, OperationId, RolloutRequest, ServiceClass,
    ServiceName,
};
use crate::platform::{Declaration, OverrideChange, RestoredSecrets};
use crate::reconcile::{Plan, RecordedPlan, RetryOptions, Round};
use crate::registry::EventPage;
use crate::runtime::{ExecCommand, ImageLogins, LogOptions};

/// The maximum number of events in a page.
pub const EVENTS_PER_PAGE: u32 = 500;

/// How many of the latest events `why` searches for evidence.
const EVENTS_SEARCHED: u64 = 2_000;

/// Calls a manager in the same process.
#[derive(Debug, Clone)]
pub struct LocalApi(Arc<Manager>);

impl LocalApi {
    /// Creates the API of `manager`.
    pub fn new(manager: Arc<Manager>) -> Self {
        Self(manager)
    }

    fn round(&self) -> Arc<Round> {
        self.0.round()
    }
}

#[async_trait]
impl ManagerApi for LocalApi {
    async fn health(&self) -> Result<()> {
        Ok(())
    }

    async fn platform(&self) -> Result<PlatformV1> {
        let snapshot = self.0.snapshot().await?;
        let (name, id) = self.0.platform();
        Ok(view::platform(name, id, &snapshot, &self.round()))
    }

    async fn nodes(&self) -> Result<Vec<NodeV1>> {
        Ok(view::nodes(&self.0.snapshot().await?))
    }

    async fn services(&self) -> Result<Vec<ServiceV1>> {
        Ok(view::services(&self.0.snapshot().await?, &self.round()))
    }

    async fn progress(&self, with_plan: bool) -> Result<ProgressV1> {
        Ok(view::progress(&self.round(), self.0.is_open(), with_plan))
    }

    async fn events(&self, after: u64) -> Result<EventsV1> {
        match self.0.events(after, EVENTS_PER_PAGE).await? {
            EventPage::Events(events) => {
                let cursor = events.last().map_or(after, |event| event.id);
                Ok(EventsV1 { events, cursor })
            }
            EventPage::Gone { oldest } => Err(Error::not_found_with_hint(
                format!("the event after cursor {after}"),
                format!("start from {oldest}, which is the oldest stored event, or from `latest`"),
            )),
        }
    }

    async fn watch_events(&self, after: u64) -> Result<BoxStream<'static, Result<Event>>> {
        watches::events(self.clone(), after, self.0.changes()).await
    }

    async fn watch_endpoints(
        &self,
        service: &ServiceName,
    ) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>> {
        watches::endpoints(self.clone(), service.clone(), self.0.changes()).await
    }

    async fn last_event(&self) -> Result<u64> {
        Ok(self.0.snapshot().await?.last_event)
    }

    async fn apply(&self, declaration: &Declaration) -> Result<AppliedV1> {
        let applied = self.0.apply(declaration.clone()).await?;
        Ok(AppliedV1::from(applied))
    }

    async fn missing_chunks(&self, of: &BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.0.missing_chunks(of.clone()).await
    }

    async fn put_chunk(&self, chunk: &Chunk) -> Result<()> {
        self.0.put_chunk(chunk.clone()).await
    }

    async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()> {
        self.0.set_image_logins(logins).await
    }

    async fn plan(&self, declaration: &Declaration) -> Result<Plan> {
        self.0.plan(declaration).await
    }

    async fn recorded_plan(&self) -> Result<RecordedPlan> {
        self.0.recorded_plan()
    }

    async fn delete_platform(&self, volumes: bool) -> Result<OperationV1> {
        Ok(view::operation(&self.0.delete_platform(volumes).await?))
    }

    async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1> {
        let replaces = replaces.map(|restart| restart.replaces);
        let operation = self.0.restart(name, replaces.as_ref()).await?;
        Ok(view::operation(&operation))
    }

    async fn restart_node(&self, name: &str, request: &RestartNodeV1) -> Result<OperationV1> {
        let operation = self
            .0
            .restart_node(name, request.boot_id.as_deref())
            .await?;
        Ok(view::operation(&operation))
    }

    async fn prepare_node(&self, name: &str) -> Result<OperationV1> {
        Ok(view::operation(&self.0.prepare_node(name).await?))
    }

    async fn add_node(&self, node: &NewNodeV1) -> Result<AppliedV1> {
        let added = self.0.add_node(node.name.clone(), node.like.as_deref());
        Ok(AppliedV1::from(added.await?))
    }

    async fn adopt_node(&self, machine: &NewMachineV1) -> Result<AdoptedV1> {
        let (spec, machine, login) = machine.parts()?;
        let adopted = self.0.adopt_node(spec, machine, &login);
        Ok(AdoptedV1::from(adopted.await?))
    }

    async fn remove_node(&self, name: &str, volumes: bool) -> Result<AppliedV1> {
        Ok(AppliedV1::from(self.0.remove_node(name, volumes).await?))
    }

    async fn apply_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<AppliedV1> {
        Ok(AppliedV1::from(
            self.0.apply_service(class, name, text).await?,
        ))
    }

    async fn plan_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Plan> {
        self.0.plan_service(class, name, text).await
    }

    async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<AppliedV1> {
        Ok(AppliedV1::from(self.0.remove_service(class, name).await?))
    }

    async fn change_nodes(&self, names: &[String], request: NodeRequest) -> Result<AppliedV1> {
        let applied = self.0.change_nodes(names, request).await?;
        Ok(AppliedV1::from(applied))
    }

    async fn override_service(&self, service: &str, change: OverrideChange) -> Result<AppliedV1> {
        let applied = self.0.override_service(service, change).await?;
        Ok(AppliedV1::from(applied))
    }

    async fn overrides(&self) -> Result<Vec<OverrideV1>> {
        let overrides = self.0.overrides().await?;
        Ok(overrides.into_iter().map(OverrideV1::from).collect())
    }

    async fn export(&self) -> Result<ExportV1> {
        Ok(ExportV1::from(self.0.exportable().await?))
    }

    async fn remove_override(&self, id: &str) -> Result<AppliedV1> {
        Ok(AppliedV1::from(self.0.remove_override(id).await?))
    }

    async fn revisions(&self) -> Result<Vec<RevisionV1>> {
        let revisions = self.0.revisions().await?;
        Ok(revisions.into_iter().map(RevisionV1::from).collect())
    }

    async fn rollback(&self, to: Generation, secrets: RestoredSecrets) -> Result<RolledBackV1> {
        Ok(RolledBackV1::from(self.0.rollback(to, secrets).await?))
    }

    async fn plan_rollback(
        &self,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<RollbackPlanV1> {
        let (plan, restored) = self.0.plan_rollback(to, secrets).await?;
        Ok(RollbackPlanV1::new(plan, restored))
    }

    async fn rollout(&self, service: &str, request: RolloutRequest) -> Result<OperationV1> {
        Ok(view::operation(&self.0.rollout(service, request).await?))
    }

    async fn retry(&self, name: &str, options: RetryOptions) -> Result<RetriedV1> {
        let retried = self.0.retry(name, options).await?;
        Ok(RetriedV1 { retried })
    }

    async fn operations(&self) -> Result<Vec<OperationV1>> {
        let operations = self.0.operations().await?;
        Ok(operations.iter().map(view::operation).collect())
    }

    async fn operation(&self, id: OperationId) -> Result<OperationV1> {
        Ok(view::operation(&self.0.operation(id).await?))
    }

    async fn cancel(&self, id: OperationId) -> Result<OperationV1> {
        Ok(view::operation(&self.0.cancel(id).await?))
    }

    async fn create_token(&self, new: &NewTokenV1) -> Result<CreatedTokenV1> {
        let created = self.0.create_token(new.clone().into()).await?;
        Ok(created.into())
    }

    async fn tokens(&self) -> Result<Vec<TokenV1>> {
        let tokens = self.0.list_tokens().await?;
        Ok(tokens.into_iter().map(TokenV1::from).collect())
    }

    async fn revoke_token(&self, name: &str) -> Result<TokenV1> {
        self.0.revoke_token(name).await.map(TokenV1::from)
    }

    async fn why(&self, name: &str) -> Result<WhyV1> {
        let snapshot = self.0.snapshot().await?;
        let subject = snapshot.subject_named(name)?;
        let events = self.0.latest_events(EVENTS_SEARCHED).await?;
        let mut why = why::why(subject, &snapshot, &self.round(), &events);
        last_output::add(&mut why, &self.0).await;
        Ok(why)
    }

    async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation> {
        self.0.exec(name, &command).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<ServiceLogLine>>> {
        let lines = self.0.logs(service, options).await?;
        Ok(lines.map(|output| Ok(ServiceLogLine::from(output))).boxed())
    }
}
