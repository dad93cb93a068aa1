//! Checks the user's files before they are read.

use std::fs::{Metadata, metadata};
use std::io;
use std::path::Path;

/// Checks that a path is a regular file (or `/dev/null`), without opening it: opening a pipe waits for
/// a writer, and reading a device or a file of `/proc` or `/sys` may never end.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if the file does not exist. The messages of other errors explain the
/// problem to the user.
pub(crate) fn check(path: &Path) -> io::Result<Metadata> {
    let invalid = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let found = metadata(path)?;
    let real = path.canonicalize()?;
    // This device is a common placeholder for an empty file.
    if real == Path::new("/dev/null") {
        return Ok(found);
    }
    if found.is_dir() {
        return invalid("it is a directory");
    }
    if !found.is_file() {
        return invalid("it is not a regular file");
    }
    if is_generated(&real, &found) {
        return invalid("it is not a regular file: the kernel generates its contents");
    }
    Ok(found)
}

/// Returns whether the file is in a file system whose files the kernel generates. More of them are
/// mounted below `/proc` and `/sys`, for example for tracing.
#[cfg(unix)]
fn is_generated(real: &Path, file: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path| metadata(path).map(|found| found.dev()).ok();
    // A directory that is not a mount point has the device of the root directory.
    let is_below = |root| device(root) == Some(file.dev()) && device(root) != device("/");
    ["/proc", "/sys"]
        .into_iter()
        .any(|root| real.starts_with(root) || is_below(root))
}

#[cfg(not(unix))]
fn is_generated(_: &Path, _: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        assert_eq!(check(&path("file")).unwrap().len(), 4);
        std::os::unix::fs::symlink("/dev/null", path("empty")).unwrap();
        assert_eq!(check(&path("empty")).unwrap().len(), 0);
        let pipe = std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
        for (path, expected) in [
            (path("pipe"), "not a regular file"),
            (directory.path().into(), "a directory"),
            ("/dev/zero".into(), "not a regular file"),
            ("/proc/self/environ".into(), "the kernel generates"),
            (path("loop"), "symbolic links"),
        ] {
            let error = check(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", path.display());
        }
        let missing = check(&path("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
