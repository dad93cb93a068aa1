//! Reads top-level volumes, and the mounts of services: named volumes, paths of the node, the
//! user's own files, memory.

use std::collections::{BTreeMap, BTreeSet};

use super::super::diagnostic::Report;
use super::super::tree::{Field, Node};
use super::keys::{self, supported_entries};
use super::service::pairs;
use super::shipped::{self, Found};
use super::{Declared, ProjectContext, named, value};
use crate::code::DirectoryStore;
use crate::model::{
    ContainerTemplate, FileContents, FileTree, MemoryMount, NodeMount, ShippedFile, ShippedMount,
    TreeEntry, VolumeMount, VolumeName, VolumeOptions,
};
use crate::secret::Sensitive;

/// The maximum length of a path in a container, in bytes.
const LONGEST_PATH: usize = 4095;

/// The maximum number of entries that are added to the mounted directories of a service.
const MAX_MOUNT_POINTS: usize = 4096;

const ANONYMOUS: &str = "a volume without a name is deleted when its container is replaced; give \
                         the volume a name to keep its data";
const PROPAGATIONS: [(&str, &str); 6] = [
    ("private", "private"),
    ("rprivate", "rprivate"),
    ("shared", "shared"),
    ("rshared", "rshared"),
    ("slave", "slave"),
    ("rslave", "rslave"),
];

/// Reads a top-level volume.
pub(super) fn volume(
    name: &str,
    field: &Field<'_>,
    report: &mut Report,
) -> Option<(VolumeName, VolumeOptions)> {
    let mut options = VolumeOptions::default();
    if !field.is_null() {
        for (key, entry) in supported_entries(field, keys::VOLUME, report) {
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
                        if let Some(value) = value.canonical(report) {
                            let value = Sensitive::new(value.into_owned());
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
                        "an external volume is not created by the platform",
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

/// Reads `external: true`, or the older `external: {name: …}`.
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

/// Parses a volume name of the engine.
fn engine_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() > 1
        && text.chars().all(inner);
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a volume name: use letters, digits, `_`, `.` and `-`, at least two \
             characters"
        ))
    }
}

enum Mounted {
    Volume(VolumeMount),
    Anonymous(String),
    Path(NodeMount),
    Shipped(ShippedMount),
    Memory(MemoryMount),
}

/// Reads the volumes of a service into its template.
pub(super) fn mounts(
    field: &Field<'_>,
    declared: &Declared<'_>,
    project: &ProjectContext<'_>,
    container: &mut ContainerTemplate,
    report: &mut Report,
) {
    let mut targets: BTreeMap<String, &Node> = BTreeMap::new();
    for item in field.items(report) {
        let mount = if item.is_map() {
            long(&item, declared, project, report)
        } else {
            short(&item, declared, project, report)
        };
        let Some(mount) = mount else { continue };
        let target = match &mount {
            Mounted::Volume(mount) => &mount.target,
            Mounted::Anonymous(target) => target,
            Mounted::Path(mount) => &mount.target,
            Mounted::Shipped(mount) => &mount.target,
            Mounted::Memory(mount) => &mount.target,
        };
        if let Some(other) = targets.insert(DirectoryStore::normalised(target), item.node) {
            // As in Compose, equal entries count once.
            if !other.is_same_value(item.node) {
                item.problem(report, format!("`{target}` is mounted twice"));
            }
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

/// The requested properties of a mount, read from the short or the long notation.
#[derive(Default)]
struct MountRequest {
    target: String,
    read_only: Option<bool>,
    no_copy: bool,
    /// Whether the path must already exist; otherwise, a missing directory is created.
    must_exist: bool,
    propagation: Option<String>,
}

impl MountRequest {
    fn only_read(&self) -> bool {
        self.read_only == Some(true)
    }
}

/// Reads `[SOURCE:]TARGET[:OPTIONS]`.
fn short(
    item: &Field<'_>,
    declared: &Declared<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    let text = item.text(report)?;
    let drive = drive(text);
    let mut parts = text[drive.len()..].splitn(3, ':');
    let first = parts.next().unwrap_or_default();
    let first = &text[..drive.len() + first.len()];
    let Some(target) = parts.next() else {
        if !first.starts_with('/') {
            item.problem(
                report,
                format!("`{text}` does not contain an absolute path in the container"),
            );
            return None;
        }
        return anonymous(item, first, report);
    };
    let mut request = MountRequest {
        target: target.to_owned(),
        ..MountRequest::default()
    };
    for option in parts
        .next()
        .into_iter()
        .flat_map(|options| options.split(','))
    {
        match option {
            "rw" => request.read_only = Some(false),
            "ro" => request.read_only = Some(true),
            "nocopy" => request.no_copy = true,
            "z" | "Z" | "cached" | "delegated" | "consistent" => {
                let consequence = "nodes use neither SELinux nor a desktop engine";
                report.unsupported(item.value_at(), &item.path, consequence, false);
            }
            _ if PROPAGATIONS.iter().any(|(word, _)| *word == option) => {
                request.propagation = Some(option.to_owned());
            }
            _ => item.problem(
                report,
                format!("the option `{option}` is neither `ro` nor `rw`"),
            ),
        }
    }
    if is_path(first) {
        path(item, first, request, project, report)
    } else {
        volume_mount(item, first, request, declared, report)
    }
}

/// Returns whether the source of a mount is a path, and not the name of a volume.
pub(in crate::platform) fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~', '\\']) || source.contains('/') || is_windows_path(source)
}

/// Returns whether a path has a drive, such as `C:\data`.
fn is_windows_path(path: &str) -> bool {
    matches!(
        path.as_bytes(),
        [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic()
    )
}

/// Returns the drive at the start of a mount; otherwise, an empty string. `c:/data` is the volume `c`
/// with its target, `c:/data:/x` is a path with a drive.
fn drive(text: &str) -> &str {
    let has_target = || {
        let target = text.split(':').nth(2);
        target.is_some_and(|target| target.starts_with('/'))
    };
    if is_windows_path(text) && (text[2..].starts_with('\\') || has_target()) {
        &text[..2]
    } else {
        ""
    }
}

fn long(
    item: &Field<'_>,
    declared: &Declared<'_>,
    project: &ProjectContext<'_>,
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
        let consequence = "nothing is mounted: only volumes, paths, files and memory are supported";
        report.unsupported(item.at, &item.path, consequence, true);
        return None;
    }
    let mut source = None;
    let mut request = MountRequest::default();
    let mut memory = Vec::new();
    for (key, field) in supported_entries(item, keys::MOUNT, report) {
        if field.is_null() {
            continue;
        }
        match key {
            "source" => source = Some(field.text(report)?),
            "target" => field.text(report)?.clone_into(&mut request.target),
            "read_only" => {
                request.read_only = field.boolean(report);
            }
            "bind" => bind(&field, &mut request, report),
            "tmpfs" => memory = memory_options(&field, report),
            "volume" => {
                for (key, field) in supported_entries(&field, keys::VOLUME_MOUNT, report) {
                    if key == "nocopy" {
                        request.no_copy = field.boolean(report).unwrap_or_default();
                    }
                }
            }
            _ => {}
        }
    }
    if request.target.is_empty() {
        item.problem(report, "`target` is missing");
        return None;
    }
    match (kind, source) {
        ("tmpfs", None) => {
            checked(item, &request.target, report)?;
            if request.only_read() {
                memory.push("ro".to_owned());
            }
            Some(Mounted::Memory(MemoryMount {
                target: request.target,
                options: memory.join(","),
            }))
        }
        ("tmpfs", Some(_)) => {
            item.problem(report, "a `tmpfs` mount has no `source`");
            None
        }
        ("bind", None) => {
            item.problem(report, "`source` is missing");
            None
        }
        ("bind", Some(source)) => path(item, source, request, project, report),
        (_, None) => anonymous(item, &request.target, report),
        (_, Some(source)) => volume_mount(item, source, request, declared, report),
    }
}

fn bind(field: &Field<'_>, request: &mut MountRequest, report: &mut Report) {
    for (key, field) in supported_entries(field, keys::BIND, report) {
        match key {
            "create_host_path" => request.must_exist = field.boolean(report) == Some(false),
            _ => request.propagation = field.word(report, &PROPAGATIONS).map(str::to_owned),
        }
    }
}

/// Reads `tmpfs: {size: 64m, mode: 1777}` as options of the mount.
fn memory_options(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let mut options = Vec::new();
    for (key, field) in supported_entries(field, keys::TMPFS, report) {
        if key == "size" {
            let bytes = field.parse_number(report, value::bytes);
            options.extend(bytes.map(|bytes| format!("size={bytes}")));
        } else {
            let mode = value::mode(&field, report);
            options.extend(mode.map(|mode| format!("mode={mode:o}")));
        }
    }
    options
}

/// Reads `tmpfs` of a service: `/run`, `/tmp:size=64m,mode=1777`.
pub(super) fn memory(field: &Field<'_>, container: &mut ContainerTemplate, report: &mut Report) {
    for item in field.items_or_one(report) {
        let Some(text) = item.text(report) else {
            continue;
        };
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        if checked(&item, target, report).is_some() {
            let mount = MemoryMount {
                target: target.to_owned(),
                options: options.to_owned(),
            };
            // As in Compose, equal entries count once.
            if !container.memory.contains(&mount) {
                container.memory.push(mount);
            }
        }
    }
}

fn anonymous(item: &Field<'_>, target: &str, report: &mut Report) -> Option<Mounted> {
    checked(item, target, report)?;
    report.warning(item.value_at(), &item.path, ANONYMOUS);
    Some(Mounted::Anonymous(target.to_owned()))
}

/// Mounts a path: an absolute path refers to the node, a relative one to the user's files.
fn path(
    item: &Field<'_>,
    source: &str,
    request: MountRequest,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    checked(item, &request.target, report)?;
    let is_of_other_user = source.starts_with('~') && source != "~" && !source.starts_with("~/");
    if source.starts_with('\\') || is_windows_path(source) || is_of_other_user {
        item.problem_with_help(
            report,
            format!("`{source}` is a path on this machine, which nodes do not have"),
            "to send files to the node, use a path relative to the Compose file; to mount a path \
             of the node, use an absolute path",
        );
        return None;
    }
    let relative = if source.starts_with('/') {
        shipped::below_project(source, project)
    } else {
        Some(source.to_owned())
    };
    let Some(relative) = relative else {
        let message = format!("`{source}` is a path of the node that the container runs on");
        report.warning(item.value_at(), &item.path, message);
        return Some(Mounted::Path(NodeMount {
            source: source.to_owned(),
            read_only: request.only_read(),
            target: request.target,
            create: !request.must_exist,
            propagation: request.propagation,
        }));
    };
    match shipped::find(&relative, item, project, report)? {
        Found::Files(tree, chunks) => {
            if source.starts_with('~') {
                let message = format!("`{source}` is sent to the node with the declaration");
                report.warning(item.value_at(), &item.path, message);
            } else if !request.only_read() {
                let against = match request.read_only {
                    Some(false) => ", although `rw` is requested",
                    _ => "",
                };
                let message = format!(
                    "`{source}` is sent to the node with the declaration and mounted \
                     read-only{against}; use a named volume for data that containers write"
                );
                report.warning(item.value_at(), &item.path, message);
            }
            Some(Mounted::Shipped(ShippedMount {
                target: request.target,
                tree,
                chunks,
            }))
        }
        found @ (Found::Empty | Found::Missing)
            if request.only_read()
                && (matches!(found, Found::Empty)
                    || !request.must_exist && !resembles_file(&request.target)) =>
        {
            let message = format!(
                "`{source}` does not exist or is empty, so an empty directory is mounted read-only"
            );
            report.warning(item.value_at(), &item.path, message);
            Some(Mounted::Shipped(ShippedMount {
                target: request.target,
                tree: FileTree::Directory(BTreeMap::new()),
                chunks: Vec::new(),
            }))
        }
        Found::Missing if request.only_read() || request.must_exist => {
            item.problem_with_help(
                report,
                format!("`{source}` does not exist"),
                "create the files for the container; the path is relative to the Compose file",
            );
            None
        }
        Found::Empty | Found::Missing => {
            let volume = shipped::data_volume(&relative)?;
            let message = format!(
                "`{source}` does not exist or is empty, so the volume `{volume}` of the node is \
                 mounted instead"
            );
            report.warning(item.value_at(), &item.path, message);
            Some(Mounted::Volume(VolumeMount {
                volume,
                target: request.target,
                read_only: false,
                // Hide the image's files at this path, as a bind mount does.
                options: VolumeOptions {
                    no_copy: true,
                    ..VolumeOptions::default()
                },
            }))
        }
    }
}

/// Checks a mount target.
fn checked(item: &Field<'_>, target: &str, report: &mut Report) -> Option<()> {
    if !target.starts_with('/') {
        item.problem(
            report,
            format!("`{target}` is not an absolute path in the container"),
        );
        return None;
    }
    if DirectoryStore::normalised(target) == "/" {
        item.problem(
            report,
            "the root directory of the container cannot be a mount target",
        );
        return None;
    }
    Some(())
}

fn volume_mount(
    item: &Field<'_>,
    source: &str,
    request: MountRequest,
    declared: &Declared<'_>,
    report: &mut Report,
) -> Option<Mounted> {
    checked(item, &request.target, report)?;
    let Some(options) = declared.volumes.get(source) else {
        let message = format!("the volume `{source}` is not declared under `volumes`");
        let known = declared.volumes.keys().copied();
        report.unknown_name(item.value_at(), &item.path, message, source, known);
        return None;
    };
    let mut options = options.clone();
    options.no_copy |= request.no_copy;
    Some(Mounted::Volume(VolumeMount {
        volume: item.parse_as(source, report, named)?,
        read_only: request.only_read(),
        target: request.target,
        options,
    }))
}

/// Adds a mount point to each shipped directory that has another mount below it. The directory is
/// mounted read-only, so the engine cannot create the mount point.
pub(super) fn add_mount_points(
    field: &Field<'_>,
    container: &mut ContainerTemplate,
    report: &mut Report,
) {
    let is_file = |mount: &ShippedMount| matches!(mount.tree, FileTree::File(_));
    // Whether a path of the node is a file is not known; most files have an extension.
    let directories = container.volumes.iter().map(|mount| &mount.target);
    let directories = directories
        .chain(&container.anonymous_volumes)
        .chain(container.memory.iter().map(|mount| &mount.target))
        .map(|target| (target, false));
    let of_node = container.node_paths.iter();
    let of_node = of_node.map(|mount| (&mount.target, resembles_file(&mount.target)));
    let shipped = container.files.iter();
    let shipped = shipped.map(|mount| (&mount.target, is_file(mount)));
    // The kernel has the same limit for a path.
    let targets: BTreeMap<String, bool> = directories
        .chain(of_node)
        .chain(shipped)
        .filter(|(target, _)| target.len() <= LONGEST_PATH)
        .map(|(target, is_file)| (DirectoryStore::normalised(target), is_file))
        .collect();
    let mut added = 0;
    for mount in &mut container.files {
        let FileTree::Directory(entries) = &mut mount.tree else {
            continue;
        };
        let parent = format!("{}/", DirectoryStore::normalised(&mount.target));
        let below = targets.range(parent.clone()..);
        for (target, is_file) in below {
            let Some(below) = target.strip_prefix(&parent) else {
                break;
            };
            added += 1 + below.matches('/').count();
            if added > MAX_MOUNT_POINTS {
                field.problem_with_help(
                    report,
                    "too many mounts are below mounted directories",
                    "mount fewer paths, or put the files into the image",
                );
                return;
            }
            let parents = below.match_indices('/').map(|(end, _)| &below[..end]);
            // The user's own entries remain; nothing can be below a file or a link.
            let is_directory = |path: &str| {
                let entry = entries.get(path);
                entry.is_none_or(|entry| matches!(entry, TreeEntry::Directory))
            };
            if !parents.clone().all(is_directory) {
                continue;
            }
            for directory in parents {
                entries.insert(directory.to_owned(), TreeEntry::Directory);
            }
            let entry = entries.entry(below.to_owned());
            entry.or_insert_with(|| {
                if *is_file {
                    TreeEntry::File(ShippedFile {
                        mode: 0o444,
                        uid: 0,
                        gid: 0,
                        contents: FileContents::new(Vec::new()),
                    })
                } else {
                    TreeEntry::Directory
                }
            });
        }
    }
}

/// Returns whether a path has the name of a file: most files have an extension. `conf.d` is a
/// directory.
fn resembles_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.trim_start_matches('.').rsplit_once('.');
    extension.is_some_and(|(_, extension)| extension != "d")
}

/// Checks that no two keys mount the same target.
pub(super) fn check_duplicates(
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
                format!("`{target}` is mounted twice, by two keys"),
            );
        }
    }
}
