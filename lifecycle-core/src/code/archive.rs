//! The one form of a build context: headers that tell no time and no owner, so that the same
//! files give the same archive on every machine and from every store.

use std::io;

use super::digest::Kind;

/// A block of a tar archive, in bytes; contents are filled up to whole ones.
const BLOCK: u64 = 512;

/// What ends an archive.
pub const END: [u8; 1024] = [0; 1024];

/// The header of an entry; `size` counts for a file only.
pub fn header(kind: &Kind, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let (entry_type, mode, size) = match kind {
        Kind::Directory => (tar::EntryType::Directory, 0o755, 0),
        Kind::Symlink { .. } => (tar::EntryType::Symlink, 0o777, 0),
        Kind::File { executable: true } => (tar::EntryType::Regular, 0o755, size),
        Kind::File { executable: false } => (tar::EntryType::Regular, 0o644, size),
    };
    header.set_entry_type(entry_type);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// All that stands before an entry's content, long paths and link targets included, for who
/// writes the content and its [`padding`] without a writer.
pub fn head(path: &str, kind: &Kind, size: u64) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = header(kind, size);
    match kind {
        Kind::Symlink { target } => archive.append_link(&mut header, path, target)?,
        // It copies what it is given and fills that up, whatever the header announces.
        Kind::Directory | Kind::File { .. } => {
            archive.append_data(&mut header, path, io::empty())?;
        }
    }
    // Not `into_inner`, which would end the archive.
    Ok(std::mem::take(archive.get_mut()))
}

/// How many zeros follow a content of this many bytes.
pub fn padding(size: u64) -> usize {
    // Less than a block, so it fits everywhere.
    usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_put_together_by_hand_is_what_a_builder_writes() {
        let file = Kind::File { executable: true };
        let link = Kind::Symlink {
            target: "far/".repeat(40).into(),
        };
        let deep = format!("{}x", "deep/".repeat(60));
        let mut bytes = head("a", &Kind::Directory, 0).unwrap();
        for size in [0, 1, 511, 512, 513] {
            bytes.extend(head(&deep, &file, size).unwrap());
            bytes.extend(vec![b'x'; usize::try_from(size).unwrap()]);
            bytes.extend(vec![0; padding(size)]);
        }
        bytes.extend(head("link", &link, 7).unwrap());
        bytes.extend(END);

        let mut builder = tar::Builder::new(Vec::new());
        let mut directory = header(&Kind::Directory, 0);
        builder
            .append_data(&mut directory, "a", io::empty())
            .unwrap();
        for size in [0, 1, 511, 512, 513] {
            builder
                .append_data(&mut header(&file, size), &deep, io::repeat(b'x').take(size))
                .unwrap();
        }
        builder
            .append_link(&mut header(&link, 0), "link", "far/".repeat(40))
            .unwrap();
        assert!(builder.into_inner().unwrap() == bytes);
    }
}
