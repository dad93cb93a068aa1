//! Accesses a node's operating system over SSH: runs commands, writes files, opens connections.
//!
//! [`SshAccess`] holds no open connection of its own. Each call takes a channel from the pool,
//! which connects when needed and replaces broken connections.

mod credential;
mod exec;
mod host_key;
mod jump;
mod pool;
mod scan;
mod stream;
mod tunnel;
mod watched;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, stream as streams};
use lifecycle_core::host::{Duplex, ForwardTarget, HostCommand, HostFile, HostOutput, NodeAccess};
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};
use sha2::{Digest, Sha256};

pub use credential::{SshCredential, generate_ssh_key};
pub(crate) use exec::quote;
pub(crate) use host_key::scanned;
pub(crate) use jump::Jump;
pub use jump::JumpHost;
pub(crate) use pool::Share;
pub use pool::SshTimings;
pub use scan::offered_host_key;
pub(crate) use stream::LeasedStream;

use crate::error::SshError;
use credential::Credential;
use exec::RunError;
use pool::{ChannelKind, Lease, Peer, Pool};

/// The account that needs no sudo.
const ROOT: &str = "root";
/// Time limit for each step before and after a file's upload.
const FILE_STEP: Duration = Duration::from_mins(1);

/// How to connect to a host over SSH.
#[derive(Debug, Clone)]
pub struct SshTarget {
    /// The node's name, for messages.
    pub node: NodeName,
    /// The address to connect to.
    pub address: IpAddr,
    pub port: u16,
    /// The account: root, or an account that can run sudo without a password.
    pub user: String,
    /// The host's public keys in OpenSSH format, as its provider reports them. If there are none,
    /// the connection is rejected.
    pub host_keys: Vec<String>,
}

/// A node's operating system over SSH.
///
/// All callers that use the same `SshAccess` share its connections. Connections are opened when
/// needed; a broken connection is replaced at the next call.
pub struct SshAccess {
    host: String,
    pool: Pool,
}

impl fmt::Debug for SshAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshAccess")
            .field("host", &self.host)
            .field("user", &self.pool.peer().user)
            .finish_non_exhaustive()
    }
}

impl SshAccess {
    /// Creates access to a host without connecting. Returns [`Error::Invalid`] if the private key
    /// cannot be parsed.
    pub fn new(target: SshTarget, credential: &SshCredential, timings: SshTimings) -> Result<Self> {
        Self::through(None, target, credential, timings)
    }

    /// Creates access to a host without connecting, through a jump host if there is one.
    pub(crate) fn through(
        jump: Option<Arc<Jump>>,
        target: SshTarget,
        credential: &SshCredential,
        timings: SshTimings,
    ) -> Result<Self> {
        let address = SocketAddr::new(target.address, target.port);
        let way = jump
            .as_ref()
            .map(|jump| format!(" through {}", jump.name()));
        Ok(Self {
            host: format!(
                "node {} ({address}{})",
                target.node,
                way.unwrap_or_default()
            ),
            pool: Pool::new(Peer {
                host: target.address.to_string(),
                port: target.port,
                through: jump,
                user: target.user,
                host_keys: target.host_keys,
                credential: Credential::parse(credential)?,
                timings,
            }),
        })
    }

    /// Checks that the host responds and accepts the credential.
    pub async fn check(&self) -> Result<()> {
        self.pool.check().await.map_err(|e| self.core(&e))
    }

    /// Checks that the host responds, and returns whether it accepts the account and the credential.
    pub(crate) async fn accepts_account(&self) -> Result<bool> {
        match self.pool.check().await {
            Ok(()) => Ok(true),
            Err(error) => match &*error {
                SshError::CredentialRefused { .. } => Ok(false),
                other => Err(self.core(other)),
            },
        }
    }

    /// Returns the host's name and address, for messages.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns a number that increases with each [`NodeAccess::reconnect`]. After a reconnect, the
    /// account's permissions may differ.
    pub(crate) fn generation(&self) -> u64 {
        self.pool.generation()
    }

    /// Opens a stream to a Unix socket of the host. Returns `None` if the host responds but rejects
    /// the request.
    pub(crate) async fn unix_socket(
        &self,
        path: &str,
        share: Share,
    ) -> Result<Option<LeasedStream>> {
        let target = ForwardTarget::Unix { path: path.into() };
        match self.forward(target, share).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match &*error {
                SshError::ForwardRefused { .. } => Ok(None),
                other => Err(self.core(other)),
            },
        }
    }

    /// Opens a stream to the input and output of a command that runs as root.
    pub(crate) async fn command_stream(&self, script: &str, share: Share) -> Result<LeasedStream> {
        let (channel, lease) = self.session(share).await?;
        let line = exec::line(script, self.needs_sudo());
        channel
            .exec(true, line)
            .await
            .map_err(|e| self.core(&e.into()))?;
        Ok(LeasedStream::new(channel, lease))
    }

    fn needs_sudo(&self) -> bool {
        self.pool.peer().user != ROOT
    }

    fn core(&self, error: &SshError) -> Error {
        error.for_host(&self.host)
    }

    async fn session(&self, share: Share) -> Result<(russh::Channel<russh::client::Msg>, Lease)> {
        let opened = self.pool.open(&ChannelKind::Session, share).await;
        opened.map_err(|e| self.core(&e))
    }

    async fn forward(
        &self,
        target: ForwardTarget,
        share: Share,
    ) -> Result<LeasedStream, Arc<SshError>> {
        let kind = ChannelKind::Forward(target);
        let (channel, lease) = self.pool.open(&kind, share).await?;
        Ok(LeasedStream::new(channel, lease))
    }

    async fn run<I>(&self, script: &str, as_root: bool, input: I) -> Result<(HostOutput, u64)>
    where
        I: Stream<Item = std::io::Result<Bytes>> + Send,
    {
        let (channel, lease) = self.session(Share::Shared).await?;
        let sudo = as_root && self.needs_sudo();
        let line = exec::line(script, sudo);
        let ran = exec::run(channel, lease, line, input).await;
        let (output, sent) = ran.map_err(|e| match e {
            RunError::Ssh(error) => self.core(&error),
            RunError::Input(error) => Error::io(
                format!("reading the contents to send to {}", self.host),
                error,
            ),
        })?;
        if sudo && let Some(why) = sudo_refusal(&output) {
            return Err(Error::denied(
                format!("a command as root on {}", self.host),
                why,
                format!(
                    "allow account `{}` to run sudo without a password",
                    self.pool.peer().user
                ),
            ));
        }
        Ok((output, sent))
    }

    async fn file_step(&self, what: &str, script: &str) -> Result<String> {
        self.exec(HostCommand::new(script).as_root().within(FILE_STEP))
            .await?
            .success(what)
    }
}

#[async_trait]
impl NodeAccess for SshAccess {
    async fn exec(&self, command: HostCommand) -> Result<HostOutput> {
        let input = streams::once(async { Ok(command.stdin.clone()) });
        let run = self.run(&command.script, command.as_root, input);
        match tokio::time::timeout(command.timeout, run).await {
            Ok(ran) => ran.map(|(output, _)| output),
            Err(_) => Err(Error::timed_out(
                format!("a command on {}", self.host),
                command.timeout,
            )),
        }
    }

    async fn put(&self, file: HostFile) -> Result<()> {
        let what = format!("writing {} on {}", file.path, self.host);
        let (directory, path) = split_path(&file.path)?;
        // Upload and rename separately, so that an incomplete upload is never renamed. The next
        // upload deletes the temporary files of interrupted uploads. Meanwhile, uploads of other files
        // may rename theirs.
        let draft = draft(&file.path);
        let upload = format!(
            "umask 077 && mkdir -p {directory} && \
             {{ find {directory} -maxdepth 1 -name '{TEMPORARY}*' \
             \\( -name '{draft}*' -o -mmin +60 \\) -delete 2>/dev/null || true; }} && \
             t=$(mktemp {directory}/{draft}XXXXXXXXXX) && printf %s \"$t\" && cat > \"$t\""
        );
        let (output, sent) = self.run(&upload, true, file.contents).await?;
        let temporary = quote(output.success(&what)?.trim());
        let mode = file.mode & 0o7777;
        let rename = format!(
            "[ \"$(stat -c %s {temporary})\" = {sent} ] && chown 0:0 {temporary} && \
             chmod {mode:o} {temporary} && sync {temporary} && mv -fT {temporary} {path} || \
             {{ c=$?; rm -f {temporary}; exit $c; }}"
        );
        self.file_step(&what, &rename).await.map(drop)
    }

    async fn connect(&self, target: ForwardTarget) -> Result<Box<dyn Duplex>> {
        // The caller reads the stream at its own pace and may stall, so use a separate connection.
        match self.forward(target, Share::Alone).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.core(&error)),
        }
    }

    async fn reconnect(&self) {
        self.pool.renew();
    }
}

/// The name prefix of all temporary files.
const TEMPORARY: &str = ".lifecycle-put.";

/// Returns the name prefix of temporary files for the file at `path`. The prefix contains no
/// characters that are special in a shell.
fn draft(path: &str) -> String {
    let mut digest = hex::encode(Sha256::digest(path));
    digest.truncate(16);
    format!("{TEMPORARY}{digest}.")
}

/// Returns a file's directory and its whole path, both quoted.
fn split_path(path: &str) -> Result<(String, String)> {
    let invalid = |why: &str| {
        Error::invalid(
            format!("the path `{path}`"),
            why,
            "specify the file's absolute path",
        )
    };
    if path.contains(['\0', '\n']) {
        return Err(invalid("it contains a line break or a NUL byte"));
    }
    match path.rsplit_once('/') {
        Some((directory, name)) if path.starts_with('/') && !matches!(name, "" | "." | "..") => {
            let directory = if directory.is_empty() { "/" } else { directory };
            Ok((quote(directory), quote(path)))
        }
        _ => Err(invalid("it is not the absolute path of a file")),
    }
}

/// Returns sudo's own error message, if sudo did not run the command.
fn sudo_refusal(output: &HostOutput) -> Option<String> {
    const REFUSALS: [&str; 5] = [
        "a password is required",
        "is not in the sudoers file",
        "is not allowed to",
        "sudo: not found",
        "sudo: command not found",
    ];
    let line = output.stderr.lines().last()?.trim();
    let refused = matches!(output.code, 1 | 127)
        && output.stdout.is_empty()
        && REFUSALS.iter().any(|words| line.contains(words))
        && line.contains("sudo");
    refused.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_absolute_file_paths() {
        let (directory, path) = split_path("/var/lib/it's here/a").unwrap();
        assert_eq!(directory, r"'/var/lib/it'\''s here'");
        assert_eq!(path, r"'/var/lib/it'\''s here/a'");
        assert_eq!(split_path("/a").unwrap().0, "'/'");
        for bad in ["", "a", "a/b", "/", "/a/", "/a/..", "/a\n/b"] {
            assert!(split_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn distinguishes_a_failed_command_from_a_sudo_refusal() {
        let output = |code, stdout: &str, stderr: &str| HostOutput {
            code,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let refused = output(1, "", "sudo: a password is required\n");
        assert!(sudo_refusal(&refused).is_some());
        assert!(sudo_refusal(&output(1, "", "grep: no match")).is_none());
        assert!(sudo_refusal(&output(0, "", "")).is_none());
    }
}
