//! Reads the parts of a Dockerfile that the simulated engine needs: the base images, and the
//! declarations for the built image.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::model::Protocol;

/// The parts of a Dockerfile that the simulated engine uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// The base images in `FROM` lines, without the Dockerfile's own stages and `scratch`.
    pub(super) bases: Vec<String>,
    /// The base image of the last stage; `None` for `scratch`.
    pub(super) last_base: Option<String>,
    /// The exposed ports of the last stage.
    pub(super) exposed: Vec<(u16, Protocol)>,
    /// Whether the last stage has a health check, if it sets one.
    pub(super) healthcheck: Option<bool>,
    /// The command of the last stage.
    pub(super) command: Option<Vec<String>>,
    /// A digest of what the image is built from, apart from its base image.
    pub(super) contents: String,
}

/// Finds and reads the Dockerfile in a build context.
pub(super) fn from_context(
    context: &[u8],
    path: &str,
    args: &BTreeMap<String, String>,
) -> Result<Dockerfile> {
    let unreadable = |error: std::io::Error| Error::failed("build", error.to_string());
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut archive = tar::Archive::new(context);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = normalized(&entry.path().map_err(unreadable)?);
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).map_err(unreadable)?;
        files.insert(path, contents);
    }
    let Some(text) = files.get(&normalized(Path::new(path))) else {
        return Err(Error::failed(
            "build",
            format!("the context does not contain `{path}`"),
        ));
    };
    let text = String::from_utf8_lossy(text);
    let mut file = read(&text, args)?;
    file.contents = contents(&text, args, &files);
    Ok(file)
}

fn normalized(path: &Path) -> PathBuf {
    let is_part = |part: &Component<'_>| matches!(part, Component::Normal(_));
    path.components().filter(is_part).collect()
}

/// Returns a digest of everything that the built image depends on, apart from its base image: the
/// instructions, the arguments, and the files that the instructions copy.
fn contents(
    text: &str,
    args: &BTreeMap<String, String>,
    files: &BTreeMap<PathBuf, Vec<u8>>,
) -> String {
    let mut digest = Sha256::new();
    for (name, value) in args {
        digest.update(format!("{name}={value}\n"));
    }
    for line in joined_lines(text) {
        digest.update(format!("{line}\n"));
        let mut words = line
            .split_whitespace()
            .filter(|word| !word.starts_with("--"));
        if !words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("COPY"))
        {
            continue;
        }
        let words: Vec<&str> = words.collect();
        let sources = words
            .split_last()
            .map_or(&[][..], |(_target, sources)| sources);
        for source in sources.iter().map(|word| normalized(Path::new(word))) {
            for (path, contents) in files.iter().filter(|(path, _)| path.starts_with(&source)) {
                digest.update(format!("{} {}\n", path.display(), contents.len()));
                digest.update(contents);
            }
        }
    }
    hex::encode(digest.finalize())
}

fn read(text: &str, given: &BTreeMap<String, String>) -> Result<Dockerfile> {
    let mut file = Dockerfile::default();
    let mut args: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut begun = false;
    for line in joined_lines(text) {
        let (word, rest) = line
            .split_once(char::is_whitespace)
            .map_or((line.as_str(), ""), |(word, rest)| (word, rest.trim()));
        match word.to_ascii_uppercase().as_str() {
            "ARG" if !begun => {
                let (name, default) = rest.split_once('=').unwrap_or((rest, ""));
                let value = given.get(name).map_or(default, String::as_str);
                args.insert(name.to_owned(), value.trim_matches('"').to_owned());
            }
            "FROM" => {
                begun = true;
                let words: Vec<&str> = rest
                    .split_whitespace()
                    .filter(|word| !word.starts_with("--"))
                    .collect();
                let Some(image) = words.first().map(|image| substituted(image, &args)) else {
                    return Err(Error::failed("build", "FROM has no image"));
                };
                let base = match stages.get(&image) {
                    Some(base) => base.clone(),
                    None if image == "scratch" => None,
                    None => {
                        if !file.bases.contains(&image) {
                            file.bases.push(image.clone());
                        }
                        Some(image)
                    }
                };
                if let [_, word, name] = words[..]
                    && word.eq_ignore_ascii_case("as")
                {
                    stages.insert(name.to_owned(), base.clone());
                }
                file.last_base = base;
                file.exposed.clear();
                file.healthcheck = None;
                file.command = None;
            }
            "EXPOSE" => file
                .exposed
                .extend(rest.split_whitespace().filter_map(exposed_port)),
            "HEALTHCHECK" => file.healthcheck = Some(!rest.eq_ignore_ascii_case("none")),
            "CMD" | "ENTRYPOINT" => {
                file.command = Some(serde_json::from_str(rest).unwrap_or_else(|_| {
                    vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()]
                }));
            }
            _ => {}
        }
    }
    if begun {
        Ok(file)
    } else {
        Err(Error::failed("build", "the Dockerfile has no FROM"))
    }
}

/// Returns the instructions, without comments and with continued lines joined.
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(start) = line.strip_suffix('\\') {
            open.push_str(start);
            open.push(' ');
        } else {
            open.push_str(line);
            lines.push(std::mem::take(&mut open));
        }
    }
    if !open.is_empty() {
        lines.push(open);
    }
    lines
}

fn substituted(image: &str, args: &BTreeMap<String, String>) -> String {
    let mut image = image.to_owned();
    for (name, value) in args {
        image = image
            .replace(&format!("${{{name}}}"), value)
            .replace(&format!("${name}"), value);
    }
    image
}

fn exposed_port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "udp" => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    Some((port.parse().ok()?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stages_arguments_and_declarations() {
        let text = "# comment\nARG BASE=debian:bookworm-slim\nFROM rust:1 AS build\nEXPOSE 1\n\
                    FROM --platform=linux/amd64 ${BASE} AS run\nFROM run\nEXPOSE 8080 \\\n 53/udp\n\
                    HEALTHCHECK CMD true\nCMD [\"sleep\", \"1\"]\n";
        let file = read(text, &BTreeMap::new()).unwrap();
        assert_eq!(file.bases, ["rust:1", "debian:bookworm-slim"]);
        assert_eq!(file.last_base.as_deref(), Some("debian:bookworm-slim"));
        assert_eq!(file.exposed, [(8080, Protocol::Tcp), (53, Protocol::Udp)]);
        assert_eq!(file.healthcheck, Some(true));
        assert_eq!(file.command.unwrap(), ["sleep", "1"]);
        let args = BTreeMap::from([("BASE".to_owned(), "alpine:3".to_owned())]);
        assert_eq!(read(text, &args).unwrap().bases, ["rust:1", "alpine:3"]);
    }

    #[test]
    fn scratch_is_not_a_base_and_a_file_without_from_fails() {
        let file = read("FROM scratch\n", &BTreeMap::new()).unwrap();
        assert!(file.bases.is_empty() && file.last_base.is_none());
        assert!(read("EXPOSE 80\n", &BTreeMap::new()).is_err());
    }
}
