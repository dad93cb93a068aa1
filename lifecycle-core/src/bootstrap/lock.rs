//! One `up` or `down` of a platform at a time: two at once would make two sets of secrets of one
//! platform, or take down what the other brings up.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::secrets::StateDirectory;
use crate::error::{Error, Result};

const LOCK: &str = "lock";

/// Holds a platform until it is dropped, or its process ends in whatever way.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl StateDirectory {
    /// Takes the platform for this process. Makes the directory if it is not there.
    ///
    /// # Errors
    /// [`Error::Denied`] if another process holds it; it is not waited for.
    pub fn lock(&self) -> Result<StateLock> {
        let what = || format!("locking {}", self.path().display());
        take(self.path()).map_err(|error| match error {
            Refusal::Held(by) => Error::Denied {
                what: "this command".into(),
                why: format!("another `up` or `down` of this platform runs here (process {by})"),
                hint: "wait until it has ended, then run this again".into(),
            },
            Refusal::Io(error) => Error::io(what(), error),
        })
    }
}

enum Refusal {
    Held(String),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn take(directory: &Path) -> Result<StateLock, Refusal> {
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
            // A `down` that ended just now removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                return Err(Refusal::Held(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // The same goes for a file that was removed between its opening and its lock: nobody
        // else would find it.
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
    async fn one_holds_a_platform_until_it_lets_go_or_forgets_it() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(home.path(), PlatformId::new(RandomIds.uuid()));
        let first = state.lock().unwrap();
        let refused = state.lock().unwrap_err();
        let process = format!("process {}", std::process::id());
        assert!(refused.to_string().contains(&process), "{refused}");
        assert!(refused.hint().is_some());
        drop(first);
        let second = state.lock().unwrap();
        // With the directory its lock goes; whoever comes next makes another.
        state.forget().await.unwrap();
        let third = state.lock().unwrap();
        drop((second, third));
        let other = StateDirectory::new(home.path(), PlatformId::new(RandomIds.uuid()));
        let (_one, _other) = (state.lock().unwrap(), other.lock().unwrap());
    }
}
