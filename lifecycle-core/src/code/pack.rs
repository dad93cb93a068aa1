//! Computes the digest and the archive of a code base from its files. All stores use this code, so
//! that the same files have the same digest everywhere.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bytes::Bytes;

use super::archive;
use super::digest::{self, Entries, Hasher, HashingReader, IGNORE_FILE, Kind, Selection};
use crate::error::{Error, Result};

/// The packed files of a code base, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The result of [`CodeStore::digest`](super::CodeStore::digest) for these files.
    pub digest: String,
    /// The result of [`CodeStore::archive`](super::CodeStore::archive) for these files.
    pub archive: Bytes,
}

/// A file in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileContent {
    /// Whether the owner may execute the file.
    pub executable: bool,
    pub bytes: Bytes,
}

/// Packs the files of a code base, except those that its `.dockerignore` excludes. The keys are the
/// paths of the files, separated by `/`.
///
/// # Errors
/// [`Error::Invalid`] if the `.dockerignore` contains an invalid pattern.
pub fn pack(files: &BTreeMap<String, FileContent>) -> Result<Packed> {
    let ignore = files.get(IGNORE_FILE);
    let selection = match ignore {
        Some(ignore) => Selection::parse(&ignore.bytes, IGNORE_FILE)?,
        None => Selection::default(),
    };
    let mut entries = Entries::new();
    for (path, file) in files.iter().filter(|(path, _)| selection.includes(path)) {
        let executable = file.executable;
        digest::add(&mut entries, path.clone(), Kind::File { executable });
    }
    let mut archive = Vec::new();
    let open = |path: &str| {
        let bytes = files.get(path).map_or(&[][..], |file| &file.bytes);
        Ok((bytes.len() as u64, bytes))
    };
    let digest = pack_entries(&entries, open, &mut archive)
        .map_err(|error| Error::io("packing a code base", error))?;
    Ok(Packed {
        digest,
        archive: archive.into(),
    })
}

/// Writes the archive of the entries to `sink` and returns their digest. `open` returns the length
/// of a file and a reader for its contents.
///
/// # Errors
/// Errors of `open` and `sink`, and [`io::ErrorKind::UnexpectedEof`] if a file is shorter than the
/// length that `open` returned.
pub fn pack_entries<R: Read>(
    entries: &Entries,
    open: impl FnMut(&str) -> io::Result<(u64, R)>,
    sink: &mut impl Write,
) -> io::Result<String> {
    let digest = write_entries(entries, open, sink)?;
    sink.write_all(&archive::END)?;
    Ok(digest)
}

/// Like [`pack_entries`], but does not write the end of the archive, so that the caller can check
/// the digest first.
pub(super) fn write_entries<R: Read>(
    entries: &Entries,
    mut open: impl FnMut(&str) -> io::Result<(u64, R)>,
    sink: &mut impl Write,
) -> io::Result<String> {
    let mut hasher = Hasher::new();
    for (path, kind) in entries {
        let content = match kind {
            Kind::Directory | Kind::Symlink { .. } => {
                sink.write_all(&archive::head(path, kind, 0)?)?;
                None
            }
            Kind::File { .. } => {
                let (size, reader) = open(path)?;
                sink.write_all(&archive::head(path, kind, size)?)?;
                let mut reader = HashingReader::new(reader.take(size));
                if io::copy(&mut reader, sink)? < size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                sink.write_all(&[0; 512][..archive::padding(size)])?;
                Some(reader.finish())
            }
        };
        hasher.add(path, kind, content);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> FileContent {
        FileContent {
            executable: false,
            bytes: text.to_owned().into(),
        }
    }

    #[test]
    fn ignored_files_are_neither_in_the_digest_nor_in_the_archive() {
        let mut files = BTreeMap::from([
            (".dockerignore".to_owned(), file("*.log\n")),
            ("Dockerfile".to_owned(), file("FROM scratch\n")),
            ("src/main.rs".to_owned(), file("fn main() {}\n")),
        ]);
        let clean = pack(&files).unwrap();
        files.insert("build.log".to_owned(), file("noise"));
        assert_eq!(pack(&files).unwrap(), clean);
        files.insert(".dockerignore".to_owned(), file("[\n"));
        let error = pack(&files).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }

    #[test]
    fn a_file_shorter_than_announced_is_an_error() {
        let entries = Entries::from([("a".to_owned(), Kind::File { executable: false })]);
        let error = pack_entries(&entries, |_| Ok((9, &b"short"[..])), &mut io::sink());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // Extra bytes are ignored.
        let mut archive = Vec::new();
        pack_entries(&entries, |_| Ok((2, &b"short"[..])), &mut archive).unwrap();
        assert_eq!(archive.len(), 512 + 512 + 1024);
    }
}
