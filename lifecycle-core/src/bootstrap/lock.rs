//! A lock that prevents concurrent `up`, `down` and `rotate` commands for a platform. Without the lock, two
//! commands could create two sets of secrets.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::secrets::StateDirectory;
use crate::error::{Error, Result};

const LOCK: &str = "lock";

/// Holds the lock until it is dropped or the process ends.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl StateDirectory {
    /// Locks the platform for this process. Creates the directory if it does not exist.
    ///
    /// # Errors
    /// [`Error::Denied`] if another process holds the lock; the call does not wait.
    pub fn lock(&self) -> Result<StateLock> {
        let what = || format!("locking {}", self.path().display());
        take(self.path()).map_err(|error| match error {
            LockFailure::Held(by) => Error::Denied {
                what: "this command".into(),
                why: format!(
                    "another `up`, `down` or `rotate` of this platform is running on this machine \
                              (process {by})"
                ),
                hint: "wait until that process has exited, then run this command again".into(),
            },
            LockFailure::Io(error) => Error::io(what(), error),
        })
    }
}

enum LockFailure {
    Held(String),
    Io(io::Error),
}

impl From<io::Error> for LockFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn take(directory: &Path) -> Result<StateLock, LockFailure> {
    let path = directory.join(LOCK);
    loop {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let mut file = match opened {
            // A concurrent `down` removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                return Err(LockFailure::Held(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // If the file was removed after it was opened, other processes do not see this lock.
        let own = file.metadata()?;
        match std::fs::metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => {}
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        return Ok(StateLock(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::OperatorState as _;
    use crate::clock::{IdSource as _, RandomIds};
    use crate::model::PlatformId;

    #[tokio::test]
    async fn a_lock_is_exclusive_until_released_or_deleted() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(home.path(), PlatformId::new(RandomIds.uuid()));
        let first = state.lock().unwrap();
        let refused = state.lock().unwrap_err();
        let process = format!("process {}", std::process::id());
        assert!(refused.to_string().contains(&process), "{refused}");
        assert!(refused.hint().is_some());
        drop(first);
        let second = state.lock().unwrap();
        // Deleting the directory deletes the lock file, so the next lock uses a new file.
        state.forget().await.unwrap();
        let third = state.lock().unwrap();
        drop((second, third));
        let other = StateDirectory::new(home.path(), PlatformId::new(RandomIds.uuid()));
        let (_one, _other) = (state.lock().unwrap(), other.lock().unwrap());
    }
}
