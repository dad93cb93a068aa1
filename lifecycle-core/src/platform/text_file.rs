//! A text file of the user's, read within bounds: no device, no pipe, not gigabytes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// More than any file that a person wrote.
const LIMIT: u64 = 16 << 20;

/// The file's text.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where there is nothing; the message says what else is wrong.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    // Looked at before it is opened: opening a pipe waits for whoever writes to it.
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return refused("it is a directory".to_owned());
    }
    if !metadata.is_file() {
        return refused("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return refused(format!("it is larger than {} MiB", LIMIT >> 20));
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => refused("it holds the character of number 0".to_owned()),
        Ok(text) => Ok(text),
        Err(_) => refused("it is not in UTF-8".to_owned()),
    }
}
