//! Adds the Dockerfile of `dockerfile_inline` to a build context while the context is streamed.

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::archive;
use super::digest::Kind;
use crate::error::{Error, Result};
use crate::stream::ByteStream;

/// Inserts a file at the start of an archive.
pub(crate) fn with_file(context: ByteStream, name: &str, text: &str) -> Result<ByteStream> {
    let size = text.len() as u64;
    let mut file = archive::head(name, &Kind::File { executable: false }, size)
        .map_err(|error| Error::io(format!("adding `{name}` to the build context"), error))?;
    file.extend_from_slice(text.as_bytes());
    file.resize(file.len() + archive::padding(size), 0);
    let first = stream::once(async move { Ok(Bytes::from(file)) });
    Ok(first.chain(context).boxed())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use futures_util::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn adds_the_file_and_keeps_the_others() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        archive
            .append_data(&mut header, "old", b"abc".as_slice())
            .unwrap();
        let bytes = Bytes::from(archive.into_inner().unwrap());
        let context = stream::once(async move { Ok(bytes) }).boxed();
        let both: Vec<Bytes> = with_file(context, "new", &"x".repeat(700))
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let both = both.concat();
        let mut read = tar::Archive::new(both.as_slice());
        let found: Vec<(String, usize)> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().display().to_string();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (name, bytes.len())
            })
            .collect();
        assert_eq!(found, [("new".to_owned(), 700), ("old".to_owned(), 3)]);
    }
}
