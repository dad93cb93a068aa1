//! Makes the paths in a file relative to the project directory.
//!
//! In included and extended files, paths are relative to the directories of those files. In the
//! merged tree, all paths must be relative to one directory.

use std::path::{Path, PathBuf};

use super::super::home;
use super::super::interpolation::Lookup;
use super::super::tree::{Entry, Node, Value};
use crate::code::DirectoryStore;

/// The project directory, relative to itself.
pub(super) const PROJECT: &str = ".";

/// Joins a path in a file with the directory of the file, unless the path is absolute or starts with
/// `~`. The directory and the result are relative to the project directory.
pub(super) fn joined(directory: &Path, path: &str, lookup: Lookup<'_>) -> PathBuf {
    joined_path(directory, &home::expanded(path, lookup))
}

fn joined_path(directory: &Path, path: &str) -> PathBuf {
    let joined = directory.join(path);
    PathBuf::from(DirectoryStore::normalised(&joined.to_string_lossy()))
}

/// Returns the directory of a file; both are relative to the project directory.
pub(super) fn directory_of(file: &Path) -> PathBuf {
    let parent = file.parent().unwrap_or(Path::new("")).to_string_lossy();
    joined_path(Path::new(PROJECT), &parent)
}

/// Makes all paths of a file relative to the project directory.
pub(super) fn rebase(root: &mut Node, directory: &Path) {
    if directory == Path::new(PROJECT) {
        return;
    }
    let rebase = Rebase { directory };
    for service in values(root.child_mut("services")) {
        rebase.service(service);
    }
    for section in ["configs", "secrets"] {
        for resource in values(root.child_mut(section)) {
            rebase.each(resource.child_mut("file"));
        }
    }
    for volume in values(root.child_mut("volumes")) {
        let is_bind = volume
            .child("driver_opts")
            .and_then(|options| options.child("o"))
            .and_then(Node::as_text)
            .is_some_and(|options| options.split(',').any(|option| option == "bind"));
        if is_bind && let Some(options) = volume.child_mut("driver_opts") {
            rebase.each(options.child_mut("device"));
        }
    }
}

/// Sets each missing build context in an included project to the directory of that project.
pub(super) fn set_default_contexts(root: &mut Node, directory: &Path) {
    if directory == Path::new(PROJECT) {
        return;
    }
    let context = Rebase { directory }.path(PROJECT);
    for service in values(root.child_mut("services")) {
        let is_in_store = |extension: &Node| extension.child("code").is_some();
        if service.child("x-lifecycle").is_some_and(is_in_store) {
            continue;
        }
        let Some(build) = service.child_mut("build") else {
            continue;
        };
        let at = build.at;
        let lacks = build.child("context").is_none_or(Node::is_null);
        if let (Value::Map(keys), Some(context)) = (&mut build.value, &context)
            && lacks
        {
            keys.retain(|entry| entry.key != "context");
            keys.push(Entry {
                key: "context".to_owned(),
                at,
                node: Node::of_text(at, context.as_str()),
            });
        }
    }
}

/// Returns the values of a mapping, or no values if the node is not a mapping.
pub(super) fn values(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    let entries = match node.map(|node| &mut node.value) {
        Some(Value::Map(entries)) => entries.as_mut_slice(),
        _ => &mut [],
    };
    entries.iter_mut().map(|entry| &mut entry.node)
}

/// Returns the items of a list. A single value counts as a list with one item.
fn items(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    let items = match node {
        Some(Node {
            value: Value::List(items),
            ..
        }) => items.as_mut_slice(),
        Some(one) => std::slice::from_mut(one),
        None => &mut [],
    };
    items.iter_mut()
}

struct Rebase<'d> {
    directory: &'d Path,
}

impl Rebase<'_> {
    fn service(&self, service: &mut Node) {
        if let Some(build) = service.child_mut("build") {
            if matches!(build.value, Value::Map(_)) {
                self.each(build.child_mut("context"));
                self.contexts(build.child_mut("additional_contexts"));
            } else {
                self.each(Some(build));
            }
        }
        for key in ["env_file", "label_file"] {
            for item in items(service.child_mut(key)) {
                if matches!(item.value, Value::Map(_)) {
                    self.each(item.child_mut("path"));
                } else {
                    self.each(Some(item));
                }
            }
        }
        for item in items(service.child_mut("volumes")) {
            if matches!(item.value, Value::Map(_)) {
                if item.child("type").and_then(Node::as_text) == Some("bind") {
                    self.each(item.child_mut("source"));
                }
            } else {
                change(item, |text| self.mount(text));
            }
        }
    }

    fn each(&self, node: Option<&mut Node>) {
        if let Some(node) = node {
            change(node, |text| self.path(text));
        }
    }

    /// Rebases a path. URLs, paths in the home directory and absolute paths are not changed.
    fn path(&self, text: &str) -> Option<String> {
        let stays = text.is_empty()
            || text.starts_with(['/', '~'])
            || text.contains("://")
            || text.starts_with("git@")
            || text.starts_with("github.com/");
        if stays {
            return None;
        }
        let path = joined_path(self.directory, text)
            .to_string_lossy()
            .into_owned();
        // Without `./`, the source of a mount would be a volume name.
        Some(if path.starts_with(['/', '.']) {
            path
        } else {
            format!("./{path}")
        })
    }

    /// Rebases `SOURCE:TARGET[:OPTIONS]` if the source is a relative path.
    fn mount(&self, text: &str) -> Option<String> {
        let (source, rest) = text.split_once(':')?;
        if !source.starts_with('.') {
            return None;
        }
        Some(format!("{}:{rest}", self.path(source)?))
    }

    /// Rebases `NAME=PATH`, in a list or a mapping.
    fn contexts(&self, node: Option<&mut Node>) {
        match node.map(|node| &mut node.value) {
            Some(Value::Map(entries)) => {
                for entry in entries {
                    change(&mut entry.node, |text| self.context(text));
                }
            }
            Some(Value::List(items)) => {
                for item in items {
                    change(item, |text| {
                        let (name, path) = text.split_once('=')?;
                        Some(format!("{name}={}", self.context(path)?))
                    });
                }
            }
            _ => {}
        }
    }

    /// Rebases a context. References to services, images and URLs are not paths.
    fn context(&self, text: &str) -> Option<String> {
        let is_path = !text.contains(':');
        is_path.then(|| self.path(text)).flatten()
    }
}

fn change(node: &mut Node, change: impl FnOnce(&str) -> Option<String>) {
    if node.is_null() {
        return;
    }
    if let Value::Scalar { text, .. } = &mut node.value
        && let Some(changed) = change(text)
    {
        *text = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::diagnostic::Report;
    use crate::platform::tree::Field;
    use crate::platform::yaml;

    #[test]
    fn rebases_every_path_and_nothing_else() {
        let text = "services:\n  a:\n    build: {context: ./app, additional_contexts: [x=../x, \
                    y=docker-image://y]}\n    env_file: [a.env, {path: /b.env}]\n    \
                    volumes: ['./c:/c:ro', 'data:/d', '/e:/e', {type: bind, source: f, target: /f}]\n  \
                    b: {build: ., env_file: b.env}\n  c: {build: 'https://example.com/x.git'}\n\
                    configs: {k: {file: k.conf}}\nsecrets: {s: {file: ../../s}}\n";
        let mut report = Report::new("f");
        let mut root = yaml::parse(text, &mut report).unwrap();
        rebase(&mut root, Path::new("../other/db"));
        let root = Field::root(&root);
        for (path, expected) in [
            ("services.a.build.context", "../other/db/app"),
            ("services.a.build.additional_contexts.0", "x=../other/x"),
            (
                "services.a.build.additional_contexts.1",
                "y=docker-image://y",
            ),
            ("services.a.env_file.0", "../other/db/a.env"),
            ("services.a.env_file.1.path", "/b.env"),
            ("services.a.volumes.0", "../other/db/c:/c:ro"),
            ("services.a.volumes.1", "data:/d"),
            ("services.a.volumes.2", "/e:/e"),
            ("services.a.volumes.3.source", "../other/db/f"),
            ("services.b.build", "../other/db"),
            ("services.b.env_file", "../other/db/b.env"),
            ("services.c.build", "https://example.com/x.git"),
            ("configs.k.file", "../other/db/k.conf"),
            ("secrets.s.file", "../s"),
        ] {
            let mut field = root.clone();
            for part in path.split('.') {
                field = match part.parse::<usize>() {
                    Ok(index) => field.items(&mut report).remove(index),
                    Err(_) => field.get(part).unwrap(),
                };
            }
            assert_eq!(field.text(&mut report), Some(expected), "{path}");
        }
        let mut below = yaml::parse("services: {a: {volumes: ['./c:/c']}}", &mut report).unwrap();
        rebase(&mut below, Path::new("db"));
        let field = Field::root(&below).get("services").unwrap();
        let field = field.get("a").unwrap().get("volumes").unwrap();
        assert_eq!(field.texts(&mut report), ["./db/c:/c"]);
    }
}
