//! Writes overrides into the user's files, so that the files declare what is in force.
//!
//! Each override is written by the first edit after which the files, read again, declare exactly what
//! they declared before with the overrides. An edit with any other effect is rejected: for example, the
//! value may come from an anchor that other services use. An override without such an edit stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::super::applied::{self, read_service};
use super::super::diagnostic::Report;
use super::super::load::{declared, interrupted};
use super::super::settings::declares_nodes;
use super::super::text_file::{self, Edited};
use super::super::tree::{Entry, Node, Position, Value};
use super::super::yaml_edit::{self, quoted};
use super::super::{CloudSpec, Declaration, Diagnostics, HostSpec, Sources, toml, yaml};
use super::{AddedNode, AddedService, Override, OverrideKind, Overrides, Requested};
use super::{Scaled, ServiceOverrides};
use crate::cloud::MachineSpec;
use crate::model::{
    Existing, NodeName, NodeSpec, Origin, PlatformId, Resources, Scheduling, ServiceClass,
    ServiceName, ServiceSpec, Subject,
};
use crate::secret::Sensitive;

/// The overrides in force, with what the user's files need to declare them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exportable {
    /// The services with a requested number of replicas.
    pub replicas: BTreeMap<ServiceName, Scaling>,
    /// The added services.
    pub services: BTreeMap<ServiceName, AddedText>,
    /// The added nodes.
    pub nodes: BTreeMap<NodeName, ExportedNode>,
    /// The ids of the other overrides, which files cannot declare.
    pub others: BTreeSet<String>,
}

/// A requested number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    pub replicas: u16,
    /// The number in the files.
    pub declared: u16,
}

/// An added node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedNode {
    pub spec: NodeSpec,
    /// The machine, if it was adopted. Its login is unknown, and not needed.
    pub machine: Option<MachineSpec>,
}

/// An added service as it was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedText {
    pub class: ServiceClass,
    /// A service in the format of a Compose file; `None` if an earlier version added the service and
    /// did not keep the text. Its environment may contain secrets.
    pub text: Option<Sensitive>,
}

/// The user's files with overrides written into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The files that differ.
    pub files: Vec<ExportedFile>,
    /// The overrides that are not in the files.
    pub left: Vec<LeftOverride>,
}

/// A file with overrides written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    pub path: PathBuf,
    /// The whole text, which may contain secrets of added services.
    pub text: Sensitive,
    /// The text before; `None` if there was no file.
    pub before: Option<Sensitive>,
    /// The ids of the overrides that were written into it.
    pub overrides: Vec<String>,
}

/// An override that is not written into the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOverride {
    /// The name of the override, for example `web.stopped`.
    pub id: String,
    pub why: String,
}

/// Writes overrides into copies of the user's files; changes no file. An override file may be added
/// if `adds_file` is set and the Compose file was found by its name, because only then the next `up`
/// finds the override file, too.
///
/// # Errors
/// All problems of the files as they are.
pub async fn export(
    sources: &Sources,
    id: PlatformId,
    overrides: Exportable,
    adds_file: bool,
) -> Result<Export, Diagnostics> {
    let owned = sources.clone();
    let export = tokio::task::spawn_blocking(move || {
        let added_file = owned.override_file().filter(|_| adds_file);
        let mut exporter = Exporter::new(owned, id, &overrides, added_file)?;
        exporter.write_all();
        Ok(exporter.finish(overrides.others))
    });
    match export.await {
        Ok(export) => export,
        Err(error) => Err(interrupted(sources, &error)),
    }
}

impl Overrides {
    /// Returns these overrides with what the user's files need to declare them.
    pub fn exportable(&self) -> Exportable {
        let mut exportable = Exportable::default();
        for one in self.iter() {
            match (&one.kind, &one.subject) {
                (OverrideKind::Replicas { replicas, declared }, Subject::Service(service)) => {
                    let (replicas, declared) = (*replicas, *declared);
                    let scaling = Scaling { replicas, declared };
                    exportable.replicas.insert(service.clone(), scaling);
                }
                (OverrideKind::Added, Subject::Service(_) | Subject::Node(_)) => {}
                _ => {
                    exportable.others.insert(one.id());
                }
            }
        }
        exportable.services = { self.added.iter() }
            .map(|(name, added)| {
                let (class, text) = (added.spec.class, added.text.clone());
                (name.clone(), AddedText { class, text })
            })
            .collect();
        exportable.nodes = { self.nodes.iter() }
            .map(|(name, added)| {
                let (spec, machine) = (added.spec.clone(), added.machine.clone());
                (name.clone(), ExportedNode { spec, machine })
            })
            .collect();
        exportable
    }
}

/// Why the number of replicas of an added service is not written.
const NOT_WRITTEN: &str = "the service itself is not in the files";

/// One or more overrides that are written together.
#[derive(Clone)]
enum Item {
    Node(NodeName),
    Service(ServiceName),
    /// The number of replicas of services that share a network namespace. The first one joins no other.
    Replicas(Vec<ServiceName>),
}

impl Item {
    fn ids(&self) -> Vec<String> {
        match self {
            Self::Node(node) => vec![format!("{node}.added")],
            Self::Service(service) => vec![format!("{service}.added")],
            Self::Replicas(services) => {
                let ids = services.iter().map(|service| format!("{service}.replicas"));
                ids.collect()
            }
        }
    }
}

/// Edits of one or more files: the whole texts afterwards.
type Edits = Vec<(PathBuf, String)>;

struct Exporter {
    sources: Sources,
    id: PlatformId,
    /// The override file that may be added.
    added_file: Option<PathBuf>,
    texts: BTreeMap<ServiceName, (ServiceClass, String)>,
    /// The overrides that files can declare.
    overrides: Overrides,
    /// What is in force with these overrides.
    expected: Declaration,
    edited: Edited,
    /// The ids of the overrides that were written to each file.
    written: BTreeMap<PathBuf, Vec<String>>,
    left: Vec<LeftOverride>,
}

impl Exporter {
    fn new(
        sources: Sources,
        id: PlatformId,
        exportable: &Exportable,
        added_file: Option<PathBuf>,
    ) -> Result<Self, Diagnostics> {
        let edited = Edited::default();
        let files = declared(&sources, id, &edited)?;
        let mut left = Vec::new();
        let mut overrides = Overrides::default();
        for (name, ExportedNode { spec, machine }) in &exportable.nodes {
            let spec = NodeSpec {
                existing: machine.as_ref().map(|_| Existing::Host),
                origin: Origin::Api,
                scheduling: Scheduling::Open,
                stopped: false,
                ..spec.clone()
            };
            let added = AddedNode {
                spec,
                machine: machine.clone(),
                requested: requested(),
            };
            overrides.nodes.insert(name.clone(), added);
        }
        let mut texts = BTreeMap::new();
        for (name, added) in &exportable.services {
            match &added.text {
                Some(text) => {
                    let text = (added.class, text.expose().to_owned());
                    texts.insert(name.clone(), text);
                }
                None => left.push(LeftOverride {
                    id: format!("{name}.added"),
                    why: format!(
                        "it was added by an earlier version, which did not keep its text; apply it \
                         again with `bootstrapper {} apply {name} FILE`",
                        command(added.class)
                    ),
                }),
            }
        }
        for (name, scaling) in &exportable.replicas {
            let scaled = Scaled {
                replicas: scaling.replicas,
                requested: requested(),
            };
            let changed = ServiceOverrides {
                declared: scaling.declared,
                scaled: Some(scaled),
                stopped: None,
            };
            overrides.services.insert(name.clone(), changed);
        }
        let mut exporter = Self {
            expected: files.clone(),
            sources,
            id,
            added_file,
            texts,
            overrides,
            edited,
            written: BTreeMap::new(),
            left,
        };
        exporter.read_services(&files);
        exporter.expected = files.with_overrides(exporter.overrides.clone());
        exporter.leave_those_not_in_force(exportable);
        Ok(exporter)
    }

    /// Reads the added services. One that depends on another is read after that one.
    fn read_services(&mut self, files: &Declaration) {
        let mut unread: BTreeSet<ServiceName> = self.texts.keys().cloned().collect();
        let mut problems = BTreeMap::new();
        while !unread.is_empty() {
            let effective = files.clone().with_overrides(self.overrides.clone());
            let before = unread.len();
            for name in unread.clone() {
                let Some((class, text)) = self.texts.get(&name) else {
                    continue;
                };
                match read_service(&name, *class, text, &effective) {
                    Ok(spec) => {
                        let spec = ServiceSpec {
                            origin: Origin::Api,
                            ..spec
                        };
                        let added = AddedService {
                            spec,
                            text: None,
                            requested: requested(),
                        };
                        self.overrides.added.insert(name.clone(), added);
                        unread.remove(&name);
                    }
                    Err(why) => {
                        problems.insert(name, first(&why));
                    }
                }
            }
            if unread.len() == before {
                break;
            }
        }
        for name in unread {
            let why = problems.remove(&name).unwrap_or_default();
            let id = format!("{name}.added");
            self.left.push(LeftOverride { id, why });
        }
    }

    /// Leaves the overrides that the next `up` drops, because the files have changed since.
    fn leave_those_not_in_force(&mut self, exportable: &Exportable) {
        let ids: BTreeSet<String> = self.expected.overrides.iter().map(|one| one.id()).collect();
        let known: BTreeSet<String> = self.left.iter().map(|left| left.id.clone()).collect();
        let added = |name: &dyn Display| format!("{name}.added");
        let services = exportable.services.keys().map(|name| added(name));
        let nodes = exportable.nodes.keys().map(|name| added(name));
        let replicas = exportable.replicas.keys();
        let replicas = replicas.map(|name| (format!("{name}.replicas"), added(name)));
        let others = services.chain(nodes).map(|id| (id.clone(), id));
        for (id, of) in others.chain(replicas) {
            if ids.contains(&id) || known.contains(&id) {
                continue;
            }
            let why = if known.contains(&of) {
                NOT_WRITTEN
            } else {
                "the files were changed since; the next `up` drops this override"
            };
            let why = why.to_owned();
            self.left.push(LeftOverride { id, why });
        }
    }

    /// Writes the overrides one after the other, until none of the others can be written.
    fn write_all(&mut self) {
        let overrides = &self.expected.overrides;
        let nodes = overrides.nodes.keys().cloned().map(Item::Node);
        let services = overrides.added.keys().cloned().map(Item::Service);
        let mut pending: Vec<Item> = nodes.chain(services).collect();
        let mut grouped = BTreeSet::new();
        for name in overrides.services.keys() {
            if grouped.contains(name) {
                continue;
            }
            let group = self.expected.joined_with(name);
            let mut members: Vec<ServiceName> = group.into_iter().collect();
            members.retain(|member| overrides.services.contains_key(member));
            let joins = |name: &ServiceName| {
                let spec = self.expected.services.get(name);
                spec.is_some_and(|spec| spec.container.connection.joins().is_some())
            };
            members.sort_by_key(joins);
            grouped.extend(members.iter().cloned());
            pending.push(Item::Replicas(members));
        }
        loop {
            let mut failed = Vec::new();
            let all = pending.len();
            for item in pending {
                if let Err(why) = self.write(&item) {
                    failed.push((item, why));
                }
            }
            if failed.is_empty() || failed.len() == all {
                let left = failed.into_iter().flat_map(|(item, why)| {
                    let ids = item.ids().into_iter();
                    ids.map(move |id| LeftOverride {
                        id,
                        why: why.clone(),
                    })
                });
                self.left.extend(left);
                return;
            }
            pending = failed.into_iter().map(|(item, _)| item).collect();
        }
    }

    /// Makes the first edit that has exactly the effect of the override. On failure, returns why the
    /// first edit was rejected.
    fn write(&mut self, item: &Item) -> Result<(), String> {
        if let Item::Replicas(names) = item
            && names.iter().any(|name| self.is_left(name))
        {
            return Err(NOT_WRITTEN.to_owned());
        }
        let candidates = match item {
            Item::Node(name) => self.edits_for_node(name),
            Item::Service(name) => self.edits_for_service(name),
            Item::Replicas(names) => self.edits_for_replicas(names),
        };
        let mut first = None;
        for edits in candidates {
            match self.check(item, &edits) {
                Ok(sources) => {
                    self.sources = sources;
                    for (path, text) in edits {
                        self.edited.insert(&path, text);
                        let written = self.written.entry(path).or_default();
                        written.extend(item.ids());
                    }
                    return Ok(());
                }
                Err(why) => {
                    first.get_or_insert(why);
                }
            }
        }
        Err(first.unwrap_or_else(|| "no Compose file has a place for it".to_owned()))
    }

    /// Returns whether the service was added, and is not in the files yet.
    fn is_left(&self, service: &ServiceName) -> bool {
        let id = format!("{service}.added");
        let mut written = self.written.values().flatten();
        self.overrides.added.contains_key(service) && !written.any(|one| *one == id)
    }

    /// Checks that edited files declare the override, and change nothing else that is in force.
    /// Returns the sources with these files.
    fn check(&self, item: &Item, edits: &[(PathBuf, String)]) -> Result<Sources, String> {
        let mut sources = self.sources.clone();
        let mut edited = self.edited.clone();
        for (path, text) in edits {
            if *path == self.platform_file() {
                sources.platform_toml = Some(path.clone());
            } else if !sources.compose_files.contains(path) {
                sources.compose_files.push(path.clone());
            }
            edited.insert(path, text.clone());
        }
        let files = declared(&sources, self.id, &edited).map_err(|problems| first(&problems))?;
        let actual = files.with_overrides(self.overrides.clone());
        let changed = differences(&self.expected, &actual);
        if !changed.is_empty() {
            return Err(format!("it would change {}", changed.join(", ")));
        }
        let ids = item.ids();
        let mut overrides = actual.overrides.iter();
        if overrides.any(|one: Override| ids.contains(&one.id())) {
            return Err("another value in the files takes precedence".to_owned());
        }
        Ok(sources)
    }

    fn platform_file(&self) -> PathBuf {
        let file = self.sources.platform_toml.clone();
        file.unwrap_or_else(|| self.sources.platform_file())
    }

    fn text(&self, path: &Path) -> String {
        self.edited.read(path).unwrap_or_default()
    }

    /// Returns the text of `platform.toml` with the node. The default nodes are written, too, because
    /// they exist only as long as no node is declared.
    fn edits_for_node(&self, name: &NodeName) -> Vec<Edits> {
        let Some(added) = self.overrides.nodes.get(name) else {
            return Vec::new();
        };
        let path = self.platform_file();
        let text = if self.sources.platform_toml.is_some() {
            self.text(&path)
        } else {
            String::new()
        };
        let default = self.expected.nodes.values();
        let default = default.filter(|spec| spec.origin != Origin::Api);
        let root = toml::parse(&text, &mut Report::new(""));
        let mut tables = String::new();
        if !declares_nodes(root.as_ref()) {
            tables.extend(default.map(table));
        }
        tables.push_str(&table(&added.spec));
        if let Some(machine) = &added.machine {
            // In a platform of machines, no node has a provider of its own.
            let has_provider = !matches!(self.expected.cloud, CloudSpec::Hosts(_));
            tables.push_str(&keys_of_machine(machine, has_provider));
        }
        vec![vec![(path, appended(&text, &tables))]]
    }

    fn edits_for_service(&self, name: &ServiceName) -> Vec<Edits> {
        let Some((class, text)) = self.texts.get(name) else {
            return Vec::new();
        };
        let Some(service) = service(text, *class) else {
            return Vec::new();
        };
        let files = &self.sources.compose_files;
        let mut places: Vec<&PathBuf> = files.first().into_iter().chain(files.last()).collect();
        places.extend(&self.added_file);
        places.dedup();
        let volumes = self.undeclared_volumes(&service, name);
        let edits = places.into_iter().filter_map(|path| {
            let path_of_service = ["services", name.as_str()];
            let mut text = yaml_edit::set(&self.text(path), &path_of_service, &service)?;
            for volume in &volumes {
                let nothing = Node::nothing(Position::START);
                text = yaml_edit::set(&text, &["volumes", volume], &nothing)?;
            }
            Some(vec![(path.clone(), text)])
        });
        edits.collect()
    }

    /// Returns the named volumes of an added service that no file declares.
    fn undeclared_volumes(&self, service: &Node, name: &ServiceName) -> BTreeSet<String> {
        let mut volumes: BTreeSet<String> = applied::named_volumes(service).into_keys().collect();
        let others = self.expected.services.iter();
        let others = others
            .filter(|(other, _)| *other != name && !self.overrides.added.contains_key(*other));
        for (_, other) in others {
            for mount in &other.container.volumes {
                volumes.remove(mount.volume.as_str());
            }
        }
        let declared = |volume: &String| {
            let path = ["volumes", volume.as_str()];
            let files = &self.sources.compose_files;
            files
                .iter()
                .any(|file| yaml_edit::contains(&self.text(file), &path))
        };
        volumes.retain(|volume| !declared(volume));
        volumes
    }

    /// Returns the edits for the number of replicas of services that share a network namespace: first
    /// of the one that the others join, which may have no number of their own.
    fn edits_for_replicas(&self, names: &[ServiceName]) -> Vec<Edits> {
        const PLACES: usize = 4;
        let mut candidates = Vec::new();
        for services in [names.get(..1).unwrap_or_default(), names] {
            let places: Vec<_> = { services.iter() }
                .map(|service| (service, self.places_of_replicas(service)))
                .collect();
            for place in 0..PLACES {
                let mut edits: BTreeMap<PathBuf, String> = BTreeMap::new();
                let made = places.iter().try_for_each(|(service, places)| {
                    let (path, key) = places.get(place).or(places.last())?;
                    let text = edits.remove(path).unwrap_or_else(|| self.text(path));
                    let number = self.requested_replicas(service)?;
                    let path_of_value: Vec<&str> = ["services", service.as_str()]
                        .into_iter()
                        .chain(key.iter().copied())
                        .collect();
                    let edited = yaml_edit::set(&text, &path_of_value, &number)?;
                    edits.insert(path.clone(), edited);
                    Some(())
                });
                let edits: Edits = edits.into_iter().collect();
                if made.is_some() && !candidates.contains(&edits) {
                    candidates.push(edits);
                }
            }
        }
        candidates
    }

    fn requested_replicas(&self, service: &ServiceName) -> Option<Node> {
        let scaled = self.overrides.services.get(service)?.scaled.as_ref()?;
        let value = Value::Scalar {
            text: scaled.replicas.to_string(),
            plain: true,
        };
        Some(Node::new(Position::START, value))
    }

    /// Returns where the number of replicas of a service can be written, best first: where it is
    /// written now, where the service is declared, in the last file, and in an override file. Also
    /// returns the keys of the number in the service.
    fn places_of_replicas(&self, name: &ServiceName) -> Vec<(PathBuf, &'static [&'static str])> {
        let service = ["services", name.as_str()];
        let files = &self.sources.compose_files;
        let scale = [&service[..], &["scale"]].concat();
        let is_scale = |file: &PathBuf| yaml_edit::contains(&self.text(file), &scale);
        let keys: &[&str] = if files.iter().any(is_scale) {
            &["scale"]
        } else {
            &["deploy", "replicas"]
        };
        let value = [&service[..], keys].concat();
        let mut latest = files.iter().rev();
        let number = { latest.clone() }.find(|file| yaml_edit::is_number(&self.text(file), &value));
        let declared = latest.find(|file| yaml_edit::contains(&self.text(file), &service));
        let last = files.last().filter(|_| files.len() > 1);
        let places = number.into_iter().chain(declared).chain(last);
        let mut places: Vec<_> = places.map(|file| (file.clone(), keys)).collect();
        places.extend(self.added_file.clone().map(|file| (file, keys)));
        places.dedup();
        places
    }

    fn finish(mut self, others: BTreeSet<String>) -> Export {
        let others = others.into_iter().map(|id| LeftOverride {
            id,
            why: "files cannot declare it".to_owned(),
        });
        self.left.extend(others);
        self.left.sort_by(|a, b| a.id.cmp(&b.id));
        let mut files = Vec::new();
        for (path, overrides) in self.written {
            let Some(text) = self.edited.get(&path) else {
                continue;
            };
            files.push(ExportedFile {
                text: Sensitive::new(text.as_str()),
                before: text_file::read(&path).ok().map(Sensitive::new),
                path,
                overrides,
            });
        }
        let left = self.left;
        Export { files, left }
    }
}

fn requested() -> Requested {
    Requested {
        at: DateTime::<Utc>::UNIX_EPOCH,
        by: String::new(),
    }
}

/// Returns the command for services of a class.
fn command(class: ServiceClass) -> &'static str {
    match class {
        ServiceClass::Microservice => "service",
        ServiceClass::Application => "app",
        ServiceClass::Model => "model",
    }
}

fn first(problems: &Diagnostics) -> String {
    problems
        .iter()
        .next()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Returns what differs in two effective declarations, regardless of who declared it.
fn differences(expected: &Declaration, actual: &Declaration) -> Vec<String> {
    let of_files = |declaration: &Declaration| {
        let mut declaration = declaration.clone();
        let overrides = std::mem::take(&mut declaration.overrides);
        if let Some(hosts) = declaration.cloud.hosts_mut() {
            let machines = overrides.nodes.iter();
            let machines = machines.filter_map(|(node, one)| Some((node, one.machine.as_ref()?)));
            let machines = machines.map(|(node, machine)| (node.clone(), HostSpec::from(machine)));
            hosts.hosts.extend(machines);
        }
        declaration.volumes = BTreeSet::new();
        for spec in declaration.nodes.values_mut() {
            spec.origin = Origin::File;
        }
        for spec in declaration.services.values_mut() {
            spec.origin = Origin::File;
        }
        declaration
    };
    let (mut expected, mut actual) = (of_files(expected), of_files(actual));
    let nodes = differing(&expected.nodes, &actual.nodes);
    let nodes = nodes.into_iter().map(|name| format!("node {name}"));
    let services = differing(&expected.services, &actual.services);
    let services = services.into_iter().map(|name| format!("service {name}"));
    let mut changed: Vec<String> = nodes.chain(services).collect();
    for declaration in [&mut expected, &mut actual] {
        declaration.nodes = BTreeMap::new();
        declaration.services = BTreeMap::new();
    }
    if expected != actual {
        changed.push("the settings of the platform".to_owned());
    }
    changed
}

fn differing<'m, K: Ord, V: PartialEq>(
    one: &'m BTreeMap<K, V>,
    other: &'m BTreeMap<K, V>,
) -> BTreeSet<&'m K> {
    let names = one.keys().chain(other.keys());
    names
        .filter(|name| one.get(*name) != other.get(*name))
        .collect()
}

/// Returns an added service as it is written in a file, where `$` has a meaning, and the class is a key.
fn service(text: &str, class: ServiceClass) -> Option<Node> {
    let mut service = yaml::parse(text, &mut Report::new(""))?;
    escape(&mut service);
    let Value::Map(entries) = &mut service.value else {
        return None;
    };
    if class != ServiceClass::default() {
        let at = Position::START;
        let class = Entry {
            key: "class".to_owned(),
            at,
            node: Node::of_text(at, class.to_string()),
        };
        let extension = entries.iter_mut().find(|entry| entry.key == "x-lifecycle");
        match extension.map(|entry| &mut entry.node.value) {
            Some(Value::Map(keys)) => {
                keys.retain(|entry| entry.key != "class");
                keys.insert(0, class);
            }
            Some(other) => *other = Value::Map(vec![class]),
            None => entries.push(Entry {
                key: "x-lifecycle".to_owned(),
                at,
                node: Node::new(at, Value::Map(vec![class])),
            }),
        }
    }
    Some(service)
}

/// Doubles each `$`, which begins a variable in a file.
fn escape(node: &mut Node) {
    match &mut node.value {
        Value::Scalar { text, .. } => *text = text.replace('$', "$$"),
        Value::List(items) => items.iter_mut().for_each(escape),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| escape(&mut entry.node)),
    }
}

fn appended(text: &str, tables: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let tables = if text.is_empty() {
        tables.trim_start()
    } else {
        tables
    };
    format!("{text}{end}{tables}")
}

/// Returns the keys of a machine in the table of its node. They contain no login, because the platform's
/// account exists.
fn keys_of_machine(machine: &MachineSpec, has_provider: bool) -> String {
    let mut keys = String::new();
    // Writing to a string cannot fail.
    if has_provider {
        let _ = writeln!(keys, "provider = \"hosts\"");
    }
    let _ = writeln!(keys, "address = {}", quoted(&machine.address));
    if let Some(address) = machine.private_address {
        let _ = writeln!(keys, "private_address = \"{address}\"");
    }
    let _ = writeln!(keys, "port = {}", machine.port);
    let _ = writeln!(keys, "user = {}", quoted(&machine.user));
    let host_keys: Vec<String> = machine.host_keys.iter().map(|key| quoted(key)).collect();
    match host_keys.as_slice() {
        [] => {}
        [key] => {
            let _ = writeln!(keys, "host_key = {key}");
        }
        host_keys => {
            let _ = writeln!(keys, "host_key = [{}]", host_keys.join(", "));
        }
    }
    keys
}

/// Returns the node's table in `platform.toml`.
fn table(spec: &NodeSpec) -> String {
    let mut table = format!("\n[nodes.{}]\n", spec.name);
    let mut sizes = spec
        .size
        .iter()
        .chain(&spec.alternatives)
        .map(|size| quoted(size));
    // Writing to a string cannot fail.
    let _ = match (sizes.next(), spec.alternatives.is_empty()) {
        (None, _) => Ok(()),
        (Some(size), true) => writeln!(table, "size = {size}"),
        (Some(size), false) => {
            let sizes: Vec<String> = std::iter::once(size).chain(sizes).collect();
            writeln!(table, "size = [{}]", sizes.join(", "))
        }
    };
    if let Some(image) = &spec.image {
        let _ = writeln!(table, "image = {}", quoted(image));
    }
    if !spec.labels.is_empty() {
        let labels = spec.labels.iter();
        let labels = labels.map(|(label, value)| format!("{} = {}", quoted(label), quoted(value)));
        let labels: Vec<String> = labels.collect();
        let _ = writeln!(table, "labels = {{ {} }}", labels.join(", "));
    }
    if let Some(Resources {
        cpu_millis,
        memory_bytes,
    }) = spec.capacity
    {
        let (whole, part) = (cpu_millis / 1000, cpu_millis % 1000);
        let cpus = if part == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{part:03}")
        };
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let unit = units
            .into_iter()
            .find(|(shift, _)| memory_bytes.trailing_zeros() >= *shift);
        let (shift, unit) = unit.unwrap_or_default();
        let memory = memory_bytes >> shift;
        let _ = writeln!(
            table,
            "capacity = {{ cpus = {cpus}, memory = \"{memory}{unit}\" }}"
        );
    }
    table
}
