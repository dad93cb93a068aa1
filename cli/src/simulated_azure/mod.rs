//! A simulated Azure whose VMs are local nodes: what `bootstrapper azure-simulator` runs, and what
//! tests start in one line.

mod machines;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, CLIENT_SECRET, CloudHosts, STORAGE_ACCOUNT, STORAGE_KEY, STORAGE_SHARE,
    SUBSCRIPTION, SimulatorOptions, TENANT,
};
use lifecycle_core::{Error, Result};

use self::machines::LocalMachines;

/// How a simulated Azure is started.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The Docker engine that makes the machines behind VMs; without one a VM is but a state.
    pub(crate) engine: Option<PathBuf>,
    /// What is kept here: the authority to trust, secrets, and notes of what was made.
    pub(crate) directory: PathBuf,
    /// Where it listens; without an address, where this machine and all VMs reach it.
    pub(crate) listen: Option<IpAddr>,
    /// Other names and addresses by which it is reached: its certificates are valid for them.
    pub(crate) names: Vec<String>,
    /// At which ports; 0 takes a free one.
    pub(crate) ports: Ports,
    /// A file to which each request is added.
    pub(crate) record: Option<PathBuf>,
}

/// Where each service listens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) files_http: u16,
    pub(crate) files_https: u16,
}

/// A simulated Azure that runs.
#[derive(Debug)]
pub(crate) struct SimulatedAzure {
    pub(crate) simulator: AzureSimulator,
    machines: Option<Arc<LocalMachines>>,
    directory: PathBuf,
    /// Held as long as the directory is used.
    _lock: File,
}

impl SimulatedAzure {
    /// Starts one, after it has removed the machines of one that was killed.
    ///
    /// # Errors
    /// If the directory is used or cannot be, if the engine does not answer, or if an address
    /// cannot be listened on.
    pub(crate) async fn start(settings: Settings) -> Result<Self> {
        let directory = &settings.directory;
        std::fs::create_dir_all(directory).map_err(|error| io("making", directory, error))?;
        let lock = lock(directory)?;
        let machines = match &settings.engine {
            None => None,
            Some(socket) => {
                let machines = LocalMachines::new(socket, &directory.join("machines")).await?;
                machines.remove_left().await?;
                Some(Arc::new(machines))
            }
        };
        let reached_at = machines
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |m| m.gateway());
        let listen = settings.listen.unwrap_or(IpAddr::V4(reached_at));
        let at = |port| SocketAddr::new(listen, port);
        let options = SimulatorOptions {
            http: at(settings.ports.http),
            https: at(settings.ports.https),
            files_http: at(settings.ports.files_http),
            files_https: at(settings.ports.files_https),
            known_as: [settings.names, vec![reached_at.to_string()]].concat(),
            record: settings.record,
            ..SimulatorOptions::default()
        };
        let simulator = match &machines {
            None => AzureSimulator::start(options).await?,
            Some(machines) => {
                let maker = CloudHosts::new(Arc::clone(machines) as Arc<_>);
                AzureSimulator::start_with(options, Arc::new(maker)).await?
            }
        };
        if let Some(machines) = &machines {
            let at = match simulator.address().ip() {
                IpAddr::V4(address) if !address.is_unspecified() => address,
                IpAddr::V4(_) | IpAddr::V6(_) => reached_at,
            };
            machines.serve_metadata(SocketAddrV4::new(at, simulator.address().port()));
        }
        let started = Self {
            simulator,
            machines,
            directory: settings.directory,
            _lock: lock,
        };
        started.write_files()?;
        Ok(started)
    }

    /// The certificate of the authority that clients have to trust.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The secret of the client.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.directory.join("client-secret")
    }

    /// The key of the storage account.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.join("storage-key")
    }

    fn write_files(&self) -> Result<()> {
        write(
            &self.authority_file(),
            &self.simulator.authority_pem(),
            0o644,
        )?;
        write(&self.secret_file(), CLIENT_SECRET, 0o600)?;
        write(&self.key_file(), STORAGE_KEY, 0o600)
    }

    /// The part of a `platform.toml` that uses it.
    pub(crate) fn platform_toml(&self) -> String {
        let simulator = &self.simulator;
        let (endpoint, files) = (
            simulator.secure_endpoint(),
            simulator.secure_files_endpoint(),
        );
        let text = |path: PathBuf| toml_text(&path.display().to_string());
        let (ca, secret, key) = (
            text(self.authority_file()),
            text(self.secret_file()),
            text(self.key_file()),
        );
        format!(
            "[cloud]\n\
             provider = \"azure\"\n\
             subscription = \"{SUBSCRIPTION}\"\n\
             location = \"westeurope\"\n\
             endpoint = \"{endpoint}\"\n\
             authority = \"{endpoint}\"\n\
             ca = {ca}\n\
             login = {{ method = \"client-secret\", tenant = \"{TENANT}\", client = \"{CLIENT}\", \
             secret = {{ file = {secret} }} }}\n\
             \n\
             [code]\n\
             store = \"azure-files\"\n\
             account = \"{STORAGE_ACCOUNT}\"\n\
             share = \"{STORAGE_SHARE}\"\n\
             key = {{ file = {key} }}\n\
             endpoint = \"{files}\"\n\
             ca = {ca}"
        )
    }

    /// Ends it and removes all machines that it made.
    ///
    /// # Errors
    /// If the engine does not remove one; the next start tries again.
    pub(crate) async fn stop(self) -> Result<()> {
        self.simulator.stop().await;
        match &self.machines {
            Some(machines) => machines.remove_left().await.map(drop),
            None => Ok(()),
        }
    }
}

/// A text as TOML writes it.
fn toml_text(text: &str) -> String {
    // JSON's escapes are all known to TOML.
    serde_json::Value::from(text).to_string()
}

fn io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{doing} {}", path.display()), error)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    // Made anew: an older file would keep its mode.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("replacing", path, error));
        }
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| io("writing", path, error))
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|error| io("opening", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::invalid(
            format!("the directory {}", directory.display()),
            "another Azure simulator uses it",
            "end that one, or name another directory with --directory",
        )),
        Err(TryLockError::Error(error)) => Err(io("locking", &path, error)),
    }
}
