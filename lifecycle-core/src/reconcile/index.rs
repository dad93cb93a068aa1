//! Indexes the declaration and the observation by position, so that the planner's loops need no
//! lookups by name.

use std::collections::BTreeMap;

use super::declared::{Declared, DeclaredService};
use super::input::{Endings, History};
use super::observe::{NodeView, Observed, Readiness};
use crate::model::{ContainerId, InstanceId, NodeName, ServiceName, Starts};
use crate::runtime::{ObservedContainer, Role};

/// A container of a replica, and the node that it was observed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) node: &'a NodeName,
    /// The node's position in the index; `None` if the node is not declared.
    pub(super) node_position: Option<usize>,
    pub(super) view: &'a NodeView,
    pub(super) container: &'a ObservedContainer,
    /// How often the container ended by itself.
    pub(super) endings: Option<&'a Endings>,
}

impl<'a> Seen<'a> {
    pub(super) fn id(&self) -> &ContainerId {
        &self.container.id
    }

    /// Returns whether the container was created from the service's declared specification, or from
    /// one that differs only in the name of the image. If the service joins a network, the
    /// container that was joined must be current, too.
    pub(super) fn is_current(&self, service: &DeclaredService) -> bool {
        let is_own_current = self.container.digest == service.digest
            || self.may_be_current(service)
                && self.image_id(&service.image) == Some(&self.container.image);
        is_own_current && self.joins_current(service)
    }

    fn joins_current(&self, service: &DeclaredService) -> bool {
        let Some(spec) = &service.joined else {
            return true;
        };
        self.joined().is_some_and(|joined| {
            joined.digest == spec.digest
                || joined.template_digest.as_ref() == Some(&spec.template_digest)
                    && self.image_id(&spec.image) == Some(&joined.image)
        })
    }

    /// Returns the container whose network this container joins, if it still exists.
    pub(super) fn joined(&self) -> Option<&'a ObservedContainer> {
        self.view.engine_state()?.joined_by(self.container)
    }

    /// Returns whether the container whose network this container joins was removed. Such a
    /// container cannot start again.
    pub(super) fn is_orphan(&self) -> bool {
        self.container.joins.is_some() && self.joined().is_none()
    }

    /// Returns whether the specification that the container was created from differs from the
    /// declared one at most in the image.
    pub(super) fn may_be_current(&self, service: &DeclaredService) -> bool {
        self.container.template_digest.as_ref() == Some(&service.template_digest)
    }

    /// Returns the id of an image on the container's node, if it is there.
    fn image_id(&self, image: &str) -> Option<&String> {
        self.view.engine_state()?.images.get(image)
    }

    pub(super) fn is_running(&self) -> bool {
        self.container.state.is_running()
    }

    pub(super) fn readiness(&self) -> Option<&'a Readiness> {
        self.view.readiness.get(&self.container.id)
    }
}

/// A declared service. Its replicas have consecutive positions.
#[derive(Debug)]
pub(super) struct IndexedService<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a DeclaredService,
    /// The position of the service's first replica.
    pub(super) first: usize,
}

/// All declared objects and their observations. A position is an index in a list that is sorted by
/// name.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) nodes: Vec<&'a NodeName>,
    node_positions: BTreeMap<&'a NodeName, usize>,
    pub(super) services: Vec<IndexedService<'a>>,
    service_positions: BTreeMap<&'a ServiceName, usize>,
    pub(super) replicas: Vec<InstanceId>,
    /// The observed containers of each replica, sorted by node and name.
    pub(super) seen: Vec<Vec<Seen<'a>>>,
    /// The observed containers of replicas that are not declared.
    pub(super) undeclared: BTreeMap<&'a InstanceId, Vec<Seen<'a>>>,
    /// The node that each replica was last seen on.
    pub(super) last_seen: Vec<Option<&'a NodeName>>,
    /// For each replica, the replica whose network it joins.
    pub(super) joined: Vec<Option<usize>>,
    /// For each replica, the replicas that join its network, each with its service's position.
    pub(super) joiners: Vec<Vec<(usize, usize)>>,
    /// The running containers that join the network of each container.
    joining: BTreeMap<&'a ContainerId, Vec<Seen<'a>>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(
        declared: &'a Declared,
        observed: &'a Observed,
        history: &'a History,
    ) -> Self {
        let mut replicas = Vec::new();
        let mut services = Vec::with_capacity(declared.services.len());
        for (name, service) in &declared.services {
            services.push(IndexedService {
                name,
                service,
                first: replicas.len(),
            });
            replicas.extend(service.replicas());
        }
        let nodes: Vec<&NodeName> = declared.nodes.keys().collect();
        let mut index = Self {
            node_positions: nodes.iter().copied().zip(0..).collect(),
            nodes,
            service_positions: services.iter().map(|s| s.name).zip(0..).collect(),
            services,
            seen: replicas.iter().map(|_| Vec::new()).collect(),
            undeclared: BTreeMap::new(),
            last_seen: vec![None; replicas.len()],
            joined: vec![None; replicas.len()],
            joiners: vec![Vec::new(); replicas.len()],
            joining: BTreeMap::new(),
            replicas,
        };
        index.join();
        index.see(observed, history);
        index
    }

    /// Finds the replicas that join the network of another one. Replica n joins replica n.
    fn join(&mut self) {
        let mut pairs = Vec::new();
        for (position, joining) in self.services.iter().enumerate() {
            let joins =
                |service: &DeclaredService| service.spec.container.connection.joins().cloned();
            let Some(joined) = joins(joining.service) else {
                continue;
            };
            let joined = self.service(&joined);
            if let Some(joined) = joined.filter(|joined| joins(joined.service).is_none()) {
                let replicas = joining.positions().zip(joined.positions());
                pairs.extend(replicas.map(|(joining, joined)| (position, joining, joined)));
            }
        }
        for (service, joining, joined) in pairs {
            self.joined[joining] = Some(joined);
            self.joiners[joined].push((service, joining));
        }
    }

    fn see(&mut self, observed: &'a Observed, history: &'a History) {
        for (node, view) in &observed.nodes {
            let Some(state) = view.engine_state() else {
                continue;
            };
            let node_position = self.node(node);
            for container in &state.containers {
                let Role::Instance(id) = &container.role else {
                    continue;
                };
                let seen = Seen {
                    node,
                    node_position,
                    view: view.as_ref(),
                    container,
                    endings: history.endings.get(&container.id),
                };
                if let Some(joined) = container.joins.as_ref().filter(|_| seen.is_running()) {
                    self.joining.entry(joined).or_default().push(seen);
                }
                let all = match self.replica(id) {
                    Some(position) => &mut self.seen[position],
                    None => self.undeclared.entry(id).or_default(),
                };
                all.push(seen);
            }
        }
        // Sort, so that the plan does not depend on the order in which engines list containers.
        let seen = self.seen.iter_mut().chain(self.undeclared.values_mut());
        for all in seen.chain(self.joining.values_mut()) {
            if all.len() > 1 {
                all.sort_by_key(|seen| (seen.node, &seen.container.name, &seen.container.id));
            }
        }
        // Both lists are sorted by replica, so a single pass can join them.
        let mut replicas = self.replicas.iter().zip(&mut self.last_seen).peekable();
        for (id, node) in history.last_seen.iter() {
            while replicas.next_if(|(replica, _)| *replica < id).is_some() {}
            if let Some((_, last)) = replicas.next_if(|(replica, _)| *replica == id) {
                *last = Some(node);
            }
        }
    }

    /// Returns the running containers that join the network of a container.
    pub(super) fn joining(&self, container: &ContainerId) -> &[Seen<'a>] {
        self.joining.get(container).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a volume of the replica, or of one that joins its network, may bind it to a node.
    pub(super) fn binds(&self, replica: usize, service: usize) -> bool {
        let mounts = |service: usize| {
            let container = &self.services[service].service.spec.container;
            !container.volumes.is_empty()
        };
        let mut joiners = self.joiners[replica].iter();
        mounts(service) || joiners.any(|(joiner, _)| mounts(*joiner))
    }

    pub(super) fn node(&self, name: &NodeName) -> Option<usize> {
        self.node_positions.get(name).copied()
    }

    pub(super) fn service(&self, name: &ServiceName) -> Option<&IndexedService<'a>> {
        let position = self.service_positions.get(name)?;
        self.services.get(*position)
    }

    /// Returns the position of a declared replica.
    pub(super) fn replica(&self, id: &InstanceId) -> Option<usize> {
        let service = self.service(&id.service)?;
        let number = usize::from(id.replica.0).checked_sub(1)?;
        (id.replica.0 <= service.service.spec.replicas).then_some(service.first + number)
    }

    /// Returns the positions of the services, in start order.
    pub(super) fn in_start_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.services.len()).collect();
        order.sort_by_key(|position| self.services[*position].start_rank());
        order
    }
}

impl IndexedService<'_> {
    /// Returns the positions of the service's replicas.
    pub(super) fn positions(&self) -> std::ops::Range<usize> {
        self.first..self.first + usize::from(self.service.spec.replicas)
    }

    /// Returns the key by which services are sorted into the start order.
    pub(super) fn start_rank(&self) -> (bool, u32) {
        (self.service.spec.starts == Starts::Last, self.service.rank)
    }
}
