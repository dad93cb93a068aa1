//! Stores the identity of a project's platform in a file next to the user's files.

use std::path::{Path, PathBuf};

use lifecycle_core::model::{PlatformId, PlatformName};
use lifecycle_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The contents of `.lifecycle/platform.json`. Contains no secret and may be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: PlatformName,
    pub(crate) id: PlatformId,
}

/// The id for reading the files of a platform that was never started.
pub(crate) const NOT_UP_YET: PlatformId = PlatformId::new(uuid::Uuid::nil());

pub(crate) fn file_of(project: &Path) -> PathBuf {
    project.join(".lifecycle").join("platform.json")
}

/// The maximum size of the file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) fn read(file: &Path) -> Result<Option<Identity>> {
    // Opening a pipe waits for a writer, and reading a device or a file of the kernel may never end.
    let is_of_kernel = |path: PathBuf| path.starts_with("/proc") || path.starts_with("/sys");
    if let Ok(found) = std::fs::metadata(file)
        && (!found.is_file()
            || found.len() > MAX_BYTES
            || file.canonicalize().is_ok_and(is_of_kernel))
    {
        let why = "it is not a small regular file";
        return Err(Error::corrupt(file.display().to_string(), why));
    }
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::corrupt(file.display().to_string(), error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading {}", file.display()), error)),
    }
}

/// Returns the error to report if another process stored an identity first.
pub(crate) fn concurrent_up() -> Error {
    Error::denied(
        "access to the platform's state",
        "another `up` is running in this directory",
        "wait until that command has exited, then run this command again",
    )
}

/// Writes the identity to a draft file, and then hard-links the draft to `file`. Thus `file` is
/// always complete, and an existing file is not replaced.
pub(crate) fn write(file: &Path, identity: &Identity) -> Result<()> {
    let failed = |error| Error::io(format!("writing {}", file.display()), error);
    let text = serde_json::to_string_pretty(identity)
        .map_err(|error| Error::failed("writing the identity", error.to_string()))?;
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let draft = file.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&draft, text + "\n").map_err(failed)?;
    match std::fs::hard_link(&draft, file) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        // If the file system does not support hard links, rename the draft instead.
        Err(_) => return std::fs::rename(&draft, file).map_err(failed),
    }
    std::fs::remove_file(&draft).map_err(failed)
}
