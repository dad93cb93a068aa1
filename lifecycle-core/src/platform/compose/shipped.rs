//! Reads the user's own files that services mount. Large contents become chunks, which are sent apart
//! from the declaration; those of small mounts, configs and secrets are part of the declaration.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::ProjectContext;
use crate::code::{DirectoryStore, read_chunked_tree, read_small_tree, read_tree};
use crate::error::Error;
use crate::model::{ChunkDigest, Chunks, FileTree, VolumeName};

/// The maximum size of one mount, and of all mounts together, in bytes. Equal contents count once.
pub(super) const MAX_MOUNTS: u64 = 64 << 20;
/// The maximum size of a mount whose contents are part of the declaration, in bytes. A change of this
/// number changes the digests of specifications.
const INLINE: u64 = 64 << 10;
/// The maximum size of one config or secret, in bytes, as in Swarm mode.
pub(super) const MAX_SECRET: u64 = 500 << 10;
/// The maximum total size of the contents that are part of the declaration, in bytes.
pub(super) const MAX_DECLARED: u64 = 16 << 20;

/// Files that keep an otherwise empty directory in a Git repository.
const PLACEHOLDERS: [&str; 3] = [".gitkeep", ".keep", ".gitignore"];

/// The mounts that were read, by their paths.
#[derive(Default)]
pub(in super::super) struct MountedFiles(RefCell<Read>);

#[derive(Default)]
struct Read {
    trees: BTreeMap<PathBuf, ChunkedTree>,
    chunks: Chunks,
}

/// Files, with the digests of the chunks of their contents.
type ChunkedTree = (FileTree, Vec<ChunkDigest>);

impl MountedFiles {
    /// Reads the files of a mount. Reads each path only once.
    fn read(&self, path: &Path) -> Result<ChunkedTree, Error> {
        let Read { trees, chunks } = &mut *self.0.borrow_mut();
        if let Some(tree) = trees.get(path) {
            return Ok(tree.clone());
        }
        let tree = match read_small_tree(path, INLINE)? {
            Some(small) => (small, Vec::new()),
            None => read_chunked_tree(path, MAX_MOUNTS, chunks)?,
        };
        trees.insert(path.to_owned(), tree.clone());
        Ok(tree)
    }

    /// Returns the chunks of all mounts.
    pub(super) fn chunks(&self) -> Chunks {
        self.0.borrow().chunks.clone()
    }
}

/// The result of reading a relative path.
pub(super) enum Found {
    /// Files to send, with the digests of their chunks.
    Files(FileTree, Vec<ChunkDigest>),
    /// The path is an empty directory.
    Empty,
    /// The path does not exist.
    Missing,
}

/// Reads the files of a mount; problems are added to the report.
pub(super) fn find(
    path: &str,
    item: &Field<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<Found> {
    let full = project.path(path);
    if is_empty(&full) {
        let is_there = full.is_dir();
        return Some(if is_there {
            Found::Empty
        } else {
            Found::Missing
        });
    }
    match project.files.read(&full) {
        Ok((tree, chunks)) => Some(Found::Files(tree, chunks)),
        Err(error) => {
            reject(&error, item, report);
            None
        }
    }
}

/// Reads the file of a config or secret.
pub(super) fn file(
    path: &str,
    item: &Field<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<FileTree> {
    let full = project.path(path);
    match read_tree(&full, MAX_SECRET) {
        Ok(tree) => Some(tree),
        Err(error) if full.exists() => {
            reject(&error, item, report);
            None
        }
        Err(_) => {
            item.problem_with_help(
                report,
                format!("the file `{path}` does not exist"),
                "create the file; the path is relative to the Compose file",
            );
            None
        }
    }
}

fn reject(error: &Error, item: &Field<'_>, report: &mut Report) {
    let help = error
        .hint()
        .unwrap_or("check that you have permission to read the files; use a named volume for data");
    item.problem_with_help(report, error.chain(), help);
}

/// Returns whether the path does not exist or is an empty directory.
fn is_empty(path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else {
        return std::fs::symlink_metadata(path).is_err();
    };
    let Some(mut entries) = metadata
        .is_dir()
        .then(|| std::fs::read_dir(path).ok())
        .flatten()
    else {
        return false;
    };
    entries.all(|entry| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name();
            PLACEHOLDERS.iter().any(|placeholder| name == *placeholder)
        })
    })
}

/// Returns the volume for a data directory next to the Compose file. The same path always gets the
/// same volume name.
pub(super) fn data_volume(path: &str) -> Option<VolumeName> {
    use sha2::Digest as _;
    const MAX_LENGTH: usize = 40;
    let path = DirectoryStore::normalised(path);
    let digest = hex::encode(sha2::Sha256::digest(path.as_bytes()));
    let readable: String = path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_LENGTH)
        .collect();
    let readable = readable.trim_matches('-');
    let name = format!("dir-{readable}-{}", digest.get(..8)?);
    VolumeName::try_from(name).ok()
}

/// Returns the total size of the files whose contents are part of the declaration, in bytes.
pub(super) fn declared_size(tree: &FileTree) -> u64 {
    let contents = tree.files().filter_map(|file| file.contents.expose().ok()?);
    contents.map(|bytes| bytes.len() as u64).sum()
}

/// Converts an absolute path inside the project directory, such as `${PWD}/conf`, to a relative
/// path. Such a path refers to the user's own files, not to files of the node.
pub(super) fn below_project(source: &str, project: &ProjectContext<'_>) -> Option<String> {
    let project: PathBuf = std::path::absolute(project.directory?).ok()?;
    let rest = Path::new(source).strip_prefix(project).ok()?;
    Some(format!("./{}", rest.display()))
}
