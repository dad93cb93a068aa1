//! Finds the files of a code base and computes their digest. All stores share this code, so that
//! the same files have the same digest everywhere.
//!
//! The digest covers only properties that every checkout preserves: paths, types, the executable
//! bit, targets of symbolic links, and contents. Times, owners and other permission bits may differ
//! between clones of the same commit, so the archive contains fixed values for them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::dockerignore::Rules;
use super::regular;
use crate::error::{Error, Result};

/// The version of the digest algorithm. Change it whenever the algorithm returns a different digest
/// for the same files.
const FORM: &[u8] = b"lifecycle code base 1\n";

/// The file that lists the files to exclude from a build context.
pub const IGNORE_FILE: &str = ".dockerignore";

/// Files that the builder needs even if `.dockerignore` excludes them.
const ALWAYS_SENT: [&str; 2] = [IGNORE_FILE, "Dockerfile"];

/// The bootstrapper's own directory next to the user's files. It stores the platform's identity and
/// contains no code, so it is never part of a code base.
pub const OWN_DIRECTORY: &str = ".lifecycle";

/// The maximum size of a `.dockerignore`, in bytes.
pub const IGNORE_FILE_LIMIT: u64 = 1 << 20;

/// The type of an entry of a code base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory, empty or not.
    Directory,
    File {
        /// Whether the file's owner may execute it.
        executable: bool,
    },
    /// A symbolic link, whether its target exists or not.
    Symlink {
        /// The target, unchanged.
        target: PathBuf,
    },
}

/// The entries of a code base by their paths (with `/`), parents before children.
pub type Entries = BTreeMap<String, Kind>;

/// Decides which files of a directory belong to the code base, according to the directory's
/// `.dockerignore`.
#[derive(Debug, Default)]
pub struct Selection(Rules);

impl Selection {
    /// Parses a `.dockerignore`. `location` is the file's name in errors.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a malformed pattern, or too many patterns.
    pub fn parse(text: &[u8], location: &str) -> Result<Self> {
        if text.len() as u64 > IGNORE_FILE_LIMIT {
            return Err(Error::Invalid {
                what: format!("`{location}`"),
                why: format!("it is larger than {} KiB", IGNORE_FILE_LIMIT >> 10),
                hint: "combine patterns".to_owned(),
            });
        }
        let rules = Rules::parse(&String::from_utf8_lossy(text)).map_err(|bad| Error::Invalid {
            what: format!("`{location}`"),
            why: bad.to_string(),
            hint: "close each `[`, put text after each `!` and `\\`, and combine patterns if \
                   there are too many"
                .to_owned(),
        })?;
        Ok(Self(rules))
    }

    /// Returns whether the entry at this path belongs to the code base.
    pub fn includes(&self, path: &str) -> bool {
        path != OWN_DIRECTORY && (ALWAYS_SENT.contains(&path) || !self.0.excludes(path))
    }

    /// Returns whether a directory may contain entries of the code base, even if the directory
    /// itself is excluded.
    pub fn may_include_below(&self, path: &str) -> bool {
        path != OWN_DIRECTORY && (!self.0.excludes(path) || self.0.may_include_below(path))
    }
}

/// Finds all entries below `root` that are part of the code base.
pub fn entries(root: &Path) -> Result<Entries> {
    let selection = selection(root)?;
    let mut entries = Entries::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let path = root.join(&directory);
        let reading = |error| Error::io(format!("reading directory `{}`", path.display()), error);
        for entry in fs::read_dir(&path).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let file_type = entry.file_type().map_err(reading)?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| Error::Invalid {
                    what: format!("file name `{}`", path.join(name).display()),
                    why: "it is not valid UTF-8".to_owned(),
                    hint: "rename the file".to_owned(),
                })?;
            let relative = if directory.is_empty() {
                name
            } else {
                format!("{directory}/{name}")
            };
            if file_type.is_dir() {
                if selection.may_include_below(&relative) {
                    directories.push(relative.clone());
                }
                if selection.includes(&relative) {
                    add(&mut entries, relative, Kind::Directory);
                }
            } else if selection.includes(&relative)
                && let Some(kind) = kind(&entry.path(), file_type)?
            {
                add(&mut entries, relative, kind);
            }
        }
    }
    Ok(entries)
}

/// Adds an entry and its parent directories. The parents may be missing if an exception in
/// `.dockerignore` re-includes an entry of an excluded directory.
pub fn add(entries: &mut Entries, path: String, kind: Kind) {
    for (end, _) in path.match_indices('/') {
        if !entries.contains_key(&path[..end]) {
            entries.insert(path[..end].to_owned(), Kind::Directory);
        }
    }
    entries.insert(path, kind);
}

fn selection(root: &Path) -> Result<Selection> {
    let path = root.join(IGNORE_FILE);
    let mut text = Vec::new();
    match regular::check(&path).and_then(|_| File::open(&path)) {
        Ok(file) => file
            .take(IGNORE_FILE_LIMIT + 1)
            .read_to_end(&mut text)
            .map_err(|error| Error::io(format!("reading `{}`", path.display()), error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Selection::default()),
        Err(error) => return Err(Error::io(format!("reading `{}`", path.display()), error)),
    };
    Selection::parse(&text, &path.display().to_string())
}

/// Returns the type of an entry, or `None` for a socket. Archives cannot contain sockets, and
/// Docker skips them too.
fn kind(path: &Path, file_type: fs::FileType) -> Result<Option<Kind>> {
    let reading = |error| Error::io(format!("reading `{}`", path.display()), error);
    if file_type.is_symlink() {
        let target = fs::read_link(path).map_err(reading)?;
        return Ok(Some(Kind::Symlink { target }));
    }
    if file_type.is_file() {
        let metadata = fs::symlink_metadata(path).map_err(reading)?;
        return Ok(Some(Kind::File {
            executable: is_executable(&metadata),
        }));
    }
    if is_socket(file_type) {
        return Ok(None);
    }
    Err(Error::Invalid {
        what: format!("`{}`", path.display()),
        why: "only files, directories and symbolic links are supported".to_owned(),
        hint: format!("remove it, or exclude it in `{IGNORE_FILE}`"),
    })
}

#[cfg(unix)]
pub(super) fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
pub(super) fn is_executable(_: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
fn is_socket(file_type: fs::FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    file_type.is_socket()
}

#[cfg(not(unix))]
fn is_socket(_: fs::FileType) -> bool {
    false
}

/// Computes the digest of a code base. Its entries must be added in the order of their paths.
#[derive(Debug)]
pub struct Hasher(Sha256);

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Hasher {
    /// Creates a hasher without entries.
    pub fn new() -> Self {
        Self(Sha256::new_with_prefix(FORM))
    }

    /// Adds an entry; `content` is the SHA-256 of a file's content.
    pub fn add(&mut self, path: &str, kind: &Kind, content: Option<[u8; 32]>) {
        let (tag, extra): (u8, &[u8]) = match kind {
            Kind::Directory => (b'd', &[]),
            Kind::File { executable: false } => (b'f', &[]),
            Kind::File { executable: true } => (b'x', &[]),
            Kind::Symlink { target } => (b'l', target.as_os_str().as_encoded_bytes()),
        };
        self.0.update([tag]);
        for part in [path.as_bytes(), extra] {
            // Write a length before each part, so that different trees cannot have the same
            // encoding.
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
        if let Some(content) = content {
            self.0.update(content);
        }
    }

    /// Returns the digest in hexadecimal.
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// A reader that also computes the hash of all bytes that are read.
pub(super) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
