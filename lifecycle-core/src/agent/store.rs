//! The agent's state directory: its lock, its sockets, and the last table.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;

use crate::error::{Error, Result};
use crate::network::Table;

const TABLE: &str = "table.json";
const LOCK: &str = "lock";

/// Poll interval while waiting for another agent to end.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// The state directory, which only one agent at a time can use.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates the directory and waits until no other agent uses it.
    pub(super) async fn open(directory: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("opening `{}`", directory.display()), error);
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = File::create(directory.join(LOCK)).map_err(failed)?;
        let mut is_logged = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if !is_logged {
                tracing::warn!(directory = %directory.display(),
                    "waiting for another agent to exit");
                is_logged = true;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
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
