//! Reads files and directories that become part of a declaration.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::digest::is_executable;
use super::digest::{self, Kind};
use super::regular;
use crate::error::{Error, Result};
use crate::model::{FileContents, FileTree, ShippedFile, TreeEntry};

/// The maximum number of entries of a directory.
const MAX_ENTRIES: usize = 4096;

/// Reads a file, or a directory except for the files that its `.dockerignore` excludes. Fails if
/// the total size exceeds `limit` bytes. Keeps contents and executable bits, but not owners and
/// times.
pub(crate) fn read_tree(path: &Path, limit: u64) -> Result<FileTree> {
    let metadata = fs::metadata(path)
        .map_err(|error| Error::io(format!("reading `{}`", path.display()), error))?;
    let mut left = limit;
    if !metadata.is_dir() {
        let file = read_file(path, is_executable(&metadata), &mut left, limit)?;
        return Ok(FileTree::File(file));
    }
    let found = digest::entries(path)?;
    if found.len() > MAX_ENTRIES {
        return Err(Error::Invalid {
            what: format!("`{}`", path.display()),
            why: format!("it contains more than {MAX_ENTRIES} files"),
            hint: "exclude files with a `.dockerignore` in this directory, or put files into the \
                   image"
                .into(),
        });
    }
    let entries = found.into_iter().map(|(name, kind)| {
        let entry = match kind {
            Kind::Directory => TreeEntry::Directory,
            Kind::Symlink { target } => TreeEntry::Link(target.display().to_string()),
            Kind::File { executable } => {
                TreeEntry::File(read_file(&path.join(&name), executable, &mut left, limit)?)
            }
        };
        Ok((name, entry))
    });
    entries.collect::<Result<_>>().map(FileTree::Directory)
}

fn read_file(path: &Path, executable: bool, left: &mut u64, limit: u64) -> Result<ShippedFile> {
    let failed = |error| Error::io(format!("reading `{}`", path.display()), error);
    regular::check(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Error::Invalid {
            what: format!("`{}`", path.display()),
            why: error.to_string(),
            hint: "use a file or a directory; to mount a socket or device of the node, use its \
                   absolute path"
                .into(),
        },
        _ => failed(error),
    })?;
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(*left + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    *left = left
        .checked_sub(bytes.len() as u64)
        .ok_or_else(|| Error::Invalid {
            what: format!("`{}`", path.display()),
            why: format!("with this file, the total size exceeds {} KiB", limit >> 10),
            hint: "put large files into the image, or data into a named volume".into(),
        })?;
    Ok(ShippedFile {
        mode: if executable { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        contents: FileContents::new(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_directory_without_excluded_files() {
        let root = tempfile::TempDir::new().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        for (name, text) in [
            ("a.conf", "one"),
            ("sub/b.conf", "two"),
            ("left.out", "three"),
            (".dockerignore", "left.out\n"),
        ] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let FileTree::Directory(entries) = read_tree(root.path(), 100).unwrap() else {
            panic!("expected a directory");
        };
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        assert_eq!(names, [".dockerignore", "a.conf", "sub", "sub/b.conf"]);
        let Some(TreeEntry::File(file)) = entries.get("sub/b.conf") else {
            panic!("a file is missing");
        };
        assert_eq!(file.mode, 0o644);
        assert_eq!(file.contents.expose().unwrap(), b"two".as_slice());
    }

    #[test]
    fn reports_the_file_that_exceeds_the_limit() {
        let root = tempfile::TempDir::new().unwrap();
        for name in ["a", "b"] {
            fs::write(root.path().join(name), "0123456789").unwrap();
        }
        assert!(read_tree(root.path(), 20).is_ok());
        let error = read_tree(root.path(), 19).unwrap_err().to_string();
        assert!(error.contains('b'), "{error}");
        assert!(read_tree(&root.path().join("a"), 9).is_err());
        assert!(read_tree(Path::new("/dev/zero"), 9).is_err());
        assert!(read_tree(&root.path().join("absent"), 9).is_err());
    }
}
