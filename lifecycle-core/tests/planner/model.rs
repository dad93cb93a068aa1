//! A model of the world that the planner observes. The model applies the effect of each step
//! immediately, and panics if the step is not allowed at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::cloud::{ObservedNode, OpenPorts, Power, SshAddress};
use lifecycle_core::model::{
    Addresses, BuildSource, ContainerId, ContainerRun, DependencyCondition, ImageSource,
    InstanceId, NodeName, Protocol, PublicPort, PublicPorts, ReplacementOrder, Replica,
    RolloutControl, ServiceName, SpecDigest, Starts,
};
use lifecycle_core::reconcile::declared::{DeclaredService, JoinedSpec, listed_name};
use lifecycle_core::reconcile::observe::AgentView;
use lifecycle_core::reconcile::{
    Action, Declared, Endings, EngineView, Failure, History, NodeView, Observed, Plan,
    PlanningInput, Preparation, Readiness, StepId, plan,
};
use lifecycle_core::registry::{RejectedSpec, Unknown};
use lifecycle_core::runtime::{ContainerState, EngineInfo, EngineState, ObservedContainer, Role};

use super::checks::{assert_sound, may_run};

/// The real state of a node, even while the node is unreachable.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub power: Power,
    pub created: bool,
    pub prepared: bool,
    /// True if the node's engine has been observed since the node started.
    pub asked: bool,
    pub unknown_since: Option<DateTime<Utc>>,
    pub state: EngineState,
    pub open_ports: OpenPorts,
    /// How often the machine has booted.
    pub boots: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub now: DateTime<Utc>,
    pub machines: BTreeMap<NodeName, Machine>,
    pub cloud_unknown: bool,
    pub readiness: BTreeMap<ContainerId, Readiness>,
    pub last_seen: BTreeMap<InstanceId, NodeName>,
    pub rejected: BTreeMap<InstanceId, RejectedSpec>,
    /// The nodes on which images are being built.
    pub builds: BTreeMap<String, NodeName>,
    pub failures: BTreeMap<StepId, Failure>,
    /// How many times each container exited by itself.
    pub endings: BTreeMap<ContainerId, Endings>,
    /// For each replica, the container run that a requested restart must replace.
    pub restarts: BTreeMap<InstanceId, ContainerRun>,
    /// The nodes for which a restart was requested, with the boot that the restart ends.
    pub node_restarts: BTreeMap<NodeName, String>,
    /// The nodes whose preparation was requested.
    pub preparations: BTreeMap<NodeName, Preparation>,
    /// The requests about rollouts.
    pub rollouts: BTreeMap<ServiceName, RolloutControl>,
    /// For each replica without a container, the node that the previous plan chose.
    pub placed: BTreeMap<InstanceId, NodeName>,
    pub agents: BTreeMap<NodeName, AgentView>,
    /// Specifications that never become ready.
    pub never_ready: BTreeSet<SpecDigest>,
    containers_created: u32,
}

pub(crate) fn start_of_time() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

pub(crate) fn is_running(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

/// Returns whether a container is what the service declares, in an engine with these images.
pub(crate) fn is_current(
    state: &EngineState,
    container: &ObservedContainer,
    service: &DeclaredService,
) -> bool {
    let is_same = |container: &ObservedContainer, spec: &JoinedSpec| {
        container.digest == spec.digest
            || container.template_digest.as_ref() == Some(&spec.template_digest)
                && state.images.get(&spec.image) == Some(&container.image)
    };
    let joins_current = service.joined.as_ref().is_none_or(|spec| {
        let joined = state.joined_by(container);
        joined.is_some_and(|joined| is_same(joined, spec))
    });
    let own = JoinedSpec {
        image: service.image.clone(),
        digest: service.digest.clone(),
        template_digest: service.template_digest.clone(),
    };
    joins_current && is_same(container, &own)
}

/// Returns the id of the image that is built from `source`. Versions 0 and 1 of a code base, 2 and
/// 3, and so on, differ only in files that are not part of the image.
fn built_id(source: &BuildSource) -> String {
    let (name, version) = source.code.digest.rsplit_once('-').unwrap();
    let version: u32 = version.parse().unwrap();
    format!("image {} of {name}", version / 2)
}

/// Returns whether a replica's new container may start before its old container is stopped.
fn may_run_twice(service: &DeclaredService) -> bool {
    let update = service.spec.update.update.as_ref();
    let order = update.and_then(|settings| settings.order);
    !service.runs_once
        && service.spec.container.volumes.is_empty()
        && order != Some(ReplacementOrder::StopFirst)
}

/// Returns whether the container joins a network that does not exist or was started again since.
pub(crate) fn has_no_network(state: &EngineState, container: &ObservedContainer) -> bool {
    let has_network =
        |joined: &ObservedContainer| is_running(joined) && !container.has_lost_network(joined);
    container.joins.is_some() && !state.joined_by(container).is_some_and(has_network)
}

pub(crate) fn role(id: &InstanceId) -> Role {
    Role::Instance(id.clone())
}

impl World {
    pub(crate) fn empty() -> Self {
        Self {
            now: start_of_time(),
            machines: BTreeMap::new(),
            cloud_unknown: false,
            readiness: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            rejected: BTreeMap::new(),
            builds: BTreeMap::new(),
            failures: BTreeMap::new(),
            endings: BTreeMap::new(),
            restarts: BTreeMap::new(),
            node_restarts: BTreeMap::new(),
            preparations: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            placed: BTreeMap::new(),
            agents: BTreeMap::new(),
            never_ready: BTreeSet::new(),
            containers_created: 0,
        }
    }

    /// Returns what an observer sees of this world.
    pub(crate) fn observed(&self) -> Observed {
        Observed {
            cloud_unknown: self.cloud_unknown.then(|| Unknown {
                since: self.now,
                why: "no route".into(),
            }),
            nodes: self
                .machines
                .iter()
                .map(|(name, machine)| {
                    let view = machine.view(name, &self.readiness);
                    (name.clone(), Arc::new(view))
                })
                .collect(),
            agents: self.agents.clone(),
        }
    }

    /// Runs an agent on each declared node.
    pub(crate) fn run_agents(&mut self, declared: &Declared) {
        let agents = declared.agents.as_ref().unwrap();
        for node in declared.nodes.keys() {
            let now = self.now;
            self.engine(node).containers.push(ObservedContainer {
                id: ContainerId(format!("agent-{node}").into()),
                name: declared.agent_container(agents),
                role: Role::Agent,
                digest: agents.digest.clone(),
                digest_version: SpecDigest::VERSION.to_owned(),
                template_digest: None,
                image: "id of the agent's image".into(),
                state: ContainerState::Running { health: None },
                started_at: Some(now),
                ports: Vec::new(),
                exposed: Vec::new(),
                has_healthcheck: false,
                failed_check: None,
                out_of_memory: None,
                joins: None,
            });
            let serving = Some(declared.agent_container(agents));
            self.agents.insert(
                node.clone(),
                AgentView::UpToDate {
                    serving,
                    cannot_redirect: None,
                },
            );
        }
    }

    /// Returns the history that a manager adds to the observation.
    pub(crate) fn history(&self) -> History {
        History {
            volumes: BTreeMap::new(),
            last_seen: Arc::new(self.last_seen.clone()),
            placed: self.placed.clone(),
            rejected: self.rejected.clone(),
            builds: self.builds.clone(),
            failures: self.failures.clone(),
            endings: self.endings.clone(),
            restarts: Arc::new(self.restarts.clone()),
            node_restarts: Arc::new(self.node_restarts.clone()),
            preparations: self.preparations.clone(),
            rollouts: Arc::new(self.rollouts.clone()),
        }
    }

    /// Returns the planner's input.
    pub(crate) fn input(&self, declared: &Declared) -> PlanningInput {
        PlanningInput {
            observed: Arc::new(self.observed()),
            history: self.history(),
            ..PlanningInput::new(Arc::new(declared.clone()), self.now)
        }
    }

    /// Adds a machine that the cloud failed to create.
    pub(crate) fn add_failed_machine(&mut self, node: &NodeName) {
        let machine = Machine {
            power: Power::Failed,
            asked: false,
            ..Machine::new()
        };
        self.machines.insert(node.clone(), machine);
    }

    pub(crate) fn plan(&self, declared: &Declared) -> Plan {
        plan(&self.input(declared))
    }

    pub(crate) fn containers(&self) -> impl Iterator<Item = (&NodeName, &ObservedContainer)> {
        self.machines
            .iter()
            .flat_map(|(node, m)| m.state.containers.iter().map(move |c| (node, c)))
    }

    /// Returns all containers of a replica, including those on unreachable nodes.
    pub(crate) fn of<'a>(
        &'a self,
        id: &'a InstanceId,
    ) -> impl Iterator<Item = (&'a NodeName, &'a ObservedContainer)> {
        self.containers().filter(|(_, c)| c.role == role(id))
    }

    pub(crate) fn container(
        &mut self,
        node: &NodeName,
        name: &str,
    ) -> Option<&mut ObservedContainer> {
        let machine = self.machines.get_mut(node)?;
        machine.state.containers.iter_mut().find(|c| c.name == name)
    }

    fn engine(&mut self, node: &NodeName) -> &mut EngineState {
        let machine = self.machines.get_mut(node);
        let machine = machine.unwrap_or_else(|| panic!("{node} does not exist"));
        assert!(
            machine.power == Power::Running && machine.prepared,
            "{node} has no engine"
        );
        &mut machine.state
    }

    /// Brings all images to their nodes.
    pub(crate) fn get_images(&mut self, declared: &Declared) {
        loop {
            let plan = self.plan(declared);
            let mut steps = may_run(&plan).into_iter().map(|step| step.action);
            let get = steps.find(|action| {
                matches!(
                    action,
                    Action::BuildImage { .. } | Action::CopyImage { .. } | Action::PullImage { .. }
                )
            });
            match get {
                Some(get) => self.apply(declared, &get),
                None => return,
            }
        }
    }

    /// Adds a container that an earlier step may have left behind.
    pub(crate) fn leave(
        &mut self,
        node: &NodeName,
        id: &InstanceId,
        digest: &str,
        state: ContainerState,
    ) -> ContainerId {
        self.containers_created += 1;
        let now = self.now;
        let container = ContainerId(format!("c{}", self.containers_created).into());
        let digest = SpecDigest::from_hex(digest);
        let name = format!("shop-ab12cd-{id}-{}", digest.short());
        let engine = self.engine(node);
        if let Some(same) = engine.containers.iter().find(|c| c.name == name) {
            return same.id.clone();
        }
        engine.containers.push(ObservedContainer {
            id: container.clone(),
            name,
            role: role(id),
            digest,
            digest_version: SpecDigest::VERSION.into(),
            template_digest: None,
            image: String::new(),
            started_at: match state {
                ContainerState::Created => None,
                _ => Some(now),
            },
            state,
            ports: Vec::new(),
            exposed: Vec::new(),
            has_healthcheck: false,
            failed_check: None,
            out_of_memory: None,
            joins: None,
        });
        container
    }

    /// Creates the container of a declared replica.
    fn create(
        &mut self,
        declared: &Declared,
        id: &InstanceId,
        (node, joins): (&NodeName, Option<&str>),
    ) {
        let service = &declared.services[&id.service];
        let digest = service.digest.as_str();
        let created = self.leave(node, id, digest, ContainerState::Created);
        let engine = self.engine(node);
        let image = engine.images.get(&service.image).cloned();
        let is_joining = service.spec.container.connection.joins().is_some();
        assert_eq!(joins.is_some(), is_joining, "the network of {id}");
        let joins = joins.map(|name| {
            let joined = engine.containers.iter().find(|c| c.name == name);
            joined
                .unwrap_or_else(|| panic!("{name} does not exist"))
                .id
                .clone()
        });
        let mut containers = engine.containers.iter_mut();
        let container = containers.find(|c| c.id == created).unwrap();
        container.template_digest = Some(service.template_digest.clone());
        container.image = image.unwrap_or_default();
        container.joins = joins;
    }

    /// Requests a restart of a node, as the manager does.
    pub(crate) fn request_node_restart(&mut self, node: &NodeName) {
        let machine = &self.machines[node];
        let Some(boot_id) = machine.boot_id() else {
            return;
        };
        let is_observed = machine.unknown_since.is_none() && machine.asked;
        for container in machine.state.containers.iter().filter(|_| is_observed) {
            if let Role::Instance(id) = &container.role
                && is_running(container)
            {
                let run = ContainerRun {
                    container: container.id.clone(),
                    started_at: container.started_at.unwrap(),
                };
                self.restarts.insert(id.clone(), run);
            }
        }
        self.node_restarts.insert(node.clone(), boot_id);
    }

    /// Carries out one step. Panics if the step is not allowed at this moment.
    pub(crate) fn apply(&mut self, declared: &Declared, action: &Action) {
        self.now += TimeDelta::milliseconds(1);
        match action {
            Action::ProvisionNode { node } => {
                let machine = self.machines.entry(node.clone());
                machine.or_insert_with(Machine::new);
            }
            Action::StartNode { node } => {
                let machine = self.machines.get_mut(node).unwrap();
                machine.power = Power::Running;
                machine.asked = false;
                machine.boots += 1;
            }
            Action::StopNode { node } => {
                assert!(declared.nodes[node].stopped, "{node} must keep running");
                let now = self.now;
                let machine = self.machines.get_mut(node).unwrap();
                let mut containers = machine.state.containers.iter();
                assert!(
                    machine.unknown_since.is_some()
                        || !containers.any(|c| c.role != Role::Agent && is_running(c)),
                    "a container is still running on {node}"
                );
                machine.end_containers(now);
                machine.power = Power::Stopped;
                machine.asked = false;
                machine.unknown_since = None;
            }
            Action::RestartNode { node, boot_id } => {
                assert_eq!(self.node_restarts.get(node), Some(boot_id));
                let now = self.now;
                let machine = self.machines.get_mut(node).unwrap();
                assert_eq!(machine.boot_id().as_ref(), Some(boot_id));
                let mut containers = machine.state.containers.iter();
                assert!(
                    machine.unknown_since.is_some()
                        || !containers.any(|c| c.role != Role::Agent && is_running(c)),
                    "a container is still running on {node}"
                );
                machine.end_containers(now);
                machine.boots += 1;
                machine.unknown_since = None;
            }
            Action::PrepareNode { node, operation } => {
                let machine = self.machines.get_mut(node).unwrap();
                assert!(machine.power == Power::Running, "{node} is not running");
                machine.prepared = true;
                if let Some(operation) = operation {
                    let requested = self.preparations.get_mut(node).unwrap();
                    assert_eq!(requested.operation, *operation);
                    requested.outcome = Some("engine 20.10.24 was already running".into());
                }
            }
            Action::DeleteNode { node } => {
                if let Some(machine) = self.machines.remove(node) {
                    assert!(
                        !declared.nodes.contains_key(node) || machine.power == Power::Failed,
                        "{node} is declared and must be kept"
                    );
                    assert!(machine.created, "{node} was not created by this platform");
                    assert!(
                        machine.unknown_since.is_some()
                            || !machine.state.containers.iter().any(is_running),
                        "a container is still running on {node}"
                    );
                }
            }
            Action::SetPublicPorts { ports, node } => self.open(declared, node, ports),
            Action::BuildImage {
                image,
                service,
                node,
            } => {
                let spec = &declared.services[service].spec;
                let ImageSource::Build(source) = &spec.source else {
                    panic!("{service} is not built");
                };
                let engine = self.engine(node);
                for base in &source.bases {
                    let base = listed_name(base);
                    assert!(engine.images.contains_key(&base), "{node} has no {base}");
                }
                let id = built_id(source);
                self.engine(node).images.insert(image.clone(), id);
            }
            Action::CopyImage { image, from, node } => {
                let id = self.engine(from).images.get(image).cloned();
                let id = id.unwrap_or_else(|| panic!("{from} does not have {image}"));
                self.engine(node).images.insert(image.clone(), id);
            }
            Action::PullImage { image, node } => {
                let id = format!("id of {image}");
                self.engine(node).images.insert(image.clone(), id);
            }
            Action::RemoveImage { image, node } => {
                let needed = declared.services.values().any(|s| s.image == *image);
                assert!(!needed, "{image} is still declared");
                let engine = self.engine(node);
                let id = engine.images.remove(image);
                let is_used = engine
                    .containers
                    .iter()
                    .any(|c| Some(&c.image) == id.as_ref());
                let has_name = engine
                    .images
                    .values()
                    .any(|other| Some(other) == id.as_ref());
                assert!(!is_used || has_name, "a container still needs {image}");
            }
            Action::StartInstance {
                instance,
                container,
                node,
                joins,
            } => self.start(declared, instance, container, (node, joins.as_deref())),
            Action::StopInstance {
                container,
                node,
                id,
                ..
            } => {
                let now = self.now;
                if let Some(container) = self.container(node, container)
                    && container.id == *id
                    && is_running(container)
                {
                    container.state = ContainerState::Exited {
                        code: 0,
                        at: Some(now),
                    };
                }
            }
            Action::RemoveInstance {
                instance, node, id, ..
            } => {
                let engine = self.engine(node);
                let gone = engine.containers.iter().find(|c| c.id == *id).cloned();
                engine.containers.retain(|c| c.id != *id);
                if let Some(gone) = gone {
                    assert!(!is_running(&gone), "{} is still running", gone.name);
                    self.readiness.remove(&gone.id);
                }
                if self.of(instance).next().is_none() && !declared.contains(instance) {
                    self.last_seen.remove(instance);
                }
            }
            other => panic!("the model does not support {other}"),
        }
    }

    /// Opens exactly these ports. Panics if a port that is opened does not belong to a public
    /// service.
    fn open(&mut self, declared: &Declared, node: &NodeName, ports: &PublicPorts) {
        let machine = self.machines.get_mut(node).unwrap();
        let open = machine.open_ports.open.0.clone();
        for port in ports.0.difference(&open) {
            let mut services = declared.services.values();
            let mut owners = services.clone().map(|service| &service.spec);
            assert!(
                owners.any(|spec| spec.public_ports().any(|public| public == *port)),
                "{port} of {node} belongs to no public service"
            );
            let holders = machine.state.containers.iter().filter(|c| {
                let mut bound = c.ports.iter();
                is_running(c) && bound.any(|b| (b.2, b.1) == (port.port, port.protocol))
            });
            for holder in holders.filter(|_| machine.unknown_since.is_none()) {
                let is_public = services.any(|service| {
                    matches!(&holder.role, Role::Instance(id) if id.service == service.spec.name)
                        && service.spec.public_ports().any(|public| public == *port)
                });
                assert!(is_public, "{} has {port} of {node}", holder.name);
            }
        }
        machine.open_ports = OpenPorts {
            open: ports.clone(),
            ..OpenPorts::default()
        };
    }

    fn start(
        &mut self,
        declared: &Declared,
        id: &InstanceId,
        name: &str,
        (node, joins): (&NodeName, Option<&str>),
    ) {
        assert!(
            declared.nodes.contains_key(node),
            "{id} must not start on {node}, which is not declared"
        );
        let service = &declared.services[&id.service];
        let same_spec = declared.container_name(id, &service.digest) == name;
        let exists = self.container(node, name).is_some();
        assert!(
            exists || same_spec,
            "{name} does not exist and is not declared"
        );
        for (other, container) in self.of(id) {
            let same = other == node && container.name == name;
            assert!(
                same || !same_spec || !is_running(container) || may_run_twice(service),
                "{id} would run twice: {} on {other}, {name} on {node}",
                container.name
            );
        }
        self.assert_may_start(declared, id);
        let ports = match self.container(node, name) {
            Some(existing) => existing.ports.clone(),
            None => self.ports_of_new(declared, id, node),
        };
        let now = self.now;
        if !exists {
            let open = &self.machines[node].open_ports;
            for (_, protocol, port) in &ports {
                let port = PublicPort {
                    port: *port,
                    protocol: *protocol,
                };
                let is_public = service.spec.public_ports().any(|public| public == port);
                assert!(
                    is_public || !open.may_contain(&port),
                    "{name} would start while {port} of {node} is open for another service"
                );
            }
        }
        let lazy = self.never_ready.contains(&service.digest) && same_spec;
        let engine = self.engine(node);
        assert!(
            exists || engine.images.contains_key(&service.image),
            "{node} has no {}",
            service.image
        );
        for other in engine.containers.iter().filter(|c| is_running(c)) {
            let is_used = ports.iter().any(|port| other.ports.contains(port));
            assert!(
                other.name == name || !is_used,
                "a port of {name} on {node} is still in use by {}",
                other.name
            );
        }
        if !exists {
            self.create(declared, id, (node, joins));
        }
        let engine = self.engine(node);
        let container = engine.containers.iter().find(|c| c.name == name).unwrap();
        if container.joins.is_some() && !is_running(container) {
            let joined = engine.joined_by(container);
            assert!(
                joined.is_some_and(is_running),
                "{name} starts, but the container whose network it joins does not run"
            );
        }
        let container = self.container(node, name).unwrap();
        if is_running(container) {
            return;
        }
        container.ports = ports;
        container.state = ContainerState::Running { health: None };
        container.started_at = Some(now);
        let container = container.id.clone();
        let since = match self.readiness.get(&container) {
            Some(Readiness::Waiting { since, .. }) if lazy => *since,
            _ => now,
        };
        self.readiness.insert(container, Readiness::starting(since));
        self.last_seen.insert(id.clone(), node.clone());
    }

    /// Returns the host ports of a new container. If the node has an agent, a port that an earlier
    /// container of the replica uses is left out.
    fn ports_of_new(
        &mut self,
        declared: &Declared,
        id: &InstanceId,
        node: &NodeName,
    ) -> Vec<(u16, Protocol, u16)> {
        let published = &declared.services[&id.service].spec.container.ports;
        let ports = published.iter();
        let ports = ports.filter_map(|p| Some((p.container_port, p.protocol, p.host_port?)));
        let role = role(id);
        let containers = &self.engine(node).containers;
        let earlier = containers
            .iter()
            .filter(|c| is_running(c) && c.role == role);
        let used: Vec<_> = earlier.flat_map(|c| c.ports.clone()).collect();
        let has_agent = declared.agents.is_some();
        ports
            .filter(|port| !has_agent || !used.contains(port))
            .collect()
    }

    /// Asserts that all dependencies of a replica are up, so that the replica may start.
    fn assert_may_start(&self, declared: &Declared, id: &InstanceId) {
        let name = &id.service;
        let spec = &declared.services[name].spec;
        let joins = spec.container.connection.joins();
        for (other, condition) in &spec.depends_on {
            // A replica needs only the replica whose network it joins, see also `start`.
            let only = (joins == Some(other)).then_some(id.replica);
            if only.is_some() && *condition == DependencyCondition::ServiceStarted {
                continue;
            }
            assert!(
                self.is_up(declared, other, only, *condition),
                "{id} would start before {other} is up ({condition:?})"
            );
        }
        if spec.starts == Starts::Last {
            for (other, service) in &declared.services {
                if service.spec.starts == Starts::Last {
                    continue;
                }
                let is_up = |condition| self.is_up(declared, other, None, condition);
                let up = is_up(DependencyCondition::ServiceHealthy)
                    || is_up(DependencyCondition::ServiceCompletedSuccessfully);
                assert!(up, "{name} must start last, but {other} is not up");
            }
        }
    }

    /// Returns whether a service is up, or only one of its replicas.
    fn is_up(
        &self,
        declared: &Declared,
        name: &ServiceName,
        only: Option<Replica>,
        condition: DependencyCondition,
    ) -> bool {
        let service = &declared.services[name];
        declared
            .instances()
            .filter(|(id, _)| id.service == *name && only.is_none_or(|only| id.replica == only))
            .all(|(id, _)| {
                self.of(&id).any(|(node, c)| {
                    let state = &self.machines[node].state;
                    let ready = is_running(c)
                        && matches!(self.readiness.get(&c.id), Some(Readiness::Ready { .. }));
                    let completed = is_current(state, c, service)
                        && matches!(c.state, ContainerState::Exited { code: 0, .. });
                    match condition {
                        DependencyCondition::ServiceStarted => is_running(c) || completed,
                        DependencyCondition::ServiceHealthy => ready,
                        DependencyCondition::ServiceCompletedSuccessfully => completed,
                    }
                })
            })
    }

    /// Lets time pass: engines are observed, jobs complete, and running containers become ready.
    pub(crate) fn tick(&mut self, declared: &Declared) {
        self.now += TimeDelta::seconds(1);
        let now = self.now;
        for machine in self.machines.values_mut() {
            if machine.power == Power::Running {
                machine.asked = true;
            }
            let state = machine.state.clone();
            for container in &mut machine.state.containers {
                let Role::Instance(id) = &container.role else {
                    continue;
                };
                if !is_running(container) {
                    continue;
                }
                let service = declared.services.get(&id.service);
                if service.is_some_and(|s| s.runs_once && is_current(&state, container, s)) {
                    container.state = ContainerState::Exited {
                        code: 0,
                        at: Some(now),
                    };
                } else if has_no_network(&state, container) {
                    let waiting = Readiness::starting(now);
                    self.readiness.insert(container.id.clone(), waiting);
                } else if !self.never_ready.contains(&container.digest) {
                    let ready = self.readiness.get(&container.id);
                    if !matches!(ready, Some(Readiness::Ready { .. })) {
                        self.readiness
                            .insert(container.id.clone(), Readiness::Ready { at: now });
                    }
                }
            }
        }
    }

    /// Records the specifications that a plan rejects.
    pub(crate) fn record(&mut self, plan: &Plan) {
        for rejected in &plan.rejects {
            self.rejected.insert(rejected.id.clone(), rejected.clone());
        }
    }

    pub(crate) fn power_off(&mut self, node: &NodeName) {
        let now = self.now;
        let machine = self.machines.get_mut(node).unwrap();
        machine.power = Power::Stopped;
        machine.asked = false;
        machine.end_containers(now);
    }

    pub(crate) fn lose(&mut self, node: &NodeName) {
        self.machines.get_mut(node).unwrap().unknown_since = Some(self.now);
    }

    pub(crate) fn find_again(&mut self) {
        self.cloud_unknown = false;
        for machine in self.machines.values_mut() {
            machine.unknown_since = None;
        }
    }

    /// Carries out plans until no step is left. May carry out several steps of one plan in any
    /// order, as the driver does. `choose` makes all choices: `choose(n)` returns a number below
    /// `n`.
    pub(crate) fn walk(
        &mut self,
        declared: &Declared,
        choose: &mut dyn FnMut(usize) -> usize,
    ) -> Plan {
        let mut idle = 0;
        for _ in 0..2_000 {
            let plan = self.plan(declared);
            assert_sound(&plan);
            self.assert_available(declared, &plan);
            self.record(&plan);
            let waiting = plan.instances.iter().filter(|(_, s)| s.container.is_none());
            self.placed = waiting
                .filter_map(|(id, s)| Some((id.clone(), s.node.clone()?)))
                .collect();
            let mut ready = may_run(&plan);
            if ready.is_empty() {
                // No step can run: either everything is done, or the plan waits for time to pass.
                idle += 1;
                if idle > 3 {
                    return plan;
                }
                self.tick(declared);
                continue;
            }
            idle = 0;
            for _ in 0..=choose(ready.len()) {
                let step = ready.remove(choose(ready.len()));
                // Sometimes simulate a crash that leaves a container created but not started.
                if let Action::StartInstance {
                    instance,
                    container,
                    node,
                    joins,
                } = &step.action
                    && choose(8) == 0
                    && self.container(node, container).is_none()
                {
                    self.create(declared, instance, (node, joins.as_deref()));
                    continue;
                }
                self.apply(declared, &step.action);
            }
            if choose(3) == 0 {
                self.tick(declared);
            }
        }
        panic!(
            "the walk does not end; the last plan is\n{:#?}",
            self.plan(declared)
        );
    }

    /// Carries out plans until no step is left, without crashes and always in the same order.
    pub(crate) fn settle(&mut self, declared: &Declared) -> Plan {
        // `choose(8)` returns 1, so that no crash is simulated. `choose(3)` returns 1, so that time
        // passes only when no step can run.
        self.walk(declared, &mut |n| usize::from(n == 8 || n == 3))
    }

    /// Describes all objects without ids and times, so that two worlds can be compared.
    pub(crate) fn summary(&self, with_nodes: bool) -> Vec<String> {
        let mut lines: Vec<String> = self
            .containers()
            .map(|(node, c)| {
                let state = if is_running(c) {
                    "runs"
                } else {
                    "does not run"
                };
                let node = if with_nodes { node.as_str() } else { "" };
                format!("{} {state} {node}", c.name)
            })
            .collect();
        lines.extend(self.machines.keys().map(ToString::to_string));
        lines.sort();
        lines
    }
}

impl Machine {
    /// Creates a running machine without an engine.
    pub(crate) fn new() -> Self {
        Self {
            power: Power::Running,
            created: true,
            prepared: false,
            asked: true,
            unknown_since: None,
            state: EngineState::default(),
            open_ports: OpenPorts::default(),
            boots: 1,
        }
    }

    pub(crate) fn boot_id(&self) -> Option<String> {
        (self.power == Power::Running).then(|| format!("boot {}", self.boots))
    }

    fn end_containers(&mut self, now: DateTime<Utc>) {
        for container in &mut self.state.containers {
            if container.role != Role::Agent && is_running(container) {
                container.state = ContainerState::Exited {
                    code: 137,
                    at: Some(now),
                };
            }
        }
    }

    fn view(&self, name: &NodeName, known: &BTreeMap<ContainerId, Readiness>) -> NodeView {
        let engine = match self.unknown_since {
            Some(since) => EngineView::Unknown(Unknown {
                since,
                why: "no answer".into(),
            }),
            None if self.power != Power::Running || !self.asked => EngineView::NotAsked,
            None if !self.prepared => EngineView::Missing,
            None => EngineView::Known {
                info: EngineInfo {
                    version: "20.10.24".into(),
                    api_version: "1.41".into(),
                    architecture: "amd64".into(),
                    cpus: 2,
                    memory_bytes: 4 << 30,
                },
                state: self.state.clone(),
            },
        };
        NodeView {
            machine: ObservedNode {
                name: name.clone(),
                provider_id: name.to_string(),
                power: self.power,
                addresses: Addresses::default(),
                ssh: SshAddress {
                    user: "root".into(),
                    port: 22,
                    host_keys: Vec::new(),
                },
                boot_id: self.boot_id(),
                created: self.created,
                open_ports: self.open_ports.clone(),
            },
            cut_off: false,
            strangers: Vec::new(),
            readiness: match &engine {
                EngineView::Known { .. } => self
                    .state
                    .containers
                    .iter()
                    .filter_map(|c| Some((c.id.clone(), known.get(&c.id)?.clone())))
                    .collect(),
                _ => BTreeMap::new(),
            },
            engine,
            changing_since: None,
            not_responding: None,
        }
    }
}
