//! Reads `configs` and `secrets`, which are declared at the top level and mounted by services as
//! files.

use std::collections::BTreeMap;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, Key, supported_entries};
use super::{ProjectContext, shipped, value};
use crate::code::DirectoryStore;
use crate::model::{FileContents, FileTree, ShippedFile, ShippedMount};

/// The properties in which configs and secrets differ.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) word: &'static str,
    directory: &'static str,
    table: &'static [Key],
}

pub(super) const CONFIG: Kind = Kind {
    word: "config",
    directory: "",
    table: keys::CONFIG,
};

pub(super) const SECRET: Kind = Kind {
    word: "secret",
    directory: "/run/secrets",
    table: keys::SECRET,
};

/// The default mode. Every user in the container can read the file, as the specification requires.
const MODE: u32 = 0o444;

/// The declared configs or secrets by name.
pub(super) type Materials<'a> = BTreeMap<&'a str, Material>;

/// A declared config or secret.
pub(super) struct Material {
    /// The contents; `None` for an invalid entry.
    tree: Option<FileTree>,
    /// Problems with the contents, which matter only if a service mounts them.
    missing: Report,
}

/// Reads the top-level `configs` or `secrets`.
pub(super) fn declared<'a>(
    field: &Field<'a>,
    kind: Kind,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Materials<'a> {
    let entries = field.entries(report).into_iter();
    entries
        .map(|(name, field)| {
            let mut missing = report.of_same_files();
            let tree = one(&field, kind, project, report, &mut missing);
            (name, Material { tree, missing })
        })
        .collect()
}

fn one(
    field: &Field<'_>,
    kind: Kind,
    project: &ProjectContext<'_>,
    report: &mut Report,
    missing: &mut Report,
) -> Option<FileTree> {
    const SOURCES: [&str; 4] = ["content", "environment", "external", "file"];
    let mut found = None;
    let given: Vec<&str> = SOURCES
        .into_iter()
        .filter(|key| field.get(key).is_some_and(|field| !field.is_null()))
        .collect();
    for (key, field) in supported_entries(field, kind.table, report) {
        if field.is_null() {
            continue;
        }
        match key {
            "file" => {
                let path = field.text(report)?;
                found = shipped::file(path, &field, project, missing);
            }
            "environment" => {
                let name = field.text(report)?;
                match (project.lookup)(name) {
                    Some(value) => found = contents(&field, &value, report),
                    None => field.problem_with_help(
                        missing,
                        format!("the environment variable `{name}` is not set"),
                        "set the variable in the environment of the command, or in `.env`",
                    ),
                }
            }
            "content" => {
                let text = field.text(report)?;
                found = contents(&field, text, report);
            }
            "external" => {
                let is_external = if field.is_map() {
                    for (key, entry) in field.entries(report) {
                        if key != "name" {
                            report.unknown_key(entry.at, &entry.path, key, ["name"]);
                        }
                    }
                    true
                } else {
                    field.boolean(report) == Some(true)
                };
                if is_external {
                    field.problem_with_help(
                        missing,
                        format!("external {}s are not supported", kind.word),
                        "set `file`, `environment` or `content`",
                    );
                }
            }
            // The key identifies the entry, so `name` is ignored.
            _ => drop(field.text(report)),
        }
    }
    if given.is_empty() && field.is_map() || field.is_null() {
        report.problem_with_help(
            field.at,
            &field.path,
            format!("the {} has no contents", kind.word),
            "set `file`, `environment` or `content`",
        );
    } else if given.len() > 1 {
        let named: Vec<String> = given.iter().map(|key| format!("`{key}`")).collect();
        report.problem_with_help(
            field.at,
            &field.path,
            format!("the contents are set more than once: {}", named.join(", ")),
            "keep only one of these keys",
        );
    }
    found
}

fn contents(field: &Field<'_>, text: &str, report: &mut Report) -> Option<FileTree> {
    if text.len() as u64 > shipped::MAX_SECRET {
        field.problem_with_help(
            report,
            format!(
                "the contents are larger than {} KiB",
                shipped::MAX_SECRET >> 10
            ),
            "put large files into the image, or use a named volume for data",
        );
        return None;
    }
    Some(FileTree::File(ShippedFile {
        mode: MODE,
        uid: 0,
        gid: 0,
        contents: FileContents::new(text.as_bytes().to_vec()),
    }))
}

/// Reads the `configs` or `secrets` of a service.
pub(super) fn mounted(
    field: &Field<'_>,
    kind: Kind,
    known: &Materials<'_>,
    report: &mut Report,
) -> Vec<ShippedMount> {
    let mut mounts = Vec::new();
    for item in field.items(report) {
        let mount = mount(&item, kind, known, report);
        // As in Compose, equal entries count once.
        mounts.extend(mount.filter(|mount| !mounts.contains(mount)));
    }
    mounts
}

fn mount(
    item: &Field<'_>,
    kind: Kind,
    known: &Materials<'_>,
    report: &mut Report,
) -> Option<ShippedMount> {
    let mut source = None;
    let mut target = None;
    let (mut uid, mut gid, mut mode) = (0, 0, MODE);
    if item.is_map() {
        for (key, field) in supported_entries(item, keys::MATERIAL, report) {
            if field.is_null() {
                continue;
            }
            match key {
                "source" => source = field.text(report),
                "target" => target = field.text(report),
                "uid" => uid = field.number(report, 0, u32::MAX - 1)?,
                "gid" => gid = field.number(report, 0, u32::MAX - 1)?,
                _ => mode = value::mode(&field, report)?,
            }
        }
        if item.get("source").is_none_or(|field| field.is_null()) {
            item.problem(report, "`source` is missing");
        }
    } else {
        source = item.text(report);
    }
    let source = source?;
    let Some(material) = known.get(source) else {
        let message = format!("the {0} `{source}` is not declared under `{0}s`", kind.word);
        report.unknown_name(
            item.value_at(),
            &item.path,
            message,
            source,
            known.keys().copied(),
        );
        return None;
    };
    let name = target.unwrap_or(source);
    let target = if name.starts_with('/') {
        name.to_owned()
    } else {
        format!("{}/{name}", kind.directory)
    };
    if DirectoryStore::normalised(&target) == "/" || target.ends_with('/') {
        item.problem(
            report,
            format!("`{target}` is not the path of a file in the container"),
        );
        return None;
    }
    report.join(&material.missing);
    let mut tree = material.tree.clone()?;
    if let FileTree::File(file) = &mut tree {
        (file.mode, file.uid, file.gid) = (mode, uid, gid);
    }
    Some(ShippedMount {
        target,
        tree,
        chunks: Vec::new(),
    })
}
