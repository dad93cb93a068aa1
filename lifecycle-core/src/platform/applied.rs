//! Reads one service that is declared at run time, in the format of a service in a Compose file.
//! Nothing outside the text is read: neither files nor variables.

use std::collections::{BTreeMap, HashSet};

use super::compose::{self, Draft, ProjectContext, is_path, seccomp_file};
use super::diagnostic::{Diagnostics, Report};
use super::tree::{Entry, Node, Position, Value};
use super::validate::{Place, platform_ports};
use super::{CloudSpec, Declaration, validate, yaml};
use crate::model::{ServiceClass, ServiceName, ServiceSpec, VolumeName, VolumeOptions};

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
    // A service that joins the network of another one gets its declared number of replicas.
    let (declaration, _) = declaration.clone().separated();
    let spec = read(name, class, text, &declaration, &mut report);
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
        reject_foreign(entry, &path, report);
    }
    let volumes = named_volumes(&service);
    let root = project(name, service, &volumes, declaration);
    let context = ProjectContext {
        directory: None,
        code_store: "",
        lookup: &|_| None,
        with_variables: &HashSet::new(),
        nodes: &declaration.nodes,
        left: compose::Left::default(),
        files: compose::MountedFiles::default(),
    };
    let mut services = compose::read(&root, &context, report).services;
    let draft = services.remove(name)?;
    if draft.build.is_some() {
        let message = "a service that is declared at run time cannot be built";
        report.problem_with_help(root.at, &path, message, "set `image`");
        return None;
    }
    let others = || -> BTreeMap<ServiceName, Draft> {
        let others = declaration.services.values();
        let others = others.filter(|spec| spec.name != *name).map(|spec| {
            let (spec, build) = (spec.clone(), None);
            (spec.name.clone(), Draft { spec, build })
        });
        others.collect()
    };
    let place = Place {
        cloud: &declaration.cloud,
        nodes: &declaration.nodes,
        manager: Some(&declaration.manager),
    };
    let checked = |services: &BTreeMap<ServiceName, Draft>| {
        let mut found = Report::new(format!("{class} {name}"));
        validate::check(&root, services, &place, &mut found);
        found
    };
    // Existing services may have problems of their own, for example too many replicas.
    let known = checked(&others());
    let mut all = others();
    all.insert(name.clone(), draft);
    compose::reserve_ports(&mut all, platform_ports(Some(&declaration.manager)));
    let on_azure = matches!(declaration.cloud, CloudSpec::Azure(_));
    let mut own: BTreeMap<_, _> = all.remove_entry(name).into_iter().collect();
    compose::keep_metadata_from(&declaration.manager.node, on_azure, &mut own);
    all.append(&mut own);
    report.add_new(checked(&all), &known);
    let draft = all.remove(name)?;
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
    use_known_volumes(&mut spec, declaration);
    Some(spec)
}

/// Gives the volumes that other services mount the options with which they are declared.
fn use_known_volumes(spec: &mut ServiceSpec, declaration: &Declaration) {
    let others = declaration.services.values();
    let others = others.filter(|other| other.name != spec.name);
    let known: BTreeMap<&VolumeName, &VolumeOptions> = others
        .flat_map(|other| &other.container.volumes)
        .map(|mount| (&mount.volume, &mount.options))
        .collect();
    for mount in &mut spec.container.volumes {
        if let Some(options) = known.get(&mount.volume) {
            mount.options = VolumeOptions {
                no_copy: mount.options.no_copy,
                ..(*options).clone()
            };
        }
    }
}

/// Reports a key that reads a file or changes other services.
fn reject_foreign(entry: &Entry, path: &str, report: &mut Report) {
    let path = format!("{path}.{}", entry.key);
    let reject = |at, path: &str, report: &mut Report| {
        report.problem_with_help(at, path, "files cannot be read at run time", NO_FILES);
    };
    if READS_FILES.contains(&entry.key.as_str()) {
        reject(entry.at, &path, report);
    }
    if entry.key == "links" {
        let message = "names of other services cannot be changed at run time";
        let help = "call the services by their names";
        report.problem_with_help(entry.at, &path, message, help);
    }
    let items: &[Node] = match &entry.node.value {
        Value::List(items) => items,
        _ => &[],
    };
    for item in items {
        let is_file = match entry.key.as_str() {
            "volumes" => source(item).is_some_and(|source| {
                (is_bind(item) || is_path(source)) && !source.starts_with('/')
            }),
            "security_opt" => text_of(item).and_then(seccomp_file).is_some(),
            _ => false,
        };
        if is_file {
            reject(item.at, &path, report);
        }
    }
}

/// Returns whether a mount in the long notation is one of a path.
fn is_bind(item: &Node) -> bool {
    item.child("type").and_then(text_of) == Some("bind")
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
pub(super) fn named_volumes(service: &Node) -> BTreeMap<String, Position> {
    let Some(Value::List(items)) = service.child("volumes").map(|node| &node.value) else {
        return BTreeMap::new();
    };
    let named = items.iter().filter_map(|item| {
        let source = source(item)?;
        let is_name = !is_path(source) && !is_bind(item);
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
    let others = { declaration.services.iter() }.filter(|(other, _)| *other != name);
    let mut services: Vec<Entry> = others
        .map(|(other, spec)| {
            let image = entry("image", at, Node::of_text(at, "declared"));
            let scale = Value::Scalar {
                text: spec.replicas.to_string(),
                plain: true,
            };
            let scale = entry("scale", at, Node::new(at, scale));
            entry(other.as_str(), at, map(vec![image, scale]))
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
