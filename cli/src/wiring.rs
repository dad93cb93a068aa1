//! Creates the backends that the declaration selects.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcetera::BaseStrategy as _;
use lifecycle_azure::{Azure, AzureFiles, RoleWait, TrustedAddresses};
use lifecycle_core::bootstrap::{
    Bootstrapper, Finding, Health, OperatorState, PlatformSecrets, Progress, Reporter,
    StateDirectory, StaticBinary,
};
use lifecycle_core::clock::{Clock, RandomIds, SystemClock};
use lifecycle_core::cloud::CloudProvider;
use lifecycle_core::code::{CodePublisher, CodeStore, DirectoryStore};
use lifecycle_core::model::NodeName;
use lifecycle_core::platform::{Access, CloudSpec, CodeStoreSpec, Declaration};
use lifecycle_core::reconcile::Backends;
use lifecycle_core::registry::{MemoryRegistry, SqlDatabases};
use lifecycle_core::runtime::{ContainerRuntime, Owner};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{SimOptions, SimWorld};
use lifecycle_core::{Error, Result};
use lifecycle_docker::{
    AddressChoice, DebianPreparer, DockerEngine, Hosts, JumpHost, LocalNodes, MixedCloud,
    SocketReadiness, SshConnector, SshCredential, generate_ssh_key,
};

use crate::identity::Identity;

/// The seed for simulations. It is constant, so that the same files always lead to the same
/// simulation.
const SIMULATED_SEED: u64 = 1;

/// The duration of operations in a simulation, as a percentage of their duration in a cloud.
const SIMULATED_PACE: u32 = 3;

/// The environment variable with a token for the manager's API, which replaces the first token.
const TOKEN: &str = "LIFECYCLE_TOKEN";

/// The socket of the local Docker engine, unless `DOCKER_HOST` is set.
const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// Returns the directory in which this machine stores a platform's state.
pub(crate) fn state(identity: &Identity) -> Result<StateDirectory> {
    Ok(StateDirectory::new(
        &configuration_directory()?,
        identity.id,
    ))
}

pub(crate) fn configuration_directory() -> Result<PathBuf> {
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Error::invalid(
            "the user's configuration directory",
            error.to_string(),
            "set HOME",
        )
    })?;
    Ok(base.config_dir())
}

/// Checks that the user's configuration directory is writable.
pub(crate) fn check_configuration_directory() -> Finding {
    const WHAT: &str = "configuration directory";
    const HINT: &str = "create the directory and make it writable for you, or set \
                        XDG_CONFIG_HOME to a writable directory";
    let directory = match configuration_directory() {
        Ok(directory) => directory,
        Err(error) => return Finding::failed(WHAT, &error, HINT),
    };
    // The first `up` creates the directory, so check its nearest ancestor that exists.
    let nearest = directory.ancestors().find(|ancestor| ancestor.exists());
    let path = directory.display().to_string();
    let is_writable = nearest.is_some_and(|nearest| {
        use rustix::fs::{Access, access};
        nearest.is_dir() && access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    });
    if is_writable {
        Finding::ok(WHAT, path)
    } else {
        Finding::new(Health::Error, WHAT, format!("{path} is not writable"), HINT)
    }
}

/// Checks that the manager's program is in the same directory as this program.
pub(crate) fn check_manager_program() -> Finding {
    const WHAT: &str = "manager's program";
    match manager_program() {
        Ok(path) if path.is_file() => Finding::ok(WHAT, path.display().to_string()),
        Ok(path) => Finding::new(
            Health::Error,
            WHAT,
            format!("{} does not exist", path.display()),
            "install both programs in the same directory",
        ),
        Err(error) => Finding::failed(WHAT, &error, "run this program by its full path"),
    }
}

/// Returns the platform's secrets, or new ones that are not stored yet.
pub(crate) async fn secrets(
    state: &StateDirectory,
    identity: &Identity,
) -> Result<PlatformSecrets> {
    match state.secrets().await? {
        Some(secrets) => Ok(secrets),
        None => PlatformSecrets::generate(identity.id, generate_ssh_key()?, SystemClock.now()),
    }
}

/// The input for creating a [`Bootstrapper`].
pub(crate) struct Parts<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) cloud: &'a CloudSpec,
    pub(crate) manager_node: &'a NodeName,
    pub(crate) state: StateDirectory,
    pub(crate) secrets: PlatformSecrets,
    pub(crate) access: Access,
    /// The directory that contains the code bases on this machine.
    pub(crate) directory: &'a Path,
    pub(crate) reporter: Arc<dyn Reporter>,
    /// The addresses outside Azure's clouds that may receive credentials.
    pub(crate) trusted: &'a TrustedAddresses,
    /// Whether the command waits until a new role assignment takes effect at the cloud.
    pub(crate) waits_for_roles: bool,
}

/// Creates the code store that the platform is built from.
pub(crate) fn code(
    access: &Access,
    directory: &Path,
    trusted: &TrustedAddresses,
) -> Result<Arc<dyn CodeStore>> {
    match &access.code {
        CodeStoreSpec::Directory => Ok(Arc::new(DirectoryStore::new(directory.to_owned()))),
        CodeStoreSpec::AzureFiles(spec) => {
            let store = AzureFiles::for_bootstrapper(spec, &access.credentials, trusted)?;
            Ok(Arc::new(store))
        }
        other => Err(Error::unsupported(
            format!("the code store {other:?}"),
            "this version of the bootstrapper",
        )),
    }
}

/// Creates the store that code bases are published to.
///
/// # Errors
/// [`Error::Invalid`] if the platform is built from the directories on this machine, or if the
/// store's address must not receive credentials.
pub(crate) fn publisher(
    access: &Access,
    trusted: &TrustedAddresses,
) -> Result<Arc<dyn CodePublisher>> {
    match &access.code {
        CodeStoreSpec::Directory => Err(Error::invalid(
            "`bootstrapper publish`",
            "services are built from the directories on this machine, so there is no store to \
             publish to",
            "run `bootstrapper up` to use the local directories, or set `store = \"azure-files\"` \
             to use a shared store (docs/publish.md)",
        )),
        CodeStoreSpec::AzureFiles(spec) => {
            let store = AzureFiles::for_bootstrapper(spec, &access.credentials, trusted)?;
            Ok(Arc::new(store))
        }
        other => Err(Error::unsupported(
            format!("publishing to the code store {other:?}"),
            "this version of the bootstrapper",
        )),
    }
}

fn cloud(parts: &Parts<'_>, owner: &Owner) -> Result<Arc<dyn CloudProvider>> {
    let (owner, key) = (owner.clone(), &parts.secrets.ssh.public);
    let manager_node = parts.manager_node.clone();
    Ok(match parts.cloud {
        CloudSpec::Local { subnet } => {
            let (subnet, socket) = (subnet.as_deref(), engine_socket()?);
            let nodes = LocalNodes::for_bootstrapper(subnet, owner, key, socket, manager_node)?;
            Arc::new(nodes)
        }
        CloudSpec::Azure(spec) => {
            let credentials = &parts.access.credentials;
            let hosts = (!spec.hosts.is_empty()).then(|| {
                let logins = &credentials.nodes;
                Hosts::for_bootstrapper(&spec.hosts, logins, owner.clone(), &parts.secrets.ssh)
            });
            let role_wait = parts.waits_for_roles.then(|| {
                let reporter = Arc::clone(&parts.reporter);
                RoleWait::for_all(move |line| {
                    let text = line.to_owned();
                    reporter.report(Progress::Note { text });
                })
            });
            let nodes = Azure::for_bootstrapper(
                spec,
                credentials,
                owner,
                key,
                manager_node,
                parts.trusted,
                role_wait,
            )?;
            with_hosts(Arc::new(nodes), hosts)
        }
        CloudSpec::Hosts(spec) => {
            let logins = &parts.access.credentials.nodes;
            Arc::new(Hosts::for_bootstrapper(
                spec,
                logins,
                owner,
                &parts.secrets.ssh,
            ))
        }
        other => {
            return Err(Error::unsupported(
                format!("the cloud {other:?}"),
                "this version of the bootstrapper",
            ));
        }
    })
}

fn with_hosts(cloud: Arc<dyn CloudProvider>, hosts: Option<Hosts>) -> Arc<dyn CloudProvider> {
    match hosts {
        Some(hosts) => Arc::new(MixedCloud::new(cloud, hosts)),
        None => cloud,
    }
}

/// Creates the connector that reaches nodes from this machine, directly or through a jump host.
fn connector(parts: &Parts<'_>, owner: Owner) -> Result<SshConnector> {
    let own = SshCredential::PrivateKey(parts.secrets.ssh.private.clone());
    let connector = SshConnector::new(own.clone(), owner, AddressChoice::PublicThenPrivate);
    let connector = match parts.cloud {
        CloudSpec::Local { .. } => connector,
        _ => connector.with_private_ports(),
    };
    let Some(jump_host) = &parts.access.jump_host else {
        return Ok(connector);
    };
    let key = parts.access.credentials.jump_host.clone();
    connector.through(JumpHost {
        host: jump_host.host.clone(),
        port: jump_host.port,
        user: jump_host.user.clone(),
        host_keys: vec![jump_host.host_key.clone()],
        credential: key.map_or(own, SshCredential::PrivateKey),
    })
}

/// Creates a bootstrapper for a platform.
pub(crate) fn bootstrapper(parts: Parts<'_>) -> Result<Bootstrapper> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let owner = Owner {
        id: parts.identity.id,
        name: parts.identity.name.clone(),
    };
    let cloud = cloud(&parts, &owner)?;
    let code = code(&parts.access, parts.directory, parts.trusted)?;
    let connector = connector(&parts, owner.clone())?;
    let Parts {
        state,
        secrets,
        access,
        reporter,
        ..
    } = parts;
    // Use the local engine only if its socket exists.
    let operator_engine = engine_socket()
        .ok()
        .filter(|socket| socket.exists())
        .map(|socket| DockerEngine::local(socket, owner.clone()))
        .transpose()?
        .map(|engine| Arc::new(engine) as Arc<dyn ContainerRuntime>);
    let backends = Backends {
        registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
        cloud,
        connector: Arc::new(connector),
        preparer: Arc::new(DebianPreparer),
        probe: Arc::new(SocketReadiness),
        code,
        clock: Arc::clone(&clock),
        ids: Arc::new(RandomIds),
        own_image: None,
    };
    let image = StaticBinary::new(manager_program()?);
    let mut builder = Bootstrapper::builder(backends, state, secrets, image)
        .operator_engine(operator_engine)
        .reporter(reporter)
        .access(access)
        .databases(SqlDatabases::new(clock));
    if let Some(token) = token()? {
        builder = builder.token(token);
    }
    Ok(builder.build())
}

/// Returns the token that the user has set for requests to the manager's API.
fn token() -> Result<Option<Sensitive>> {
    let token = std::env::var_os(TOKEN).unwrap_or_default();
    let token = token.to_str().map(str::trim);
    match token {
        Some("") => Ok(None),
        Some(token) if token.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Some(Sensitive::new(token)))
        }
        // The error must not contain the value.
        _ => Err(Error::invalid(
            TOKEN,
            "it is not a token",
            "set it to a token that `bootstrapper token create` has printed",
        )),
    }
}

/// Creates a bootstrapper for a simulated platform that is built from the user's own code bases.
pub(crate) fn simulated(
    declaration: &Declaration,
    code: Arc<dyn CodeStore>,
    reporter: Arc<dyn Reporter>,
) -> Result<Bootstrapper> {
    let world = SimWorld::with_options(SimOptions {
        pace_percent: SIMULATED_PACE,
        ..SimOptions::seeded(SIMULATED_SEED)
    });
    for spec in declaration.nodes.values() {
        if declaration.cloud.host(&spec.name).is_some() {
            world.add_machine(spec);
        }
    }
    let mut bootstrapper = world.bootstrapper(declaration)?;
    bootstrapper.backends.code = code;
    bootstrapper.reporter = reporter;
    Ok(bootstrapper)
}

/// Returns the socket of the local Docker engine.
pub(crate) fn engine_socket() -> Result<PathBuf> {
    match std::env::var("DOCKER_HOST") {
        Err(_) => Ok(ENGINE_SOCKET.into()),
        Ok(host) if host.is_empty() => Ok(ENGINE_SOCKET.into()),
        Ok(host) => match host.strip_prefix("unix://") {
            Some(socket) => Ok(socket.into()),
            None => Err(Error::invalid(
                format!("DOCKER_HOST={host}"),
                "local nodes need a Docker engine on this machine that is reachable through a Unix \
                 socket",
                "unset DOCKER_HOST, or set it to unix://<socket>",
            )),
        },
    }
}

/// Returns the manager's program, which is in the same directory as this program.
fn manager_program() -> Result<PathBuf> {
    let own = std::env::current_exe()
        .map_err(|error| Error::io("finding this program's own path", error))?;
    Ok(own.with_file_name("lifecycle-manager"))
}
