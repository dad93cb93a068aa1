//! `mockall` mocks of the traits, for tests of what is built on this crate: each call is
//! expected and answered by the test. Where a world that behaves is wanted instead of a
//! script, see the feature `sim`.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;

use crate::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, PreflightReport,
};
use crate::code::{CodeBaseRef, CodeStore};
use crate::error::Result;
use crate::host::{
    ByteStream, Duplex, ForwardTarget, HostCommand, HostFile, HostOutput, NodeAccess,
};
use crate::model::{Epoch, NodeName, NodeSpec, Operation, OperationId, VolumeName};
use crate::registry::{Batch, Committed, Credential, EventPage, Lease, Registry, Snapshot};
use crate::runtime::{
    BuildRequest, ContainerRuntime, ContainerSpec, EngineEvent, EngineInfo, EngineState,
    ExecCommand, ExecSession, ImageInfo, LogLine, LogOptions, ObservedContainer, TerminalSize,
};

mockall::mock! {
    /// A cloud that answers as a test expects.
    #[derive(Debug)]
    pub CloudProvider {}

    #[async_trait]
    impl CloudProvider for CloudProvider {
        fn capabilities(&self) -> CloudCapabilities;
        async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport>;
        async fn list(&self) -> Result<Vec<ObservedNode>>;
        async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>>;
        async fn adopt(&self, node: &NodeName) -> Result<ObservedNode>;
        async fn begin(&self, change: NodeChange) -> Result<CloudOperation>;
        async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress>;
        async fn fence(&self, node: &NodeName) -> Result<Fenced>;
        async fn delete_shared(&self) -> Result<()>;
    }
}

mockall::mock! {
    /// An engine that answers as a test expects. A build's expectation gets the request alone:
    /// mockall cannot name the type of `progress`.
    #[derive(Debug)]
    pub ContainerRuntime {
        /// See [`ContainerRuntime::info`].
        pub fn info(&self) -> Result<EngineInfo>;
        /// See [`ContainerRuntime::state`].
        pub fn state(&self) -> Result<EngineState>;
        /// See [`ContainerRuntime::ping`].
        pub fn ping(&self) -> Result<()>;
        /// See [`ContainerRuntime::container`].
        pub fn container(&self, container: &str) -> Result<Option<ObservedContainer>>;
        /// See [`ContainerRuntime::image`].
        pub fn image(&self, name: &str) -> Result<Option<ImageInfo>>;
        /// See [`ContainerRuntime::build_image`].
        pub fn build_image(&self, request: BuildRequest) -> Result<ImageInfo>;
        /// See [`ContainerRuntime::pull_image`].
        pub fn pull_image(&self, name: &str) -> Result<ImageInfo>;
        /// See [`ContainerRuntime::export_image`].
        pub fn export_image(&self, name: &str) -> Result<ByteStream>;
        /// See [`ContainerRuntime::import_image`].
        pub fn import_image(&self, archive: ByteStream) -> Result<()>;
        /// See [`ContainerRuntime::remove_image`].
        pub fn remove_image(&self, name: &str) -> Result<()>;
        /// See [`ContainerRuntime::ensure_container`].
        pub fn ensure_container(&self, spec: &ContainerSpec) -> Result<ObservedContainer>;
        /// See [`ContainerRuntime::start_container`].
        pub fn start_container(&self, name: &str) -> Result<()>;
        /// See [`ContainerRuntime::stop_container`].
        pub fn stop_container(&self, name: &str, grace: Option<Duration>) -> Result<()>;
        /// See [`ContainerRuntime::remove_container`].
        pub fn remove_container(&self, name: &str) -> Result<()>;
        /// See [`ContainerRuntime::remove_volume`].
        pub fn remove_volume(&self, volume: &VolumeName) -> Result<()>;
        /// See [`ContainerRuntime::logs`].
        pub fn logs(&self, container: &str, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>>;
        /// See [`ContainerRuntime::exec`].
        pub fn exec(&self, container: &str, command: &ExecCommand) -> Result<ExecSession>;
        /// See [`ContainerRuntime::resize_exec`].
        pub fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<()>;
        /// See [`ContainerRuntime::events`].
        pub fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>>;
    }
}

#[async_trait]
impl ContainerRuntime for MockContainerRuntime {
    async fn info(&self) -> Result<EngineInfo> {
        self.info()
    }

    async fn state(&self) -> Result<EngineState> {
        self.state()
    }

    async fn ping(&self) -> Result<()> {
        self.ping()
    }

    async fn container(&self, container: &str) -> Result<Option<ObservedContainer>> {
        self.container(container)
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInfo>> {
        self.image(name)
    }

    async fn build_image(
        &self,
        request: BuildRequest,
        _progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<ImageInfo> {
        self.build_image(request)
    }

    async fn pull_image(&self, name: &str) -> Result<ImageInfo> {
        self.pull_image(name)
    }

    async fn export_image(&self, name: &str) -> Result<ByteStream> {
        self.export_image(name)
    }

    async fn import_image(&self, archive: ByteStream) -> Result<()> {
        self.import_image(archive)
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        self.remove_image(name)
    }

    async fn ensure_container(&self, spec: &ContainerSpec) -> Result<ObservedContainer> {
        self.ensure_container(spec)
    }

    async fn start_container(&self, name: &str) -> Result<()> {
        self.start_container(name)
    }

    async fn stop_container(&self, name: &str, grace: Option<Duration>) -> Result<()> {
        self.stop_container(name, grace)
    }

    async fn remove_container(&self, name: &str) -> Result<()> {
        self.remove_container(name)
    }

    async fn remove_volume(&self, volume: &VolumeName) -> Result<()> {
        self.remove_volume(volume)
    }

    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.logs(container, options)
    }

    async fn exec(&self, container: &str, command: &ExecCommand) -> Result<ExecSession> {
        self.exec(container, command)
    }

    async fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<()> {
        self.resize_exec(id, size)
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>> {
        self.events()
    }
}

mockall::mock! {
    /// A registry that answers as a test expects.
    #[derive(Debug)]
    pub Registry {}

    #[async_trait]
    impl Registry for Registry {
        async fn acquire_lease(&self, holder: &str, ttl: Duration) -> Result<Lease>;
        async fn release_lease(&self, holder: &str) -> Result<()>;
        async fn commit(&self, epoch: Epoch, batch: Batch) -> Result<Committed>;
        async fn snapshot(&self) -> Result<Snapshot>;
        async fn credential(&self, name: &str) -> Result<Option<Credential>>;
        async fn operation(&self, id: OperationId) -> Result<Option<Operation>>;
        async fn open_operations(&self) -> Result<Vec<Operation>>;
        async fn events(&self, after: u64, limit: u32) -> Result<EventPage>;
        async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()>;
    }
}

mockall::mock! {
    /// A code store that answers as a test expects.
    #[derive(Debug)]
    pub CodeStore {}

    #[async_trait]
    impl CodeStore for CodeStore {
        async fn list(&self) -> Result<Vec<String>>;
        async fn digest(&self, name: &str) -> Result<CodeBaseRef>;
        async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream>;
    }
}

mockall::mock! {
    /// A host that answers as a test expects.
    #[derive(Debug)]
    pub NodeAccess {}

    #[async_trait]
    impl NodeAccess for NodeAccess {
        async fn exec(&self, command: HostCommand) -> Result<HostOutput>;
        async fn put(&self, file: HostFile) -> Result<()>;
        async fn connect(&self, target: ForwardTarget) -> Result<Box<dyn Duplex>>;
        async fn reconnect(&self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn mocks_stand_where_a_trait_object_is_wanted() {
        let mut cloud = MockCloudProvider::new();
        cloud.expect_list().times(1).returning(|| Ok(Vec::new()));
        cloud
            .expect_get()
            .withf(|node| node.as_str() == "n1")
            .returning(|node| Err(Error::not_found(node.to_string())));
        let cloud: Box<dyn CloudProvider> = Box::new(cloud);
        assert_eq!(cloud.list().await.unwrap(), []);
        let node = NodeName::try_from("n1").unwrap();
        assert!(cloud.get(&node).await.is_err());

        let mut runtime = MockContainerRuntime::new();
        runtime
            .expect_state()
            .returning(|| Ok(EngineState::default()));
        let runtime: Box<dyn ContainerRuntime> = Box::new(runtime);
        assert!(runtime.state().await.unwrap().containers.is_empty());
        assert!(!format!("{runtime:?}").is_empty());

        let mut host = MockNodeAccess::new();
        host.expect_exec().returning(|command| {
            Ok(HostOutput {
                code: 0,
                stdout: command.script,
                stderr: String::new(),
            })
        });
        let host: Box<dyn NodeAccess> = Box::new(host);
        let said = host.exec(HostCommand::new("hostname")).await.unwrap();
        assert_eq!(said.stdout, "hostname");
    }
}
