//! Reads one service that is declared at run time, in the format of a service in a Compose file.
//! Nothing outside the text is read: neither files nor variables.

use std::collections::BTreeMap;

use super::compose::{self, ProjectContext};
use super::diagnostic::{Diagnostics, Report};
use super::tree::{Entry, Node, Position, Value};
use super::validate::platform_ports;
use super::{CloudSpec, Declaration, yaml};
use crate::model::{ServiceClass, ServiceName, ServiceSpec};

/// The keys whose values are files or code bases.
const READS_FILES: [&str; 8] = [
    "build",
    "configs",
    "credential_spec",
    "develop",
    "env_file",
    "extends",
    "label_file",
    "secrets",
];

const NO_FILES: &str = "the request contains only the service; use an image that contains the files, \
                        or `environment`";

/// Reads a service of a platform with this declaration. `text` is YAML or JSON. `$` has no special
/// meaning.
///
/// # Errors
/// All problems, each with its line.
pub fn read_service(
    name: &ServiceName,
    class: ServiceClass,
    text: &str,
    declaration: &Declaration,
) -> Result<ServiceSpec, Diagnostics> {
    let mut report = Report::new(format!("{class} {name}"));
    let spec = read(name, class, text, declaration, &mut report);
    let consequences = report.unsupported_in_order().into_iter();
    for key in consequences.filter(|key| key.changes_behaviour) {
        let at = Position {
            line: key.line,
            ..Position::START
        };
        let help = "remove the key";
        report.problem_with_help(at, &key.path, key.consequence, help);
    }
    match (spec, Report::problems_of(vec![report])) {
        (Some(spec), None) => Ok(spec),
        (_, problems) => Err(problems.unwrap_or_default()),
    }
}

fn read(
    name: &ServiceName,
    class: ServiceClass,
    text: &str,
    declaration: &Declaration,
    report: &mut Report,
) -> Option<ServiceSpec> {
    let service = yaml::parse(text, report)?;
    let Value::Map(entries) = &service.value else {
        let message = "this is not a service";
        let help = "send the keys of one service, for example `image: NAME`";
        report.problem_with_help(service.at, "", message, help);
        return None;
    };
    let path = format!("services.{name}");
    for entry in entries {
        reject_files(entry, &path, report);
    }
    let volumes = named_volumes(&service);
    let root = project(name, service, &volumes, declaration);
    let context = ProjectContext {
        directory: None,
        code_store: "",
        lookup: &|_| None,
        nodes: &declaration.nodes,
        left: compose::Left::default(),
        files: compose::MountedFiles::default(),
    };
    let mut services = compose::read(&root, &context, report).services;
    services.retain(|known, _| known == name);
    compose::reserve_ports(&mut services, platform_ports(Some(&declaration.manager)));
    let on_azure = matches!(declaration.cloud, CloudSpec::Azure(_));
    compose::keep_metadata_from(&declaration.manager.node, on_azure, &mut services);
    let draft = services.remove(name)?;
    if draft.build.is_some() {
        let message = "a service that is declared at run time cannot be built";
        report.problem_with_help(root.at, &path, message, "set `image`");
        return None;
    }
    let mut spec = draft.spec;
    if spec.class != ServiceClass::default() && spec.class != class {
        let message = format!(
            "the class is {}, but the request is for the class {class}",
            spec.class
        );
        let path = format!("{path}.x-lifecycle.class");
        report.problem_with_help(root.at, &path, message, "remove the key");
    }
    spec.class = class;
    Some(spec)
}

/// Reports a key that reads a file.
fn reject_files(entry: &Entry, path: &str, report: &mut Report) {
    let path = format!("{path}.{}", entry.key);
    let reject = |at, path: &str, report: &mut Report| {
        report.problem_with_help(at, path, "files cannot be read at run time", NO_FILES);
    };
    if READS_FILES.contains(&entry.key.as_str()) {
        reject(entry.at, &path, report);
    }
    let items: &[Node] = match &entry.node.value {
        Value::List(items) => items,
        _ => &[],
    };
    for item in items {
        let is_file = match entry.key.as_str() {
            "volumes" => source(item).is_some_and(|source| {
                !source.starts_with('/') && VolumeSource::of(source) == VolumeSource::Path
            }),
            "security_opt" => text_of(item).is_some_and(|text| {
                let profile = text
                    .strip_prefix("seccomp")
                    .map(|rest| &rest[1.min(rest.len())..]);
                profile.is_some_and(|profile| !matches!(profile, "unconfined" | "builtin"))
            }),
            _ => false,
        };
        if is_file {
            reject(item.at, &path, report);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum VolumeSource {
    Name,
    Path,
}

impl VolumeSource {
    fn of(source: &str) -> Self {
        let is_path = source.starts_with(['.', '~']) || source.contains(['/', '\\']);
        if is_path { Self::Path } else { Self::Name }
    }
}

fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// Returns the source of a mount; `None` if it has none.
fn source(item: &Node) -> Option<&str> {
    match &item.value {
        Value::Scalar { text, .. } => Some(text.split_once(':')?.0),
        _ => text_of(item.child("source").or_else(|| item.child("src"))?),
    }
}

/// Returns the named volumes that a service mounts, with their positions.
fn named_volumes(service: &Node) -> BTreeMap<String, Position> {
    let Some(Value::List(items)) = service.child("volumes").map(|node| &node.value) else {
        return BTreeMap::new();
    };
    let named = items.iter().filter_map(|item| {
        let source = source(item)?;
        let is_name = VolumeSource::of(source) == VolumeSource::Name;
        is_name.then(|| (source.to_owned(), item.at))
    });
    named.collect()
}

/// Returns the tree of a Compose file with the service and its volumes. The other services of the
/// platform are in it, too, so that the service can name them.
fn project(
    name: &ServiceName,
    service: Node,
    volumes: &BTreeMap<String, Position>,
    declaration: &Declaration,
) -> Node {
    let at = service.at;
    let map = |entries: Vec<Entry>| Node::new(at, Value::Map(entries));
    let entry = |key: &str, at, node| Entry {
        key: key.to_owned(),
        at,
        node,
    };
    let others = declaration.services.keys().filter(|other| *other != name);
    let mut services: Vec<Entry> = others
        .map(|other| {
            let image = entry("image", at, Node::of_text(at, "declared"));
            entry(other.as_str(), at, map(vec![image]))
        })
        .collect();
    services.push(entry(name.as_str(), at, service));
    let volumes = volumes.iter().map(|(volume, at)| {
        let none = Value::Scalar {
            text: String::new(),
            plain: true,
        };
        entry(volume, *at, Node::new(*at, none))
    });
    let volumes = volumes.collect();
    map(vec![
        entry("services", at, map(services)),
        entry("volumes", at, map(volumes)),
    ])
}
