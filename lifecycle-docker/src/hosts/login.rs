//! The first login to a machine, with the declared account.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lifecycle_core::host::{HostCommand, HostOutput, NodeAccess as _};
use lifecycle_core::platform::NodeLogin;
use lifecycle_core::{Error, Result};

use crate::ssh::{SshAccess, SshCredential, SshTarget, SshTimings, quote};

const ROOT: &str = "root";

/// The declared account of a machine, and how it authenticates.
#[derive(Debug, Clone)]
pub(super) struct Login {
    user: String,
    declared: NodeLogin,
    /// The socket of the SSH agent on this machine.
    agent: Option<PathBuf>,
}

impl Login {
    pub(super) fn new(user: String, declared: NodeLogin) -> Self {
        Self {
            user,
            declared,
            agent: None,
        }
    }

    pub(super) fn use_agent(&mut self, socket: Option<&PathBuf>) {
        self.agent = socket.cloned();
    }

    /// Returns whether a password or a key is available.
    pub(super) fn is_declared(&self) -> bool {
        self.declared.password.is_some() || self.declared.key.is_some()
    }

    fn credential(&self, host: &str) -> Result<SshCredential> {
        let NodeLogin {
            password,
            key,
            unavailable,
        } = &self.declared;
        if let Some(key) = key {
            return Ok(SshCredential::PrivateKey(key.clone()));
        }
        if let Some(password) = password {
            return Ok(SshCredential::Password(password.clone()));
        }
        let denied = |why: String, hint: &str| {
            Err(Error::denied(
                format!("the first login to {host}"),
                why,
                hint,
            ))
        };
        match (unavailable, &self.agent) {
            (Some(why), _) => denied(
                why.clone(),
                "set the secret for this command; later commands do not need it",
            ),
            (None, Some(agent)) => Ok(SshCredential::Agent(agent.clone())),
            (None, None) => denied(
                format!(
                    "no password or key is declared for account `{}`, and no SSH agent is running",
                    self.user
                ),
                "specify the password or key of the account; `bootstrapper up` can also use an SSH \
                 agent to which the key was added with `ssh-add`",
            ),
        }
    }

    /// Logs in. `target` contains the machine's pinned host keys; its account is replaced.
    pub(super) async fn open(&self, target: &SshTarget, timings: SshTimings) -> Result<RootShell> {
        let target = SshTarget {
            user: self.user.clone(),
            ..target.clone()
        };
        let host = format!("machine {} ({})", target.node, target.address);
        let access = SshAccess::new(target, &self.credential(&host)?, timings)?;
        access.check().await?;
        let sudo = self.sudo(&access, &host).await?;
        Ok(RootShell { access, sudo })
    }

    async fn sudo(&self, access: &SshAccess, host: &str) -> Result<Sudo> {
        if self.user == ROOT {
            return Ok(Sudo::NotNeeded);
        }
        if access.exec(HostCommand::new("sudo -n true")).await?.code == 0 {
            return Ok(Sudo::WithoutPassword);
        }
        let denied = |why: &str| {
            Error::denied(
                format!("commands as root on {host}"),
                why,
                format!(
                    "allow account `{}` to use sudo, specify its password, or use the account root",
                    self.user
                ),
            )
        };
        let Some(password) = &self.declared.password else {
            let why = self.declared.unavailable.as_deref();
            let why = why.unwrap_or("none is declared");
            return Err(denied(&format!("sudo requires a password: {why}")));
        };
        let line = Bytes::from(format!("{}\n", password.expose()));
        let sudo = Sudo::WithPassword(line);
        let output = access.exec(sudo.command("true", Bytes::new())).await?;
        if output.code == 0 {
            return Ok(sudo);
        }
        let why = output.stderr.lines().last().unwrap_or("sudo failed");
        Err(denied(why.trim()))
    }
}

/// How commands become root.
#[derive(Clone)]
enum Sudo {
    NotNeeded,
    WithoutPassword,
    /// Sudo reads this line, the password, from standard input.
    WithPassword(Bytes),
}

impl Sudo {
    fn command(&self, script: &str, stdin: Bytes) -> HostCommand {
        let script = format!("sh -c {}", quote(script));
        let (script, stdin) = match self {
            Self::NotNeeded => (script, stdin),
            Self::WithoutPassword => (format!("sudo -n {script}"), stdin),
            // `-k` requires the password even if sudo still remembers it, so that the command never
            // receives it.
            Self::WithPassword(line) => (
                format!("sudo -k -S -p '' {script}"),
                [line.clone(), stdin].concat().into(),
            ),
        };
        HostCommand {
            stdin,
            ..HostCommand::new(script)
        }
    }
}

/// A login that runs commands as root.
pub(super) struct RootShell {
    access: SshAccess,
    sudo: Sudo,
}

impl RootShell {
    pub(super) async fn run(&self, script: &str, limit: Duration) -> Result<HostOutput> {
        let command = self.sudo.command(script, Bytes::new()).within(limit);
        self.access.exec(command).await
    }
}
