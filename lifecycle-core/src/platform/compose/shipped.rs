//! Files of the user's own that a service mounts: they are read here and go with the declaration.

use std::path::{Path, PathBuf};

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::World;
use crate::code::{DirectoryStore, read_tree};
use crate::error::Error;
use crate::model::{FileTree, VolumeName};

/// The most that one mount may hold. Declarations are kept whole in the registry, so what is
/// larger belongs into an image or a volume.
pub(super) const LARGEST_MOUNT: u64 = 1 << 20;
/// The most that one config or secret may hold, as swarm mode has it.
pub(super) const LARGEST_SECRET: u64 = 500 << 10;
/// The most that all files of a declaration may hold together.
pub(super) const LARGEST_SUM: u64 = 16 << 20;

/// Files that keep a directory in a repository and say nothing.
const PLACEHOLDERS: [&str; 3] = [".gitkeep", ".keep", ".gitignore"];

/// What lies at a relative path.
pub(super) enum Found {
    /// Something to ship.
    Files(FileTree),
    /// Nothing, or an empty directory: a place for data.
    Nothing,
}

/// Reads what is to be mounted; what is wrong with it is in the report.
pub(super) fn find(
    path: &str,
    item: &Field<'_>,
    world: &World<'_>,
    report: &mut Report,
) -> Option<Found> {
    let full = world.directory.join(DirectoryStore::normalised(path));
    if is_empty(&full) {
        return Some(Found::Nothing);
    }
    match read_tree(&full, LARGEST_MOUNT) {
        Ok(tree) => Some(Found::Files(tree)),
        Err(error) => {
            refuse(&error, item, report);
            None
        }
    }
}

/// Reads one file of a config or secret.
pub(super) fn file(
    path: &str,
    item: &Field<'_>,
    world: &World<'_>,
    report: &mut Report,
) -> Option<FileTree> {
    let full = world.directory.join(DirectoryStore::normalised(path));
    match read_tree(&full, LARGEST_SECRET) {
        Ok(tree) => Some(tree),
        Err(error) if full.exists() => {
            refuse(&error, item, report);
            None
        }
        Err(_) => {
            item.problem_with_help(
                report,
                format!("the file `{path}` does not exist"),
                "write it; the path is relative to the Compose file",
            );
            None
        }
    }
}

fn refuse(error: &Error, item: &Field<'_>, report: &mut Report) {
    let help = error
        .hint()
        .unwrap_or("name files that you may read, and a named volume for data");
    item.problem_with_help(report, error.chain(), help);
}

/// Whether there is nothing, or a directory that holds nothing.
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

/// The volume that stands for a directory of data beside the Compose file: one name for one
/// path, whoever mounts it.
pub(super) fn data_volume(path: &str) -> Option<VolumeName> {
    use sha2::Digest as _;
    const LONGEST: usize = 40;
    let path = DirectoryStore::normalised(path);
    let digest = hex::encode(sha2::Sha256::digest(path.as_bytes()));
    let readable: String = path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(LONGEST)
        .collect();
    let readable = readable.trim_matches('-');
    let name = format!("dir-{readable}-{}", digest.get(..8)?);
    VolumeName::try_from(name).ok()
}

/// How many bytes of files a tree holds.
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

/// An absolute path below the project's directory is the user's own file all the same: `${PWD}`
/// and the like make such paths.
pub(super) fn below_project(source: &str, world: &World<'_>) -> Option<String> {
    let project: PathBuf = std::path::absolute(world.directory).ok()?;
    let rest = Path::new(source).strip_prefix(project).ok()?;
    Some(format!("./{}", rest.display()))
}
