//! A jump host: an SSH host that is reachable from outside and can connect to the nodes.
//!
//! A connection to a node is a channel (`direct-tcpip`) of the single connection to the jump host.
//! The node's host key is verified within the channel, so the jump host cannot read the traffic.
//! sshd's `MaxSessions` limits sessions, not such channels, so one connection is enough for all
//! nodes.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use lifecycle_core::host::{Duplex, ForwardTarget};
use lifecycle_core::{Error, Result};

use super::credential::{Credential, SshCredential};
use super::host_key::{HostKeyCheck, scanned};
use super::pool::{ChannelKind, Peer, Pool, Share, SshTimings};
use super::stream::LeasedStream;
use super::tunnel;
use crate::error::SshError;

/// How to connect to a jump host.
#[derive(Debug, Clone)]
pub struct JumpHost {
    /// The jump host's name or address.
    pub host: String,
    pub port: u16,
    /// The account on the jump host. It needs no shell, but must be allowed to forward connections.
    pub user: String,
    /// The jump host's public keys, in OpenSSH format or as printed by `ssh-keyscan`; at least one.
    pub host_keys: Vec<String>,
    /// The account's credential.
    pub credential: SshCredential,
}

/// A jump host, and the connection that all nodes behind it share.
pub(crate) struct Jump {
    name: String,
    pool: Pool,
}

impl fmt::Debug for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jump")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Jump {
    /// Creates a handle without connecting. Fails if the jump host has no valid host key.
    pub(crate) fn new(jump: JumpHost, timings: SshTimings) -> Result<Self> {
        let JumpHost {
            host, port, user, ..
        } = jump;
        let name = format!("jump host {user}@{host}:{port}");
        let refused = |why: String| {
            Error::invalid(
                name.clone(),
                why,
                format!(
                    "run `ssh-keyscan -p {port} {host}`, check the printed keys against those \
                     published by the host's owner, and configure a key that matches, in the form \
                     `ssh-ed25519 AAAA…`"
                ),
            )
        };
        let host_keys = scanned(&jump.host_keys);
        if host_keys.is_empty() {
            return Err(refused("no host key is configured for it".into()));
        }
        HostKeyCheck::new(&host_keys).map_err(|error| refused(error.to_string()))?;
        let credential = Credential::parse(&jump.credential)?;
        Ok(Self {
            name,
            pool: Pool::new(Peer {
                host,
                port,
                through: None,
                user,
                host_keys,
                credential,
                timings,
            }),
        })
    }

    /// Returns a copy with other timeouts and its own connections.
    pub(crate) fn with_timings(&self, timings: SshTimings) -> Self {
        let peer = Peer {
            timings,
            ..self.pool.peer().clone()
        };
        Self {
            name: self.name.clone(),
            pool: Pool::new(peer),
        }
    }

    /// Returns the jump host's account, name, and port, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Checks that the jump host responds and accepts the credential.
    pub(crate) async fn check(&self) -> Result<()> {
        let checked = self.pool.check().await;
        checked.map_err(|error| self.failed(error).for_host(&self.name))
    }

    /// Opens a connection from the jump host to `host`.
    pub(super) fn reach<'a>(
        &'a self,
        host: &str,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Duplex>, SshError>> {
        let kind = ChannelKind::Forward(ForwardTarget::Tcp {
            host: host.to_owned(),
            port,
        });
        // The future is boxed because the types are recursive: a pool connects through a jump host,
        // which has a pool.
        Box::pin(async move {
            let opened = self.pool.open(&kind, Share::Shared).await;
            let (channel, lease) = opened.map_err(|error| self.failed(error))?;
            let stream = LeasedStream::new(channel, lease);
            Ok(tunnel::through(
                stream,
                self.pool.peer().timings.detection_time(),
            ))
        })
    }

    fn failed(&self, why: Arc<SshError>) -> SshError {
        SshError::Jump {
            jump: self.name.clone(),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use lifecycle_core::secret::Sensitive;

    use super::*;

    fn jump(host_keys: &[&str]) -> Result<Jump> {
        let jump = JumpHost {
            host: "bastion.example".into(),
            port: 2222,
            user: "ops".into(),
            host_keys: host_keys.iter().map(|key| (*key).to_owned()).collect(),
            credential: SshCredential::Password(Sensitive::new("hunter2")),
        };
        assert!(!format!("{jump:?}").contains("hunter2"), "{jump:?}");
        Jump::new(jump, SshTimings::default())
    }

    #[test]
    fn a_jump_host_without_a_key_is_rejected_with_a_hint() {
        let cut_off = "bastion.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA";
        for keys in [&[][..], &[""], &[cut_off]] {
            let error = jump(keys).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains("ops@bastion.example:2222"));
            let hint = error.hint().unwrap();
            assert!(
                hint.contains("ssh-keyscan -p 2222 bastion.example"),
                "{hint}"
            );
        }
    }
}
