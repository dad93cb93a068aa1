//! Reads files and directories that become part of a declaration.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::digest::is_executable;
use super::digest::{self, Kind};
use super::regular;
use crate::error::{Error, Result};
use crate::model::{Chunk, ChunkDigest, Chunks, FileContents, FileTree, ShippedFile, TreeEntry};

/// The maximum number of entries of a directory.
const MAX_ENTRIES: usize = 4096;

/// Reads a file, or a directory except for the files that its `.dockerignore` excludes. Fails if
/// the total size exceeds `limit` bytes. Keeps contents and executable bits, but not owners and
/// times.
pub(crate) fn read_tree(path: &Path, limit: u64) -> Result<FileTree> {
    TreeReader::new(limit, None).tree(path)
}

/// Reads like [`read_tree`], but returns `None` if the total size exceeds `limit` bytes.
pub(crate) fn read_small_tree(path: &Path, limit: u64) -> Result<Option<FileTree>> {
    let mut reader = TreeReader::new(limit, None);
    match reader.tree(path) {
        Err(_) if reader.is_exceeded => Ok(None),
        tree => tree.map(Some),
    }
}

/// Reads like [`read_tree`], but the contents are in chunks, which are added to `chunks`. Returns the
/// digests of the chunks in order. Fails also if the size of all `chunks` exceeds the limit.
pub(crate) fn read_chunked_tree(
    path: &Path,
    limit: u64,
    chunks: &mut Chunks,
) -> Result<(FileTree, Vec<ChunkDigest>)> {
    let splitter = Splitter {
        into: chunks,
        part: Vec::new(),
        digests: Vec::new(),
    };
    let mut reader = TreeReader::new(limit, Some(splitter));
    let tree = reader.tree(path)?;
    let Some(mut splitter) = reader.chunks else {
        return Ok((tree, Vec::new()));
    };
    splitter.end_chunk()?;
    splitter.check_total(path, limit)?;
    Ok((tree, splitter.digests))
}

/// Reads the files of one tree.
struct TreeReader<'a> {
    /// How many bytes may still be read.
    left: u64,
    limit: u64,
    /// Whether the files are larger than the limit.
    is_exceeded: bool,
    /// Receives the contents; otherwise, they become part of the tree.
    chunks: Option<Splitter<'a>>,
}

impl<'a> TreeReader<'a> {
    fn new(limit: u64, chunks: Option<Splitter<'a>>) -> Self {
        Self {
            left: limit,
            limit,
            is_exceeded: false,
            chunks,
        }
    }

    fn tree(&mut self, path: &Path) -> Result<FileTree> {
        let metadata = fs::metadata(path)
            .map_err(|error| Error::io(format!("reading `{}`", path.display()), error))?;
        if !metadata.is_dir() {
            let file = self.file(path, is_executable(&metadata))?;
            return Ok(FileTree::File(file));
        }
        let found = digest::entries(path)?;
        if found.len() > MAX_ENTRIES {
            return Err(Error::Invalid {
                what: format!("`{}`", path.display()),
                why: format!("it contains more than {MAX_ENTRIES} files"),
                hint: "exclude files with a `.dockerignore` in this directory, or put files into \
                       the image"
                    .into(),
            });
        }
        let entries = found.into_iter().map(|(name, kind)| {
            let entry = match kind {
                Kind::Directory => TreeEntry::Directory,
                Kind::Symlink { target } => TreeEntry::Link(target.display().to_string()),
                Kind::File { executable } => {
                    TreeEntry::File(self.file(&path.join(&name), executable)?)
                }
            };
            Ok((name, entry))
        });
        entries.collect::<Result<_>>().map(FileTree::Directory)
    }

    fn file(&mut self, path: &Path, executable: bool) -> Result<ShippedFile> {
        let failed = |error| Error::io(format!("reading `{}`", path.display()), error);
        let found = regular::check(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::Invalid {
                what: format!("`{}`", path.display()),
                why: error.to_string(),
                hint:
                    "use a file or a directory; to mount a socket or device of the node, use its \
                       absolute path"
                        .into(),
            },
            _ => failed(error),
        })?;
        // Reject a large file before it is read.
        if found.len() > self.left {
            self.is_exceeded = true;
            return Err(too_large(path, self.limit));
        }
        let file = File::open(path).map_err(failed)?;
        let mut file = file.take(self.left + 1);
        let (contents, size) = if let Some(splitter) = &mut self.chunks {
            let size = splitter.add(&mut file, path, self.limit)?;
            (FileContents::Chunked(size), size)
        } else {
            let mut bytes = Vec::new();
            let size = file.read_to_end(&mut bytes).map_err(failed)?;
            (FileContents::new(bytes), size as u64)
        };
        let Some(left) = self.left.checked_sub(size) else {
            self.is_exceeded = true;
            return Err(too_large(path, self.limit));
        };
        self.left = left;
        Ok(ShippedFile {
            mode: if executable { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            contents,
        })
    }
}

fn too_large(path: &Path, limit: u64) -> Error {
    let limit = match limit >> 20 {
        0 => format!("{} KiB", limit >> 10),
        megabytes => format!("{megabytes} MiB"),
    };
    Error::Invalid {
        what: format!("`{}`", path.display()),
        why: format!("with this file, the total size exceeds {limit}"),
        hint: "put large files into the image, or data into a named volume".into(),
    }
}

/// Splits the contents of files into chunks.
struct Splitter<'a> {
    into: &'a mut Chunks,
    /// The start of the next chunk.
    part: Vec<u8>,
    digests: Vec<ChunkDigest>,
}

impl Splitter<'_> {
    /// Adds the contents of a file. Returns their size in bytes.
    fn add(&mut self, file: &mut impl Read, path: &Path, limit: u64) -> Result<u64> {
        let mut size = 0;
        loop {
            let missing = Chunk::SIZE - self.part.len();
            let mut piece = file.by_ref().take(missing as u64);
            let read = piece
                .read_to_end(&mut self.part)
                .map_err(|error| Error::io(format!("reading `{}`", path.display()), error))?;
            size += read as u64;
            if self.part.len() < Chunk::SIZE {
                return Ok(size);
            }
            self.end_chunk()?;
            self.check_total(path, limit)?;
        }
    }

    fn end_chunk(&mut self) -> Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let chunk = Chunk::new(std::mem::take(&mut self.part).into())?;
        self.digests.push(chunk.digest());
        self.into.insert(chunk);
        Ok(())
    }

    fn check_total(&self, path: &Path, limit: u64) -> Result<()> {
        if self.into.size() > limit {
            return Err(too_large(path, limit));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

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
        assert_eq!(*file.contents.expose().unwrap().unwrap(), *b"two");
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

    #[test]
    fn chunks_contain_the_files_one_after_the_other() {
        let root = tempfile::TempDir::new().unwrap();
        let large: Vec<u8> = (0..=250).cycle().take(3 * Chunk::SIZE / 2).collect();
        for (name, contents) in [("a", &large[..]), ("b", b"two"), ("c", b""), ("d", &large)] {
            fs::write(root.path().join(name), contents).unwrap();
        }
        let limit = 4 << 20;
        let mut chunks = Chunks::default();
        let (tree, digests) = read_chunked_tree(root.path(), limit, &mut chunks).unwrap();
        let sizes: Vec<_> = tree.files().map(|file| file.contents.clone()).collect();
        let large_size = FileContents::Chunked(large.len() as u64);
        let small = [FileContents::Chunked(3), FileContents::Chunked(0)];
        assert_eq!(
            sizes,
            [
                slice::from_ref(&large_size),
                &small,
                slice::from_ref(&large_size)
            ]
            .concat()
        );
        let parts = digests.iter().map(|digest| chunks.get(digest).unwrap());
        let joined: Vec<u8> = parts.flat_map(|chunk| chunk.contents().to_vec()).collect();
        assert_eq!(joined, [&large[..], b"two", &large].concat());
        let mount = crate::model::ShippedMount {
            target: "/srv".into(),
            tree,
            chunks: digests.clone(),
        };
        mount.check().unwrap();

        // The same files add no chunks, and the same directory has the same chunks.
        let size = chunks.size();
        let again = read_chunked_tree(root.path(), limit, &mut chunks).unwrap();
        assert_eq!((again.1, chunks.size()), (digests, size));
        // The limit covers the chunks of earlier trees.
        let other = root.path().join("b");
        let error = read_chunked_tree(&other, size - 1, &mut chunks).unwrap_err();
        assert!(error.to_string().contains("exceeds 3 MiB"), "{error}");
        assert!(read_chunked_tree(root.path(), 3 << 20, &mut Chunks::default()).is_err());
    }
}
