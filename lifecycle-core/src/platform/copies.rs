//! Finds files that a Dockerfile copies but its code base lacks, for example a program that must be
//! built first. The build would fail later, on a node.

use std::path::Path;

use super::dockerfile::instructions;
use super::load::DOCKERFILE_LIMIT;
use crate::code::DirectoryStore;
use crate::code::digest::{self, Entries};
use crate::error::{Error, Result};

/// A file or directory that a Dockerfile copies but its code base lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCopy {
    /// The number of the instruction's first line.
    pub line: usize,
    /// The path in the code base, as the Dockerfile contains it.
    pub source: String,
}

/// Returns the sources of `COPY` and `ADD` that the code base in `directory` lacks, or that its
/// `.dockerignore` excludes. Ignores sources that are known only during the build: those with
/// variables, from other stages or images, and from URLs. A Dockerfile that cannot be read has no
/// sources.
///
/// # Errors
/// [`Error::Io`] or [`Error::Invalid`] if the code base cannot be read.
pub fn missing_copies(directory: &Path, dockerfile: &str) -> Result<Vec<MissingCopy>> {
    let path = directory.join(dockerfile);
    let is_readable =
        std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= DOCKERFILE_LIMIT);
    if !is_readable {
        return Ok(Vec::new());
    }
    let text = std::fs::read(&path)
        .map_err(|error| Error::io(format!("reading `{}`", path.display()), error))?;
    let entries = digest::entries(directory)?;
    Ok(missing(&String::from_utf8_lossy(&text), &entries))
}

fn missing(dockerfile: &str, entries: &Entries) -> Vec<MissingCopy> {
    let mut found = Vec::new();
    for (line, instruction) in instructions(dockerfile) {
        for source in sources(&instruction) {
            if !contains(entries, &source) {
                found.push(MissingCopy { line, source });
            }
        }
    }
    found
}

/// Returns the sources of a `COPY` or `ADD` that are known before the build.
fn sources(instruction: &str) -> Vec<String> {
    let (word, rest) = instruction
        .split_once(char::is_whitespace)
        .unwrap_or((instruction, ""));
    let is_add = word.eq_ignore_ascii_case("ADD");
    if !is_add && !word.eq_ignore_ascii_case("COPY") {
        return Vec::new();
    }
    let mut rest = rest.trim_start();
    while rest.starts_with("--") {
        let (flag, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        // Another stage or image is the source, or the paths are not relative to the code base.
        if flag.starts_with("--from") || flag.starts_with("--exclude") {
            return Vec::new();
        }
        rest = after.trim_start();
    }
    // A here-document contains the file itself.
    if rest.contains("<<") {
        return Vec::new();
    }
    let words: Vec<String> = if rest.starts_with('[') {
        serde_json::from_str(rest).unwrap_or_default()
    } else {
        rest.split_whitespace().map(str::to_owned).collect()
    };
    let count = words.len().saturating_sub(1);
    let is_known = |source: &String| {
        let is_remote = is_add && (source.contains("://") || source.starts_with("git@"));
        !is_remote && !source.contains(['$', '\\', '"', '\'', '['])
    };
    words.into_iter().take(count).filter(is_known).collect()
}

fn contains(entries: &Entries, source: &str) -> bool {
    let path = DirectoryStore::normalised(source.trim_start_matches('/'));
    // A context ends at its root, so leading parts `..` have no effect.
    let path = path.trim_start_matches("../");
    if matches!(path, "." | "..") {
        return true;
    }
    if !path.contains(['*', '?']) {
        return entries.contains_key(path);
    }
    entries.keys().any(|entry| {
        let (parts, patterns) = (entry.split('/'), path.split('/'));
        parts.clone().count() == patterns.clone().count() && { parts.zip(patterns) }
            .all(|(part, pattern)| matches(pattern.as_bytes(), part.as_bytes()))
    })
}

/// Returns whether a name matches a pattern with `*` and `?`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // The position after the last `*`, and the first byte of the name that follows it.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(byte) if *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((after, from)) = star else {
                    return false;
                };
                (p, n) = (after, from + 1);
                star = Some((after, n));
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::digest::Kind;

    fn lacks(dockerfile: &str) -> Vec<(usize, String)> {
        let mut entries = Entries::new();
        for path in ["app/main.c", "app/lib.jar", "Makefile"] {
            let kind = Kind::File { executable: false };
            digest::add(&mut entries, path.to_owned(), kind);
        }
        let missing = missing(dockerfile, &entries);
        missing
            .into_iter()
            .map(|one| (one.line, one.source))
            .collect()
    }

    #[test]
    fn finds_what_the_code_base_lacks() {
        let text = "FROM a\nCOPY iot-platform /\nCOPY --chown=1:1 app ./lib Makefile \\\n  /x/\n\
                    ADD [\"gone.tar\", \"/\"]\ncopy app/*.so /\n";
        let expected = [
            (2, "iot-platform".to_owned()),
            (3, "./lib".to_owned()),
            (5, "gone.tar".to_owned()),
            (6, "app/*.so".to_owned()),
        ];
        assert_eq!(lacks(text), expected);
    }

    #[test]
    fn ignores_what_is_there_or_known_only_during_the_build() {
        let text = "FROM a\nCOPY . /\nCOPY ./app/ /app\nCOPY app/*.jar Make?ile /\n\
                    COPY /Makefile ../app/main.c /\nCOPY --from=build /x /\n\
                    COPY $FILE /\nADD https://x.example/y /\nCOPY <<EOF /x\nRUN cp gone /\n\
                    COPY */main.c /\n";
        assert_eq!(lacks(text), []);
    }

    #[test]
    fn the_dockerignore_file_counts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("Dockerfile", "FROM a\nCOPY program /\n");
        write("program", "");
        assert_eq!(missing_copies(directory.path(), "Dockerfile").unwrap(), []);
        write(".dockerignore", "program\n");
        let missing = missing_copies(directory.path(), "Dockerfile").unwrap();
        assert_eq!(missing[0].source, "program");
        assert_eq!(missing_copies(directory.path(), "None").unwrap(), []);
    }
}
