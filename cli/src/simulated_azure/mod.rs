//! A simulated Azure whose VMs are local nodes, for `bootstrapper azure-simulator` and tests.

mod machines;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifecycle_azure::TrustedAddresses;
use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, CLIENT_SECRET, CloudHosts, STORAGE_ACCOUNT, STORAGE_KEY, STORAGE_SHARE,
    SUBSCRIPTION, SimulatorOptions, TENANT,
};
use lifecycle_core::{Error, Result};

use self::machines::LocalMachines;

/// The file with the CA certificate to trust.
const AUTHORITY: &str = "ca.pem";
/// The file with the addresses of a running simulator.
const ADDRESSES: &str = "addresses";

/// Options of a simulated Azure.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The socket of the Docker engine that runs a container for each simulated VM. If `None`, a VM
    /// is only a record.
    pub(crate) engine: Option<PathBuf>,
    /// The directory for the CA certificate, the secrets, and the list of created machines.
    pub(crate) directory: PathBuf,
    /// The address to listen on; by default, one that this machine and all VMs can reach.
    pub(crate) listen: Option<IpAddr>,
    /// Additional names and addresses to include in the simulator's certificates.
    pub(crate) names: Vec<String>,
    /// The ports; 0 selects a free one.
    pub(crate) ports: Ports,
    /// A file to which each request is appended.
    pub(crate) record: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) files_http: u16,
    pub(crate) files_https: u16,
}

/// A running simulated Azure.
#[derive(Debug)]
pub(crate) struct SimulatedAzure {
    pub(crate) simulator: AzureSimulator,
    machines: Option<Arc<LocalMachines>>,
    directory: PathBuf,
    /// Holds the lock on the directory.
    _lock: File,
}

impl SimulatedAzure {
    /// Removes the machines that a killed simulator left behind, then starts a simulator.
    ///
    /// # Errors
    /// Fails if the directory is in use or not writable, the engine does not respond, or an address
    /// cannot be bound.
    pub(crate) async fn start(settings: Settings) -> Result<Self> {
        let directory = &settings.directory;
        std::fs::create_dir_all(directory).map_err(|error| io("creating", directory, error))?;
        let lock = lock(directory)?;
        let machines = match &settings.engine {
            None => None,
            Some(socket) => {
                let machines = LocalMachines::new(socket, &directory.join("machines")).await?;
                machines.remove_leftovers().await?;
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
                let factory = CloudHosts::new(Arc::clone(machines) as Arc<_>);
                AzureSimulator::start_with(options, Arc::new(factory)).await?
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

    /// Returns the file with the CA certificate to trust.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.directory.join(AUTHORITY)
    }

    /// Returns the file with the client secret.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.directory.join("client-secret")
    }

    /// Returns the file with the storage account's key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.join("storage-key")
    }

    fn addresses_file(&self) -> PathBuf {
        self.directory.join(ADDRESSES)
    }

    /// Returns the addresses to which clients send credentials.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.simulator.secure_addresses()
    }

    fn write_files(&self) -> Result<()> {
        write(
            &self.authority_file(),
            &self.simulator.authority_pem(),
            0o644,
        )?;
        write(&self.secret_file(), CLIENT_SECRET, 0o600)?;
        write(&self.key_file(), STORAGE_KEY, 0o600)?;
        write(&self.addresses_file(), &self.addresses().join("\n"), 0o644)
    }

    /// Returns the lines for a `platform.toml` that uses this simulator.
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

    /// Stops the simulator and removes all machines that it created.
    ///
    /// # Errors
    /// Fails if the engine cannot remove a machine; the next start tries again.
    pub(crate) async fn stop(self) -> Result<()> {
        // An absent file only means that no address is trusted.
        drop(std::fs::remove_file(self.addresses_file()));
        self.simulator.stop().await;
        match &self.machines {
            Some(machines) => machines.remove_leftovers().await.map(drop),
            None => Ok(()),
        }
    }
}

/// Returns the directory of a simulator that is started without `--directory`.
pub(crate) fn default_directory(configuration: &Path) -> PathBuf {
    configuration.join("lifecycle/azure-simulator")
}

/// Trusts the addresses of the simulator that runs in the default directory. Only this user can
/// write to that directory. The addresses count only together with the simulator's certificate
/// authority, so that another process that listens there later cannot read anything.
pub(crate) fn trust(configuration: &Path, trusted: &mut TrustedAddresses) {
    let directory = default_directory(configuration);
    let read = |name: &str| std::fs::read_to_string(directory.join(name));
    let (Ok(addresses), Ok(authority)) = (read(ADDRESSES), read(AUTHORITY)) else {
        return;
    };
    for address in addresses.lines() {
        // A damaged line trusts no address.
        drop(trusted.add_with_authority(address, &authority));
    }
}

/// Formats a string in TOML syntax.
fn toml_text(text: &str) -> String {
    // A JSON string is also a TOML string, because TOML supports all of JSON's escapes.
    serde_json::Value::from(text).to_string()
}

fn io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{doing} {}", path.display()), error)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    // Delete an existing file first: overwriting the file would not change its mode.
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
            "another Azure simulator is using the directory",
            "stop that simulator, or choose another directory with --directory",
        )),
        Err(TryLockError::Error(error)) => Err(io("locking", &path, error)),
    }
}
