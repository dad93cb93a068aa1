//! Reads a plain code base: files that were copied to the share without `publish`.
//!
//! To compute the digest again, reads only the files whose size or entity tag has changed.

use std::collections::BTreeMap;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle_core::Result;
use lifecycle_core::code::digest::{
    self, Entries, IGNORE_FILE, IGNORE_FILE_LIMIT, Kind, Selection,
};
use sha2::{Digest as _, Sha256};

use super::contents::{Body, Contents, Entry, Piece};
use super::name::Name;
use super::share::{Listed, Share};
use super::{AzureFiles, CHUNK, PARALLEL};

/// The known digests of a code base's files, by path.
pub(super) type Known = BTreeMap<String, Seen>;

/// A file whose digest is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    size: u64,
    /// The entity tag. If `None`, the file is always read again, because changes cannot be
    /// detected.
    etag: Option<String>,
    sha256: [u8; 32],
}

impl AzureFiles {
    /// Reads a code base. `top` contains the entries of the code base's directory.
    pub(super) async fn plain_contents(
        &self,
        name: &Name,
        top: Vec<Listed>,
        doing: &str,
    ) -> Result<Contents> {
        let share = &self.share;
        let root = name;
        let selection = selection(share, root, &top, doing).await?;
        let (entries, files) = walk(share, root, top, &selection, doing).await?;

        let known = self
            .memory()
            .plain
            .get(root.directory())
            .cloned()
            .unwrap_or_default();
        let known = &known;
        let seen: Known = stream::iter(files)
            .map(|(path, file)| async move {
                let seen = match known.get(&path) {
                    Some(seen) if seen.is_still(&file) => seen.clone(),
                    _ => {
                        let full = root.join(&path);
                        Seen {
                            size: file.size,
                            etag: file.etag.clone(),
                            sha256: hash(share, &full, file.size, doing).await?,
                        }
                    }
                };
                Ok::<_, lifecycle_core::Error>((path, seen))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;

        let entries = entries.into_iter().map(|(path, kind)| {
            let body = seen.get(&path).map(|seen| Body {
                size: seen.size,
                sha256: seen.sha256,
                pieces: pieces(&root.join(&path), seen.size).collect(),
            });
            Entry { path, kind, body }
        });
        let contents = Contents::new(entries.collect());
        self.memory()
            .plain
            .insert(root.directory().to_owned(), seen);
        Ok(contents)
    }
}

impl Seen {
    fn is_still(&self, file: &Listed) -> bool {
        self.etag.is_some() && self.etag == file.etag && self.size == file.size
    }
}

async fn selection(share: &Share, root: &Name, top: &[Listed], doing: &str) -> Result<Selection> {
    let Some(file) = top
        .iter()
        .find(|item| item.name == IGNORE_FILE && !item.is_directory)
    else {
        return Ok(Selection::default());
    };
    let path = root.join(IGNORE_FILE);
    let text = share
        .read(&path, 0..file.size.min(IGNORE_FILE_LIMIT + 1), doing)
        .await?;
    Selection::parse(&text, &format!("{path}` in `{}", share.info().share))
}

/// Returns the entries of the code base and, for its files, also the list items of the share.
async fn walk(
    share: &Share,
    root: &Name,
    top: Vec<Listed>,
    selection: &Selection,
    doing: &str,
) -> Result<(Entries, Vec<(String, Listed)>)> {
    let (mut entries, mut files) = (Entries::new(), Vec::new());
    let mut found = vec![(String::new(), top)];
    let mut waiting: Vec<String> = Vec::new();
    let mut lists = FuturesUnordered::new();
    loop {
        for (directory, items) in found.drain(..) {
            for item in items {
                let path = match directory.as_str() {
                    "" => item.name.clone(),
                    directory => format!("{directory}/{}", item.name),
                };
                let takes = selection.includes(&path);
                if item.is_directory {
                    if selection.may_include_below(&path) {
                        waiting.push(path.clone());
                    }
                    if takes {
                        digest::add(&mut entries, path, Kind::Directory);
                    }
                } else if takes {
                    files.push((path.clone(), item));
                    digest::add(&mut entries, path, Kind::File { executable: false });
                }
            }
        }
        while lists.len() < PARALLEL
            && let Some(path) = waiting.pop()
        {
            lists.push(async move {
                let items = share.list(&root.join(&path), doing).await?;
                Ok::<_, lifecycle_core::Error>((path, items))
            });
        }
        match lists.next().await {
            Some(listed) => found.push(listed?),
            None => return Ok((entries, files)),
        }
    }
}

fn pieces(path: &str, size: u64) -> impl Iterator<Item = Piece> {
    let step = CHUNK as u64;
    (0..size.div_ceil(step)).map(move |number| Piece {
        path: path.to_owned(),
        range: number * step..size.min((number + 1) * step),
        sha256: None,
    })
}

/// Computes the hash of a file. Reads the pieces sequentially; the caller already reads several
/// files concurrently.
async fn hash(share: &Share, path: &str, size: u64, doing: &str) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    for piece in pieces(path, size) {
        hash.update(share.fetch(&piece, doing).await?);
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_file_exactly_once() {
        for size in [0, 1, CHUNK as u64, CHUNK as u64 + 1, 5 * CHUNK as u64 - 1] {
            let mut next = 0;
            for piece in pieces("x", size) {
                assert_eq!(piece.range.start, next);
                assert!(piece.range.end > next && piece.range.end - next <= CHUNK as u64);
                next = piece.range.end;
            }
            assert_eq!(next, size);
        }
    }
}
