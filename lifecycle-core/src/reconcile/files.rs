//! Copies declared files to the nodes, where containers mount them. Each container has its own
//! directory, which is named after the container.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeAccess};
use crate::model::{FileTree, PlatformId, ShippedFile, ShippedMount, TreeEntry};
use crate::runtime::HostBind;

use super::execute::node_directory;

/// Returns the directory of a container's files on its node.
fn directory(platform: PlatformId, container: &str) -> String {
    format!("{}/files/{container}", node_directory(platform))
}

/// Writes either all or none of a container's files to the node, unless they exist. Returns the
/// mounts.
pub(super) async fn ship(
    host: &dyn NodeAccess,
    platform: PlatformId,
    container: &str,
    mounts: &[ShippedMount],
) -> Result<Vec<HostBind>> {
    if mounts.is_empty() {
        return Ok(Vec::new());
    }
    let directory = directory(platform, container);
    let mut command = HostCommand::new(script(&directory)).as_root();
    command.stdin = archive(mounts)?;
    host.exec(command)
        .await?
        .success("writing the declaration's files to the node")?;
    let binds = mounts.iter().enumerate().map(|(index, mount)| HostBind {
        source: format!("{directory}/{index}"),
        target: mount.target.clone(),
        read_only: true,
    });
    Ok(binds.collect())
}

/// Removes the files of a removed container.
pub(super) async fn remove(
    host: &dyn NodeAccess,
    platform: PlatformId,
    container: &str,
) -> Result<()> {
    let directory = directory(platform, container);
    let command = HostCommand::new(format!("rm -rf '{directory}'")).as_root();
    host.exec(command)
        .await?
        .success("removing a container's files from the node")?;
    Ok(())
}

/// Returns a script that unpacks the files into a temporary directory, then renames this directory
/// atomically. Keeps an existing directory, and removes temporary directories of interrupted
/// attempts.
fn script(directory: &str) -> String {
    format!(
        "set -eu
umask 077
if [ -d '{directory}' ]; then cat > /dev/null; exit 0; fi
rm -rf '{directory}'.part.*
mkdir -p \"$(dirname '{directory}')\"
part=$(mktemp -d '{directory}.part.XXXXXX')
tar -x -p --same-owner --numeric-owner -f - -C \"$part\"
mv -T \"$part\" '{directory}' || [ -d '{directory}' ]"
    )
}

/// Returns one archive with all mounts. The top-level path of each mount is its index in `mounts`.
fn archive(mounts: &[ShippedMount]) -> Result<Bytes> {
    let failed = |error| Error::io("packing the declaration's files", error);
    let mut archive = tar::Builder::new(Vec::new());
    for (index, mount) in mounts.iter().enumerate() {
        let top = index.to_string();
        match &mount.tree {
            FileTree::File(file) => append_file(&mut archive, &top, file)?,
            FileTree::Directory(entries) => {
                append_directory(&mut archive, &top).map_err(failed)?;
                for (path, entry) in entries {
                    let path = format!("{top}/{path}");
                    match entry {
                        TreeEntry::Directory => {
                            append_directory(&mut archive, &path).map_err(failed)?;
                        }
                        TreeEntry::Link(target) => {
                            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                            archive
                                .append_link(&mut header, &path, target)
                                .map_err(failed)?;
                        }
                        TreeEntry::File(file) => append_file(&mut archive, &path, file)?,
                    }
                }
            }
        }
    }
    archive.into_inner().map(Bytes::from).map_err(failed)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append_directory(archive: &mut tar::Builder<Vec<u8>>, path: &str) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Directory, 0o755, 0);
    archive.append_data(&mut header, path, std::io::empty())
}

fn append_file(archive: &mut tar::Builder<Vec<u8>>, path: &str, file: &ShippedFile) -> Result<()> {
    let contents = file.contents.expose()?;
    let mut header = header(tar::EntryType::Regular, file.mode, contents.len() as u64);
    header.set_uid(file.uid.into());
    header.set_gid(file.gid.into());
    archive
        .append_data(&mut header, path, contents.as_ref())
        .map_err(|error| Error::io("packing the declaration's files", error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::model::FileContents;

    fn file(mode: u32, text: &str) -> ShippedFile {
        ShippedFile {
            mode,
            uid: 0,
            gid: 0,
            contents: FileContents::new(text.as_bytes().to_vec()),
        }
    }

    /// Runs the script as a node does, with the archive as input.
    fn run(directory: &str, mounts: &[ShippedMount]) -> bool {
        // Only root may set owners, so the test does not set them.
        let script = script(directory).replace("--same-owner", "--no-same-owner");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&archive(mounts).unwrap()).unwrap();
        drop(stdin);
        child.wait().unwrap().success()
    }

    #[test]
    fn files_are_written_completely_and_once() {
        let node = tempfile::TempDir::new().unwrap();
        let directory = node.path().join("files/demo-db-1-0123");
        let named = directory.display().to_string();
        let tree = FileTree::Directory(BTreeMap::from([
            ("sub".to_owned(), TreeEntry::Directory),
            ("sub/run".to_owned(), TreeEntry::File(file(0o755, "#!x"))),
            ("to".to_owned(), TreeEntry::Link("sub/run".to_owned())),
        ]));
        let mounts = [
            ShippedMount {
                target: "/etc/one.conf".into(),
                tree: FileTree::File(file(0o400, "one")),
            },
            ShippedMount {
                target: "/srv".into(),
                tree,
            },
        ];
        // An interrupted attempt left this directory behind.
        std::fs::create_dir_all(node.path().join("files/demo-db-1-0123.part.abcdef")).unwrap();
        for _ in 0..2 {
            assert!(run(&named, &mounts));
        }
        let mode = |path: &str| {
            let metadata = std::fs::symlink_metadata(directory.join(path)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!(std::fs::read(directory.join("0")).unwrap(), b"one");
        assert_eq!(std::fs::read(directory.join("1/to")).unwrap(), b"#!x");
        assert_eq!((mode(""), mode("0"), mode("1")), (0o700, 0o400, 0o755));
        assert_eq!(mode("1/sub/run"), 0o755);
        let left = std::fs::read_dir(node.path().join("files")).unwrap();
        assert_eq!(left.count(), 1);
    }
}
