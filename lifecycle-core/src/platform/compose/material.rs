//! `configs` and `secrets`: declared at the top level, mounted by services as files.

use std::collections::BTreeMap;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, Key, honoured_entries};
use super::{World, shipped, value};
use crate::code::DirectoryStore;
use crate::model::{FileContents, FileTree, ShippedFile, ShippedMount};

/// Where files of a kind lie in a container, where the service does not say.
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

/// Readable to all in the container, as the specification has it. The directories above it are
/// open to root only on the node.
const MODE: u32 = 0o444;

/// The files of a kind by name; `None` for one that is wrong, which is said already.
pub(super) type Materials<'a> = BTreeMap<&'a str, Option<FileTree>>;

/// Reads a kind at the top level.
pub(super) fn declared<'a>(
    field: &Field<'a>,
    kind: Kind,
    world: &World<'_>,
    report: &mut Report,
) -> Materials<'a> {
    let entries = field.entries(report).into_iter();
    entries
        .map(|(name, field)| (name, one(&field, kind, world, report)))
        .collect()
}

fn one(field: &Field<'_>, kind: Kind, world: &World<'_>, report: &mut Report) -> Option<FileTree> {
    const SOURCES: [&str; 4] = ["content", "environment", "external", "file"];
    let mut found = None;
    let given: Vec<&str> = SOURCES
        .into_iter()
        .filter(|key| field.get(key).is_some_and(|field| !field.is_null()))
        .collect();
    for (key, field) in honoured_entries(field, kind.table, report) {
        if field.is_null() {
            continue;
        }
        match key {
            "file" => {
                let path = field.text(report)?;
                found = shipped::file(path, &field, world, report);
            }
            "environment" => {
                let name = field.text(report)?;
                match (world.lookup)(name) {
                    Some(value) => found = contents(&field, &value, report),
                    None => field.problem_with_help(
                        report,
                        format!("the environment has no `{name}`"),
                        "set it where the command runs, or in `.env`",
                    ),
                }
            }
            "content" => {
                let text = field.text(report)?;
                found = contents(&field, text, report);
            }
            "external" => {
                if field.is_map() || field.boolean(report) == Some(true) {
                    field.problem_with_help(
                        report,
                        format!(
                            "there is no store of {}s that it could come from",
                            kind.word
                        ),
                        "give it `file`, `environment` or `content`",
                    );
                }
            }
            // A name is the store's; here they go by the file's.
            _ => drop(field.text(report)),
        }
    }
    if given.is_empty() && field.is_map() || field.is_null() {
        report.problem_with_help(
            field.at,
            &field.path,
            format!("this {} has no contents", kind.word),
            "give it `file`, `environment` or `content`",
        );
    } else if given.len() > 1 {
        let named: Vec<String> = given.iter().map(|key| format!("`{key}`")).collect();
        report.problem_with_help(
            field.at,
            &field.path,
            format!("its contents are given twice: {}", named.join(", ")),
            "keep one",
        );
    }
    found
}

fn contents(field: &Field<'_>, text: &str, report: &mut Report) -> Option<FileTree> {
    if text.len() as u64 > shipped::LARGEST_SECRET {
        field.problem_with_help(
            report,
            format!("it is larger than {} KiB", shipped::LARGEST_SECRET >> 10),
            "put large files into the image, or data into a named volume",
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

/// The files of a kind that a service mounts.
pub(super) fn mounted(
    field: &Field<'_>,
    kind: Kind,
    known: &Materials<'_>,
    report: &mut Report,
) -> Vec<ShippedMount> {
    let mut mounts = Vec::new();
    for item in field.items(report) {
        mounts.extend(mount(&item, kind, known, report));
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
        for (key, field) in honoured_entries(item, keys::MATERIAL, report) {
            if field.is_null() {
                continue;
            }
            match key {
                "source" => source = field.text(report),
                "target" => target = field.text(report),
                "uid" => uid = field.number(report, 0, u32::MAX - 1)?,
                "gid" => gid = field.number(report, 0, u32::MAX - 1)?,
                _ => mode = field.parse(report, value::mode)?,
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
        item.problem(report, format!("`{target}` names no file in the container"));
        return None;
    }
    let mut tree = material.clone()?;
    if let FileTree::File(file) = &mut tree {
        (file.mode, file.uid, file.gid) = (mode, uid, gid);
    }
    Some(ShippedMount { target, tree })
}
