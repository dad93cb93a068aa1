//! A code base as a build context, streamed: a few pieces are fetched ahead, and every byte is
//! checked against the digest that was asked for.

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

/// What an archive is made of, in its order.
enum Part {
    /// Bytes that are ours.
    Frame(Bytes),
    /// Bytes of a file, which are fetched.
    Piece(Piece),
    /// A file has ended; this is what it must have been.
    End { path: String, sha256: [u8; 32] },
}

/// A part that is there.
enum Ready {
    Frame(Bytes),
    Content(Bytes),
    End { path: String, sha256: [u8; 32] },
}

/// The archive of a code base.
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
        // Nothing comes after an error: a reader could take the rest for the whole.
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
                    "`{path}` was changed while it was read"
                )))
            }
        }
    }
}

impl Share {
    /// The bytes of a piece, which are what they must be.
    pub(super) async fn fetch(&self, piece: &Piece, doing: &str) -> Result<Bytes> {
        let bytes = self.read(&piece.path, piece.range.clone(), doing).await?;
        match piece.sha256 {
            Some(wanted) if Sha256::digest(&bytes)[..] != wanted => Err(Error::corrupt(
                format!("`{}` in {}", piece.path, self.place()),
                "its bytes are not those that were published; remove the directory that holds \
                      it, and publish the code base again",
            )),
            _ => Ok(bytes),
        }
    }
}
