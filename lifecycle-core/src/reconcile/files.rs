//! Copies the files that containers mount to the nodes. Each container has its own directory, which
//! is named after the container.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::try_unfold;

use crate::error::{Error, Result};
use crate::host::{ByteStream, HostCommand, HostFile, NodeAccess};
use crate::model::{
    ChunkDigest, FileContents, FileTree, PlatformId, ShippedFile, ShippedMount, TreeEntry,
};
use crate::registry::Registry;
use crate::runtime::HostBind;

use super::node_directory::{node_directory, private};

const WRITING: &str = "writing the mounted files to the node";

/// The block size of a tar archive, in bytes.
const BLOCK: u64 = 512;

/// How long a node may take to unpack the files of a container.
const UNPACKED_WITHIN: Duration = Duration::from_mins(5);

/// How much longer a container's start may take for each chunk of its files, because the chunks are
/// sent to the node first.
const SENT_PER_CHUNK: Duration = Duration::from_secs(10);

/// Returns how much longer the start of a container with these mounts may take.
pub(super) fn time_to_send(mounts: &[ShippedMount]) -> Duration {
    let chunks: usize = mounts.iter().map(|mount| mount.chunks.len()).sum();
    SENT_PER_CHUNK.saturating_mul(u32::try_from(chunks).unwrap_or(u32::MAX))
}

/// Returns the directory of a container's files on its node.
fn directory(platform: PlatformId, container: &str) -> String {
    format!("{}/files/{container}", node_directory(platform))
}

/// Returns the path of the archive from which the files of a directory are unpacked.
fn archive_path(directory: &str) -> String {
    format!("{directory}.tar")
}

/// Writes either all or none of a container's files to the node, unless they exist. Returns the
/// mounts.
pub(super) async fn ship(
    host: &dyn NodeAccess,
    registry: &Arc<dyn Registry>,
    platform: PlatformId,
    container: &str,
    mounts: &[ShippedMount],
) -> Result<Vec<HostBind>> {
    if mounts.is_empty() {
        return Ok(Vec::new());
    }
    let directory = directory(platform, container);
    if mounts.iter().all(|mount| mount.chunks.is_empty()) {
        let script = format!("{}\n{}", private(platform), script(&directory, "-"));
        let mut command = HostCommand::new(script).as_root();
        command.stdin = Archive::new(mounts)?.without_chunks();
        host.exec(command).await?.success(WRITING)?;
    } else if !exists(host, &directory).await? {
        send(host, registry, (platform, &directory), mounts).await?;
    }
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
    let archive = archive_path(&directory);
    let script = format!("rm -rf '{directory}'\nrm -f '{archive}'");
    host.exec(HostCommand::new(script).as_root())
        .await?
        .success("removing a container's files from the node")?;
    Ok(())
}

async fn exists(host: &dyn NodeAccess, directory: &str) -> Result<bool> {
    let listing = format!("ls -1d '{directory}/.' 2>/dev/null || true");
    let found = host.exec(HostCommand::new(listing).as_root()).await?;
    Ok(!found.success(WRITING)?.trim().is_empty())
}

/// Streams the files from the registry to an archive on the node, then unpacks the archive.
async fn send(
    host: &dyn NodeAccess,
    registry: &Arc<dyn Registry>,
    (platform, directory): (PlatformId, &str),
    mounts: &[ShippedMount],
) -> Result<()> {
    let chunks = mounts.iter().flat_map(|mount| &mount.chunks).copied();
    let missing = registry.missing_chunks(chunks.collect()).await?;
    if !missing.is_empty() {
        return Err(missing_contents());
    }
    let failure = Arc::default();
    let file = HostFile {
        path: archive_path(directory),
        mode: 0o400,
        contents: Archive::new(mounts)?.stream(Arc::clone(registry), Arc::clone(&failure)),
    };
    if let Err(error) = host.put(file).await {
        let reading = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        return Err(reading.unwrap_or(error));
    }
    let script = format!("{}\n{}", private(platform), unpack_script(directory));
    let unpack = HostCommand::new(script).as_root().within(UNPACKED_WITHIN);
    host.exec(unpack).await?.success(WRITING)?;
    Ok(())
}

fn missing_contents() -> Error {
    Error::not_found_with_hint(
        "the contents of the mounted files in the registry",
        "run `bootstrapper up`, which sends them again",
    )
}

/// Returns a script that unpacks the archive that was sent before, and removes it.
fn unpack_script(directory: &str) -> String {
    let path = archive_path(directory);
    let unpack = script(directory, &format!("'{path}'"));
    format!("{unpack}\nrm -f '{path}'")
}

/// Returns a script that unpacks `archive` into a temporary directory, then renames this directory
/// atomically. Keeps an existing directory, and removes temporary directories of interrupted
/// attempts.
fn script(directory: &str, archive: &str) -> String {
    format!(
        "set -eu
umask 077
if [ -d '{directory}' ]; then
cat > /dev/null
else
rm -rf '{directory}'.part.*
mkdir -p \"$(dirname '{directory}')\"
part=$(mktemp -d '{directory}.part.XXXXXX')
tar -x -p --same-owner --numeric-owner -f {archive} -C \"$part\"
mv -T \"$part\" '{directory}' || [ -d '{directory}' ]
fi"
    )
}

/// A tar archive with the files of all mounts, in parts. The top-level path of each mount is its index.
struct Archive {
    parts: VecDeque<Part>,
    /// The chunks of all mounts, in order.
    chunks: VecDeque<ChunkDigest>,
    /// The bytes of the latest chunk that are not part of the archive yet.
    rest: Bytes,
}

/// A part of an archive.
enum Part {
    Bytes(Bytes),
    /// The next bytes, of this number, of the chunks.
    Chunked(u64),
    /// The end of a mount, whose last chunk has no more bytes.
    EndOfMount,
}

impl Archive {
    fn new(mounts: &[ShippedMount]) -> Result<Self> {
        let mut packer = Packer {
            archive: tar::Builder::new(Vec::new()),
            parts: VecDeque::new(),
        };
        for (index, mount) in mounts.iter().enumerate() {
            mount.check()?;
            packer.mount(&index.to_string(), mount)?;
        }
        let Packer { archive, mut parts } = packer;
        let end = archive.into_inner();
        parts.push_back(Part::Bytes(end.map_err(packing_failed)?.into()));
        let chunks = mounts.iter().flat_map(|mount| &mount.chunks).copied();
        Ok(Self {
            parts,
            chunks: chunks.collect(),
            rest: Bytes::new(),
        })
    }

    /// Returns an archive of files whose contents are all part of the declaration.
    fn without_chunks(self) -> Bytes {
        let parts = self.parts.into_iter().filter_map(|part| match part {
            Part::Bytes(bytes) => Some(bytes),
            Part::Chunked(_) | Part::EndOfMount => None,
        });
        parts.collect::<Vec<_>>().concat().into()
    }

    /// Returns the archive as a stream, which reads one chunk after the other. If reading fails, the
    /// error is stored in `failure`.
    fn stream(self, registry: Arc<dyn Registry>, failure: Arc<Mutex<Option<Error>>>) -> ByteStream {
        let state = (self, registry, failure);
        Box::pin(try_unfold(
            state,
            |(mut archive, registry, failure)| async {
                match archive.next(registry.as_ref()).await {
                    Ok(part) => Ok(part.map(|part| (part, (archive, registry, failure)))),
                    Err(error) => {
                        let text = error.chain();
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        Err(std::io::Error::other(text))
                    }
                }
            },
        ))
    }

    async fn next(&mut self, registry: &dyn Registry) -> Result<Option<Bytes>> {
        loop {
            match self.parts.pop_front() {
                None => return Ok(None),
                Some(Part::Bytes(bytes)) => return Ok(Some(bytes)),
                Some(Part::Chunked(0)) => {}
                Some(Part::Chunked(left)) => {
                    if self.rest.is_empty() {
                        self.rest = self.next_chunk(registry).await?;
                    }
                    let length = self
                        .rest
                        .len()
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - length as u64;
                    self.parts.push_front(Part::Chunked(left));
                    return Ok(Some(self.rest.split_to(length)));
                }
                Some(Part::EndOfMount) if self.rest.is_empty() => {}
                Some(Part::EndOfMount) => return Err(wrong_sizes()),
            }
        }
    }

    async fn next_chunk(&mut self, registry: &dyn Registry) -> Result<Bytes> {
        let digest = self.chunks.pop_front().ok_or_else(wrong_sizes)?;
        let chunk = registry.chunk(digest).await?;
        Ok(chunk.ok_or_else(missing_contents)?.contents().clone())
    }
}

fn wrong_sizes() -> Error {
    Error::Corrupt {
        what: "the declaration of mounted files".into(),
        why: "the sizes of the files and of their chunks differ".into(),
    }
}

fn packing_failed(error: std::io::Error) -> Error {
    Error::io("packing the mounted files", error)
}

/// Creates the parts of an archive.
struct Packer {
    /// Writes the next part.
    archive: tar::Builder<Vec<u8>>,
    parts: VecDeque<Part>,
}

impl Packer {
    fn mount(&mut self, top: &str, mount: &ShippedMount) -> Result<()> {
        match &mount.tree {
            FileTree::File(file) => self.file(top, file)?,
            FileTree::Directory(entries) => {
                self.directory(top)?;
                for (path, entry) in entries {
                    let path = format!("{top}/{path}");
                    match entry {
                        TreeEntry::Directory => self.directory(&path)?,
                        TreeEntry::Link(target) => {
                            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                            self.archive
                                .append_link(&mut header, &path, target)
                                .map_err(packing_failed)?;
                        }
                        TreeEntry::File(file) => self.file(&path, file)?,
                    }
                }
            }
        }
        self.end_part();
        self.parts.push_back(Part::EndOfMount);
        Ok(())
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.archive
            .append_data(&mut header, path, std::io::empty())
            .map_err(packing_failed)
    }

    fn file(&mut self, path: &str, file: &ShippedFile) -> Result<()> {
        let declared = file.contents.expose()?;
        let size = match (&declared, &file.contents) {
            (None, FileContents::Chunked(size)) => *size,
            _ => declared.as_deref().unwrap_or_default().len() as u64,
        };
        let mut header = header(tar::EntryType::Regular, file.mode, size);
        header.set_uid(file.uid.into());
        header.set_gid(file.gid.into());
        // Without contents, this writes only the header.
        self.archive
            .append_data(&mut header, path, declared.as_deref().unwrap_or_default())
            .map_err(packing_failed)?;
        if declared.is_none() {
            self.end_part();
            self.parts.push_back(Part::Chunked(size));
            let padding = size.next_multiple_of(BLOCK) - size;
            let padding = std::iter::repeat_n(0, usize::try_from(padding).unwrap_or_default());
            self.archive.get_mut().extend(padding);
        }
        Ok(())
    }

    fn end_part(&mut self) {
        let bytes = std::mem::take(self.archive.get_mut());
        self.parts.push_back(Part::Bytes(bytes.into()));
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};

    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::clock::SystemClock;
    use crate::model::Chunk;
    use crate::registry::{Batch, Change, MemoryRegistry};

    fn file(mode: u32, text: &str) -> ShippedFile {
        ShippedFile {
            mode,
            uid: 0,
            gid: 0,
            contents: FileContents::new(text.as_bytes().to_vec()),
        }
    }

    /// Runs a script as a node does, with the archive as input.
    fn run(script: &str, archive: &[u8]) -> bool {
        // Only root may set owners, so the test does not set them.
        let script = script.replace("--same-owner", "--no-same-owner");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(archive).unwrap();
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
                chunks: Vec::new(),
            },
            ShippedMount {
                target: "/srv".into(),
                tree,
                chunks: Vec::new(),
            },
        ];
        // An interrupted attempt left this directory behind.
        std::fs::create_dir_all(node.path().join("files/demo-db-1-0123.part.abcdef")).unwrap();
        for _ in 0..2 {
            let archive = Archive::new(&mounts).unwrap().without_chunks();
            assert!(run(&script(&named, "-"), &archive));
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

    /// A registry with the chunks of these contents, and the digests of the chunks.
    async fn stored(contents: &[u8]) -> (Arc<dyn Registry>, Vec<ChunkDigest>) {
        let registry = MemoryRegistry::new(Arc::new(SystemClock));
        let lease = registry.acquire_lease("a test", Duration::from_mins(1));
        let epoch = lease.await.unwrap().epoch().unwrap();
        let mut digests = Vec::new();
        for part in contents.chunks(Chunk::SIZE) {
            let chunk = Chunk::new(part.to_vec().into()).unwrap();
            digests.push(chunk.digest());
            let put = Batch::of(Change::PutChunk(chunk));
            registry.commit(epoch, put).await.unwrap();
        }
        (Arc::new(registry), digests)
    }

    fn chunked(size: usize) -> TreeEntry {
        TreeEntry::File(ShippedFile {
            contents: FileContents::Chunked(size as u64),
            ..file(0o644, "")
        })
    }

    async fn streamed(mounts: &[ShippedMount], registry: &Arc<dyn Registry>) -> Result<Vec<u8>> {
        let failure = Arc::default();
        let archive = Archive::new(mounts)?;
        let stream = archive.stream(Arc::clone(registry), Arc::clone(&failure));
        let parts: std::io::Result<Vec<Bytes>> = stream.try_collect().await;
        let failure = failure.lock().unwrap().take();
        assert_eq!(parts.is_err(), failure.is_some());
        failure.map_or_else(|| Ok(parts.unwrap().concat()), Err)
    }

    #[tokio::test]
    async fn chunks_are_streamed_into_the_files_of_each_mount() {
        let large: Vec<u8> = (0..=250).cycle().take(3 * Chunk::SIZE / 2).collect();
        let contents = [&large[..], b"small"].concat();
        let (registry, digests) = stored(&contents).await;
        let deep = format!("{}/{}", "d".repeat(120), "f".repeat(120));
        let tree = FileTree::Directory(BTreeMap::from([
            (deep.clone(), chunked(large.len())),
            ("empty".to_owned(), chunked(0)),
            ("point".to_owned(), TreeEntry::File(file(0o444, "declared"))),
            ("small".to_owned(), chunked(5)),
        ]));
        let mount = ShippedMount {
            target: "/srv".into(),
            tree,
            chunks: digests,
        };
        let mut other = mount.clone();
        other.target = "/other".into();
        let node = tempfile::TempDir::new().unwrap();
        let directory = node.path().join("demo-db-1-0123");
        let archive = streamed(&[mount.clone(), other], &registry).await.unwrap();
        let named = directory.display().to_string();
        // In the second run, the directory exists already.
        for _ in 0..2 {
            std::fs::write(archive_path(&named), &archive).unwrap();
            assert!(run(&unpack_script(&named), &[]));
            assert_eq!(std::fs::read_dir(node.path()).unwrap().count(), 1);
        }
        for top in ["0", "1"] {
            let read = |path: &str| std::fs::read(directory.join(top).join(path)).unwrap();
            assert_eq!(read(&deep), large);
            assert_eq!((read("empty"), read("small")), (vec![], b"small".to_vec()));
            assert_eq!(read("point"), b"declared");
        }

        assert_eq!(
            time_to_send(std::slice::from_ref(&mount)),
            Duration::from_secs(20)
        );

        // The sizes do not match the chunk.
        for size in [4, 6] {
            let wrong = ShippedMount {
                tree: FileTree::Directory(BTreeMap::from([("f".to_owned(), chunked(size))])),
                chunks: vec![ChunkDigest::of(b"small")],
                target: "/srv".into(),
            };
            let (registry, _) = stored(b"small").await;
            let error = streamed(&[wrong], &registry).await.unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
        let (empty, _) = stored(b"").await;
        let error = streamed(&[mount], &empty).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}
