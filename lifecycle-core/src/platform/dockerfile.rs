//! Reads a Dockerfile before it is built: the base images in its `FROM` lines, and the ports in its
//! `EXPOSE` lines.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::compose::value;
use super::interpolation::interpolate;
use crate::model::Protocol;

/// The information that can be read from a Dockerfile before the build.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// The base images of all stages, in order and without duplicates. `scratch` and references to
    /// other stages are omitted.
    pub(super) bases: Vec<String>,
    /// The ports that the last stage exposes, if they are known before the build.
    pub(super) exposes: BTreeSet<(u16, Protocol)>,
}

/// The maximum number of stages.
const MAX_STAGES: usize = 1000;

/// The maximum total size of the arguments before the first `FROM`, in bytes. Without this limit,
/// variables could expand a small file to any size.
const MAX_BYTES: usize = 4 << 20;

/// Reads a Dockerfile. The error contains the line number.
pub(super) fn read(text: &str, args: &BTreeMap<String, String>) -> Result<Dockerfile, String> {
    let mut defaults: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: HashSet<String> = HashSet::new();
    let mut stage_count = 0;
    let mut bytes = 0;
    let mut bases: Vec<String> = Vec::new();
    let mut exposes = BTreeSet::new();
    let mut seen_from = false;
    for (line, instruction) in instructions(text) {
        let (word, rest) = instruction
            .split_once(char::is_whitespace)
            .unwrap_or((&instruction, ""));
        // Only arguments declared before the first `FROM` apply to `FROM` lines.
        if word.eq_ignore_ascii_case("ARG") && !seen_from {
            for declared in rest.split_whitespace() {
                let (name, default) = match declared.split_once('=') {
                    Some((name, default)) => (name, Some(unquoted(default))),
                    None => (declared, None),
                };
                let default = default
                    .map(|default| substituted(default, &defaults, line))
                    .transpose()?;
                bytes += default.as_ref().map_or(0, String::len);
                if bytes > MAX_BYTES {
                    let most = MAX_BYTES >> 20;
                    return Err(format!(
                        "line {line}: the arguments have more than {most} MiB"
                    ));
                }
                if let Some(value) = args.get(name).cloned().or(default) {
                    defaults.insert(name.to_owned(), value);
                }
            }
        } else if word.eq_ignore_ascii_case("FROM") {
            seen_from = true;
            stage_count += 1;
            if stage_count > MAX_STAGES {
                return Err(format!(
                    "line {line}: the file has more than {MAX_STAGES} stages"
                ));
            }
            exposes.clear();
            let mut words = rest
                .split_whitespace()
                .filter(|word| !word.starts_with("--"));
            let written = words.next().unwrap_or_default();
            let image = substituted(unquoted(written), &defaults, line)?;
            if image.is_empty() {
                return Err(format!("line {line}: `FROM {written}` has no image"));
            }
            let is_stage = stages.contains(&image.to_ascii_lowercase());
            if image != "scratch" && !is_stage && !bases.contains(&image) {
                bases.push(value::image(&image).map_err(|why| format!("line {line}: {why}"))?);
            }
            if words
                .next()
                .is_some_and(|word| word.eq_ignore_ascii_case("AS"))
                && let Some(name) = words.next()
            {
                stages.insert(name.to_ascii_lowercase());
            }
        } else if word.eq_ignore_ascii_case("EXPOSE") {
            exposes.extend(rest.split_whitespace().filter_map(port));
        }
    }
    if seen_from {
        Ok(Dockerfile { bases, exposes })
    } else {
        Err("the file has no `FROM` line".to_owned())
    }
}

/// Parses `8080` or `53/udp`. Returns `None` for any other text, such as a variable.
fn port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok()?, protocol))
}

fn substituted(
    text: &str,
    values: &BTreeMap<String, String>,
    line: usize,
) -> Result<String, String> {
    interpolate(text, &|name| values.get(name).cloned())
        .map(|done| done.text)
        .map_err(|message| format!("line {line}: {message}"))
}

fn unquoted(text: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text)
}

/// Returns the instructions, each with the number of its first line. Continued lines are joined;
/// comments are removed.
pub(crate) fn instructions(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape(text);
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, goes_on) = match line.strip_suffix(escape) {
            Some(part) => (part.trim_end(), true),
            None => (line, false),
        };
        match found.last_mut() {
            Some((_, instruction)) if continues => {
                instruction.push(' ');
                instruction.push_str(part);
            }
            _ => found.push((index + 1, part.to_owned())),
        }
        continues = goes_on;
    }
    found
}

/// Reads the `# escape=` directive; only other directives may precede it.
fn escape(text: &str) -> char {
    for line in text.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|l| l.split_once('='))
        else {
            break;
        };
        if name.trim().eq_ignore_ascii_case("escape") {
            return if value.trim() == "`" { '`' } else { '\\' };
        }
    }
    '\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let args = BTreeMap::from([("TAG".to_owned(), "given".to_owned())]);
        read(text, &args).unwrap().bases
    }

    #[test]
    fn exposes_the_ports_of_the_last_stage() {
        let text = "FROM a AS build\nEXPOSE 1\nFROM b\nEXPOSE 80 53/UDP $PORT 9/sctp\nEXPOSE 443\n";
        let exposes = read(text, &BTreeMap::new()).unwrap().exposes;
        let named = [
            (80, Protocol::Tcp),
            (443, Protocol::Tcp),
            (53, Protocol::Udp),
        ];
        assert_eq!(exposes, BTreeSet::from(named));
    }

    #[test]
    fn stages_and_scratch_are_not_base_images() {
        let text = "# syntax comment\nFROM rust:1.95 AS Build\nRUN x\nFROM build AS test\n\
                    FROM --platform=$BUILDPLATFORM debian:bookworm-slim\nFROM scratch\nfrom rust:1.95\n";
        assert_eq!(of(text), ["rust:1.95", "debian:bookworm-slim"]);
    }

    #[test]
    fn substitutes_arguments_declared_before_the_first_from() {
        assert_eq!(of("ARG TAG=default\nFROM a:$TAG\n"), ["a:given"]);
        assert_eq!(
            of("ARG V=1.2\nARG I=\"b:${V}\"\nFROM ${I}-slim\n"),
            ["b:1.2-slim"]
        );
        assert_eq!(of("FROM a:${NONE:-x}\nARG TAG=y\n"), ["a:x"]);
        assert_eq!(of("FROM a\nARG V=1\nFROM b${V}\n"), ["a", "b"]);
    }

    #[test]
    fn continued_lines_may_contain_comments_and_use_another_escape() {
        assert_eq!(
            of("FROM \\\n  # why\n\n  debian \\\n  AS x\nFROM x\n"),
            ["debian"]
        );
        assert_eq!(of("# escape=`\nFROM `\n debian\n"), ["debian"]);
    }

    #[test]
    fn a_small_file_cannot_become_large() {
        let none = BTreeMap::new();
        let bomb = format!(
            "ARG A={}\n{}FROM a\n",
            "x".repeat(500_000),
            "ARG B=$A$A\n".repeat(20)
        );
        let bad = read(&bomb, &none).unwrap_err();
        assert!(bad.contains("the arguments have more than 4 MiB"), "{bad}");
        let bad = read(&"FROM a\n".repeat(1001), &none).unwrap_err();
        assert_eq!(bad, "line 1001: the file has more than 1000 stages");
    }

    #[test]
    fn reports_a_from_line_without_an_image() {
        let none = BTreeMap::new();
        assert_eq!(
            read("ARG X\nFROM $X\n", &none),
            Err("line 2: `FROM $X` has no image".into())
        );
        assert_eq!(
            read("RUN x\n", &none),
            Err("the file has no `FROM` line".into())
        );
        assert!(read("FROM ${X\n", &none).is_err());
    }
}
