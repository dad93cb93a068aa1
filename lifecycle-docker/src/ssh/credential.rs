//! SSH credentials.

use std::sync::Arc;

use lifecycle_core::host::SshKeyPair;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use russh::client::{AuthResult, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, decode_secret_key};

use super::host_key::HostKeyCheck;
use crate::error::SshError;

/// How an account authenticates. The account's name is part of each node's description.
#[derive(Debug, Clone)]
pub enum SshCredential {
    /// A private key in OpenSSH format, without a passphrase.
    PrivateKey(Sensitive),
    Password(Sensitive),
}

/// A parsed credential.
#[derive(Clone)]
pub(super) enum Credential {
    Key(Arc<PrivateKey>),
    Password(Sensitive),
}

impl Credential {
    pub(super) fn parse(credential: &SshCredential) -> Result<Self> {
        match credential {
            SshCredential::Password(password) => Ok(Self::Password(password.clone())),
            SshCredential::PrivateKey(text) => match decode_secret_key(text.expose(), None) {
                Ok(key) => Ok(Self::Key(Arc::new(key))),
                Err(error) => Err(Error::invalid(
                    "the SSH private key",
                    error.to_string(),
                    "provide an Ed25519 key in OpenSSH format without a passphrase",
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

/// Generates an ed25519 key pair.
pub fn generate_ssh_key() -> Result<SshKeyPair> {
    let failed = |why: String| Error::failed("generating an SSH key", why);
    let mut rng = russh::keys::key::safe_rng();
    let key = PrivateKey::random(&mut rng, russh::keys::Algorithm::Ed25519)
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
