//! Stores the state of a platform on this machine: its key, CA, tokens, and the SSH key of its
//! nodes. The state is written before any node is created, and only the user can read it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::durations::Durations;
use crate::api::Authority;
use crate::cloud::CloudDeadlines;
use crate::error::{Error, Result};
use crate::host::SshKeyPair;
use crate::model::PlatformId;
use crate::platform::{CloudSpec, ManagerSpec};
use crate::secret::{PlatformKey, Sensitive, new_api_token};

/// The credentials of a platform's operator.
#[derive(Debug, Clone)]
pub struct PlatformSecrets {
    /// Encrypts the registry, and is the key of keyed digests.
    pub key: PlatformKey,
    /// Signs the manager's certificate.
    pub authority: Authority,
    /// The operator's first token for the manager's API.
    pub admin_token: Sensitive,
    /// How often the operator's first token and the services' tokens were replaced.
    pub token_rotation: u64,
    /// The token for the manager's API that the services share if an earlier version created the
    /// platform.
    pub read_token: Option<Sensitive>,
    /// Authenticates logins to the nodes.
    pub ssh: SshKeyPair,
    /// The replacements of these credentials that have begun and not ended.
    pub rotation: Rotation,
}

/// The operator's first token, and the number from which the tokens of services are derived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorTokens {
    pub admin: Sensitive,
    /// How often the tokens were replaced.
    pub rotation: u64,
}

/// A credential that is being replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement<T> {
    pub old: T,
    pub new: T,
    /// Whether the new credential is in use. Before, the old one is in use, and the new one may be
    /// accepted already; afterwards, the old one may still be accepted.
    pub is_switched: bool,
}

impl<T> Replacement<T> {
    /// Returns the credential that is in use.
    fn current(&self) -> &T {
        if self.is_switched {
            &self.new
        } else {
            &self.old
        }
    }
}

/// The replacements of credentials that have begun and not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotation {
    pub tokens: Option<Replacement<OperatorTokens>>,
    pub authority: Option<Replacement<Authority>>,
    pub ssh: Option<Replacement<SshKeyPair>>,
}

impl PlatformSecrets {
    /// Creates the secrets of a new platform.
    pub fn generate(platform: PlatformId, ssh: SshKeyPair, now: DateTime<Utc>) -> Result<Self> {
        Ok(Self {
            key: PlatformKey::generate(),
            authority: Authority::generate(platform, now)?,
            admin_token: new_api_token(),
            token_rotation: 0,
            read_token: None,
            ssh,
            rotation: Rotation::default(),
        })
    }

    /// Returns the certificates of the authorities to trust, in PEM. The first one signs the manager's
    /// certificate; while the authority is being replaced, there is another one.
    pub fn trusted(&self) -> String {
        let Some(Replacement { old, new, .. }) = &self.rotation.authority else {
            return self.authority.certificate.clone();
        };
        let other = if self.authority == *new { old } else { new };
        format!("{}\n{}", self.authority.certificate, other.certificate)
    }

    /// Returns the secrets with the credentials that are in use according to `rotation`.
    #[must_use]
    pub(super) fn with_rotation(mut self, rotation: Rotation) -> Self {
        if let Some(tokens) = &rotation.tokens {
            let current = tokens.current().clone();
            (self.admin_token, self.token_rotation) = (current.admin, current.rotation);
        }
        if let Some(authority) = &rotation.authority {
            self.authority = authority.current().clone();
        }
        if let Some(ssh) = &rotation.ssh {
            self.ssh = ssh.current().clone();
        }
        self.rotation = rotation;
        self
    }
}

/// Records where the manager runs, so that `status` and `down` need no declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerPlacement {
    /// The cloud.
    pub cloud: CloudSpec,
    pub manager: ManagerSpec,
    /// The time limits for changes to nodes.
    #[serde(default)]
    pub deadlines: CloudDeadlines,
}

/// The state of one platform on this machine.
///
/// # Guarantees
/// Writes are atomic. Only the user who wrote the state can read it.
#[async_trait]
pub trait OperatorState: std::fmt::Debug + Send + Sync + 'static {
    /// Returns the secrets, if this machine has them.
    async fn secrets(&self) -> Result<Option<PlatformSecrets>>;

    /// Stores new secrets.
    async fn store_secrets(&self, secrets: &PlatformSecrets) -> Result<()>;

    /// Returns where the manager runs.
    async fn placement(&self) -> Result<Option<ManagerPlacement>>;

    /// Stores where the manager runs.
    async fn store_placement(&self, placed: &ManagerPlacement) -> Result<()>;

    /// Deletes the whole state of the platform. Succeeds if there is no state.
    async fn forget(&self) -> Result<()>;

    /// Returns how long creating nodes took, for all platforms.
    async fn durations(&self) -> Result<Durations>;

    /// Stores how long creating nodes took, for all platforms.
    async fn store_durations(&self, durations: &Durations) -> Result<()>;
}

/// Keeps the state in memory, for simulations and tests.
#[derive(Debug, Default)]
pub struct MemoryState(Mutex<(Option<PlatformSecrets>, Option<ManagerPlacement>, Durations)>);

impl MemoryState {
    fn lock(
        &self,
    ) -> MutexGuard<'_, (Option<PlatformSecrets>, Option<ManagerPlacement>, Durations)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl OperatorState for MemoryState {
    async fn secrets(&self) -> Result<Option<PlatformSecrets>> {
        Ok(self.lock().0.clone())
    }

    async fn store_secrets(&self, secrets: &PlatformSecrets) -> Result<()> {
        self.lock().0 = Some(secrets.clone());
        Ok(())
    }

    async fn placement(&self) -> Result<Option<ManagerPlacement>> {
        Ok(self.lock().1.clone())
    }

    async fn store_placement(&self, placed: &ManagerPlacement) -> Result<()> {
        self.lock().1 = Some(placed.clone());
        Ok(())
    }

    async fn forget(&self) -> Result<()> {
        let mut state = self.lock();
        (state.0, state.1) = (None, None);
        Ok(())
    }

    async fn durations(&self) -> Result<Durations> {
        Ok(self.lock().2.clone())
    }

    async fn store_durations(&self, durations: &Durations) -> Result<()> {
        self.lock().2 = durations.clone();
        Ok(())
    }
}

/// Stores the state as files in one directory.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    directory: PathBuf,
    /// The directory for files that all platforms share.
    shared_directory: PathBuf,
}

const KEY: &str = "platform.key";
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const ADMIN: &str = "admin.token";
const TOKEN_ROTATION: &str = "token.rotation";
const READ: &str = "read.token";
const ROTATION: &str = "rotation.json";
const SSH: &str = "ssh.key";
const SSH_PUBLIC: &str = "ssh.pub";
const PLACED: &str = "manager.json";
const DURATIONS: &str = "durations.json";

impl StateDirectory {
    /// Returns the state of `platform` in the user's configuration directory. Writes no files.
    pub fn new(configuration: &Path, platform: PlatformId) -> Self {
        let shared_directory = configuration.join("lifecycle");
        Self {
            directory: shared_directory.join(platform.to_string()),
            shared_directory,
        }
    }

    /// Returns the directory of the platform's files.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    async fn read(&self, name: &str) -> Result<Option<String>> {
        Self::read_in(&self.directory, name).await
    }

    async fn read_in(directory: &Path, name: &str) -> Result<Option<String>> {
        let path = directory.join(name);
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("reading {}", path.display()), error)),
        }
    }

    async fn required(&self, name: &str) -> Result<String> {
        self.read(name).await?.ok_or_else(|| Error::Invalid {
            what: self.directory.join(name).display().to_string(),
            why: "the file is missing, but other files of this platform exist".into(),
            hint: "restore the directory from a backup".into(),
        })
    }

    /// Reads the credentials that are being replaced.
    async fn rotation(&self) -> Result<Rotation> {
        let Some(text) = self.read(ROTATION).await? else {
            return Ok(Rotation::default());
        };
        serde_json::from_str(&text).map_err(|error| Error::Corrupt {
            what: self.directory.join(ROTATION).display().to_string(),
            // The file contains secrets, so report only the line and column.
            why: format!("line {}, column {}", error.line(), error.column()),
        })
    }

    async fn write(&self, name: &str, contents: &str) -> Result<()> {
        Self::write_in(&self.directory, name, contents).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        or_absent(&path, tokio::fs::remove_file(&path).await)
    }

    async fn write_in(directory: &Path, name: &str, contents: &str) -> Result<()> {
        let (directory, path) = (directory.to_owned(), directory.join(name));
        let contents = Sensitive::new(contents);
        let what = format!("writing {}", path.display());
        tokio::task::spawn_blocking(move || write_privately(&directory, &path, &contents))
            .await
            .map_err(|error| Error::failed(what.clone(), error.to_string()))?
            .map_err(|error| Error::io(what, error))
    }
}

/// Converts the result of a removal, which succeeds if nothing exists.
fn or_absent(path: &Path, removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Writes to a temporary file with the final permissions, then renames it.
fn write_privately(directory: &Path, path: &Path, contents: &Sensitive) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let draft = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(contents.expose().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[async_trait]
impl OperatorState for StateDirectory {
    async fn secrets(&self) -> Result<Option<PlatformSecrets>> {
        // The key is written last, so if the key exists, all files exist.
        let Some(key) = self.read(KEY).await? else {
            return Ok(None);
        };
        let corrupt = |_| Error::Corrupt {
            what: self.directory.join(TOKEN_ROTATION).display().to_string(),
            why: "it does not contain a number".into(),
        };
        let token_rotation = self.read(TOKEN_ROTATION).await?;
        let token_rotation = token_rotation.map(|text| text.trim().parse());
        let secrets = PlatformSecrets {
            key: PlatformKey::from_hex(&key)?,
            authority: Authority {
                certificate: self.required(CA).await?,
                key: Sensitive::new(self.required(CA_KEY).await?),
            },
            admin_token: Sensitive::new(self.required(ADMIN).await?),
            token_rotation: token_rotation.transpose().map_err(corrupt)?.unwrap_or(0),
            read_token: self.read(READ).await?.map(Sensitive::new),
            ssh: SshKeyPair {
                private: Sensitive::new(self.required(SSH).await?),
                public: self.required(SSH_PUBLIC).await?,
            },
            rotation: Rotation::default(),
        };
        // The file of the rotation is replaced in one step, unlike the other files.
        Ok(Some(secrets.with_rotation(self.rotation().await?)))
    }

    async fn store_secrets(&self, secrets: &PlatformSecrets) -> Result<()> {
        let is_rotated = secrets.rotation != Rotation::default();
        if is_rotated {
            let text = serde_json::to_string(&secrets.rotation).map_err(|error| {
                Error::failed("serializing the replaced credentials", error.to_string())
            })?;
            self.write(ROTATION, &text).await?;
        }
        self.write(CA, &secrets.trusted()).await?;
        self.write(CA_KEY, secrets.authority.key.expose()).await?;
        self.write(ADMIN, secrets.admin_token.expose()).await?;
        if secrets.token_rotation > 0 {
            let number = secrets.token_rotation.to_string();
            self.write(TOKEN_ROTATION, &number).await?;
        }
        if let Some(token) = &secrets.read_token {
            self.write(READ, token.expose()).await?;
        }
        self.write(SSH, secrets.ssh.private.expose()).await?;
        self.write(SSH_PUBLIC, &secrets.ssh.public).await?;
        self.write(KEY, secrets.key.to_hex().expose()).await?;
        if is_rotated {
            return Ok(());
        }
        // Last: until then, this file determines which credentials are in use.
        self.remove(ROTATION).await
    }

    async fn placement(&self) -> Result<Option<ManagerPlacement>> {
        let Some(text) = self.read(PLACED).await? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::Corrupt {
                what: self.directory.join(PLACED).display().to_string(),
                why: error.to_string(),
            })
    }

    async fn store_placement(&self, placed: &ManagerPlacement) -> Result<()> {
        let text = serde_json::to_string_pretty(placed).map_err(|error| {
            Error::failed("serializing the manager's placement", error.to_string())
        })?;
        self.write(PLACED, &text).await
    }

    async fn forget(&self) -> Result<()> {
        // Delete the key first. If the deletion is then interrupted, `secrets` finds no key and
        // ignores the remaining files.
        self.remove(KEY).await?;
        or_absent(
            &self.directory,
            tokio::fs::remove_dir_all(&self.directory).await,
        )
    }

    async fn durations(&self) -> Result<Durations> {
        let Some(text) = Self::read_in(&self.shared_directory, DURATIONS).await? else {
            return Ok(Durations::default());
        };
        serde_json::from_str(&text).map_err(|error| Error::Corrupt {
            what: self.shared_directory.join(DURATIONS).display().to_string(),
            why: error.to_string(),
        })
    }

    async fn store_durations(&self, durations: &Durations) -> Result<()> {
        let text = serde_json::to_string_pretty(durations).map_err(|error| {
            Error::failed(
                "serializing the durations of node creations",
                error.to_string(),
            )
        })?;
        Self::write_in(&self.shared_directory, DURATIONS, &text).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::{Clock, IdSource, RandomIds, SystemClock};

    #[tokio::test]
    async fn secrets_are_stored_readable_only_by_their_owner() {
        let home = tempfile::tempdir().unwrap();
        let platform = PlatformId::new(RandomIds.uuid());
        let state = StateDirectory::new(home.path(), platform);
        assert!(state.secrets().await.unwrap().is_none());
        let ssh = SshKeyPair {
            private: Sensitive::new("private"),
            public: "public".into(),
        };
        let secrets = PlatformSecrets::generate(platform, ssh, SystemClock.now()).unwrap();
        state.store_secrets(&secrets).await.unwrap();
        let again = state.secrets().await.unwrap().unwrap();
        assert_eq!(again.authority, secrets.authority);
        assert_eq!(again.admin_token, secrets.admin_token);
        assert_eq!(again.key.to_hex(), secrets.key.to_hex());
        for entry in std::fs::read_dir(state.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
        state.forget().await.unwrap();
        assert!(state.secrets().await.unwrap().is_none());
    }

    /// A crash after any file leaves the old credentials or the new ones, never a mixture.
    #[tokio::test]
    async fn a_replaced_credential_is_used_completely_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let platform = PlatformId::new(RandomIds.uuid());
        let state = StateDirectory::new(home.path(), platform);
        let pair = |name: &str| SshKeyPair {
            private: Sensitive::new(name),
            public: name.to_owned(),
        };
        let old = PlatformSecrets::generate(platform, pair("old"), SystemClock.now()).unwrap();
        state.store_secrets(&old).await.unwrap();
        let new = PlatformSecrets::generate(platform, pair("new"), SystemClock.now()).unwrap();
        let rotation = |is_switched| Rotation {
            tokens: Some(Replacement {
                old: OperatorTokens {
                    admin: old.admin_token.clone(),
                    rotation: 0,
                },
                new: OperatorTokens {
                    admin: new.admin_token.clone(),
                    rotation: 1,
                },
                is_switched,
            }),
            authority: Some(Replacement {
                old: old.authority.clone(),
                new: new.authority.clone(),
                is_switched,
            }),
            ssh: Some(Replacement {
                old: old.ssh.clone(),
                new: new.ssh.clone(),
                is_switched,
            }),
        };
        let both = |first: &Authority, second: &Authority| {
            format!("{}\n{}", first.certificate, second.certificate)
        };

        let begun = old.clone().with_rotation(rotation(false));
        state.store_secrets(&begun).await.unwrap();
        let stored = state.secrets().await.unwrap().unwrap();
        assert_eq!(stored.ssh, old.ssh);
        assert_eq!(stored.trusted(), both(&old.authority, &new.authority));

        let switched = begun.with_rotation(rotation(true));
        let text = serde_json::to_string(&switched.rotation).unwrap();
        // Only the first file of the switch was written.
        state.write(ROTATION, &text).await.unwrap();
        let stored = state.secrets().await.unwrap().unwrap();
        assert_eq!(stored.ssh, new.ssh);
        assert_eq!(stored.authority, new.authority);
        assert_eq!(stored.trusted(), both(&new.authority, &old.authority));
        assert_eq!(stored.admin_token, new.admin_token);
        assert_eq!(stored.token_rotation, 1);

        let ended = switched.with_rotation(Rotation::default());
        state.store_secrets(&ended).await.unwrap();
        assert!(!state.path().join(ROTATION).exists());
        let stored = state.secrets().await.unwrap().unwrap();
        assert_eq!(stored.rotation, Rotation::default());
        assert_eq!((stored.ssh, stored.token_rotation), (new.ssh, 1));
        assert_eq!(stored.authority, new.authority);
        assert_eq!(
            state.read(CA).await.unwrap(),
            Some(new.authority.certificate)
        );
    }

    #[tokio::test]
    async fn durations_are_shared_between_platforms() {
        let home = tempfile::tempdir().unwrap();
        let of = |number| {
            StateDirectory::new(home.path(), PlatformId::new(uuid::Uuid::from_u128(number)))
        };
        let first = of(1);
        assert_eq!(first.durations().await.unwrap(), Durations::default());
        let seen: Durations = serde_json::from_str(r#"{"azure provision": [90.5]}"#).unwrap();
        first.store_durations(&seen).await.unwrap();
        first.forget().await.unwrap();
        assert_eq!(of(2).durations().await.unwrap(), seen);
    }
}
