//! Interprets scripts that work with files of a simulated host. Only the commands that the
//! bootstrapper uses have an effect. Each command is on its own line, with quoted paths.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// Files by path, with their modes.
type Files = BTreeMap<String, (u32, Bytes)>;

/// Runs a script, and returns its output.
pub(super) fn run(files: &mut Files, script: &str) -> String {
    let mut printed = String::new();
    for line in script.lines().map(str::trim) {
        let mut quoted = line.split('\'').skip(1).step_by(2);
        let (first, second) = (quoted.next(), quoted.next());
        match (line.split_whitespace().next(), first, second) {
            (Some("ls"), Some(directory), _) => {
                for name in names(files, directory) {
                    printed.push_str(&name);
                    printed.push('\n');
                }
            }
            (Some("cat"), Some(path), _) => {
                if let Some((_, contents)) = files.get(path) {
                    printed.push_str(&String::from_utf8_lossy(contents));
                }
            }
            (Some("tar"), Some(archive), _) => unpack(files, archive),
            (Some("rm"), Some(path), _) => drop(take(files, path)),
            (Some("cp"), Some(from), Some(to)) => {
                for (rest, file) in below(files, from) {
                    files.insert(joined(to, &rest), file);
                }
            }
            (Some("mv"), Some(from), Some(to)) => {
                for (rest, file) in take(files, from) {
                    files.insert(joined(to, &rest), file);
                }
            }
            _ => {}
        }
    }
    printed
}

/// Unpacks an archive of mounted files into the directory with the archive's name, without its
/// extension. The real script unpacks into a temporary directory, which it then renames.
fn unpack(files: &mut Files, archive: &str) {
    let Some(directory) = archive.strip_suffix(".tar") else {
        return;
    };
    let Some((_, contents)) = files.get(archive).cloned() else {
        return;
    };
    let mut reader = tar::Archive::new(contents.as_ref());
    for entry in reader.entries().into_iter().flatten().flatten() {
        let Ok(path) = entry.path().map(|path| path.display().to_string()) else {
            continue;
        };
        let mode = entry.header().mode().unwrap_or_default();
        let range = usize::try_from(entry.raw_file_position())
            .ok()
            .zip(usize::try_from(entry.size()).ok())
            .map(|(start, size)| start..start + size);
        if let Some(range) = range.filter(|range| range.end <= contents.len())
            && entry.header().entry_type().is_file()
        {
            files.insert(joined(directory, &path), (mode, contents.slice(range)));
        }
    }
}

/// Joins a path and a relative path, without redundant separators.
fn joined(path: &str, rest: &str) -> String {
    let path = path.trim_end_matches('/');
    if rest.is_empty() {
        path.to_owned()
    } else {
        format!("{path}/{rest}")
    }
}

/// Returns the file at a path, or all files below the path, with relative paths.
fn below(files: &Files, path: &str) -> Vec<(String, (u32, Bytes))> {
    let path = path.trim_end_matches("/.").trim_end_matches('/');
    let found = files.iter().filter_map(|(name, file)| {
        let rest = name.strip_prefix(path)?;
        let rest = match rest {
            "" => "",
            _ => rest.strip_prefix('/')?,
        };
        Some((rest.to_owned(), file.clone()))
    });
    found.collect()
}

fn take(files: &mut Files, path: &str) -> Vec<(String, (u32, Bytes))> {
    let taken = below(files, path);
    for (rest, _) in &taken {
        files.remove(&joined(path, rest));
    }
    taken
}

fn names(files: &Files, directory: &str) -> BTreeSet<String> {
    let first = |(rest, _): (String, _)| rest.split('/').next().map(str::to_owned);
    below(files, directory)
        .into_iter()
        .filter_map(first)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_copies_moves_and_removes_directories() {
        let mut files = Files::new();
        for path in ["/d/a/one", "/d/a/two", "/d/b", "/dd/c"] {
            files.insert(path.into(), (0o400, Bytes::from(path)));
        }
        assert_eq!(run(&mut files, "ls -1 '/d' 2>/dev/null || true"), "a\nb\n");
        let script = "set -e\nmkdir -m 0700 '/d/new'\ncp -a '/d/a' '/d/new/a'\n\
                      mv '/d/new' '/d/kept'\nrm -rf '/d/a'\nrm -rf '/d/b'";
        assert_eq!(run(&mut files, script), "");
        assert_eq!(run(&mut files, "ls -1 '/d'"), "kept\n");
        run(&mut files, "cp -a '/d/kept/.' '/d/'\nrm -rf '/d/kept'");
        let paths: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/d/a/one", "/d/a/two", "/dd/c"]);
        assert_eq!(files["/d/a/one"].1, "/d/a/one");
    }
}
