//! The API as the holder of a token with a scope can use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::ManagerApi;
use super::why::WhyV1;
use super::wire::{
    AdoptedV1, AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, ExportV1, NewMachineV1, NewNodeV1,
    NewTokenV1, NodeV1, OperationV1, OverrideV1, PlatformV1, ProgressV1, RestartNodeV1, RestartV1,
    RetriedV1, RevisionV1, RollbackPlanV1, RolledBackV1, ServiceLogLine, ServiceV1, TokenV1,
};
use crate::error::{Error, Result};
use crate::manager::{Conversation, scope};
use crate::model::{
    Chunk, ChunkDigest, Event, Generation, NodeRequest, OperationId, RolloutRequest, ServiceClass,
    ServiceName, Subject, TokenScope,
};
use crate::platform::{Declaration, OverrideChange, RestoredSecrets};
use crate::reconcile::{Plan, RecordedPlan, RetryOptions, StepId};
use crate::runtime::{ExecCommand, ImageLogins, LogOptions};

/// The API, limited to the services of a scope. Requests about other services, about nodes and about the
/// platform fail with [`Error::Forbidden`], except for the state of the platform as a whole. Lists contain
/// only what is about the services of the scope.
///
/// The role of a token is checked separately.
#[derive(Debug, Clone)]
pub struct ScopedApi {
    api: Arc<dyn ManagerApi>,
    scope: TokenScope,
}

/// The services that exist at the moment.
#[derive(Debug)]
struct Services<'a> {
    scope: &'a TokenScope,
    classes: BTreeMap<ServiceName, ServiceClass>,
}

impl Services<'_> {
    fn include(&self, name: &ServiceName) -> bool {
        let class = self.classes.get(name);
        class.is_some_and(|class| self.scope.includes(name, *class))
    }

    fn include_subject(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Service(service) => self.include(service),
            Subject::Instance(id) => self.include(&id.service),
            Subject::Platform | Subject::Node(_) => false,
        }
    }

    /// Returns whether the scope includes the subject of an operation. A service of any class may have
    /// been removed by the operation.
    fn include_operation(&self, operation: &OperationV1) -> bool {
        let Some(subject) = &operation.subject else {
            return false;
        };
        let is_removed = match subject {
            Subject::Service(service) => {
                !self.classes.contains_key(service)
                    && (!self.scope.classes.is_empty() || self.scope.services.contains(service))
            }
            _ => false,
        };
        is_removed || self.include_subject(subject)
    }

    fn include_event(&self, event: &Event) -> bool {
        self.include_subject(&event.event.subject)
    }

    /// Returns the service that is called `name`, or that a replica called `name` belongs to. As in the
    /// manager, a service takes precedence.
    fn named(&self, name: &str) -> Option<&ServiceName> {
        let service = |name: &str| {
            let mut names = self.classes.keys();
            names.find(|known| known.as_str() == name)
        };
        service(name).or_else(|| {
            let (name, replica) = name.rsplit_once('-')?;
            replica.parse::<u16>().ok()?;
            service(name)
        })
    }
}

impl ScopedApi {
    /// Limits `api` to the services of `scope`.
    pub fn new(api: Arc<dyn ManagerApi>, scope: TokenScope) -> Self {
        Self { api, scope }
    }

    fn forbidden<T>(&self, what: &str) -> Result<T> {
        Err(self.error(what))
    }

    fn error(&self, what: &str) -> Error {
        Error::forbidden(
            what,
            format!("the token is limited to {}", self.scope),
            "use a token whose scope includes this; `bootstrapper token create` creates one",
        )
    }

    /// Runs a request that the manager checks, too, because its effects depend on the declaration.
    async fn within<F: Future>(&self, request: F) -> F::Output {
        scope::within(self.scope.clone(), request).await
    }

    async fn existing(&self) -> Result<Services<'_>> {
        let services = self.api.services().await?.into_iter();
        Ok(Services {
            scope: &self.scope,
            classes: services.map(|one| (one.name, one.class)).collect(),
        })
    }

    /// Fails unless `name` is a service of the scope or a replica of one.
    async fn check(&self, what: &str, name: &str) -> Result<()> {
        let services = self.existing().await?;
        match services.named(name) {
            Some(service) if services.include(service) => Ok(()),
            // The manager reports that the service does not exist.
            None if self.scope.services.iter().any(|own| own.as_str() == name) => Ok(()),
            Some(_) | None => self.forbidden(&format!("{what} {name}")),
        }
    }

    /// Fails unless the scope includes a service of this class and name, which may not exist yet.
    async fn check_declared(
        &self,
        what: &str,
        class: ServiceClass,
        name: &ServiceName,
    ) -> Result<()> {
        let services = self.existing().await?;
        let before = services.classes.get(name);
        let includes = |class: ServiceClass| self.scope.includes(name, class);
        if includes(class) && before.is_none_or(|class| includes(*class)) {
            return Ok(());
        }
        self.forbidden(&format!("{what} {class} {name}"))
    }
}

#[async_trait]
impl ManagerApi for ScopedApi {
    async fn health(&self) -> Result<()> {
        self.api.health().await
    }

    async fn platform(&self) -> Result<PlatformV1> {
        self.api.platform().await
    }

    async fn nodes(&self) -> Result<Vec<NodeV1>> {
        self.forbidden("reading the nodes")
    }

    async fn services(&self) -> Result<Vec<ServiceV1>> {
        let mut services = self.api.services().await?;
        services.retain(|one| self.scope.includes(&one.name, one.class));
        Ok(services)
    }

    async fn service(&self, name: &str) -> Result<ServiceV1> {
        self.check("reading service", name).await?;
        self.api.service(name).await
    }

    async fn progress(&self, _with_plan: bool) -> Result<ProgressV1> {
        let mut progress = self.api.progress(false).await?;
        progress.running.clear();
        progress.waits.clear();
        Ok(progress)
    }

    async fn events(&self, after: u64) -> Result<EventsV1> {
        let mut cursor = after;
        loop {
            let mut page = self.api.events(cursor).await?;
            if page.events.is_empty() {
                return Ok(page);
            }
            let services = self.existing().await?;
            page.events.retain(|event| services.include_event(event));
            if !page.events.is_empty() {
                return Ok(page);
            }
            cursor = page.cursor;
        }
    }

    async fn watch_events(&self, after: u64) -> Result<BoxStream<'static, Result<Event>>> {
        let api = self.clone();
        let events = self.api.watch_events(after).await?;
        let events = events.filter_map(move |event| {
            let api = api.clone();
            async move {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => return Some(Err(error)),
                };
                match api.existing().await {
                    Ok(services) => services.include_event(&event).then_some(Ok(event)),
                    Err(error) => Some(Err(error)),
                }
            }
        });
        Ok(events.boxed())
    }

    async fn watch_endpoints(
        &self,
        service: &ServiceName,
    ) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>> {
        self.check("reading the endpoints of", service.as_str())
            .await?;
        self.api.watch_endpoints(service).await
    }

    async fn last_event(&self) -> Result<u64> {
        self.api.last_event().await
    }

    async fn apply(&self, _: &Declaration) -> Result<AppliedV1> {
        self.forbidden("replacing the declaration")
    }

    async fn missing_chunks(&self, _: &BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        self.forbidden("reading the stored files")
    }

    async fn put_chunk(&self, _: &Chunk) -> Result<()> {
        self.forbidden("storing files")
    }

    async fn set_image_logins(&self, _: &ImageLogins) -> Result<()> {
        self.forbidden("replacing the logins for the registries of images")
    }

    async fn plan(&self, _: &Declaration) -> Result<Plan> {
        self.forbidden("planning a declaration")
    }

    async fn recorded_plan(&self) -> Result<RecordedPlan> {
        self.forbidden("reading the plan")
    }

    async fn delete_platform(&self, _: bool) -> Result<OperationV1> {
        self.forbidden("deleting the platform")
    }

    async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1> {
        self.check("restarting", name).await?;
        self.within(self.api.restart(name, replaces)).await
    }

    async fn restart_node(&self, name: &str, _: &RestartNodeV1) -> Result<OperationV1> {
        self.forbidden(&format!("restarting node {name}"))
    }

    async fn prepare_node(&self, name: &str) -> Result<OperationV1> {
        self.forbidden(&format!("preparing node {name}"))
    }

    async fn apply_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<AppliedV1> {
        self.check_declared("declaring", class, name).await?;
        self.within(self.api.apply_service(class, name, text)).await
    }

    async fn plan_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Plan> {
        self.check_declared("declaring", class, name).await?;
        let planned = self.api.plan_service(class, name, text);
        let mut plan = self.within(planned).await?;
        let services = self.existing().await?;
        let includes = |service: &ServiceName| service == name || services.include(service);
        let is_included = |subject: &Subject| match subject {
            Subject::Service(service) => includes(service),
            Subject::Instance(id) => includes(&id.service),
            Subject::Platform | Subject::Node(_) => false,
        };
        plan.steps
            .retain(|step| is_included(&step.action.subject()));
        let kept: BTreeSet<StepId> = plan.steps.iter().map(|step| step.id.clone()).collect();
        for step in &mut plan.steps {
            step.needs.retain(|id| kept.contains(id));
        }
        plan.held.retain(|held| is_included(&held.subject));
        plan.instances.retain(|id, _| includes(&id.service));
        plan.rejects.clear();
        plan.unchanged.retain(includes);
        plan.rollouts.retain(|service, _| includes(service));
        Ok(plan)
    }

    async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<AppliedV1> {
        let checked = ServiceName::try_from(name)?;
        self.check_declared("removing", class, &checked).await?;
        self.within(self.api.remove_service(class, name)).await
    }

    async fn add_node(&self, node: &NewNodeV1) -> Result<AppliedV1> {
        self.forbidden(&format!("adding node {}", node.name))
    }

    async fn adopt_node(&self, machine: &NewMachineV1) -> Result<AdoptedV1> {
        self.forbidden(&format!("adopting node {}", machine.name))
    }

    async fn remove_node(&self, name: &str, _: bool) -> Result<AppliedV1> {
        self.forbidden(&format!("removing node {name}"))
    }

    async fn change_nodes(&self, names: &[String], request: NodeRequest) -> Result<AppliedV1> {
        self.forbidden(&format!("{request} of {}", names.join(", ")))
    }

    async fn override_service(&self, service: &str, change: OverrideChange) -> Result<AppliedV1> {
        self.check("changing", service).await?;
        self.within(self.api.override_service(service, change))
            .await
    }

    async fn overrides(&self) -> Result<Vec<OverrideV1>> {
        let services = self.existing().await?;
        let mut overrides = self.api.overrides().await?;
        overrides.retain(|one| one.service.as_ref().is_some_and(|s| services.include(s)));
        Ok(overrides)
    }

    async fn export(&self) -> Result<ExportV1> {
        self.forbidden("exporting the overrides")
    }

    async fn remove_override(&self, id: &str) -> Result<AppliedV1> {
        let what = "removing override";
        // Other overrides of a service are removed with the service, and the rest are those of nodes.
        match id.rsplit_once('.') {
            Some((service, "replicas" | "stopped")) => {
                let services = self.existing().await?;
                let mut own = services
                    .classes
                    .keys()
                    .filter(|name| services.include(name));
                if own.any(|name| name.as_str() == service) {
                    return self.within(self.api.remove_override(id)).await;
                }
                self.forbidden(&format!("{what} {id}"))
            }
            _ => self.forbidden(&format!("{what} {id}")),
        }
    }

    async fn revisions(&self) -> Result<Vec<RevisionV1>> {
        self.forbidden("reading the revisions")
    }

    async fn rollback(&self, to: Generation, _: RestoredSecrets) -> Result<RolledBackV1> {
        self.forbidden(&format!("restoring revision {to}"))
    }

    async fn plan_rollback(&self, to: Generation, _: RestoredSecrets) -> Result<RollbackPlanV1> {
        self.forbidden(&format!("restoring revision {to}"))
    }

    async fn rollout(&self, service: &str, request: RolloutRequest) -> Result<OperationV1> {
        self.check("changing the rollout of", service).await?;
        self.api.rollout(service, request).await
    }

    async fn retry(&self, name: &str, options: RetryOptions) -> Result<RetriedV1> {
        let name = name.strip_prefix("service:").unwrap_or(name);
        self.check("retrying", name).await?;
        // The prefix excludes a node with this name.
        self.api.retry(&format!("service:{name}"), options).await
    }

    async fn operations(&self) -> Result<Vec<OperationV1>> {
        let services = self.existing().await?;
        let mut operations = self.api.operations().await?;
        operations.retain(|operation| services.include_operation(operation));
        Ok(operations)
    }

    async fn operation(&self, id: OperationId) -> Result<OperationV1> {
        let operation = self.api.operation(id).await?;
        if self.existing().await?.include_operation(&operation) {
            return Ok(operation);
        }
        self.forbidden(&format!("reading operation {}", id.0))
    }

    async fn cancel(&self, id: OperationId) -> Result<OperationV1> {
        self.operation(id).await?;
        self.api.cancel(id).await
    }

    async fn create_token(&self, new: &NewTokenV1) -> Result<CreatedTokenV1> {
        self.forbidden(&format!("creating token {}", new.name))
    }

    async fn tokens(&self) -> Result<Vec<TokenV1>> {
        self.forbidden("reading the tokens")
    }

    async fn revoke_token(&self, name: &str) -> Result<TokenV1> {
        self.forbidden(&format!("revoking token {name}"))
    }

    async fn why(&self, name: &str) -> Result<WhyV1> {
        let name = name.strip_prefix("service:").unwrap_or(name);
        self.check("reading the state of", name).await?;
        let mut why = self.api.why(&format!("service:{name}")).await?;
        let services = self.existing().await?;
        why.declared
            .retain(|fact| services.include_subject(&fact.about));
        why.observed
            .retain(|fact| services.include_subject(&fact.about));
        why.decided
            .retain(|decision| services.include_subject(&decision.about));
        why.evidence.retain(|event| services.include_event(event));
        why.output
            .retain(|output| services.include_subject(&output.about));
        Ok(why)
    }

    async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation> {
        self.check("running a command in", name).await?;
        self.within(self.api.exec(name, command)).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<ServiceLogLine>>> {
        self.check("reading the output of", service.as_str())
            .await?;
        self.api.logs(service, options).await
    }
}
