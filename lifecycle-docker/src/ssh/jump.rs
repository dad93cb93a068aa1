//! A jump host: a host with SSH that is reached from outside, and reaches the nodes.
//!
//! A node's connection is a channel (`direct-tcpip`) of the one connection to the jump host,
//! and checks the node's own host key in it: the jump host carries what it cannot read. sshd's
//! `MaxSessions` counts commands, not such channels, so that one connection does for all nodes.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use lifecycle_core::host::{Duplex, ForwardTarget};
use lifecycle_core::{Error, Result};

use super::credential::{Credential, SshCredential};
use super::host_key::{HostKeyCheck, scanned};
use super::pool::{Peer, Pool, Share, SshTimings, Wanted};
use super::stream::LeasedStream;
use super::tunnel;
use crate::error::SshError;

/// How a jump host is reached, and who is reached through it.
#[derive(Debug, Clone)]
pub struct JumpHost {
    /// Its name or address.
    pub host: String,
    /// The port of its SSH server.
    pub port: u16,
    /// The account there. It needs no shell, but must be allowed to forward.
    pub user: String,
    /// Its public keys, in OpenSSH form or as `ssh-keyscan` prints them; at least one.
    pub host_keys: Vec<String>,
    /// What the account proves itself with.
    pub credential: SshCredential,
}

/// A jump host with the connection that all its nodes share.
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
    /// Dials nobody yet. A host without a known key is refused.
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
                    "`ssh-keyscan -p {port} {host}` prints its keys; compare them with what its owner \
                 says, and give one as `ssh-ed25519 AAAA…`"
                ),
            )
        };
        let host_keys = scanned(&jump.host_keys);
        if host_keys.is_empty() {
            return Err(refused("no host key of it is known".into()));
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

    /// The same with another patience, and connections of its own.
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

    /// Its account, name and port, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes sure that it answers and lets us in.
    pub(crate) async fn check(&self) -> Result<()> {
        let checked = self.pool.check().await;
        checked.map_err(|error| self.failed(error).for_host(&self.name))
    }

    /// A connection that the jump host makes to `host`.
    pub(super) fn reach<'a>(
        &'a self,
        host: &str,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Duplex>, SshError>> {
        let wanted = Wanted::Forward(ForwardTarget::Tcp {
            host: host.to_owned(),
            port,
        });
        // Boxed: a pool dials through a jump host, whose pool dials.
        Box::pin(async move {
            let opened = self.pool.open(&wanted, Share::Shared).await;
            let (channel, lease) = opened.map_err(|error| self.failed(error))?;
            let stream = LeasedStream::new(channel, lease);
            Ok(tunnel::through(stream, self.pool.peer().timings.silence()))
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
    fn a_jump_host_without_a_key_is_refused_with_the_way_to_learn_it() {
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
