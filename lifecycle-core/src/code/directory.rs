//! The code store that reads code bases from the user's directories.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::archive;
use super::digest;
use super::pack::{pack_entries, write_entries};
use super::{CodeBaseRef, CodeStore};
use crate::error::{Error, Result};
use crate::stream::ByteStream;

/// The size of one chunk of an archive.
const CHUNK: usize = 64 * 1024;
/// How many chunks may be queued for the reader.
const CHUNKS_AHEAD: usize = 8;

/// A code store in which each code base is a local directory.
///
/// As in Compose's `build.context`, a name is an absolute path or a path relative to the root. It
/// may lead out of the root (`../shared`). Names are normalized: `./a/../b` and `b` are the same
/// code base. `list` returns the folders of the root that contain a `Dockerfile`.
///
/// # Caveats
/// The digest and the archive omit the files that `.dockerignore` excludes, except `.dockerignore`
/// and `Dockerfile` themselves. Do not exclude a Dockerfile with another name or path: the store
/// does not know that a service uses it.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// Creates a store whose names are relative to `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the canonical spelling of a name.
    pub fn normalised(name: &str) -> String {
        let mut parts: Vec<Component<'_>> = Vec::new();
        for part in Path::new(name).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => match parts.last() {
                    Some(Component::Normal(_)) => {
                        parts.pop();
                    }
                    Some(Component::RootDir | Component::Prefix(_)) => {}
                    _ => parts.push(part),
                },
                _ => parts.push(part),
            }
        }
        if parts.is_empty() {
            return ".".to_owned();
        }
        let path: PathBuf = parts.iter().collect();
        path.to_string_lossy().into_owned()
    }

    /// Returns the directory of the code base with this name. The directory need not exist.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.root.join(Self::normalised(name))
    }
}

/// Runs blocking disk operations on a separate thread.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed(what, error.to_string())),
    }
}

fn digest_of(name: &str, path: &Path) -> Result<String> {
    if !path.is_dir() {
        return Err(Error::not_found(format!(
            "code base `{name}` (directory `{}`)",
            path.display()
        )));
    }
    let entries = digest::entries(path)?;
    pack_entries(&entries, |file| open(path, file), &mut io::sink())
        .map_err(|error| Error::io(format!("reading `{}`", path.display()), error))
}

#[async_trait]
impl CodeStore for DirectoryStore {
    async fn list(&self) -> Result<Vec<String>> {
        let root = self.root.clone();
        blocking("listing code bases", move || {
            let reading = |error| Error::io(format!("reading `{}`", root.display()), error);
            let mut names = Vec::new();
            for entry in fs::read_dir(&root).map_err(reading)? {
                let entry = entry.map_err(reading)?;
                if entry.path().join("Dockerfile").is_file()
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        let (name, path) = (Self::normalised(name), self.directory(name));
        blocking("reading a code base", move || {
            let digest = digest_of(&name, &path)?;
            Ok(CodeBaseRef { name, digest })
        })
        .await
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let path = self.directory(&code.name);
        let now = {
            let (name, path) = (code.name.clone(), path.clone());
            blocking("reading a code base", move || digest_of(&name, &path)).await?
        };
        if now != code.digest {
            return Err(Error::Conflict {
                what: format!("code base `{}`", code.name),
                why: format!(
                    "its files have changed: the digest is now {now}, not {}",
                    code.digest
                ),
            });
        }
        let (sender, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut chunks = Chunks {
                pending: BytesMut::with_capacity(CHUNK),
                sender,
            };
            if let Err(error) = write_archive(&path, &now, &mut chunks) {
                // Sending fails only if the reader has been dropped.
                drop(chunks.sender.blocking_send(Err(error)));
            }
        });
        Ok(stream::poll_fn(move |context| receiver.poll_recv(context)).boxed())
    }
}

/// Writes the archive. If the digest is not `expected`, fails before writing the end of the
/// archive.
fn write_archive(root: &Path, expected: &str, chunks: &mut Chunks) -> io::Result<()> {
    let entries = digest::entries(root).map_err(io::Error::other)?;
    let digest = write_entries(&entries, |path| open(root, path), chunks)?;
    if digest != expected {
        return Err(io::Error::other(format!(
            "`{}` was changed while it was read",
            root.display()
        )));
    }
    chunks.write_all(&archive::END)?;
    chunks.flush()
}

/// Opens a file of a code base and returns its length and the open file.
fn open(root: &Path, path: &str) -> io::Result<(u64, File)> {
    let opened = File::open(root.join(path)).and_then(|file| Ok((file.metadata()?.len(), file)));
    opened.map_err(|error| io::Error::new(error.kind(), format!("`{path}`: {error}")))
}

/// A writer that sends the written bytes to a stream, in chunks.
struct Chunks {
    pending: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(data);
        if self.pending.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = self.pending.split().freeze();
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use futures_util::TryStreamExt;
    use tempfile::TempDir;

    use super::*;

    fn put(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn mode(root: &Path, path: &str, mode: u32) {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn sample() -> TempDir {
        let root = TempDir::new().unwrap();
        put(root.path(), "svc/Dockerfile", "FROM scratch\n");
        put(root.path(), "svc/src/main.c", "int main;\n");
        put(root.path(), "svc/run.sh", "#!/bin/sh\n");
        put(root.path(), &format!("svc/{}/x", "deep/".repeat(60)), "x");
        put(root.path(), "svc/big", &"0123456789abcdef".repeat(20_000));
        fs::create_dir(root.path().join("svc/empty")).unwrap();
        symlink("src/main.c", root.path().join("svc/link")).unwrap();
        mode(root.path(), "svc/run.sh", 0o755);
        root
    }

    async fn digest(root: &Path) -> String {
        let store = DirectoryStore::new(root.to_owned());
        store.digest("svc").await.unwrap().digest
    }

    async fn unpack(store: &dyn CodeStore, code: &CodeBaseRef, to: &Path) {
        let chunks: Vec<Bytes> = store
            .archive(code)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        tar::Archive::new(chunks.concat().as_slice())
            .unpack(to)
            .unwrap();
    }

    fn paths(root: &Path) -> Vec<String> {
        digest::entries(root).unwrap().into_keys().collect()
    }

    #[tokio::test]
    async fn the_digest_ignores_permissions_that_depend_on_the_umask() {
        let (one, two) = (sample(), sample());
        mode(two.path(), "svc/src/main.c", 0o600);
        mode(two.path(), "svc/run.sh", 0o700);
        mode(two.path(), "svc/src", 0o700);
        assert_eq!(digest(one.path()).await, digest(two.path()).await);
    }

    #[tokio::test]
    async fn every_difference_that_a_build_can_see_changes_the_digest() {
        let before = digest(sample().path()).await;
        let changes: [fn(&Path); 6] = [
            |root| put(root, "svc/src/main.c", "int mein;\n"),
            |root| mode(root, "svc/src/main.c", 0o755),
            |root| put(root, "svc/new", ""),
            |root| fs::rename(root.join("svc/src/main.c"), root.join("svc/src/m.c")).unwrap(),
            |root| fs::remove_dir(root.join("svc/empty")).unwrap(),
            |root| {
                fs::remove_file(root.join("svc/link")).unwrap();
                symlink("src/other.c", root.join("svc/link")).unwrap();
            },
        ];
        for (index, change) in changes.iter().enumerate() {
            let root = sample();
            change(root.path());
            assert_ne!(
                digest(root.path()).await,
                before,
                "change {index} has no effect"
            );
        }
    }

    #[tokio::test]
    async fn an_unpacked_archive_has_the_digest_of_its_source() {
        let root = sample();
        let store = DirectoryStore::new(root.path().to_owned());
        let code = store.digest("svc").await.unwrap();
        let copy = TempDir::new().unwrap();
        unpack(&store, &code, &copy.path().join("svc")).await;
        assert_eq!(digest(copy.path()).await, code.digest);
        assert_eq!(
            paths(&root.path().join("svc")),
            paths(&copy.path().join("svc"))
        );
    }

    #[tokio::test]
    async fn the_archive_is_reproducible_and_contains_no_times_or_owners() {
        let (one, two) = (sample(), sample());
        let mut archives = Vec::new();
        for root in [&one, &two] {
            let store = DirectoryStore::new(root.path().to_owned());
            let code = store.digest("svc").await.unwrap();
            let chunks: Vec<Bytes> = store
                .archive(&code)
                .await
                .unwrap()
                .try_collect()
                .await
                .unwrap();
            archives.push(chunks.concat());
        }
        assert!(archives[0] == archives[1]);
        for entry in tar::Archive::new(archives[0].as_slice()).entries().unwrap() {
            let header = entry.unwrap().header().clone();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
        }
    }

    #[tokio::test]
    async fn requesting_the_archive_of_an_old_digest_is_a_conflict() {
        let root = sample();
        let store = DirectoryStore::new(root.path().to_owned());
        let code = store.digest("svc").await.unwrap();
        put(root.path(), "svc/src/main.c", "changed");
        let error = store.archive(&code).await.map(drop).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_change_while_reading_ends_the_archive_with_an_error() {
        let root = sample();
        // This file fills the queue of chunks, so `zzz` is read only after the test has changed
        // `zzz`.
        put(
            root.path(),
            "svc/huge",
            &"h".repeat(CHUNK * CHUNKS_AHEAD * 2),
        );
        put(root.path(), "svc/zzz", "before");
        let store = DirectoryStore::new(root.path().to_owned());
        let code = store.digest("svc").await.unwrap();
        let archive = store.archive(&code).await.unwrap();
        put(root.path(), "svc/zzz", "after!");
        let result: io::Result<Vec<Bytes>> = archive.try_collect().await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("changed while it was read")
        );
    }

    #[tokio::test]
    async fn excluded_files_do_not_affect_the_digest() {
        let root = sample();
        put(root.path(), "svc/.dockerignore", "target\n*.log\n");
        let before = digest(root.path()).await;
        put(root.path(), "svc/target/debug/x", "x");
        put(root.path(), "svc/a.log", "x");
        assert_eq!(digest(root.path()).await, before);
        put(
            root.path(),
            "svc/src/a.log",
            "patterns are anchored at the root",
        );
        assert_ne!(digest(root.path()).await, before);
    }

    #[tokio::test]
    async fn the_platforms_identity_file_does_not_affect_the_digest() {
        let root = sample();
        let before = digest(root.path()).await;
        put(root.path(), "svc/.lifecycle/platform.json", "{}");
        assert_eq!(digest(root.path()).await, before);
        put(root.path(), "svc/src/.lifecycle", "of another program");
        assert_ne!(digest(root.path()).await, before);
    }

    #[test]
    fn the_dockerfile_and_dockerignore_are_always_sent() {
        let root = TempDir::new().unwrap();
        for path in ["Dockerfile", "a/Dockerfile", "src/lib.rs", "src/x.c", "b"] {
            put(root.path(), path, "");
        }
        put(root.path(), ".dockerignore", "*\n!src/*.rs\n");
        assert_eq!(
            paths(root.path()),
            [".dockerignore", "Dockerfile", "src", "src/lib.rs"]
        );
    }

    /// Docker's classic builder excludes exactly the expected files.
    #[test]
    fn excludes_the_same_files_as_docker() {
        const FILES: [&str; 12] = [
            "README.md",
            "a/b/y.md",
            "a/x.md",
            "foo",
            "node_modules/keep",
            "node_modules/x",
            "src/deep/m.rs",
            "src/lib.rs",
            "temp",
            "tempa",
            "x.md",
            "xfoo",
        ];
        for (rules, left_out) in [
            ("**/*.md\n!README.md", &["a/b/y.md", "a/x.md", "x.md"][..]),
            ("node_modules\n!node_modules/keep", &["node_modules/x"]),
            ("**foo", &["foo", "xfoo"]),
            ("*/b", &["a/b/y.md"]),
            ("temp?\n #x", &["tempa"]),
            ("src/*\n!src/deep", &["src/lib.rs"]),
        ] {
            let root = TempDir::new().unwrap();
            for path in FILES {
                put(root.path(), path, "");
            }
            put(root.path(), ".dockerignore", rules);
            let kept = paths(root.path());
            let missing: Vec<&str> = FILES
                .into_iter()
                .filter(|path| !kept.iter().any(|kept| kept == path))
                .collect();
            assert_eq!(missing, left_out, "{rules:?}");
        }
    }

    #[test]
    fn spellings_of_one_directory_have_the_same_name() {
        for (spelling, name) in [
            (".", "."),
            ("./", "."),
            ("./a/../b/", "b"),
            ("../x", "../x"),
            ("a/../../x", "../x"),
            ("/a/./b/..", "/a"),
        ] {
            assert_eq!(DirectoryStore::normalised(spelling), name, "{spelling}");
        }
    }

    #[tokio::test]
    async fn lists_folders_with_a_dockerfile() {
        let root = sample();
        put(root.path(), "api/Dockerfile", "FROM scratch\n");
        put(root.path(), "notes/readme.md", "");
        let store = DirectoryStore::new(root.path().to_owned());
        assert_eq!(store.list().await.unwrap(), ["api", "svc"]);
        let error = store.digest("absent").await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }));
    }

    #[tokio::test]
    async fn reads_a_single_file() {
        let root = sample();
        let store = DirectoryStore::new(root.path().to_owned());
        let code = store.digest("svc").await.unwrap();
        let file = crate::code::read_file(&store, &code, "src/main.c", 3)
            .await
            .unwrap();
        assert_eq!(file.as_deref(), Some(b"int".as_slice()));
        let absent = crate::code::read_file(&store, &code, "absent", 3)
            .await
            .unwrap();
        assert_eq!(absent, None);
    }
}
