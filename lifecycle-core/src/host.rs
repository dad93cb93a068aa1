//! The operating system of a node: running commands, writing files, opening connections, and
//! preparing the node for containers.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::runtime::{ContainerRuntime, EngineInfo};
use crate::secret::Sensitive;

pub use crate::stream::{ByteStream, Duplex};

/// The path at which the manager on a local node finds the socket of the operator's engine.
pub const OPERATOR_ENGINE_SOCKET: &str = "/run/lifecycle/host-docker.sock";

/// The file that names the platform that has taken over a machine that exists already. Everyone may
/// read it.
pub const OWNER_FILE: &str = "/var/lib/lifecycle/owner";

/// An SSH key pair in OpenSSH format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKeyPair {
    pub private: Sensitive,
    /// The public key, on one line.
    pub public: String,
}

/// A command on a node.
#[derive(Clone, PartialEq, Eq)]
pub struct HostCommand {
    /// A script for `/bin/sh`. Must not contain secrets, because process lists show the script.
    pub script: String,
    pub as_root: bool,
    /// The standard input, which may contain secrets.
    pub stdin: Bytes,
    /// How long the command may run before it is aborted.
    pub timeout: Duration,
}

impl Debug for HostCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostCommand")
            .field("script", &self.script)
            .field("as_root", &self.as_root)
            .field("stdin", &format_args!("{} bytes", self.stdin.len()))
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl HostCommand {
    /// Creates a command that runs as the login user, with a timeout of one minute.
    pub fn new(script: impl Into<String>) -> Self {
        Self {
            script: script.into(),
            as_root: false,
            stdin: Bytes::new(),
            timeout: Duration::from_mins(1),
        }
    }

    /// Runs the command as root.
    #[must_use]
    pub fn as_root(mut self) -> Self {
        self.as_root = true;
        self
    }

    /// Sets the timeout.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOutput {
    /// The exit code; 255 if a signal ended the command.
    pub code: u32,
    pub stdout: String,
    pub stderr: String,
}

impl HostOutput {
    /// Returns the standard output of a successful command; otherwise, returns an error with the
    /// last lines of the output.
    pub fn success(self, what: &str) -> Result<String> {
        if self.code == 0 {
            return Ok(self.stdout);
        }
        let output = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let lines: Vec<&str> = output.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join(" / ");
        Err(Error::failed(
            what,
            format!("exit code {}: {tail}", self.code),
        ))
    }
}

/// A file to write to a node, owned by root.
pub struct HostFile {
    /// The absolute path. Missing directories are created, accessible only to root.
    pub path: String,
    /// The permissions, for example `0o400`.
    pub mode: u32,
    pub contents: ByteStream,
}

impl Debug for HostFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostFile")
            .field("path", &self.path)
            .field("mode", &format_args!("{:o}", self.mode))
            .finish_non_exhaustive()
    }
}

impl HostFile {
    /// Creates a file with these contents.
    pub fn new(path: impl Into<String>, mode: u32, contents: impl Into<Bytes>) -> Self {
        let bytes: Bytes = contents.into();
        Self {
            path: path.into(),
            mode,
            contents: Box::pin(futures_util::stream::once(async move { Ok(bytes) })),
        }
    }
}

/// The target of a connection through a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardTarget {
    /// A TCP address, resolved on the node.
    Tcp {
        /// A host name or address.
        host: String,
        port: u16,
    },
    /// A Unix socket on the node.
    Unix { path: String },
}

/// The operating system of one node.
///
/// # Guarantees
/// - `put` is atomic: the file has either its old or its complete new contents, and it has its
///   final mode and owner from the start. The call can be repeated.
/// - A host whose key differs from the pinned one is rejected before anything is sent.
///
/// # Errors
/// [`Error::Unreachable`] and [`Error::TimedOut`] may be retried; a changed host key or rejected
/// credentials are [`Error::Denied`].
#[async_trait]
pub trait NodeAccess: Debug + Send + Sync + 'static {
    /// Runs a command and waits until it exits. A non-zero exit code is not an error.
    async fn exec(&self, command: HostCommand) -> Result<HostOutput>;

    /// Writes a file as root. Different files may be written at the same time.
    async fn put(&self, file: HostFile) -> Result<()>;

    /// Opens a connection from the node to `target`.
    async fn connect(&self, target: ForwardTarget) -> Result<Box<dyn Duplex>>;

    /// Makes later calls log in again, for example after a change of the account's groups. Running
    /// calls continue.
    async fn reconnect(&self);
}

/// The origin of the account for logging in to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The account was created with the node for this platform; its groups may be changed.
    Created,
    /// The account existed before; it must not be changed.
    Adopted,
}

/// Prepares a host to run containers.
///
/// # Guarantees
/// Preparing a host that is already prepared changes nothing. If a call is canceled, the next call
/// continues the preparation.
#[async_trait]
pub trait HostPreparer: Debug + Send + Sync + 'static {
    /// Waits for the host's first-boot setup, installs and starts the engine if necessary, and
    /// checks that it works. Afterwards, a created account may use the engine's socket. `progress`
    /// receives a line for each stage; the last one of a successful call reports what was done.
    async fn prepare(
        &self,
        host: &dyn NodeAccess,
        account: Account,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<EngineInfo>;
}

/// Access to a node.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    pub host: Arc<dyn NodeAccess>,
    /// The container engine. Calls return [`Error::Unreachable`] if there is none.
    pub runtime: Arc<dyn ContainerRuntime>,
}

/// Opens connections to nodes.
///
/// # Guarantees
/// Connections are shared: until a node reboots, connecting to it again returns the same
/// connection. A broken connection is replaced at the next call.
#[async_trait]
pub trait NodeConnector: Debug + Send + Sync + 'static {
    /// Returns a handle for this node; [`Error::Unreachable`] if its SSH server does not answer.
    async fn connect(&self, node: &ObservedNode) -> Result<NodeHandle>;

    /// Returns the name of the jump host for nodes and whether this host answers; `None` if nodes
    /// are reached directly.
    async fn jump_host(&self) -> Option<(String, Result<()>)> {
        None
    }
}
