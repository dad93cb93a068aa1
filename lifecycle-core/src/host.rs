//! A node's operating system: commands, files, connections; and its preparation for containers.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::runtime::{ContainerRuntime, EngineInfo};
use crate::secret::Sensitive;

pub use crate::stream::{ByteStream, Duplex};

/// The socket of the operator's engine on the local node that runs the manager.
pub const OPERATOR_ENGINE_SOCKET: &str = "/run/lifecycle/host-docker.sock";

/// An SSH key pair in OpenSSH's forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKeyPair {
    /// The private key.
    pub private: Sensitive,
    /// The public key, one line.
    pub public: String,
}

/// A command on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCommand {
    /// A line for `/bin/sh`. Holds no secret: process lists show it.
    pub script: String,
    /// Whether it runs as root.
    pub as_root: bool,
    /// What it reads.
    pub stdin: Bytes,
    /// After how long it is given up.
    pub timeout: Duration,
}

impl HostCommand {
    /// A command of the account itself, given up after a minute.
    pub fn new(script: impl Into<String>) -> Self {
        Self {
            script: script.into(),
            as_root: false,
            stdin: Bytes::new(),
            timeout: Duration::from_mins(1),
        }
    }

    /// The same as root.
    #[must_use]
    pub fn as_root(mut self) -> Self {
        self.as_root = true;
        self
    }

    /// The same with another limit.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOutput {
    /// The exit code; 255 if a signal ended it.
    pub code: u32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl HostOutput {
    /// The standard output, or an error with the last lines that the command wrote.
    pub fn success(self, what: &str) -> Result<String> {
        if self.code == 0 {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let lines: Vec<&str> = said.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join(" / ");
        Err(Error::failed(
            what,
            format!("exit code {}: {tail}", self.code),
        ))
    }
}

/// A file to be put on a node, owned by root.
pub struct HostFile {
    /// Its absolute path. Missing directories are made, open to root only.
    pub path: String,
    /// Its permissions, for example `0o400`.
    pub mode: u32,
    /// Its contents.
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
    /// A small file.
    pub fn new(path: impl Into<String>, mode: u32, contents: impl Into<Bytes>) -> Self {
        let bytes: Bytes = contents.into();
        Self {
            path: path.into(),
            mode,
            contents: Box::pin(futures_util::stream::once(async move { Ok(bytes) })),
        }
    }
}

/// Where a connection through a node leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardTarget {
    /// A TCP address as the node sees it.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket on the node.
    Unix {
        /// Its path.
        path: String,
    },
}

/// The operating system of one node.
///
/// # Guarantees
/// - `put` is atomic: the file has its old contents or all of the new ones, and its mode and
///   owner from the first moment. Repeating it is harmless.
/// - A host that offers another key than the pinned one is refused before anything is sent.
///
/// # Errors
/// [`Error::Unreachable`] and [`Error::TimedOut`] may be tried again; a changed host key or a
/// refused credential is [`Error::Denied`].
#[async_trait]
pub trait NodeAccess: Debug + Send + Sync + 'static {
    /// Runs a command to its end. A non-zero exit code is no error here.
    async fn exec(&self, command: HostCommand) -> Result<HostOutput>;

    /// Writes a file as root.
    async fn put(&self, file: HostFile) -> Result<()>;

    /// Opens a connection from the node.
    async fn connect(&self, target: ForwardTarget) -> Result<Box<dyn Duplex>>;

    /// Makes later calls log in again: a login keeps the groups that its account had when it
    /// began. Calls in progress go on.
    async fn reconnect(&self);
}

/// The account that a node is reached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Created with the node for this platform: its groups are ours to set.
    Created,
    /// It was there before, and keeps what it has.
    Adopted,
}

/// Turns a bare host into one that runs containers.
///
/// # Guarantees
/// Repeating it changes nothing on a host that is prepared. Dropped at any point, the next
/// call goes on.
#[async_trait]
pub trait HostPreparer: Debug + Send + Sync + 'static {
    /// Waits for the host's own first-boot work, installs the engine if it is missing, starts
    /// it if it does not run, and verifies it. A created account may use the engine's socket
    /// afterwards. `progress` gets a line per stage.
    async fn prepare(
        &self,
        host: &dyn NodeAccess,
        account: Account,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<EngineInfo>;
}

/// A node that can be worked with.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    /// Its operating system.
    pub host: Arc<dyn NodeAccess>,
    /// Its engine. Calls fail with [`Error::Unreachable`] while there is none.
    pub runtime: Arc<dyn ContainerRuntime>,
}

/// Opens connections to nodes.
///
/// # Guarantees
/// Connections are shared: asking again for a node in the same boot gives the same one, and a
/// broken one is replaced at the next call.
#[async_trait]
pub trait NodeConnector: Debug + Send + Sync + 'static {
    /// A handle for this node. Says [`Error::Unreachable`] if its SSH server does not answer.
    async fn connect(&self, node: &ObservedNode) -> Result<NodeHandle>;

    /// The name of the host that nodes are reached through, and whether it answers; `None` where
    /// nothing stands between.
    async fn jump_host(&self) -> Option<(String, Result<()>)> {
        None
    }
}
