//! Takes a platform down: the manager takes its own work down first, then the manager and what
//! it ran on go.

use std::time::Duration;

use super::progress::Progress;
use super::{Bootstrapper, PACE};
use crate::api::ManagerApi;
use crate::api::wire::OperationStateV1;
use crate::cloud::{CloudDeadlines, NodeChange, ObservedNode, Power, carry_out_telling};
use crate::error::{Error, Result, Retry};
use crate::host::HostCommand;
use crate::model::PlatformId;
use crate::reconcile::execute::node_directory;
use crate::runtime::Role;

/// How long the manager may take to take everything down.
const TAKE_DOWN: Duration = Duration::from_mins(30);

/// How long removing the platform's containers and volumes from one node may take.
const CLEARED_WITHIN: Duration = Duration::from_mins(15);

/// How long a manager that is to take its platform down may take to answer, and to answer
/// again if it falls silent: it may be starting anew.
const SILENCE: Duration = Duration::from_mins(1);

/// What is removed, and how long that may take.
#[derive(Debug)]
struct Removing {
    platform: PlatformId,
    volumes: bool,
    deadlines: CloudDeadlines,
}

impl Bootstrapper {
    /// Takes everything of the platform down. Repeated after a failure, it goes on.
    pub async fn down(&self, platform: PlatformId, volumes: bool) -> Result<()> {
        let handed = match self.client(platform).await {
            Ok(client) => self.hand_down(client.as_ref(), volumes).await,
            Err(error) => Err(error),
        };
        let placed = self.state.placed().await?;
        let deadlines = placed.as_ref().map(|p| p.deadlines.clone());
        let removal = Removing {
            platform,
            volumes,
            deadlines: deadlines.unwrap_or_default(),
        };
        let manager_node = placed.map(|p| p.manager.node);
        let is_manager = |node: &ObservedNode| Some(&node.name) == manager_node.as_ref();
        if let Err(error) = handed {
            self.without_manager(&error);
            // It may live and only not answer here; then it would make again what is removed.
            let nodes = self.list_nodes().await?;
            if let Some(node) = nodes.iter().find(|node| is_manager(node)) {
                self.remove(node, &removal).await?;
            }
        }
        let mut nodes = self.list_nodes().await?;
        // The manager's node last: until then it can still be asked what went wrong.
        nodes.sort_by_key(is_manager);
        for node in &nodes {
            self.remove(node, &removal).await?;
        }
        self.wait("the deletion of what the nodes shared", TAKE_DOWN)
            .until(self.backends.cloud.delete_shared())
            .await?;
        self.state.forget().await
    }

    fn without_manager(&self, error: &Error) {
        self.reporter.report(Progress::Told {
            text: format!(
                "the manager cannot be asked ({}); going by labels",
                error.chain()
            ),
        });
    }

    async fn hand_down(&self, client: &dyn ManagerApi, volumes: bool) -> Result<()> {
        let operation = self
            .wait("the manager's acceptance of the request", SILENCE)
            .repeat(|| client.take_down(volumes))
            .await?;
        let what = "stop all services and delete the other nodes".to_owned();
        let stage = self.stage(what, TAKE_DOWN);
        let taken_down = async {
            let mut heard = tokio::time::Instant::now();
            loop {
                match client.operation(operation.id()).await {
                    Ok(now) if now.state == OperationStateV1::Running => {
                        heard = tokio::time::Instant::now();
                    }
                    Ok(now) if now.state == OperationStateV1::Failed => {
                        let why = now.why.unwrap_or_default();
                        return Err(Error::failed("taking the platform down", why));
                    }
                    Ok(_) => return Ok(()),
                    Err(error) => match error.retry() {
                        Retry::After(_) if heard.elapsed() < SILENCE => stage.line(&error.chain()),
                        Retry::After(_) | Retry::Replan | Retry::Never => return Err(error),
                    },
                }
                tokio::time::sleep(PACE).await;
            }
        };
        stage.part(taken_down).await?;
        stage.done();
        Ok(())
    }

    /// Removes a node that we made; of any other, what is ours on it.
    async fn remove(&self, node: &ObservedNode, removing: &Removing) -> Result<()> {
        let Removing {
            platform,
            volumes,
            deadlines,
        } = removing;
        if node.created {
            let change = NodeChange::Delete {
                node: node.name.clone(),
            };
            let deadline = deadlines.of(&change);
            let stage = self.stage(format!("delete node {}", node.name), deadline);
            let cloud = self.backends.cloud.as_ref();
            let tell = |says: &str| stage.line(says);
            stage
                .part(carry_out_telling(cloud, change, deadline, &tell))
                .await?;
            stage.done();
            return Ok(());
        }
        if node.power != Power::Running {
            return Err(Error::Unreachable {
                what: format!(
                    "node {} (it does not run; start it, so that what is ours can be removed)",
                    node.name
                ),
                source: None,
            });
        }
        let clear = async {
            let handle = self.backends.connector.connect(node).await?;
            let found = handle.runtime.state().await?;
            let mut containers = found.containers;
            // The manager first, or it would start again what is removed.
            containers.sort_by_key(|c| c.role != Role::Manager);
            for container in containers {
                handle.runtime.remove_container(&container.name).await?;
            }
            if *volumes {
                for volume in &found.volumes {
                    handle.runtime.remove_volume(volume).await?;
                }
            }
            let directory = node_directory(*platform);
            handle
                .host
                .exec(HostCommand::new(format!("rm -rf '{directory}'")).as_root())
                .await?
                .success("removing the platform's directory")?;
            Ok(())
        };
        let stage = self.stage(format!("clear node {}", node.name), CLEARED_WITHIN);
        stage.run(clear).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;
    use crate::bootstrap::{
        OperatorState, Placed, PlatformSecrets, ReachManager, Reporter, StateDirectory,
        StaticBinary,
    };
    use crate::clock::{Clock, IdSource, RandomIds, SystemClock};
    use crate::cloud::{
        CloudCapabilities, CloudOperation, CloudProgress, Fenced, PreflightReport, SshAddress,
    };
    use crate::code::PublishedStore;
    use crate::host::{Account, HostPreparer, NodeAccess, NodeConnector, NodeHandle, SshKeyPair};
    use crate::model::{Addresses, NodeName, NodeSpec};
    use crate::platform::{Access, CloudSpec, ManagerEndpoint, ManagerSpec, RegistrySpec};
    use crate::reconcile::{Backends, DriverOptions};
    use crate::registry::{Databases, KindDatabase, MemoryRegistry};
    use crate::runtime::{EngineInfo, ReadinessProbe};
    use crate::secret::{PlatformKey, Sensitive};

    /// Three nodes, the manager's first by name; remembers in which order they went.
    #[derive(Debug, Default)]
    struct Cloud(Mutex<Vec<NodeName>>);

    #[async_trait]
    impl crate::cloud::CloudProvider for Cloud {
        fn capabilities(&self) -> CloudCapabilities {
            CloudCapabilities {
                name: "test",
                provisions: true,
                knows_host_keys: true,
                fences: false,
                adopts: false,
            }
        }
        async fn preflight(&self, _: &[NodeSpec]) -> Result<PreflightReport> {
            Ok(PreflightReport::default())
        }
        async fn list(&self) -> Result<Vec<ObservedNode>> {
            let gone = self.0.lock().unwrap().clone();
            let names = ["a", "m", "z"].map(|name| NodeName::try_from(name).unwrap());
            let left = names.into_iter().filter(|name| !gone.contains(name));
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
        }
    }

    /// Reaches nobody.
    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl NodeConnector for Nobody {
        async fn connect(&self, node: &ObservedNode) -> Result<NodeHandle> {
            Err(Error::Unreachable {
                what: node.name.to_string(),
                source: None,
            })
        }
    }

    #[async_trait]
    impl HostPreparer for Nobody {
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
    impl ReadinessProbe for Nobody {
        async fn tcp(&self, _: std::net::IpAddr, _: u16, _: Duration) -> bool {
            false
        }
        async fn http(&self, _: std::net::IpAddr, _: u16, _: &str, _: Duration) -> bool {
            false
        }
    }

    #[async_trait]
    impl ReachManager for Nobody {
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

    #[async_trait]
    impl Databases for Nobody {
        async fn check(&self, _: &Sensitive, _: PlatformId, _: &PlatformKey) -> Result<()> {
            Err(Error::not_found("a database"))
        }
        async fn prepare(&self, _: &Sensitive, _: PlatformId, _: &PlatformKey) -> Result<()> {
            Err(Error::not_found("a database"))
        }
        async fn record_manager(
            &self,
            _: &Sensitive,
            _: &PlatformKey,
            _: &ManagerEndpoint,
        ) -> Result<()> {
            Err(Error::not_found("a database"))
        }
        async fn kind(
            &self,
            _: &Sensitive,
            _: PlatformId,
            _: &PlatformKey,
        ) -> Result<Arc<dyn KindDatabase>> {
            Err(Error::not_found("a database"))
        }
    }

    impl Reporter for Nobody {
        fn report(&self, _: Progress) {}
    }

    #[tokio::test]
    async fn a_manager_that_cannot_be_asked_goes_before_what_it_would_make_again() {
        let home = tempfile::tempdir().unwrap();
        let platform = PlatformId::new(RandomIds.uuid());
        let ssh = SshKeyPair {
            private: Sensitive::new("private"),
            public: "public".into(),
        };
        let secrets = PlatformSecrets::generate(platform, ssh, SystemClock.now()).unwrap();
        let state = StateDirectory::new(home.path(), platform);
        state.keep_secrets(&secrets).await.unwrap();
        let placed = Placed {
            cloud: CloudSpec::Local { subnet: None },
            manager: ManagerSpec {
                node: NodeName::try_from("m").unwrap(),
                port: 1,
            },
            deadlines: CloudDeadlines::default(),
        };
        state.keep_placed(&placed).await.unwrap();
        let cloud = Arc::new(Cloud::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let bootstrapper = Bootstrapper {
            backends: Backends {
                registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
                cloud: Arc::clone(&cloud) as _,
                connector: Arc::new(Nobody),
                preparer: Arc::new(Nobody),
                probe: Arc::new(Nobody),
                code: Arc::new(PublishedStore::new(home.path().into())),
                clock,
                ids: Arc::new(RandomIds),
            },
            operator_engine: None,
            state: Arc::new(state),
            secrets,
            reach: Arc::new(Nobody),
            manager_image: Arc::new(StaticBinary::new(home.path().into())),
            reporter: Arc::new(Nobody),
            driver: DriverOptions::default(),
            registry: RegistrySpec::default(),
            access: Access::default(),
            databases: Arc::new(Nobody),
        };
        bootstrapper.down(platform, false).await.unwrap();
        let gone: Vec<String> = cloud
            .0
            .lock()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(gone, ["m", "a", "z"]);
        assert!(bootstrapper.state.placed().await.unwrap().is_none());
    }
}
