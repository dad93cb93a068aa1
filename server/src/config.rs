//! From the hand-over to backends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::Result;
use lifecycle_core::bootstrap::{HOST_ENGINE_SOCKET, Handover, code_directory};
use lifecycle_core::clock::{Clock, IdSource, RandomIds, SystemClock};
use lifecycle_core::cloud::CloudProvider;
use lifecycle_core::code::PublishedStore;
use lifecycle_core::manager::ManagerOptions;
use lifecycle_core::platform::CloudSpec;
use lifecycle_core::reconcile::{Backends, DriverOptions};
use lifecycle_core::registry::SqlRegistry;
use lifecycle_core::runtime::Owner;
use lifecycle_docker::{
    AddressChoice, DebianPreparer, LocalNodes, LocalNodesOptions, SocketReadiness, SshConnector,
    SshCredential,
};

/// How long a manager leads without renewing.
const LEASE: Duration = Duration::from_secs(15);

/// The backends that a hand-over asks for.
pub(crate) async fn backends(handover: &Handover, directory: &Path) -> Result<Backends> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let owner = Owner {
        id: handover.config.platform,
        name: handover.config.name.clone(),
    };
    let database = format!(
        "sqlite://{}?mode=rwc",
        directory.join("registry.db").display()
    );
    let registry = SqlRegistry::open(&database, handover.key.clone(), Arc::clone(&clock)).await?;
    Ok(Backends {
        registry: Arc::new(registry),
        cloud: cloud(handover, &owner)?,
        connector: Arc::new(SshConnector::new(
            SshCredential::PrivateKey(handover.ssh_private.clone()),
            owner,
            AddressChoice::Private,
        )),
        preparer: Arc::new(DebianPreparer),
        probe: Arc::new(SocketReadiness),
        code: Arc::new(PublishedStore::new(
            code_directory(handover.config.platform).into(),
        )),
        clock,
        ids: Arc::new(RandomIds),
    })
}

fn cloud(handover: &Handover, owner: &Owner) -> Result<Arc<dyn CloudProvider>> {
    match &handover.config.cloud {
        CloudSpec::Local { subnet } => {
            let mut options =
                LocalNodesOptions::new(owner.clone(), handover.config.ssh_public.clone());
            options.socket = HOST_ENGINE_SOCKET.into();
            options.subnet = subnet.as_deref().map(str::parse).transpose()?;
            Ok(Arc::new(LocalNodes::new(options)?))
        }
        other => Err(lifecycle_core::Error::Unsupported {
            what: format!("the cloud {other:?}"),
            backend: "this manager",
        }),
    }
}

/// What the manager is started with.
pub(crate) fn options(handover: Handover, ids: &dyn IdSource) -> ManagerOptions {
    let mut driver = DriverOptions::default();
    driver.policy.spares_manager_node = true;
    ManagerOptions {
        // Names this run of this process: what a former run held is not ours.
        holder: format!(
            "manager {} on {}",
            ids.uuid(),
            handover.config.endpoint.node
        ),
        name: handover.config.name,
        platform: handover.config.platform,
        key: handover.key,
        endpoint: handover.config.endpoint,
        authority: handover.authority.certificate,
        admin_token_hash: handover.config.admin_token_hash,
        read_token: handover.read_token,
        declaration: handover.declaration,
        lease: LEASE,
        driver,
    }
}
