//! Streams a code base as a build context. Fetches a few pieces ahead, and verifies all bytes
//! against the requested digest.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use lifecycle_core::code::archive;
use lifecycle_core::host::ByteStream;
use lifecycle_core::{Error, Result};
use sha2::{Digest as _, Sha256};

use super::PARALLEL;
use super::contents::{Contents, Piece};
use super::name::Name;
use super::share::Share;

/// A part of the archive.
enum Part {
    /// Bytes of the archive format, such as headers and padding.
    Frame(Bytes),
    /// Bytes of a file, which must be fetched.
    Piece(Piece),
    /// The end of a file, with its expected hash.
    End { path: String, sha256: [u8; 32] },
}

/// A part whose bytes are available.
enum Ready {
    Frame(Bytes),
    Content(Bytes),
    End { path: String, sha256: [u8; 32] },
}

/// Streams the archive of a code base.
pub(super) fn stream(share: Share, name: &Name, contents: Contents) -> Result<ByteStream> {
    let doing = format!("reading code base `{name}`");
    let mut parts = Vec::new();
    for entry in contents.entries {
        let size = entry.body.as_ref().map_or(0, |body| body.size);
        let head = archive::head(&entry.path, &entry.kind, size).map_err(|error| {
            Error::io(format!("writing `{}` into an archive", entry.path), error)
        })?;
        parts.push(Part::Frame(head.into()));
        if let Some(body) = entry.body {
            parts.extend(body.pieces.into_iter().map(Part::Piece));
            parts.push(Part::End {
                path: entry.path,
                sha256: body.sha256,
            });
            parts.push(Part::Frame(vec![0; archive::padding(size)].into()));
        }
    }
    parts.push(Part::Frame(Bytes::from_static(&archive::END)));

    let fetch = move |part| {
        let (share, doing) = (share.clone(), doing.clone());
        async move {
            match part {
                Part::Frame(bytes) => Ok(Ready::Frame(bytes)),
                Part::End { path, sha256 } => Ok(Ready::End { path, sha256 }),
                Part::Piece(piece) => share
                    .fetch(&piece, &doing)
                    .await
                    .map(Ready::Content)
                    .map_err(io::Error::other),
            }
        }
    };
    let ready = stream::iter(parts).map(fetch).buffered(PARALLEL);
    let checked = ready.scan(Some(Sha256::new()), |state, part| {
        // End the stream after an error. Otherwise, a reader could mistake an incomplete archive
        // for a complete one.
        let item = state.take().map(|mut hash| {
            let outcome = part.and_then(|part| check(&mut hash, part));
            if outcome.is_ok() {
                *state = Some(hash);
            }
            outcome
        });
        std::future::ready(item)
    });
    let full = checked.filter(|part| {
        let empty = matches!(part, Ok(bytes) if bytes.is_empty());
        std::future::ready(!empty)
    });
    Ok(full.boxed())
}

fn check(hash: &mut Sha256, part: Ready) -> io::Result<Bytes> {
    match part {
        Ready::Frame(bytes) => Ok(bytes),
        Ready::Content(bytes) => {
            hash.update(&bytes);
            Ok(bytes)
        }
        Ready::End { path, sha256 } => {
            if hash.finalize_reset()[..] == sha256 {
                Ok(Bytes::new())
            } else {
                Err(io::Error::other(format!(
                    "`{path}` changed while it was read"
                )))
            }
        }
    }
}

impl Share {
    /// Fetches the bytes of a piece and verifies their hash.
    pub(super) async fn fetch(&self, piece: &Piece, doing: &str) -> Result<Bytes> {
        let bytes = self.read(&piece.path, piece.range.clone(), doing).await?;
        match piece.sha256 {
            Some(expected) if Sha256::digest(&bytes)[..] != expected => Err(Error::corrupt(
                format!("`{}` in {}", piece.path, self.info()),
                "the contents differ from the published contents; remove the directory of this \
                 file from the share, then publish the code base again",
            )),
            _ => Ok(bytes),
        }
    }
}
