//! Backends for the bootstrapper, by what the declaration says.

use std::path::PathBuf;
use std::sync::Arc;

use etcetera::BaseStrategy as _;
use lifecycle_core::bootstrap::{
    Bootstrapper, Finding, Health, OperatorState, PlatformSecrets, Reporter, StateDirectory,
    StaticBinary, ThroughNode,
};
use lifecycle_core::clock::{Clock, RandomIds, SystemClock};
use lifecycle_core::cloud::CloudProvider;
use lifecycle_core::code::CodeStore;
use lifecycle_core::model::NodeName;
use lifecycle_core::platform::{CloudSpec, Declaration, RegistrySpec};
use lifecycle_core::reconcile::{Backends, DriverOptions};
use lifecycle_core::registry::{MemoryRegistry, SqlDatabases};
use lifecycle_core::runtime::{ContainerRuntime, Owner};
use lifecycle_core::sim::{SimOptions, SimWorld};
use lifecycle_core::{Error, Result};
use lifecycle_docker::{
    AddressChoice, DebianPreparer, DockerEngine, LocalNodes, LocalNodesOptions, SocketReadiness,
    SshConnector, SshCredential, generate_ssh_key,
};

use crate::project::Identity;

/// The seed of simulated worlds: the same files give the same run.
const SIMULATED_SEED: u64 = 1;

/// How long things take in a simulated world, in percent of what they take in a cloud.
const SIMULATED_PACE: u32 = 3;

/// Where the operator's own engine listens, unless `DOCKER_HOST` says otherwise.
const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// What this machine keeps of a platform.
pub(crate) fn state(identity: &Identity) -> Result<StateDirectory> {
    Ok(StateDirectory::new(
        &configuration_directory()?,
        identity.id,
    ))
}

pub(crate) fn configuration_directory() -> Result<PathBuf> {
    let base = etcetera::choose_base_strategy().map_err(|error| Error::Invalid {
        what: "the user's configuration directory".into(),
        why: error.to_string(),
        mend: "set HOME".into(),
    })?;
    Ok(base.config_dir())
}

/// Whether the user's configuration directory can be written.
pub(crate) fn configuration() -> Finding {
    const WHAT: &str = "configuration directory";
    const MEND: &str = "make it a directory that is yours, or name another with XDG_CONFIG_HOME";
    let directory = match configuration_directory() {
        Ok(directory) => directory,
        Err(error) => return Finding::failed(WHAT, &error, MEND),
    };
    // It is made at the first `up`, so what counts is the first that is there.
    let nearest = directory.ancestors().find(|ancestor| ancestor.exists());
    let says = directory.display().to_string();
    let is_ours = nearest.is_some_and(|nearest| {
        use rustix::fs::{Access, access};
        nearest.is_dir() && access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    });
    if is_ours {
        Finding::fine(WHAT, says)
    } else {
        Finding::of(
            Health::Wrong,
            WHAT,
            format!("{says} cannot be written"),
            MEND,
        )
    }
}

/// Whether the manager's program lies beside this one.
pub(crate) fn manager_beside_us() -> Finding {
    const WHAT: &str = "manager's program";
    match manager_program() {
        Ok(path) if path.is_file() => Finding::fine(WHAT, path.display().to_string()),
        Ok(path) => Finding::of(
            Health::Wrong,
            WHAT,
            format!("{} is not there", path.display()),
            "install both programs into one directory",
        ),
        Err(error) => Finding::failed(WHAT, &error, "call this program by its path"),
    }
}

/// The platform's secrets, or new ones that are not kept yet.
pub(crate) async fn secrets(
    state: &StateDirectory,
    identity: &Identity,
) -> Result<PlatformSecrets> {
    match state.secrets().await? {
        Some(secrets) => Ok(secrets),
        None => PlatformSecrets::generate(identity.id, generate_ssh_key()?, SystemClock.now()),
    }
}

/// A bootstrapper for a platform whose nodes come from `cloud`.
pub(crate) fn bootstrapper(
    identity: &Identity,
    cloud: &CloudSpec,
    manager_node: &NodeName,
    state: StateDirectory,
    secrets: PlatformSecrets,
    code: Arc<dyn CodeStore>,
    reporter: Arc<dyn Reporter>,
) -> Result<Bootstrapper> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let owner = Owner {
        id: identity.id,
        name: identity.name.clone(),
    };
    let cloud: Arc<dyn CloudProvider> = match cloud {
        CloudSpec::Local { subnet } => {
            let mut options = LocalNodesOptions::new(owner.clone(), secrets.ssh.public.clone());
            options.socket = engine_socket()?;
            options.manager_node = Some(manager_node.clone());
            options.subnet = subnet.as_deref().map(str::parse).transpose()?;
            Arc::new(LocalNodes::new(options)?)
        }
        other => {
            return Err(Error::Unsupported {
                what: format!("the cloud {other:?}"),
                backend: "this bootstrapper",
            });
        }
    };
    // An engine elsewhere is not asked: what it has is given where a socket leads to it.
    let operator_engine = engine_socket()
        .ok()
        .filter(|socket| socket.exists())
        .map(|socket| DockerEngine::local(socket, owner.clone()))
        .transpose()?
        .map(|engine| Arc::new(engine) as Arc<dyn ContainerRuntime>);
    Ok(Bootstrapper {
        backends: Backends {
            registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
            cloud,
            connector: Arc::new(SshConnector::new(
                SshCredential::PrivateKey(secrets.ssh.private.clone()),
                owner,
                AddressChoice::PublicThenPrivate,
            )),
            preparer: Arc::new(DebianPreparer),
            probe: Arc::new(SocketReadiness),
            code,
            clock,
            ids: Arc::new(RandomIds),
        },
        operator_engine,
        state: Arc::new(state),
        reach: Arc::new(ThroughNode {
            authority: secrets.authority.certificate.clone(),
            token: secrets.admin_token.clone(),
        }),
        secrets,
        manager_image: Arc::new(StaticBinary::new(manager_program()?)),
        reporter,
        driver: DriverOptions::default(),
        registry: RegistrySpec::default(),
        databases: Arc::new(SqlDatabases::new(Arc::new(SystemClock))),
    })
}

/// A bootstrapper in a simulated world, with the user's own code bases.
pub(crate) fn simulated(
    declaration: &Declaration,
    code: Arc<dyn CodeStore>,
    reporter: Arc<dyn Reporter>,
) -> Result<Bootstrapper> {
    let world = SimWorld::with_options(SimOptions {
        pace_percent: SIMULATED_PACE,
        ..SimOptions::seeded(SIMULATED_SEED)
    });
    let mut bootstrapper = world.bootstrapper(declaration)?;
    bootstrapper.backends.code = code;
    bootstrapper.reporter = reporter;
    Ok(bootstrapper)
}

/// The socket of the operator's own engine.
pub(crate) fn engine_socket() -> Result<PathBuf> {
    match std::env::var("DOCKER_HOST") {
        Err(_) => Ok(ENGINE_SOCKET.into()),
        Ok(host) if host.is_empty() => Ok(ENGINE_SOCKET.into()),
        Ok(host) => match host.strip_prefix("unix://") {
            Some(socket) => Ok(socket.into()),
            None => Err(Error::Invalid {
                what: format!("DOCKER_HOST={host}"),
                why: "local nodes need an engine on this machine".into(),
                mend: "unset it, or set it to unix://<socket>".into(),
            }),
        },
    }
}

/// The manager's program, which lies beside this one.
fn manager_program() -> Result<PathBuf> {
    let own = std::env::current_exe()
        .map_err(|error| Error::io("finding this program's own path", error))?;
    Ok(own.with_file_name("lifecycle-manager"))
}
