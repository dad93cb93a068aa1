//! SSH credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifecycle_core::host::SshKeyPair;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, decode_secret_key};

use super::host_key::HostKeyCheck;
use crate::error::SshError;

/// How an account authenticates. The account's name is part of each node's description.
#[derive(Debug, Clone)]
pub enum SshCredential {
    /// A private key in OpenSSH format, without a passphrase.
    PrivateKey(Sensitive),
    Password(Sensitive),
    /// The keys of the SSH agent that listens on this Unix socket.
    Agent(PathBuf),
}

/// A parsed credential.
#[derive(Clone)]
pub(super) enum Credential {
    Key(Arc<PrivateKey>),
    Password(Sensitive),
    Agent(PathBuf),
}

impl Credential {
    pub(super) fn parse(credential: &SshCredential) -> Result<Self> {
        match credential {
            SshCredential::Password(password) => Ok(Self::Password(password.clone())),
            SshCredential::Agent(socket) => Ok(Self::Agent(socket.clone())),
            SshCredential::PrivateKey(text) => match decode_secret_key(text.expose(), None) {
                Ok(key) => Ok(Self::Key(Arc::new(key))),
                Err(error) => Err(Error::invalid(
                    "the SSH private key",
                    error.to_string(),
                    "provide a key in OpenSSH format without a passphrase, or add the key to an SSH \
                     agent",
                )),
            },
        }
    }

    /// Authenticates on a connection whose host key was accepted.
    pub(super) async fn authenticate(
        &self,
        handle: &mut Handle<HostKeyCheck>,
        user: &str,
    ) -> Result<(), SshError> {
        let result = match self {
            Self::Password(password) => {
                handle
                    .authenticate_password(user, password.expose())
                    .await?
            }
            Self::Key(key) => {
                let hash = if key.algorithm().is_rsa() {
                    handle.best_supported_rsa_hash().await?.flatten()
                } else {
                    None
                };
                let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
                handle.authenticate_publickey(user, key).await?
            }
            Self::Agent(socket) => with_agent(socket, handle, user).await?,
        };
        match result {
            AuthResult::Success => Ok(()),
            AuthResult::Failure {
                remaining_methods, ..
            } if remaining_methods.is_empty() && handle.is_closed() => {
                Err(SshError::EndedDuringAuthentication)
            }
            AuthResult::Failure { .. } => Err(SshError::CredentialRefused {
                user: user.to_owned(),
            }),
        }
    }
}

/// Tries the keys of an SSH agent, in the agent's order, until the host accepts one.
async fn with_agent(
    socket: &Path,
    handle: &mut Handle<HostKeyCheck>,
    user: &str,
) -> Result<AuthResult, SshError> {
    let unusable = |why: String| SshError::Agent {
        socket: socket.to_owned(),
        why,
    };
    let agent = AgentClient::connect_uds(socket).await;
    let mut agent = agent.map_err(|error| unusable(error.to_string()))?;
    let identities = agent.request_identities().await;
    let identities = identities.map_err(|error| unusable(error.to_string()))?;
    let mut refused = None;
    for identity in identities {
        let AgentIdentity::PublicKey { key, .. } = identity else {
            continue;
        };
        let hash = match key.algorithm() {
            Algorithm::Rsa { .. } => handle.best_supported_rsa_hash().await?.flatten(),
            _ => None,
        };
        let tried = handle
            .authenticate_publickey_with(user, key, hash, &mut agent)
            .await
            .map_err(|error| unusable(error.to_string()))?;
        match tried {
            AuthResult::Success => return Ok(tried),
            AuthResult::Failure { .. } => refused = Some(tried),
        }
        if handle.is_closed() {
            break;
        }
    }
    refused.ok_or_else(|| unusable("the agent has no keys".into()))
}

/// Generates an ed25519 key pair.
pub fn generate_ssh_key() -> Result<SshKeyPair> {
    let failed = |why: String| Error::failed("generating an SSH key", why);
    let mut rng = russh::keys::key::safe_rng();
    let key = PrivateKey::random(&mut rng, Algorithm::Ed25519)
        .map_err(|error| failed(error.to_string()))?;
    let private = key
        .to_openssh(russh::keys::ssh_key::LineEnding::LF)
        .map_err(|error| failed(error.to_string()))?;
    let public = key
        .public_key()
        .to_openssh()
        .map_err(|error| failed(error.to_string()))?;
    Ok(SshKeyPair {
        private: Sensitive::new(private.as_str()),
        public,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_an_invalid_key_without_showing_it() {
        let secret = SshCredential::PrivateKey(Sensitive::new("not-a-key-hunter2"));
        let Err(error) = Credential::parse(&secret) else {
            panic!("an invalid key was accepted");
        };
        assert!(!format!("{error:?} {secret:?}").contains("hunter2"));
        assert!(error.hint().is_some());
    }
}
