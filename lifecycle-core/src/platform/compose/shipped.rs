//! Reads the user's own files that services mount. The files are sent with the declaration.

use std::path::{Path, PathBuf};

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::ProjectContext;
use crate::code::{DirectoryStore, read_tree};
use crate::error::Error;
use crate::model::{FileTree, VolumeName};

/// The maximum size of one mount, in bytes.
pub(super) const MAX_MOUNT: u64 = 1 << 20;
/// The maximum size of one config or secret, in bytes, as in Swarm mode.
pub(super) const MAX_SECRET: u64 = 500 << 10;
/// The maximum total size of the files of a declaration, in bytes.
pub(super) const MAX_TOTAL: u64 = 16 << 20;

/// Files that keep an otherwise empty directory in a Git repository.
const PLACEHOLDERS: [&str; 3] = [".gitkeep", ".keep", ".gitignore"];

/// The result of reading a relative path.
pub(super) enum Found {
    /// Files to send.
    Files(FileTree),
    /// The path does not exist or is an empty directory. A data volume is mounted instead.
    Nothing,
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
        return Some(Found::Nothing);
    }
    match read_tree(&full, MAX_MOUNT) {
        Ok(tree) => Some(Found::Files(tree)),
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

/// Returns the total size of the files in a tree, in bytes.
pub(super) fn size(tree: &FileTree) -> u64 {
    use crate::model::TreeEntry;
    let of = |file: &crate::model::ShippedFile| {
        file.contents.expose().map_or(0, |bytes| bytes.len() as u64)
    };
    match tree {
        FileTree::File(file) => of(file),
        FileTree::Directory(entries) => entries
            .values()
            .map(|entry| match entry {
                TreeEntry::File(file) => of(file),
                TreeEntry::Directory | TreeEntry::Link(_) => 0,
            })
            .sum(),
    }
}

/// Converts an absolute path inside the project directory, such as `${PWD}/conf`, to a relative
/// path. Such a path refers to the user's own files, not to files of the node.
pub(super) fn below_project(source: &str, project: &ProjectContext<'_>) -> Option<String> {
    let project: PathBuf = std::path::absolute(project.directory).ok()?;
    let rest = Path::new(source).strip_prefix(project).ok()?;
    Some(format!("./{}", rest.display()))
}
