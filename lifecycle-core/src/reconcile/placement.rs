//! Which node each replica goes to: constraints, reserved resources and host ports decide what
//! is possible; a replica stays where it is; others are spread. Pure and deterministic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::declared::{Declared, DeclaredService};
use super::observe::Observed;
use crate::model::{
    Constraint, InstanceId, NodeName, Protocol, Resources, ServiceName, VolumeName,
};
use crate::runtime::Role;

/// Where each replica goes, and why some go nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The node of each replica that fits somewhere.
    pub nodes: BTreeMap<InstanceId, NodeName>,
    /// What keeps the others from every node.
    pub misfits: BTreeMap<InstanceId, String>,
}

/// What is taken on a node.
#[derive(Debug, Default)]
struct Taken {
    instances: usize,
    reserved: Resources,
    ports: BTreeMap<(u16, Protocol), InstanceId>,
    services: BTreeMap<ServiceName, u32>,
}

/// Places all declared replicas.
pub fn place(declared: &Declared, observed: &Observed) -> Placement {
    let mut placing = Placing {
        declared,
        taken: BTreeMap::new(),
        by_load: declared.nodes.keys().map(|n| (0, n.clone())).collect(),
        placement: Placement::default(),
    };
    let homes = homes(declared, observed);
    let mut homeless = Vec::new();
    for (id, service) in declared.instances() {
        let home = homes.get(&id).and_then(|homes| {
            let mut free = homes.iter().map(|(_, node)| *node);
            free.find(|node| placing.obstacle(node, &id, service).is_none())
        });
        match home {
            Some(node) => placing.put(node, id, service),
            None => homeless.push((id, service)),
        }
    }
    let mut homeless = homeless.into_iter().peekable();
    while let Some((id, service)) = homeless.next() {
        let name = id.service.clone();
        let rest = std::iter::from_fn(|| homeless.next_if(|(next, _)| next.service == name));
        let replicas: Vec<InstanceId> = std::iter::once(id).chain(rest.map(|(id, _)| id)).collect();
        placing.spread(service, replicas);
    }
    placing.placement
}

/// Where each replica is, was, or has its volumes: the best home first.
fn homes<'a>(
    declared: &Declared,
    observed: &'a Observed,
) -> BTreeMap<InstanceId, BTreeSet<(Home, &'a NodeName)>> {
    let mut homes: BTreeMap<InstanceId, BTreeSet<(Home, &NodeName)>> = BTreeMap::new();
    let mut volumes: BTreeMap<&VolumeName, &NodeName> = BTreeMap::new();
    for (node, view) in &observed.nodes {
        let Some(state) = view.engine_state() else {
            continue;
        };
        for volume in &state.volumes {
            volumes.entry(volume).or_insert(node);
        }
        for container in &state.containers {
            let Role::Instance(id) = &container.role else {
                continue;
            };
            let declared = declared.services.get(&id.service);
            let current = declared.is_some_and(|s| s.digest == container.digest);
            let home = match (container.state.is_running(), current) {
                (true, true) => Home::Runs,
                (true, false) => Home::FormerRuns,
                (false, true) => Home::Lies,
                (false, false) => Home::FormerLies,
            };
            homes.entry(id.clone()).or_default().insert((home, node));
        }
    }
    for (id, node) in &observed.last_seen {
        let home = match observed.nodes.get(node) {
            Some(view) if view.may_run_unseen() => Home::MayRun,
            _ => Home::LastSeen,
        };
        homes.entry(id.clone()).or_default().insert((home, node));
    }
    for (id, service) in declared.instances() {
        let mounts = &service.spec.container.volumes;
        if let Some(node) = mounts.iter().find_map(|m| volumes.get(&m.volume)) {
            let homes = homes.entry(id).or_default();
            homes.insert((Home::HasVolume, node));
        }
    }
    homes
}

/// What ties a replica to a node, the strongest tie first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    /// A container of the declared specification runs there.
    Runs,
    /// It was last seen there, and may still run: the node cannot be asked.
    MayRun,
    /// A container of another specification runs there.
    FormerRuns,
    /// A container of the declared specification is there.
    Lies,
    /// It was last seen there.
    LastSeen,
    /// A container of another specification is there.
    FormerLies,
    /// A volume of it is there.
    HasVolume,
}

/// Replicas of one service and of all on a node: the order in which it is tried.
type Rank = (u32, usize, NodeName);

/// From how many replicas without a home on a service gets an index of its own.
const MANY_REPLICAS: usize = 16;

struct Placing<'a> {
    declared: &'a Declared,
    taken: BTreeMap<NodeName, Taken>,
    /// Nodes by how many replicas they have, then by name: the order in which they are tried.
    by_load: BTreeSet<(usize, NodeName)>,
    placement: Placement,
}

impl Placing<'_> {
    fn put(&mut self, node: &NodeName, id: InstanceId, service: &DeclaredService) {
        let taken = self.taken.entry(node.clone()).or_default();
        if self.by_load.remove(&(taken.instances, node.clone())) {
            self.by_load.insert((taken.instances + 1, node.clone()));
        }
        taken.instances += 1;
        taken.reserved = taken.reserved.saturating_add(service.spec.reserves);
        *taken.services.entry(id.service.clone()).or_default() += 1;
        for port in &service.spec.container.ports {
            if let Some(host_port) = port.host_port {
                taken.ports.insert((host_port, port.protocol), id.clone());
            }
        }
        self.placement.nodes.insert(id, node.clone());
    }

    /// Places replicas of one service that have no home: each on the node with the fewest of the
    /// service, then the fewest of all.
    fn spread(&mut self, service: &DeclaredService, replicas: Vec<InstanceId>) {
        // An index of the service's own pays off where going through all nodes would not end soon.
        let mut candidates = (replicas.len() > MANY_REPLICAS
            || !service.spec.constraints.is_empty())
        .then(|| self.candidates(service));
        let mut misfit: Option<String> = None;
        for id in replicas {
            // What keeps one of them from every node keeps all that come after it.
            if let Some(why) = &misfit {
                self.placement.misfits.insert(id, why.clone());
                continue;
            }
            let choice = match &mut candidates {
                Some(candidates) => self.take_candidate(&id, service, candidates),
                None => self.choose(&id, service),
            };
            if let Some(node) = choice {
                self.put(&node, id, service);
                if let Some(candidates) = &mut candidates {
                    candidates.insert(self.rank(&node, &service.spec.name));
                }
            } else {
                let why = self.obstacles(&id, service);
                self.placement.misfits.insert(id, why.clone());
                misfit = Some(why);
            }
        }
    }

    /// How much a node has, of one service and of all.
    fn rank(&self, node: &NodeName, service: &ServiceName) -> Rank {
        let taken = self.taken.get(node);
        let same = taken.and_then(|t| t.services.get(service)).copied();
        let all = taken.map_or(0, |t| t.instances);
        (same.unwrap_or_default(), all, node.clone())
    }

    /// The nodes that meet a service's constraints.
    fn candidates(&self, service: &DeclaredService) -> BTreeSet<Rank> {
        let nodes = self.declared.nodes.iter();
        nodes
            .filter(|(_, spec)| service.spec.constraints.iter().all(|c| c.holds(spec)))
            .map(|(node, _)| self.rank(node, &service.spec.name))
            .collect()
    }

    /// Takes the best candidate out, and those before it that are full for this service.
    fn take_candidate(
        &self,
        id: &InstanceId,
        service: &DeclaredService,
        candidates: &mut BTreeSet<Rank>,
    ) -> Option<NodeName> {
        std::iter::from_fn(|| candidates.pop_first())
            .map(|(_, _, node)| node)
            .find(|node| self.obstacle(node, id, service).is_none())
    }

    /// The same choice without an index.
    fn choose(&self, id: &InstanceId, service: &DeclaredService) -> Option<NodeName> {
        let mut best: Option<(u32, &NodeName)> = None;
        for (_, node) in &self.by_load {
            if self.obstacle(node, id, service).is_some() {
                continue;
            }
            let (same, _, _) = self.rank(node, &id.service);
            if best.is_none_or(|(fewest, _)| same < fewest) {
                best = Some((same, node));
            }
            if same == 0 {
                break;
            }
        }
        best.map(|(_, node)| node.clone())
    }

    /// What keeps a replica from every node, in words.
    fn obstacles(&self, id: &InstanceId, service: &DeclaredService) -> String {
        let mut obstacles: BTreeMap<String, Vec<&NodeName>> = BTreeMap::new();
        for node in self.declared.nodes.keys() {
            if let Some(obstacle) = self.obstacle(node, id, service) {
                let nodes = obstacles.entry(obstacle.to_string()).or_default();
                nodes.push(node);
            }
        }
        if obstacles.is_empty() {
            return "no node is declared".to_owned();
        }
        let each: Vec<String> = obstacles
            .into_iter()
            .map(|(why, nodes)| match nodes.as_slice() {
                [one] => format!("{one}: {why}"),
                [first, ..] => format!("{first} and {} more: {why}", nodes.len() - 1),
                [] => why,
            })
            .collect();
        each.join("; ")
    }

    /// What keeps a replica from a node.
    fn obstacle<'s>(
        &'s self,
        node: &NodeName,
        id: &InstanceId,
        service: &'s DeclaredService,
    ) -> Option<Obstacle<'s>> {
        let Some(spec) = self.declared.nodes.get(node) else {
            return Some(Obstacle::NotDeclared);
        };
        if let Some(constraint) = service.spec.constraints.iter().find(|c| !c.holds(spec)) {
            return Some(Obstacle::Constraint(constraint));
        }
        let taken = self.taken.get(node);
        if let Some(capacity) = spec.capacity {
            let reserved = taken.map(|t| t.reserved).unwrap_or_default();
            if !service.spec.reserves.fits_beside(reserved, capacity) {
                let others = taken.map_or(0, |t| t.instances);
                return Some(Obstacle::Capacity { others });
            }
        }
        let taken = taken?;
        service.spec.container.ports.iter().find_map(|port| {
            let host_port = port.host_port?;
            let by = taken.ports.get(&(host_port, port.protocol))?;
            (by != id).then_some(Obstacle::Port { host_port, by })
        })
    }
}

/// What keeps a replica from a node. Put into words only when no node is left.
#[derive(Debug)]
enum Obstacle<'a> {
    NotDeclared,
    Constraint(&'a Constraint),
    Capacity { others: usize },
    Port { host_port: u16, by: &'a InstanceId },
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDeclared => f.write_str("it is not declared"),
            Self::Constraint(constraint) => write!(f, "`{constraint}` does not hold"),
            Self::Capacity { others } => write!(
                f,
                "what it reserves does not fit beside what {others} others reserve"
            ),
            Self::Port { host_port, by } => {
                write!(f, "its port {host_port} is taken by {by}")
            }
        }
    }
}
