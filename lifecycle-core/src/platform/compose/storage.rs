//! Named volumes: where they are declared and where they are mounted.

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, honoured_entries};
use super::{Declared, named};
use crate::code::DirectoryStore;
use crate::model::{VolumeMount, VolumeName};

const BIND: &str = "only named volumes are mounted; put the files into the image";
const ANONYMOUS: &str =
    "nothing is mounted there; what is written there is lost with the container";
const OPTIONS: &str = "the volume is mounted with the engine's defaults";

/// A volume at the top level.
pub(super) fn volume(name: &str, field: &Field<'_>, report: &mut Report) -> Option<VolumeName> {
    if !field.is_null() {
        for (_, entry) in honoured_entries(field, keys::VOLUME, report) {
            entry.problem(report, "nothing is honoured here");
        }
    }
    match VolumeName::try_from(name) {
        Ok(name) => Some(name),
        Err(error) => {
            report.problem(field.at, &field.path, error.to_string());
            None
        }
    }
}

/// The volumes of a service.
pub(super) fn mounts(
    field: &Field<'_>,
    declared: &Declared<'_>,
    report: &mut Report,
) -> Vec<VolumeMount> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for item in field.items(report) {
        let mount = if item.is_map() {
            long(&item, declared, report)
        } else {
            short(&item, declared, report)
        };
        let Some(mount) = mount else { continue };
        if mounts.iter().any(|earlier| earlier.target == mount.target) {
            item.problem(report, format!("`{}` is mounted twice", mount.target));
        } else {
            mounts.push(mount);
        }
    }
    mounts
}

/// `[SOURCE:]TARGET[:OPTIONS]`
fn short(item: &Field<'_>, declared: &Declared<'_>, report: &mut Report) -> Option<VolumeMount> {
    let text = item.text(report)?;
    let mut parts = text.splitn(3, ':');
    let first = parts.next().unwrap_or_default();
    let Some(target) = parts.next() else {
        if first.starts_with('/') {
            report.unsupported(item.value_at(), &item.path, ANONYMOUS, true);
        } else {
            item.problem(
                report,
                format!("`{text}` names no absolute path in the container"),
            );
        }
        return None;
    };
    if first.starts_with(['.', '/', '~', '\\']) {
        report.unsupported(item.value_at(), &item.path, BIND, true);
        return None;
    }
    let mut read_only = false;
    for option in parts
        .next()
        .into_iter()
        .flat_map(|options| options.split(','))
    {
        match option {
            "rw" => {}
            "ro" => read_only = true,
            "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {
                report.unsupported(item.value_at(), &item.path, OPTIONS, false);
            }
            _ => item.problem(
                report,
                format!("the option `{option}` is neither `ro` nor `rw`"),
            ),
        }
    }
    mount(item, first, target, read_only, declared, report)
}

fn long(item: &Field<'_>, declared: &Declared<'_>, report: &mut Report) -> Option<VolumeMount> {
    let mut kind = Some("volume");
    let mut source = None;
    let mut target = None;
    let mut read_only = false;
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
    if kind? != "volume" {
        report.unsupported(item.at, &item.path, BIND, true);
        return None;
    }
    for (key, field) in honoured_entries(item, keys::MOUNT, report) {
        match key {
            "source" => source = Some(field.text(report)?),
            "target" => target = Some(field.text(report)?),
            "read_only" => read_only = field.boolean(report).unwrap_or_default(),
            _ => {}
        }
    }
    let Some(target) = target else {
        item.problem(report, "`target` is missing");
        return None;
    };
    let Some(source) = source else {
        report.unsupported(item.at, &item.path, ANONYMOUS, true);
        return None;
    };
    mount(item, source, target, read_only, declared, report)
}

fn mount(
    item: &Field<'_>,
    source: &str,
    target: &str,
    read_only: bool,
    declared: &Declared<'_>,
    report: &mut Report,
) -> Option<VolumeMount> {
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
    if !declared.volumes.contains(&source) {
        let message = format!("the volume `{source}` is not declared under `volumes`");
        let known = declared.volumes.iter().copied();
        report.unknown_name(item.value_at(), &item.path, message, source, known);
        return None;
    }
    Some(VolumeMount {
        volume: item.parse_as(source, report, named)?,
        target: target.to_owned(),
        read_only,
    })
}
