//! The agent's state directory: its lock, its sockets, and the last table.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::network::Table;

const TABLE: &str = "table.json";
const LOCK: &str = "lock";

/// The file that contains the name of the agent that is to serve. The manager writes it.
const CURRENT: &str = "current";

/// The interval at which the agent checks its state directory.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(2);

/// The state directory.
#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
}

/// The right to serve with a state directory. It belongs to all descriptors of one opened file
/// (flock(2)), so an agent can pass it to the next one without releasing it.
#[derive(Debug)]
pub(super) struct Lock(OwnedFd);

impl Lock {
    /// Returns the lock that another agent has passed.
    pub(super) fn passed(file: OwnedFd) -> Self {
        Self(file)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Store {
    /// Creates the directory.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let store = Self {
            directory: directory.to_owned(),
        };
        fs::create_dir_all(directory).map_err(|error| store.failed(error))?;
        Ok(store)
    }

    /// Returns the lock, unless another agent has it.
    pub(super) fn try_lock(&self) -> Result<Option<Lock>> {
        let file = File::create(self.path(LOCK)).map_err(|error| self.failed(error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file.into()))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.failed(error)),
        }
    }

    /// Returns whether the manager has declared that the agent with this name is to serve.
    pub(super) fn is_current(&self, name: &str) -> bool {
        fs::read_to_string(self.path(CURRENT)).is_ok_and(|current| current == name)
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(format!("opening `{}`", self.directory.display()), error)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Listens on a unix socket in the directory. Only the owner of the socket may connect.
    pub(super) fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.path(name);
        let failed = |error| Error::io(format!("listening on `{}`", path.display()), error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }

    /// Waits until another process has removed the lock or a socket named `name`. Without the lock, a
    /// second agent would serve. Missing for a moment does not count: an agent replaces the sockets of
    /// the previous one.
    pub(super) async fn removed(&self, name: &str) {
        let is_missing = || {
            let paths = [self.path(LOCK), self.path(name)];
            paths.iter().any(|path| !path.exists())
        };
        loop {
            sleep(CHECK_EVERY).await;
            if !is_missing() {
                continue;
            }
            sleep(CHECK_EVERY).await;
            if is_missing() {
                return;
            }
        }
    }

    /// Reads the last active table. Ignores a table that cannot be read: the manager will send it
    /// again.
    pub(super) fn load(&self) -> Option<Table> {
        let path = self.path(TABLE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(path = %path.display(), %error, "cannot read the stored table");
                }
                return None;
            }
        };
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                tracing::error!(path = %path.display(), %error, "the stored table is damaged");
            })
            .ok()
    }

    /// Saves a table atomically and durably.
    pub(super) async fn save(&self, table: &Table) -> Result<()> {
        let path = self.path(TABLE);
        let failed = |error| Error::io(format!("writing `{}`", path.display()), error);
        let text = serde_json::to_vec(table).map_err(|error| failed(error.into()))?;
        let (directory, target) = (self.directory.clone(), path.clone());
        let write = move || {
            let new = target.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &target)?;
            File::open(&directory)?.sync_all()
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(failed),
            Err(error) => Err(failed(io::Error::other(error))),
        }
    }
}
