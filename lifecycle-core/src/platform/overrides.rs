//! Changes that were requested at run time, on top of what the user's files declare.

mod adoption;
mod export;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Declaration;
use super::compose::MAX_REPLICAS;
use super::validate::MAX_INSTANCES;
use crate::cloud::MachineSpec;
use crate::error::{Error, Result};
use crate::model::{
    ContainerRun, Existing, InstanceId, NodeName, NodeRequest, NodeSpec, Origin, Scheduling,
    ServiceClass, ServiceName, ServiceSpec, Subject,
};
use crate::secret::Sensitive;

pub use export::{
    AddedText, Export, Exportable, ExportedFile, ExportedNode, LeftOverride, Scaling, export,
};

/// The overrides of a declaration. A declaration with overrides contains the effective values; each
/// override also contains the value in the files that it was based on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<ServiceName, ServiceOverrides>,
    /// Services that the files do not declare.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    added: BTreeMap<ServiceName, AddedService>,
    /// Nodes that the files do not declare.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    nodes: BTreeMap<NodeName, AddedNode>,
    /// Nodes whose machines are being taken over. They are not declared yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    adopting: BTreeMap<NodeName, AddedNode>,
    /// Machines of removed nodes, which are released, or have been.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    leaving: BTreeMap<NodeName, LeavingMachine>,
    /// Nodes that are cordoned or drained.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scheduled: BTreeMap<NodeName, ScheduledNode>,
    /// Nodes that are stopped until they are started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    stopped_nodes: BTreeMap<NodeName, StoppedNode>,
    /// Set if the manager began with an empty registry: overrides may have been lost with the previous
    /// one. Contains the nodes that are to be deleted nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<BTreeSet<NodeName>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AddedService {
    spec: ServiceSpec,
    /// The text that was requested. Earlier versions did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Sensitive>,
    requested: Requested,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AddedNode {
    spec: NodeSpec,
    /// The machine, if the node existed before the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<MachineSpec>,
    requested: Requested,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeavingMachine {
    machine: MachineSpec,
    /// Whether the node had been observed when it was removed. Then its record in the registry exists
    /// until the machine is released.
    was_observed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ScheduledNode {
    scheduling: Scheduling,
    #[serde(flatten)]
    requested: Requested,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoppedNode {
    #[serde(flatten)]
    requested: Requested,
    /// The runs of containers on the node when the stop was requested. They start again with the node,
    /// whatever their restart policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    runs: BTreeMap<InstanceId, ContainerRun>,
}

/// The overrides of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ServiceOverrides {
    /// The number of replicas in the files, or of an added service in the request.
    declared: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scaled: Option<Scaled>,
    /// Set if the service was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Requested>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scaled {
    replicas: u16,
    #[serde(flatten)]
    requested: Requested,
}

/// When an override was requested, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    pub at: DateTime<Utc>,
    /// The token, with its id and the address of the client.
    pub by: String,
}

/// An override in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The changed service or node.
    pub subject: Subject,
    pub kind: OverrideKind,
    pub requested: Requested,
}

/// What an override changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideKind {
    /// The number of replicas.
    Replicas {
        replicas: u16,
        /// The number in the files.
        declared: u16,
    },
    /// The service has no replicas, or the node is stopped, until it is started.
    Stopped,
    /// The service or node is declared in addition to those in the files.
    Added,
    /// The machine of the node is being taken over, or this was interrupted.
    Adopting,
    /// The node is cordoned or drained.
    Scheduling(Scheduling),
}

/// A change of overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideChange {
    /// Sets the number of replicas. The number in the files removes the override.
    Scale(u16),
    /// Stops a service, so that it has no replicas.
    Stop,
    /// Starts a stopped service with the number of replicas that it had.
    Start,
}

impl Override {
    /// Returns the name of the override, for example `web.replicas`.
    pub fn id(&self) -> String {
        let field = match self.kind {
            OverrideKind::Replicas { .. } => "replicas",
            OverrideKind::Stopped if matches!(self.subject, Subject::Node(_)) => "power",
            OverrideKind::Stopped => "stopped",
            OverrideKind::Added => "added",
            OverrideKind::Adopting => "adopting",
            OverrideKind::Scheduling(_) => "scheduling",
        };
        let of = match &self.subject {
            Subject::Service(service) => service.as_str(),
            Subject::Node(node) => node.as_str(),
            Subject::Platform | Subject::Instance(_) => "platform",
        };
        format!("{of}.{field}")
    }
}

impl fmt::Display for OverrideChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale(replicas) => write!(f, "scale to {replicas}"),
            Self::Stop => f.write_str("stop"),
            Self::Start => f.write_str("start"),
        }
    }
}

impl Overrides {
    /// Returns these overrides of services, and the overrides of nodes in `current`.
    pub(super) fn of_services(self, current: Self) -> Self {
        Self {
            services: self.services,
            added: self.added,
            ..current
        }
    }

    /// Returns the overrides of a platform whose registry is empty. Earlier ones may have been lost.
    pub(crate) fn lost() -> Self {
        Self {
            lost: Some(BTreeSet::new()),
            ..Self::default()
        }
    }

    /// If earlier overrides may have been lost, returns the undeclared nodes that are to be deleted
    /// nevertheless.
    pub(crate) fn deleted_although_lost(&self) -> Option<&BTreeSet<NodeName>> {
        self.lost.as_ref()
    }

    /// Returns the overrides after the user has declared something else, and has been asked about all
    /// nodes that are not declared.
    pub(crate) fn confirmed(self) -> Self {
        Self { lost: None, ..self }
    }

    /// Returns whether there are no overrides.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the overrides, those of services first.
    pub fn iter(&self) -> impl Iterator<Item = Override> {
        let added = |subject, requested: &Requested| Override {
            subject,
            kind: OverrideKind::Added,
            requested: requested.clone(),
        };
        let nodes = self.nodes.iter();
        let nodes =
            nodes.map(move |(node, one)| added(Subject::Node(node.clone()), &one.requested));
        let new = self.added.iter().map(move |(service, one)| {
            let subject = Subject::Service(service.clone());
            added(subject, &one.requested)
        });
        let services = self.services.iter().flat_map(|(service, overrides)| {
            let of = |kind, requested: &Requested| Override {
                subject: Subject::Service(service.clone()),
                kind,
                requested: requested.clone(),
            };
            let declared = overrides.declared;
            let scaled = overrides.scaled.as_ref().map(|scaled| {
                let replicas = scaled.replicas;
                of(
                    OverrideKind::Replicas { replicas, declared },
                    &scaled.requested,
                )
            });
            let stopped = overrides.stopped.as_ref();
            let stopped = stopped.map(|requested| of(OverrideKind::Stopped, requested));
            scaled.into_iter().chain(stopped)
        });
        let scheduled = self.scheduled.iter().map(|(node, one)| Override {
            subject: Subject::Node(node.clone()),
            kind: OverrideKind::Scheduling(one.scheduling),
            requested: one.requested.clone(),
        });
        let stopped = self.stopped_nodes.iter().map(|(node, one)| Override {
            subject: Subject::Node(node.clone()),
            kind: OverrideKind::Stopped,
            requested: one.requested.clone(),
        });
        let adopting = self.adopting.iter().map(|(node, one)| Override {
            subject: Subject::Node(node.clone()),
            kind: OverrideKind::Adopting,
            requested: one.requested.clone(),
        });
        let of_nodes = nodes.chain(adopting).chain(scheduled).chain(stopped);
        services.chain(new).chain(of_nodes)
    }
}

impl ServiceOverrides {
    /// Returns the overrides that stay in force for a service with this number of replicas in the
    /// files; `None` if there are none. A number that was changed in the files replaces the requested
    /// one.
    fn on(mut self, declared: u16) -> Option<Self> {
        let is_changed = self.declared != declared;
        self.declared = declared;
        self.scaled = self
            .scaled
            .filter(|scaled| !is_changed && scaled.replicas != declared);
        (self.scaled.is_some() || self.stopped.is_some()).then_some(self)
    }

    fn effective(&self) -> u16 {
        let running = self.scaled.as_ref().map_or(self.declared, |s| s.replicas);
        if self.stopped.is_some() { 0 } else { running }
    }
}

/// Fails if the node cannot be stopped and started again.
fn reject_stop(spec: &NodeSpec, manager_node: &NodeName) -> Result<()> {
    let why = if spec.name == *manager_node {
        "the manager runs on it"
    } else if spec.existing == Some(Existing::Host) {
        "it belongs to no cloud, so the platform could not start it again"
    } else {
        return Ok(());
    };
    Err(Error::invalid(
        format!("stopping node {}", spec.name),
        why,
        "name another node",
    ))
}

fn declared_in_files(name: &ServiceName) -> Error {
    Error::invalid(
        format!("service {name}"),
        "it is declared in the Compose file",
        "change the Compose file, then run `bootstrapper up`",
    )
}

impl Declaration {
    /// Returns what the files declare.
    #[must_use]
    pub fn without_overrides(self) -> Self {
        let (mut files, overrides) = self.separated();
        files
            .services
            .retain(|name, _| !overrides.added.contains_key(name));
        files
            .nodes
            .retain(|name, _| !overrides.nodes.contains_key(name));
        for spec in files.nodes.values_mut() {
            spec.scheduling = Scheduling::Open;
            spec.stopped = false;
        }
        files
    }

    /// Returns the declaration with its added services and nodes, but without changes of services,
    /// and the overrides.
    pub(super) fn separated(mut self) -> (Self, Overrides) {
        let overrides = std::mem::take(&mut self.overrides);
        for (name, changed) in &overrides.services {
            if let Some(spec) = self.services.get_mut(name) {
                spec.replicas = changed.declared;
            }
        }
        (self, overrides)
    }

    /// Returns the effective declaration, where `self` is what the files declare. Overrides of
    /// services that are not declared, and of values that were changed in the files, are dropped, and
    /// added services and nodes that the files now declare.
    #[must_use]
    pub fn with_overrides(self, overrides: Overrides) -> Self {
        let mut effective = self.without_overrides();
        for (name, added) in overrides.added {
            if !effective.services.contains_key(&name) {
                effective.services.insert(name.clone(), added.spec.clone());
                effective.overrides.added.insert(name, added);
            }
        }
        effective.equalize_added();
        for (name, added) in overrides.nodes {
            if !effective.nodes.contains_key(&name) {
                effective.nodes.insert(name.clone(), added.spec.clone());
                effective.overrides.nodes.insert(name, added);
            }
        }
        effective.keep_machines(overrides.adopting, overrides.leaving);
        for (name, scheduled) in overrides.scheduled {
            if let Some(spec) = effective.nodes.get_mut(&name) {
                spec.scheduling = scheduled.scheduling;
                effective.overrides.scheduled.insert(name, scheduled);
            }
        }
        for (name, stopped) in overrides.stopped_nodes {
            if let Some(spec) = effective.nodes.get_mut(&name)
                && reject_stop(spec, &effective.manager.node).is_ok()
            {
                spec.stopped = true;
                effective.overrides.stopped_nodes.insert(name, stopped);
            }
        }
        for (name, changed) in effective.in_groups(overrides.services) {
            if let Some(spec) = effective.services.get_mut(&name)
                && let Some(changed) = changed.on(spec.replicas)
            {
                spec.replicas = changed.effective();
                effective.overrides.services.insert(name, changed);
            }
        }
        effective.overrides.lost = overrides.lost;
        effective
    }

    /// Gives each added service that joins the network of another one the same number of replicas, also
    /// if the files have changed that number.
    fn equalize_added(&mut self) {
        let replicas = |declaration: &Self, name: &ServiceName| {
            let spec = declaration.services.get(name)?;
            let joined = spec.container.connection.joins()?;
            Some(declaration.services.get(joined)?.replicas)
        };
        let added: Vec<ServiceName> = self.overrides.added.keys().cloned().collect();
        for name in added {
            let joined = replicas(self, &name);
            if let (Some(joined), Some(spec)) = (joined, self.services.get_mut(&name)) {
                spec.replicas = joined;
            }
        }
    }

    /// Extends the overrides of a service to those that share its network namespace, which need the
    /// same number of replicas.
    fn in_groups(
        &self,
        overrides: BTreeMap<ServiceName, ServiceOverrides>,
    ) -> BTreeMap<ServiceName, ServiceOverrides> {
        let mut all = overrides.clone();
        for (name, changed) in overrides {
            for other in self.joined_with(&name) {
                let declared = self.services.get(&other).map(|spec| spec.replicas);
                if other != name && declared == Some(changed.declared) {
                    all.entry(other).or_insert_with(|| changed.clone());
                }
            }
        }
        all
    }

    /// Returns the effective declaration with other overrides.
    fn overridden(self, overrides: Overrides) -> Result<Self> {
        let effective = self.without_overrides().with_overrides(overrides);
        let replicas = effective.services.values();
        let replicas: usize = replicas.map(|spec| usize::from(spec.replicas)).sum();
        if replicas > MAX_INSTANCES {
            return Err(Error::invalid(
                "the number of replicas",
                format!("the platform would have {replicas} replicas"),
                format!("a platform can have at most {MAX_INSTANCES} replicas"),
            ));
        }
        Ok(effective)
    }

    /// Adds a service, or replaces one that was added before. `text` is what `spec` was read from.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the files declare the service, or if the platform would have too many
    /// replicas
    pub fn adding_service(
        self,
        spec: ServiceSpec,
        text: &str,
        requested: &Requested,
    ) -> Result<Self> {
        let name = spec.name.clone();
        let mut overrides = self.overrides.clone();
        let known = overrides.added.get(&name);
        if known.is_none() && self.services.contains_key(&name) {
            return Err(declared_in_files(&name));
        }
        let spec = ServiceSpec {
            origin: Origin::Api,
            ..spec
        };
        if known.is_some_and(|known| known.spec == spec && known.text.is_some()) {
            return Ok(self);
        }
        let added = AddedService {
            spec,
            text: Some(Sensitive::new(text)),
            requested: requested.clone(),
        };
        overrides.added.insert(name, added);
        self.overridden(overrides)
    }

    /// Removes a service that was added at run time.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if no service of this class has this name, unless its containers are being
    ///   removed (`exists`)
    /// - [`Error::Invalid`] if the files declare it
    /// - [`Error::Conflict`] if another service depends on it
    pub fn removing_service(self, class: ServiceClass, name: &str, exists: bool) -> Result<Self> {
        let of_class = self.services.values().filter(|spec| spec.class == class);
        let mut names = of_class.map(|spec| &spec.name);
        let Some(name) = names.clone().find(|known| known.as_str() == name).cloned() else {
            if exists && !self.services.keys().any(|known| known.as_str() == name) {
                return Ok(self);
            }
            let known = names.by_ref().map(ServiceName::as_str);
            return Err(Error::unknown_name(format!("{class} {name}"), name, known));
        };
        let mut overrides = self.overrides.clone();
        if overrides.added.remove(&name).is_none() {
            return Err(declared_in_files(&name));
        }
        let mut others = self.services.values();
        let needs = |spec: &&ServiceSpec| {
            let joined = spec.container.connection.joins();
            spec.depends_on.keys().chain(joined).any(|one| *one == name)
        };
        if let Some(other) = others.find(needs) {
            return Err(Error::Conflict {
                what: format!("removing {class} {name}"),
                why: format!("{} depends on it", other.name),
            });
        }
        self.overridden(overrides)
    }

    /// Adds a node with the size, image, labels and capacity of the node `like`, or with the
    /// provider's defaults. Changes nothing if the node was added before in the same way.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if there is no node `like`
    /// - [`Error::Invalid`] if `like` existed before the platform
    /// - [`Error::Conflict`] if a different node with this name is declared
    pub fn adding_node(
        mut self,
        name: NodeName,
        like: Option<&str>,
        requested: &Requested,
    ) -> Result<Self> {
        let mut spec = match like {
            None => NodeSpec::new(name.clone()),
            Some(like) => {
                let model = self.nodes.values().find(|spec| spec.name.as_str() == like);
                let known = self.nodes.keys().map(NodeName::as_str);
                let unknown = || Error::unknown_name(format!("node {like}"), like, known);
                model.cloned().ok_or_else(unknown)?
            }
        };
        if spec.existing.is_some() {
            return Err(Error::invalid(
                format!("node {name}"),
                format!("{} existed before the platform", spec.name),
                "name a node that the platform created",
            ));
        }
        spec.name = name.clone();
        spec.origin = Origin::Api;
        spec.scheduling = Scheduling::Open;
        spec.stopped = false;
        let added = self.overrides.nodes.get(&name);
        if added.is_some_and(|added| added.spec == spec) {
            return Ok(self);
        }
        self.check_free(&name, "adding")?;
        self.nodes.insert(name.clone(), spec.clone());
        let added = AddedNode {
            spec,
            machine: None,
            requested: requested.clone(),
        };
        self.overrides.nodes.insert(name, added);
        Ok(self)
    }

    /// Removes a node that was added at run time, or may have been added by an override that was lost.
    /// Also ends an adoption. `exists` is whether the registry contains a node with this name; if it is
    /// not declared, it is being deleted or released.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such node; [`Error::Invalid`] if the files declare it
    pub fn removing_node(mut self, name: &str, exists: bool) -> Result<Self> {
        if self.ends_adoption(name) {
            return Ok(self);
        }
        let known = self.nodes.keys();
        let Some(node) = known.clone().find(|node| node.as_str() == name).cloned() else {
            let Some(node) = NodeName::try_from(name).ok().filter(|_| exists) else {
                let known = known.map(NodeName::as_str);
                return Err(Error::unknown_name(format!("node {name}"), name, known));
            };
            if let Some(removed) = &mut self.overrides.lost {
                removed.insert(node);
            }
            return Ok(self);
        };
        let Some(removed) = self.overrides.nodes.remove(&node) else {
            return Err(Error::invalid(
                format!("node {name}"),
                "it is declared in platform.toml",
                "remove it from platform.toml, then run `bootstrapper up`",
            ));
        };
        if let Some(machine) = removed.machine {
            let leaving = LeavingMachine {
                machine,
                was_observed: exists,
            };
            self.overrides.leaving.insert(node.clone(), leaving);
        }
        self.nodes.remove(&node);
        self.overrides.scheduled.remove(&node);
        self.overrides.stopped_nodes.remove(&node);
        if let Some(removed) = &mut self.overrides.lost {
            removed.insert(node);
        }
        Ok(self)
    }

    /// Returns the nodes that differ from `later`, if nothing else in the services does.
    pub(crate) fn nodes_changed_to(&self, later: &Self) -> BTreeSet<NodeName> {
        let names = self.nodes.keys().chain(later.nodes.keys());
        let differs = |name: &&NodeName| self.nodes.get(*name) != later.nodes.get(*name);
        if self.services == later.services {
            names.filter(differs).cloned().collect()
        } else {
            BTreeSet::new()
        }
    }

    /// Returns the runs of containers that start again when their stopped nodes start.
    pub(crate) fn stopped_runs(&self) -> BTreeMap<InstanceId, ContainerRun> {
        let nodes = self.overrides.stopped_nodes.values();
        nodes.flat_map(|node| node.runs.clone()).collect()
    }

    /// Changes what is declared about a node. A repeated request changes nothing. `runs` are the current
    /// runs of the containers on the node.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the node is not declared
    /// - [`Error::Invalid`] if the node cannot be stopped: the manager runs on it, or it has no cloud that
    ///   could start it again
    pub fn changing_node(
        mut self,
        name: &str,
        request: NodeRequest,
        runs: BTreeMap<InstanceId, ContainerRun>,
        requested: &Requested,
    ) -> Result<Self> {
        let known = self.nodes.keys();
        let known = known.map(NodeName::as_str).collect::<Vec<_>>().into_iter();
        let unknown = Error::unknown_name(format!("node {name}"), name, known);
        let mut nodes = self.nodes.values_mut();
        let spec = nodes
            .find(|spec| spec.name.as_str() == name)
            .ok_or(unknown)?;
        let (name, requested) = (spec.name.clone(), requested.clone());
        let scheduling = match request {
            NodeRequest::Cordon => Scheduling::Cordoned,
            NodeRequest::Drain => Scheduling::Drained,
            NodeRequest::Uncordon => Scheduling::Open,
            NodeRequest::Stop if spec.stopped => return Ok(self),
            NodeRequest::Stop => {
                reject_stop(spec, &self.manager.node)?;
                spec.stopped = true;
                let stopped = StoppedNode { requested, runs };
                self.overrides.stopped_nodes.insert(name, stopped);
                return Ok(self);
            }
            NodeRequest::Start => {
                spec.stopped = false;
                self.overrides.stopped_nodes.remove(&name);
                return Ok(self);
            }
        };
        if spec.scheduling == scheduling {
            return Ok(self);
        }
        spec.scheduling = scheduling;
        let scheduled = ScheduledNode {
            scheduling,
            requested,
        };
        match scheduling {
            Scheduling::Open => self.overrides.scheduled.remove(&name),
            Scheduling::Cordoned | Scheduling::Drained => {
                self.overrides.scheduled.insert(name, scheduled)
            }
        };
        Ok(self)
    }

    /// Removes an override by its id, so that the value in the files applies again. An override that
    /// is not in force, but could be, is already removed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there can be no such override; [`Error::Invalid`] if a service or node
    /// would be removed
    pub fn removing_override(self, id: &str) -> Result<Self> {
        let (name, field) = id.rsplit_once('.').unwrap_or((id, ""));
        if field == "scheduling" && self.nodes.keys().any(|known| known.as_str() == name) {
            let mut overrides = self.overrides.clone();
            overrides.scheduled.retain(|node, _| node.as_str() != name);
            return self.overridden(overrides);
        }
        if field == "power" && self.nodes.keys().any(|known| known.as_str() == name) {
            let mut overrides = self.overrides.clone();
            overrides
                .stopped_nodes
                .retain(|node, _| node.as_str() != name);
            return self.overridden(overrides);
        }
        let service = self.services.keys().find(|known| known.as_str() == name);
        let Some(service) = service.filter(|_| matches!(field, "replicas" | "stopped")) else {
            let overrides: Vec<Override> = self.overrides.iter().collect();
            let known: Vec<String> = overrides.iter().map(Override::id).collect();
            let Some(found) = overrides.iter().find(|one| one.id() == id) else {
                let known = known.iter().map(String::as_str);
                return Err(Error::unknown_name(format!("override {id}"), id, known));
            };
            return Err(Error::invalid(
                format!("override {id}"),
                format!("{} would be removed", found.subject),
                "use `bootstrapper node remove`, `service remove`, `app remove` or `model remove`",
            ));
        };
        let group = self.joined_with(service);
        let mut overrides = self.overrides.clone();
        let changed = overrides.services.iter_mut();
        for (_, changed) in changed.filter(|(name, _)| group.contains(*name)) {
            match field {
                "replicas" => changed.scaled = None,
                _ => changed.stopped = None,
            }
        }
        self.overridden(overrides)
    }

    /// Applies a change to a service, and to the services whose network it joins or that join its
    /// network, because they need the same number of replicas. A change that is already in force is
    /// not requested again.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the service is not declared
    /// - [`Error::Invalid`] if the platform would have too many replicas
    pub fn overriding(
        self,
        service: &str,
        change: OverrideChange,
        requested: &Requested,
    ) -> Result<Self> {
        let known = self.services.keys();
        let Some(name) = known.clone().find(|name| name.as_str() == service) else {
            let known = known.map(ServiceName::as_str);
            return Err(Error::unknown_name(
                format!("service {service}"),
                service,
                known,
            ));
        };
        if let OverrideChange::Scale(replicas) = change
            && u32::from(replicas) > MAX_REPLICAS
        {
            return Err(Error::invalid(
                format!("the number of replicas of {service}"),
                format!("{replicas} replicas were requested"),
                format!("request at most {MAX_REPLICAS} replicas"),
            ));
        }
        let group = self.joined_with(name);
        let (declared, mut overrides) = self.clone().separated();
        for (name, spec) in &declared.services {
            if !group.contains(name) {
                continue;
            }
            let entry = overrides.services.entry(name.clone());
            let entry = entry.or_insert_with(|| ServiceOverrides {
                declared: spec.replicas,
                scaled: None,
                stopped: None,
            });
            match change {
                OverrideChange::Scale(replicas) => {
                    let same = entry.scaled.take().filter(|s| s.replicas == replicas);
                    entry.scaled = Some(same.unwrap_or_else(|| Scaled {
                        replicas,
                        requested: requested.clone(),
                    }));
                }
                OverrideChange::Stop => {
                    entry.stopped.get_or_insert_with(|| requested.clone());
                }
                OverrideChange::Start => entry.stopped = None,
            }
        }
        self.overridden(overrides)
    }

    /// Returns the services that share a network namespace with `service`, including itself.
    pub(super) fn joined_with(&self, service: &ServiceName) -> BTreeSet<ServiceName> {
        let joined = |spec: &ServiceSpec| spec.container.connection.joins().cloned();
        let mut group = BTreeSet::from([service.clone()]);
        loop {
            let before = group.len();
            for (name, spec) in &self.services {
                if let Some(other) = joined(spec)
                    && (group.contains(name) || group.contains(&other))
                {
                    group.extend([name.clone(), other]);
                }
            }
            if group.len() == before {
                return group;
            }
        }
    }
}
