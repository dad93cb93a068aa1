//! The canonical tar format of build contexts. Headers contain no times or owners, so that the same
//! files always result in the same archive.

use std::io;

use super::digest::Kind;

/// The block size of tar archives; contents are padded to whole blocks.
const BLOCK: u64 = 512;

/// The bytes that mark the end of an archive.
pub const END: [u8; 1024] = [0; 1024];

/// Creates the header of an entry; `size` applies only to files.
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

/// Returns the header of an entry, with extra headers for a long path or link target. The caller
/// must then write the content and its [`padding`].
pub fn head(path: &str, kind: &Kind, size: u64) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = header(kind, size);
    match kind {
        Kind::Symlink { target } => archive.append_link(&mut header, path, target)?,
        // The content is empty, so only the header with `size` is written.
        Kind::Directory | Kind::File { .. } => {
            archive.append_data(&mut header, path, io::empty())?;
        }
    }
    // `into_inner` would also write the end of the archive.
    Ok(std::mem::take(archive.get_mut()))
}

/// Returns the number of padding bytes after content of this size.
pub fn padding(size: u64) -> usize {
    // The padding is shorter than a block, so the conversion cannot fail.
    usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn equals_the_output_of_a_tar_builder() {
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
