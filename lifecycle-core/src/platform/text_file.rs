//! Reads a text file of the user. Accepts only regular files, and only up to a maximum size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::code::regular;

/// The maximum size of a file, in bytes.
const LIMIT: u64 = 8 << 20;

/// Reads the text of a file.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if the file does not exist. The messages of other errors explain the
/// problem to the user.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let too_large = || invalid(format!("it is larger than {} MiB", LIMIT >> 20));
    if regular::check(path)?.len() > LIMIT {
        return too_large();
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return too_large();
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => invalid("it contains a NUL character".to_owned()),
        Ok(text) => Ok(text),
        Err(_) => invalid("it is not valid UTF-8".to_owned()),
    }
}

/// Texts that are read instead of the files' own.
#[derive(Clone, Default)]
pub(super) struct Edited(BTreeMap<PathBuf, String>);

impl Edited {
    pub(super) fn insert(&mut self, path: &Path, text: String) {
        self.0.insert(identity(path), text);
    }

    pub(super) fn get(&self, path: &Path) -> Option<&String> {
        self.0.get(&identity(path))
    }

    /// Reads the text of a file, which may have been edited.
    ///
    /// # Errors
    /// As for [`read`]
    pub(super) fn read(&self, path: &Path) -> io::Result<String> {
        match self.get(path) {
            Some(text) => Ok(text.clone()),
            None => read(path),
        }
    }
}

/// Returns the same path for all spellings of the path of an existing file.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
