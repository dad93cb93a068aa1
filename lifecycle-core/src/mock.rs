//! [`mockall`] mocks for tests of programs that embed this crate. A test specifies which calls it
//! expects and what they return; `examples/embed_mock.rs` contains such tests. As an alternative,
//! the feature `sim` provides a simulated world that behaves like a real one.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::api::ManagerApi;
use crate::api::why::WhyV1;
use crate::api::wire::{
    AdoptedV1, AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, ExportV1, NewMachineV1, NewNodeV1,
    NewTokenV1, NodeV1, OperationV1, OverrideV1, PlatformV1, ProgressV1, RestartNodeV1, RestartV1,
    RetriedV1, RevisionV1, RollbackPlanV1, RolledBackV1, ServiceLogLine, ServiceV1, TokenV1,
};
use crate::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, PreflightReport,
};
use crate::error::Result;
use crate::manager::Conversation;
use crate::model::{
    Chunk, ChunkDigest, Event, Generation, NodeName, NodeRequest, NodeSpec, OperationId,
    PublicPorts, RolloutRequest, ServiceClass, ServiceName,
};
use crate::platform::{Declaration, OverrideChange, RestoredSecrets};
use crate::reconcile::{Plan, RecordedPlan, RetryOptions};
use crate::runtime::{ExecCommand, ImageLogins, LogOptions};

mockall::mock! {
    /// A manager's API that returns what a test specifies.
    #[derive(Debug)]
    pub ManagerApi {}

    #[async_trait]
    impl ManagerApi for ManagerApi {
        async fn health(&self) -> Result<()>;
        async fn platform(&self) -> Result<PlatformV1>;
        async fn nodes(&self) -> Result<Vec<NodeV1>>;
        async fn services(&self) -> Result<Vec<ServiceV1>>;
        async fn progress(&self, with_plan: bool) -> Result<ProgressV1>;
        async fn events(&self, after: u64) -> Result<EventsV1>;
        async fn watch_events(&self, after: u64) -> Result<BoxStream<'static, Result<Event>>>;
        async fn watch_endpoints(
            &self,
            service: &ServiceName,
        ) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>>;
        async fn last_event(&self) -> Result<u64>;
        async fn apply(&self, declaration: &Declaration) -> Result<AppliedV1>;
        async fn missing_chunks(&self, of: &BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>>;
        async fn put_chunk(&self, chunk: &Chunk) -> Result<()>;
        async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()>;
        async fn plan(&self, declaration: &Declaration) -> Result<Plan>;
        async fn recorded_plan(&self) -> Result<RecordedPlan>;
        async fn delete_platform(&self, volumes: bool) -> Result<OperationV1>;
        async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1>;
        async fn restart_node(&self, name: &str, request: &RestartNodeV1) -> Result<OperationV1>;
        async fn prepare_node(&self, name: &str) -> Result<OperationV1>;
        async fn apply_service(
            &self,
            class: ServiceClass,
            name: &ServiceName,
            text: &str,
        ) -> Result<AppliedV1>;
        async fn plan_service(
            &self,
            class: ServiceClass,
            name: &ServiceName,
            text: &str,
        ) -> Result<Plan>;
        async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<AppliedV1>;
        async fn add_node(&self, node: &NewNodeV1) -> Result<AppliedV1>;
        async fn adopt_node(&self, machine: &NewMachineV1) -> Result<AdoptedV1>;
        async fn remove_node(&self, name: &str, volumes: bool) -> Result<AppliedV1>;
        async fn change_nodes(&self, names: &[String], request: NodeRequest) -> Result<AppliedV1>;
        async fn override_service(&self, service: &str, change: OverrideChange) -> Result<AppliedV1>;
        async fn overrides(&self) -> Result<Vec<OverrideV1>>;
        async fn export(&self) -> Result<ExportV1>;
        async fn remove_override(&self, id: &str) -> Result<AppliedV1>;
        async fn revisions(&self) -> Result<Vec<RevisionV1>>;
        async fn rollback(&self, to: Generation, secrets: RestoredSecrets) -> Result<RolledBackV1>;
        async fn plan_rollback(
            &self,
            to: Generation,
            secrets: RestoredSecrets,
        ) -> Result<RollbackPlanV1>;
        async fn rollout(&self, service: &str, request: RolloutRequest) -> Result<OperationV1>;
        async fn retry(&self, name: &str, options: RetryOptions) -> Result<RetriedV1>;
        async fn operations(&self) -> Result<Vec<OperationV1>>;
        async fn operation(&self, id: OperationId) -> Result<OperationV1>;
        async fn cancel(&self, id: OperationId) -> Result<OperationV1>;
        async fn create_token(&self, new: &NewTokenV1) -> Result<CreatedTokenV1>;
        async fn tokens(&self) -> Result<Vec<TokenV1>>;
        async fn revoke_token(&self, name: &str) -> Result<TokenV1>;
        async fn why(&self, name: &str) -> Result<WhyV1>;
        async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation>;
        async fn logs(
            &self,
            service: &ServiceName,
            options: LogOptions,
        ) -> Result<BoxStream<'static, Result<ServiceLogLine>>>;
    }
}

mockall::mock! {
    /// A cloud that returns what a test specifies.
    #[derive(Debug)]
    pub CloudProvider {}

    #[async_trait]
    impl CloudProvider for CloudProvider {
        fn capabilities(&self) -> CloudCapabilities;
        async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport>;
        async fn list(&self) -> Result<Vec<ObservedNode>>;
        async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;
        async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;
        async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;
        async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;
        async fn fence(&self, node: &NodeName) -> Result<Fenced>;
        async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()>;
        async fn delete_shared(&self) -> Result<()>;
    }
}
