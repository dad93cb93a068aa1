//! Creates the backends that the handover from the bootstrapper specifies.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifecycle_azure::{Azure, AzureFiles};
use lifecycle_core::bootstrap::{Handover, code_directory};
use lifecycle_core::clock::{Clock, RandomIds, SystemClock};
use lifecycle_core::cloud::CloudProvider;
use lifecycle_core::code::{CachingStore, CodeStore, PublishedStore};
use lifecycle_core::error::Retry;
use lifecycle_core::host::SshKeyPair;
use lifecycle_core::platform::{CloudSpec, CodeStoreSpec};
use lifecycle_core::reconcile::{Backends, OwnImage};
use lifecycle_core::registry::{Mirrors, SqlDatabases, SqlRegistry};
use lifecycle_core::runtime::{Owner, StaticBinary};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use lifecycle_docker::{
    AddressChoice, DebianPreparer, Hosts, LocalNodes, MixedCloud, SocketReadiness, SshConnector,
    SshCredential,
};

/// The program of this process.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The interval between attempts to connect to a database that does not respond.
const RECONNECT: Duration = Duration::from_secs(2);

/// Creates the backends that the handover specifies, and the mirrors of the registry.
pub(crate) async fn backends(
    handover: &Handover,
    directory: &Path,
) -> Result<(Backends, Option<Mirrors>)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let owner = Owner {
        id: handover.config.platform,
        name: handover.config.name.clone(),
    };
    let registry = registry(handover, directory, &clock).await?;
    let databases = Arc::new(SqlDatabases::new(Arc::clone(&clock)));
    let mirrors = handover.mirrors(registry.id(), databases);
    let backends = Backends {
        registry: Arc::new(registry),
        cloud: cloud(handover, &owner)?,
        connector: Arc::new(connector(handover, owner)),
        preparer: Arc::new(DebianPreparer),
        probe: Arc::new(SocketReadiness),
        code: code(handover)?,
        clock,
        ids: Arc::new(RandomIds),
        own_image: handover.config.image.clone().map(|name| OwnImage {
            name,
            source: Arc::new(StaticBinary::new(OWN_PROGRAM.into())),
        }),
    };
    Ok((backends, mirrors))
}

fn connector(handover: &Handover, owner: Owner) -> SshConnector {
    let own = SshCredential::PrivateKey(handover.ssh_private.clone());
    let connector = SshConnector::new(own, owner, AddressChoice::Private);
    match handover.config.cloud {
        // A local node has no other address.
        CloudSpec::Local { .. } => connector,
        _ => connector.with_private_ports(),
    }
}

/// Opens the registry: the central database if the handover specifies one, otherwise a file in
/// `directory`. Waits until the database responds, since it may still be starting.
async fn registry(
    handover: &Handover,
    directory: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<SqlRegistry> {
    let file = || {
        let path = directory.join("registry.db");
        Sensitive::new(format!("sqlite://{}?mode=rwc", path.display()))
    };
    let url = handover.registry.central.clone().unwrap_or_else(file);
    loop {
        let key = handover.key.clone();
        match SqlRegistry::open(url.expose(), key, Arc::clone(clock)).await {
            Err(error) if is_temporary(&error) => {
                tracing::warn!(error = %error.chain(), "the registry is not available yet; trying again");
                tokio::time::sleep(RECONNECT).await;
            }
            opened => return opened,
        }
    }
}

fn is_temporary(error: &Error) -> bool {
    matches!(error.retry(), Retry::After(_))
}

fn cloud(handover: &Handover, owner: &Owner) -> Result<Arc<dyn CloudProvider>> {
    let (owner, key) = (owner.clone(), &handover.config.ssh_public);
    let ssh = SshKeyPair {
        private: handover.ssh_private.clone(),
        public: key.clone(),
    };
    Ok(match &handover.config.cloud {
        CloudSpec::Local { subnet } => {
            Arc::new(LocalNodes::for_manager(subnet.as_deref(), owner, key)?)
        }
        CloudSpec::Azure(spec) => {
            // Also without declared machines, because machines can be adopted at run time.
            let hosts = Hosts::for_manager(&spec.hosts, owner.clone(), &ssh);
            let azure = Azure::for_manager(spec, &handover.credentials, owner, key)?;
            Arc::new(MixedCloud::new(Arc::new(azure), hosts))
        }
        CloudSpec::Hosts(spec) => Arc::new(Hosts::for_manager(spec, owner, &ssh)),
        other => {
            return Err(Error::unsupported(
                format!("the cloud {other:?}"),
                "this manager",
            ));
        }
    })
}

/// Creates the code store: the bootstrapper's code directory, or a remote store with a cache in
/// this directory.
fn code(handover: &Handover) -> Result<Arc<dyn CodeStore>> {
    let directory = code_directory(handover.config.platform).into();
    match &handover.config.code {
        CodeStoreSpec::Directory => Ok(Arc::new(PublishedStore::new(directory))),
        CodeStoreSpec::AzureFiles(spec) => {
            let share = AzureFiles::for_manager(spec, &handover.credentials)?;
            Ok(Arc::new(CachingStore::new(directory, Arc::new(share))))
        }
        other => Err(Error::unsupported(
            format!("the code store {other:?}"),
            "this manager",
        )),
    }
}
