//! Volumes at the top level, and what a service mounts: named volumes, paths of the node, the
//! user's own files, memory.

use std::collections::BTreeSet;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, honoured_entries};
use super::service::pairs;
use super::shipped::{self, Found};
use super::{Declared, World, named, value};
use crate::code::DirectoryStore;
use crate::model::{
    ContainerTemplate, MemoryMount, NodeMount, ShippedMount, VolumeMount, VolumeName, VolumeOptions,
};
use crate::secret::Sensitive;

const ANONYMOUS: &str = "a volume without a name goes with its container when that is replaced; \
                         name it to keep what is in it";
const PROPAGATIONS: [(&str, &str); 6] = [
    ("private", "private"),
    ("rprivate", "rprivate"),
    ("shared", "shared"),
    ("rshared", "rshared"),
    ("slave", "slave"),
    ("rslave", "rslave"),
];

/// A volume at the top level.
pub(super) fn volume(
    name: &str,
    field: &Field<'_>,
    report: &mut Report,
) -> Option<(VolumeName, VolumeOptions)> {
    let mut options = VolumeOptions::default();
    if !field.is_null() {
        for (key, entry) in honoured_entries(field, keys::VOLUME, report) {
            if entry.is_null() {
                continue;
            }
            match key {
                "driver" => {
                    let driver = entry.text(report).map(str::to_owned);
                    options.driver = driver.filter(|driver| driver != "local");
                }
                "driver_opts" => {
                    for (key, value) in entry.entries(report) {
                        if let Some(value) = value.text(report) {
                            let value = Sensitive::new(value);
                            options.driver_opts.insert(key.to_owned(), value);
                        }
                    }
                }
                "external" => external(&entry, &mut options, report),
                "labels" => {
                    let labels = pairs(&entry, report).into_iter();
                    options.labels = labels
                        .map(|(name, value)| (name, value.unwrap_or_default()))
                        .collect();
                }
                _ => options.engine_name = entry.parse(report, engine_name),
            }
        }
        if options.external {
            for key in ["driver", "driver_opts", "labels"] {
                if let Some(entry) = field.get(key) {
                    entry.problem_with_help(
                        report,
                        "an external volume is made elsewhere",
                        "remove this key, or `external`",
                    );
                }
            }
            options.engine_name.get_or_insert_with(|| name.to_owned());
        }
    }
    match VolumeName::try_from(name) {
        Ok(name) => Some((name, options)),
        Err(error) => {
            report.problem(field.at, &field.path, error.to_string());
            None
        }
    }
}

/// `external: true`, or the older `external: {name: …}`.
fn external(entry: &Field<'_>, options: &mut VolumeOptions, report: &mut Report) {
    if !entry.is_map() {
        options.external = entry.boolean(report).unwrap_or_default();
        return;
    }
    options.external = true;
    for (key, field) in entry.entries(report) {
        if key == "name" {
            options.engine_name = field.parse(report, engine_name);
        } else {
            report.unknown_key(field.at, &field.path, key, ["name"]);
        }
    }
}

/// A name as engines take it.
fn engine_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() > 1
        && text.chars().all(inner);
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is no volume name: letters, digits, `_`, `.` and `-`, at least two"
        ))
    }
}

/// What one item of `volumes` comes to.
enum Mounted {
    Volume(VolumeMount),
    Anonymous(String),
    Path(NodeMount),
    Shipped(ShippedMount),
    Memory(MemoryMount),
}

/// The volumes of a service, into its template.
pub(super) fn mounts(
    field: &Field<'_>,
    declared: &Declared<'_>,
    world: &World<'_>,
    container: &mut ContainerTemplate,
    report: &mut Report,
) {
    let mut targets = BTreeSet::new();
    for item in field.items(report) {
        let mount = if item.is_map() {
            long(&item, declared, world, report)
        } else {
            short(&item, declared, world, report)
        };
        let Some(mount) = mount else { continue };
        let target = match &mount {
            Mounted::Volume(mount) => &mount.target,
            Mounted::Anonymous(target) => target,
            Mounted::Path(mount) => &mount.target,
            Mounted::Shipped(mount) => &mount.target,
            Mounted::Memory(mount) => &mount.target,
        };
        if !targets.insert(DirectoryStore::normalised(target)) {
            item.problem(report, format!("`{target}` is mounted twice"));
            continue;
        }
        match mount {
            Mounted::Volume(mount) => container.volumes.push(mount),
            Mounted::Anonymous(target) => container.anonymous_volumes.push(target),
            Mounted::Path(mount) => container.node_paths.push(mount),
            Mounted::Shipped(mount) => container.files.push(mount),
            Mounted::Memory(mount) => container.memory.push(mount),
        }
    }
}

/// What a mount is asked to be, whichever way it is written.
#[derive(Default)]
struct Asked {
    target: String,
    /// Whether it is for reading only, if that is said.
    read_only: Option<bool>,
    no_copy: bool,
    /// A path of the node that does not exist is no reason to make it.
    must_exist: bool,
    propagation: Option<String>,
}

impl Asked {
    fn only_read(&self) -> bool {
        self.read_only == Some(true)
    }
}

/// `[SOURCE:]TARGET[:OPTIONS]`
fn short(
    item: &Field<'_>,
    declared: &Declared<'_>,
    world: &World<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    let text = item.text(report)?;
    let mut parts = text.splitn(3, ':');
    let first = parts.next().unwrap_or_default();
    let Some(target) = parts.next() else {
        if !first.starts_with('/') {
            item.problem(
                report,
                format!("`{text}` names no absolute path in the container"),
            );
            return None;
        }
        return anonymous(item, first, report);
    };
    let mut asked = Asked {
        target: target.to_owned(),
        ..Asked::default()
    };
    for option in parts
        .next()
        .into_iter()
        .flat_map(|options| options.split(','))
    {
        match option {
            "rw" => asked.read_only = Some(false),
            "ro" => asked.read_only = Some(true),
            "nocopy" => asked.no_copy = true,
            "z" | "Z" | "cached" | "delegated" | "consistent" => {
                let consequence = "nodes have no such security module, and the option is for it \
                                   or for desktop engines";
                report.unsupported(item.value_at(), &item.path, consequence, false);
            }
            _ if PROPAGATIONS.iter().any(|(word, _)| *word == option) => {
                asked.propagation = Some(option.to_owned());
            }
            _ => item.problem(
                report,
                format!("the option `{option}` is neither `ro` nor `rw`"),
            ),
        }
    }
    if is_path(first) {
        path(item, first, asked, world, report)
    } else {
        volume_mount(item, first, asked, declared, report)
    }
}

fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~', '\\']) || source.contains('/')
}

fn long(
    item: &Field<'_>,
    declared: &Declared<'_>,
    world: &World<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    let mut kind = Some("volume");
    let kinds = [
        ("volume", "volume"),
        ("bind", "bind"),
        ("tmpfs", "tmpfs"),
        ("cluster", "cluster"),
        ("image", "image"),
        ("npipe", "npipe"),
    ];
    for (key, field) in item.entries(report) {
        if key == "type" {
            kind = field.word(report, &kinds);
        }
    }
    let kind = kind?;
    if matches!(kind, "cluster" | "image" | "npipe") {
        let consequence = "nothing is mounted there: only volumes, paths, files and memory are";
        report.unsupported(item.at, &item.path, consequence, true);
        return None;
    }
    let mut source = None;
    let mut asked = Asked::default();
    let mut memory = Vec::new();
    for (key, field) in honoured_entries(item, keys::MOUNT, report) {
        if field.is_null() {
            continue;
        }
        match key {
            "source" => source = Some(field.text(report)?),
            "target" => field.text(report)?.clone_into(&mut asked.target),
            "read_only" => {
                asked.read_only = field.boolean(report);
            }
            "bind" => bind(&field, &mut asked, report),
            "tmpfs" => memory = memory_options(&field, report),
            "volume" => {
                for (key, field) in honoured_entries(&field, keys::VOLUME_MOUNT, report) {
                    if key == "nocopy" {
                        asked.no_copy = field.boolean(report).unwrap_or_default();
                    }
                }
            }
            _ => {}
        }
    }
    if asked.target.is_empty() {
        item.problem(report, "`target` is missing");
        return None;
    }
    match (kind, source) {
        ("tmpfs", None) => {
            checked(item, &asked.target, report)?;
            if asked.only_read() {
                memory.push("ro".to_owned());
            }
            Some(Mounted::Memory(MemoryMount {
                target: asked.target,
                options: memory.join(","),
            }))
        }
        ("tmpfs", Some(_)) => {
            item.problem(report, "memory has no `source`");
            None
        }
        ("bind", None) => {
            item.problem(report, "`source` is missing");
            None
        }
        ("bind", Some(source)) => path(item, source, asked, world, report),
        (_, None) => anonymous(item, &asked.target, report),
        (_, Some(source)) => volume_mount(item, source, asked, declared, report),
    }
}

fn bind(field: &Field<'_>, asked: &mut Asked, report: &mut Report) {
    for (key, field) in honoured_entries(field, keys::BIND, report) {
        match key {
            "create_host_path" => asked.must_exist = field.boolean(report) == Some(false),
            _ => asked.propagation = field.word(report, &PROPAGATIONS).map(str::to_owned),
        }
    }
}

/// `tmpfs: {size: 64m, mode: 1777}`, as options of the mount.
fn memory_options(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let mut options = Vec::new();
    for (key, field) in honoured_entries(field, keys::TMPFS, report) {
        if key == "size" {
            let bytes = field.parse(report, value::bytes);
            options.extend(bytes.map(|bytes| format!("size={bytes}")));
        } else {
            let mode = field.parse(report, value::mode);
            options.extend(mode.map(|mode| format!("mode={mode:o}")));
        }
    }
    options
}

/// `tmpfs` of a service: `/run`, `/tmp:size=64m,mode=1777`.
pub(super) fn memory(field: &Field<'_>, container: &mut ContainerTemplate, report: &mut Report) {
    for item in field.items_or_one(report) {
        let Some(text) = item.text(report) else {
            continue;
        };
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        if checked(&item, target, report).is_some() {
            container.memory.push(MemoryMount {
                target: target.to_owned(),
                options: options.to_owned(),
            });
        }
    }
}

fn anonymous(item: &Field<'_>, target: &str, report: &mut Report) -> Option<Mounted> {
    checked(item, target, report)?;
    report.warning(item.value_at(), &item.path, ANONYMOUS);
    Some(Mounted::Anonymous(target.to_owned()))
}

/// A path: of the node if it is absolute, else the user's own.
fn path(
    item: &Field<'_>,
    source: &str,
    asked: Asked,
    world: &World<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    checked(item, &asked.target, report)?;
    if source.starts_with(['~', '\\']) {
        item.problem_with_help(
            report,
            format!("`{source}` is a path of this machine, which nodes do not have"),
            "name it relative to the Compose file to ship it, or a path of the node from `/` on",
        );
        return None;
    }
    let relative = if source.starts_with('/') {
        shipped::below_project(source, world)
    } else {
        Some(source.to_owned())
    };
    let Some(relative) = relative else {
        let message = format!("`{source}` is the path of the node that the container runs on");
        report.warning(item.value_at(), &item.path, message);
        return Some(Mounted::Path(NodeMount {
            source: source.to_owned(),
            read_only: asked.only_read(),
            target: asked.target,
            create: !asked.must_exist,
            propagation: asked.propagation,
        }));
    };
    match shipped::find(&relative, item, world, report)? {
        Found::Files(tree) => {
            if !asked.only_read() {
                let against = match asked.read_only {
                    Some(false) => ", whatever it asks for",
                    _ => "",
                };
                let message = format!(
                    "`{source}` is shipped to the node with the declaration and mounted \
                     read-only{against}; what containers write belongs into a named volume"
                );
                report.warning(item.value_at(), &item.path, message);
            }
            Some(Mounted::Shipped(ShippedMount {
                target: asked.target,
                tree,
            }))
        }
        Found::Nothing if asked.only_read() || asked.must_exist => {
            item.problem_with_help(
                report,
                format!("there is nothing in `{source}`"),
                "put there what the container is to read; the path is relative to the Compose file",
            );
            None
        }
        Found::Nothing => {
            let volume = shipped::data_volume(&relative)?;
            let message = format!(
                "there is nothing in `{source}`, so it is taken for a place of data: a directory \
                 of the node, kept as the volume `{volume}`"
            );
            report.warning(item.value_at(), &item.path, message);
            Some(Mounted::Volume(VolumeMount {
                volume,
                target: asked.target,
                read_only: false,
                // A bind mount hides what the image has there.
                options: VolumeOptions {
                    no_copy: true,
                    ..VolumeOptions::default()
                },
            }))
        }
    }
}

/// Whether something may be mounted there.
fn checked(item: &Field<'_>, target: &str, report: &mut Report) -> Option<()> {
    if !target.starts_with('/') {
        item.problem(
            report,
            format!("`{target}` is no absolute path in the container"),
        );
        return None;
    }
    if DirectoryStore::normalised(target) == "/" {
        item.problem(report, "nothing can be mounted over the whole container");
        return None;
    }
    Some(())
}

fn volume_mount(
    item: &Field<'_>,
    source: &str,
    asked: Asked,
    declared: &Declared<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    checked(item, &asked.target, report)?;
    let Some(options) = declared.volumes.get(source) else {
        let message = format!("the volume `{source}` is not declared under `volumes`");
        let known = declared.volumes.keys().copied();
        report.unknown_name(item.value_at(), &item.path, message, source, known);
        return None;
    };
    let mut options = options.clone();
    options.no_copy |= asked.no_copy;
    Some(Mounted::Volume(VolumeMount {
        volume: item.parse_as(source, report, named)?,
        read_only: asked.only_read(),
        target: asked.target,
        options,
    }))
}

/// What several keys mount, once to each place.
pub(super) fn without_doubles(
    field: &Field<'_>,
    container: &ContainerTemplate,
    report: &mut Report,
) {
    let volumes = container.volumes.iter().map(|mount| &mount.target);
    let targets = volumes
        .chain(&container.anonymous_volumes)
        .chain(container.node_paths.iter().map(|mount| &mount.target))
        .chain(container.files.iter().map(|mount| &mount.target))
        .chain(container.memory.iter().map(|mount| &mount.target));
    let mut seen = BTreeSet::new();
    for target in targets {
        if !seen.insert(DirectoryStore::normalised(target)) {
            report.problem(
                field.at,
                &field.path,
                format!("`{target}` is mounted by two keys"),
            );
        }
    }
}
