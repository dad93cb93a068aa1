//! Removes a platform: first the manager removes everything that it manages, then the bootstrapper
//! removes the manager and its node.

use std::time::Duration;

use super::progress::Progress;
use super::{Bootstrapper, PACE};
use crate::api::ManagerApi;
use crate::api::wire::OperationStateV1;
use crate::cloud::{
    CloudDeadlines, NodeChange, ObservedNode, Power, carry_out, carry_out_with_progress,
};
use crate::error::{Error, Result, Retry};
use crate::model::{NodeName, PlatformId};
use crate::platform::HostSpec;
use crate::reconcile::clear::clear;

/// How long the manager may take to remove everything that it manages.
const REMOVED_WITHIN: Duration = Duration::from_mins(30);

/// How long removing the platform's containers and volumes from one node may take.
const CLEARED_WITHIN: Duration = Duration::from_mins(15);

/// How long the manager may take to accept the request, and how long it may be unreachable
/// afterwards.
const UNREACHABLE_FOR: Duration = Duration::from_mins(1);

/// Options of a removal.
#[derive(Debug)]
struct RemovalOptions {
    platform: PlatformId,
    volumes: bool,
    deadlines: CloudDeadlines,
}

impl Bootstrapper {
    /// Removes the whole platform. Can be repeated after a failure.
    pub async fn down(&self, platform: PlatformId, volumes: bool) -> Result<()> {
        let by_manager = match self.client(platform).await {
            Ok(client) => match self.remove_by_manager(client.as_ref(), volumes).await {
                // The manager responds, so the removal must not bypass it.
                Err(error @ Error::Denied { .. }) => return Err(error),
                Err(error @ Error::TimedOut { .. }) => {
                    self.reject_lost_machines(platform).await?;
                    Err(error)
                }
                removed => removed,
            },
            Err(error) => Err(error),
        };
        let placed = self.state.placement().await?;
        let deadlines = placed.as_ref().map(|p| p.deadlines.clone());
        let removal = RemovalOptions {
            platform,
            volumes,
            deadlines: deadlines.unwrap_or_default(),
        };
        let manager_node = placed.map(|p| p.manager.node);
        let is_manager = |node: &ObservedNode| Some(&node.name) == manager_node.as_ref();
        if let Err(error) = by_manager {
            self.without_manager(&error);
            // Delete the manager's node first: an unreachable manager may still be running and
            // would re-create removed resources.
            let nodes = self.list_nodes().await?;
            if let Some(node) = nodes.iter().find(|node| is_manager(node)) {
                self.remove(node, &removal).await?;
            }
        }
        let mut nodes = self.list_nodes().await?;
        // Remove the manager's node last, so that the manager's logs remain available until then.
        nodes.sort_by_key(is_manager);
        // A node that cannot be removed does not prevent the removal of the others.
        let mut removed = Ok(());
        for node in &nodes {
            removed = removed.and(self.remove(node, &removal).await);
        }
        removed?;
        self.wait(
            "the deletion of the nodes' shared resources",
            REMOVED_WITHIN,
        )
        .until(self.backends.cloud.delete_shared())
        .await?;
        self.state.forget().await
    }

    /// Fails if the manager responds, but waits for machines that only it can release.
    async fn reject_lost_machines(&self, platform: PlatformId) -> Result<()> {
        let nodes = self.known_to_manager_only(platform).await?;
        if nodes.is_empty() {
            return Ok(());
        }
        let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
        let nodes = nodes.join(", ");
        let why = format!(
            "the manager waits until it can release the machines of nodes {nodes}; start them, then run \
             `bootstrapper down` again"
        );
        Err(Error::failed("removing the platform", why))
    }

    fn without_manager(&self, error: &Error) {
        self.reporter.report(Progress::Note {
            text: format!(
                "the manager is not reachable ({}); removing all resources with the platform's \
                 labels, except on machines that were adopted at run time, which only the manager knows",
                error.chain()
            ),
        });
    }

    async fn remove_by_manager(&self, client: &dyn ManagerApi, volumes: bool) -> Result<()> {
        let operation = self
            .wait("the manager's acceptance of the request", UNREACHABLE_FOR)
            .repeat(|| client.delete_platform(volumes))
            .await?;
        let what = "stop all services and delete the other nodes".to_owned();
        let stage = self.stage(what, REMOVED_WITHIN);
        let finished = async {
            let mut last_answer = tokio::time::Instant::now();
            loop {
                match client.operation(operation.id()).await {
                    Ok(now) if now.state == OperationStateV1::Running => {
                        last_answer = tokio::time::Instant::now();
                    }
                    Ok(now) if now.state == OperationStateV1::Failed => {
                        let why = now.why.unwrap_or_default();
                        return Err(Error::failed("removing the platform", why));
                    }
                    Ok(_) => return Ok(()),
                    Err(error) => match error.retry() {
                        Retry::After(_) if last_answer.elapsed() < UNREACHABLE_FOR => {
                            stage.line(&error.chain());
                        }
                        Retry::After(_) | Retry::Replan | Retry::Never => return Err(error),
                    },
                }
                tokio::time::sleep(PACE).await;
            }
        };
        stage.part(finished).await?;
        stage.done();
        Ok(())
    }

    /// Deletes a node that was created for the platform; removes the platform from another node, and
    /// releases the node.
    async fn remove(&self, node: &ObservedNode, options: &RemovalOptions) -> Result<()> {
        let RemovalOptions {
            platform,
            volumes,
            deadlines,
        } = options;
        if node.created {
            let change = NodeChange::Delete {
                node: node.name.clone(),
            };
            let deadline = deadlines.of(&change);
            let stage = self.stage(format!("delete node {}", node.name), deadline);
            let cloud = self.backends.cloud.as_ref();
            let report = |line: &str| stage.line(line);
            stage
                .part(carry_out_with_progress(cloud, change, deadline, &report))
                .await?;
            stage.done();
            return Ok(());
        }
        if node.power != Power::Running {
            return Err(Error::Unreachable {
                hint: None,
                what: format!("node {}", node.name),
                source: Some(
                    "the node is not running; start the node so that the platform's resources on \
                     it can be removed"
                        .into(),
                ),
            });
        }
        let clear = async {
            match self.backends.connector.connect(node).await {
                Ok(handle) => clear(&handle, *platform, &node.name, *volumes).await?,
                // The VM was marked, but never taken over.
                Err(Error::Denied { .. }) if self.is_new_vm(&node.name).await? => {}
                Err(error) => return Err(error),
            }
            // Once released, the machine rejects this platform's account.
            if let Some(mut placed) = self.state.placement().await? {
                placed.cloud.leave(&node.name);
                self.state.store_placement(&placed).await?;
            }
            let release = NodeChange::Delete {
                node: node.name.clone(),
            };
            carry_out(self.backends.cloud.as_ref(), release, CLEARED_WITHIN).await?;
            if let Some(mut placed) = self.state.placement().await? {
                placed.cloud.forget(&node.name);
                self.state.store_placement(&placed).await?;
            }
            Ok(())
        };
        let what = format!("remove the platform from node {}", node.name);
        self.stage(what, CLEARED_WITHIN).run(clear).await
    }

    async fn is_new_vm(&self, node: &NodeName) -> Result<bool> {
        let placed = self.state.placement().await?;
        let host = placed.as_ref().and_then(|placed| placed.cloud.host(node));
        Ok(host.is_some_and(HostSpec::is_new_vm))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;
    use crate::bootstrap::{
        ManagerPlacement, OperatorState, PlatformSecrets, ReachManager, StateDirectory,
        StaticBinary,
    };
    use crate::clock::{Clock, IdSource, RandomIds, SystemClock};
    use crate::cloud::{
        CloudCapabilities, CloudOperation, CloudProgress, Fenced, Firewall, OpenPorts,
        PreflightReport, SshAddress,
    };
    use crate::code::PublishedStore;
    use crate::host::{Account, HostPreparer, NodeAccess, NodeConnector, NodeHandle, SshKeyPair};
    use crate::model::{Addresses, NodeSpec};
    use crate::platform::{CloudSpec, ManagerSpec};
    use crate::reconcile::Backends;
    use crate::registry::MemoryRegistry;
    use crate::runtime::{EngineInfo, ReadinessProbe};
    use crate::secret::Sensitive;

    /// A cloud with three nodes that records the order of their deletion.
    #[derive(Debug, Default)]
    struct Cloud(Mutex<Vec<NodeName>>);

    #[async_trait]
    impl crate::cloud::CloudProvider for Cloud {
        fn capabilities(&self) -> CloudCapabilities {
            CloudCapabilities {
                name: "test",
                provisions: true,
                powers: true,
                knows_host_keys: true,
                fences: false,
                adopts: false,
                firewall: Firewall::Absent,
            }
        }
        async fn preflight(&self, _: &[NodeSpec]) -> Result<PreflightReport> {
            Ok(PreflightReport::default())
        }
        async fn list(&self) -> Result<Vec<ObservedNode>> {
            let deleted = self.0.lock().unwrap().clone();
            let names = ["a", "m", "z"].map(|name| NodeName::try_from(name).unwrap());
            let left = names.into_iter().filter(|name| !deleted.contains(name));
            Ok(left.map(node).collect())
        }
        async fn get(&self, name: &NodeName) -> Result<Option<ObservedNode>> {
            Ok(Some(node(name.clone())))
        }
        async fn adopt(&self, name: &NodeName) -> Result<ObservedNode> {
            Ok(node(name.clone()))
        }
        async fn begin(&self, change: NodeChange) -> Result<CloudOperation> {
            self.0.lock().unwrap().push(change.node().clone());
            Ok(CloudOperation {
                change,
                token: String::new(),
            })
        }
        async fn poll(&self, _: &CloudOperation) -> Result<CloudProgress> {
            Ok(CloudProgress::Done)
        }
        async fn fence(&self, name: &NodeName) -> Result<Fenced> {
            Err(Error::not_found(name.to_string()))
        }
        async fn delete_shared(&self) -> Result<()> {
            Ok(())
        }
    }

    fn node(name: NodeName) -> ObservedNode {
        ObservedNode {
            name,
            provider_id: String::new(),
            power: Power::Running,
            addresses: Addresses::default(),
            ssh: SshAddress {
                user: "root".into(),
                port: 22,
                host_keys: Vec::new(),
            },
            boot_id: None,
            created: true,
            open_ports: OpenPorts::default(),
        }
    }

    /// Backends that are never reachable.
    #[derive(Debug)]
    struct Unavailable;

    #[async_trait]
    impl NodeConnector for Unavailable {
        async fn connect(&self, node: &ObservedNode) -> Result<NodeHandle> {
            Err(Error::Unreachable {
                hint: None,
                what: node.name.to_string(),
                source: None,
            })
        }
    }

    #[async_trait]
    impl HostPreparer for Unavailable {
        async fn prepare(
            &self,
            _: &dyn NodeAccess,
            _: Account,
            _: &(dyn for<'a> Fn(&'a str) + Send + Sync),
        ) -> Result<EngineInfo> {
            Err(Error::not_found("an engine"))
        }
    }

    #[async_trait]
    impl ReadinessProbe for Unavailable {
        async fn tcp(&self, _: std::net::IpAddr, _: u16, _: Duration) -> Result<(), String> {
            Err("not probed".to_owned())
        }
        async fn http(
            &self,
            _: std::net::IpAddr,
            _: u16,
            _: &str,
            _: Duration,
        ) -> Result<(), String> {
            Err("not probed".to_owned())
        }
    }

    #[async_trait]
    impl ReachManager for Unavailable {
        async fn reach(
            &self,
            _: &ObservedNode,
            _: &NodeHandle,
            _: PlatformId,
            _: u16,
        ) -> Result<Arc<dyn ManagerApi>> {
            Err(Error::not_found("a manager"))
        }
    }

    #[tokio::test]
    async fn deletes_an_unreachable_manager_first() {
        let home = tempfile::tempdir().unwrap();
        let platform = PlatformId::new(RandomIds.uuid());
        let ssh = SshKeyPair {
            private: Sensitive::new("private"),
            public: "public".into(),
        };
        let secrets = PlatformSecrets::generate(platform, ssh, SystemClock.now()).unwrap();
        let state = StateDirectory::new(home.path(), platform);
        state.store_secrets(&secrets).await.unwrap();
        let placed = ManagerPlacement {
            cloud: CloudSpec::Local { subnet: None },
            manager: ManagerSpec {
                node: NodeName::try_from("m").unwrap(),
                port: 1,
            },
            deadlines: CloudDeadlines::default(),
        };
        state.store_placement(&placed).await.unwrap();
        let cloud = Arc::new(Cloud::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let backends = Backends {
            registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
            cloud: Arc::clone(&cloud) as _,
            connector: Arc::new(Unavailable),
            preparer: Arc::new(Unavailable),
            probe: Arc::new(Unavailable),
            code: Arc::new(PublishedStore::new(home.path().into())),
            clock,
            ids: Arc::new(RandomIds),
            own_image: None,
        };
        let image = StaticBinary::new(home.path().into());
        let bootstrapper = Bootstrapper::builder(backends, state, secrets, image)
            .reach(Unavailable)
            .build();
        bootstrapper.down(platform, false).await.unwrap();
        let deleted: Vec<String> = cloud
            .0
            .lock()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(deleted, ["m", "a", "z"]);
        assert!(bootstrapper.state.placement().await.unwrap().is_none());
    }
}
