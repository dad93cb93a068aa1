//! Which node each replica goes to: constraints, reserved resources and host ports decide what
//! is possible; a replica stays where it is; others are spread. Pure and deterministic.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::{Declared, DeclaredService};
use super::observe::Observed;
use crate::model::{InstanceId, NodeName, Protocol, Resources, ServiceName};

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
        match homes.get(&id) {
            Some(node) if placing.obstacle(node, &id, service).is_none() => {
                placing.put(node, id, service);
            }
            _ => homeless.push((id, service)),
        }
    }
    for (id, service) in homeless {
        match placing.choose(&id, service) {
            Ok(node) => placing.put(&node, id, service),
            Err(why) => {
                placing.placement.misfits.insert(id, why);
            }
        }
    }
    placing.placement
}

/// Where each replica is now or was last: its container, else the registry's memory, else a
/// node that holds its volumes.
fn homes(declared: &Declared, observed: &Observed) -> BTreeMap<InstanceId, NodeName> {
    let mut homes: BTreeMap<InstanceId, NodeName> = BTreeMap::new();
    for (node, view) in &observed.nodes {
        let containers = view.engine_state().map(|s| s.containers.as_slice());
        for container in containers.unwrap_or_default() {
            let crate::runtime::Role::Instance(id) = &container.role else {
                continue;
            };
            let current = declared
                .services
                .get(&id.service)
                .is_some_and(|s| s.digest == container.digest);
            if current || !homes.contains_key(id) {
                homes.insert(id.clone(), node.clone());
            }
        }
    }
    for (id, node) in &observed.last_seen {
        homes.entry(id.clone()).or_insert_with(|| node.clone());
    }
    for (id, service) in declared.instances() {
        let volumes = &service.spec.container.volumes;
        if volumes.is_empty() || homes.contains_key(&id) {
            continue;
        }
        let holder = observed.nodes.iter().find(|(_, view)| {
            view.engine_state()
                .is_some_and(|s| volumes.iter().any(|v| s.volumes.contains(&v.volume)))
        });
        if let Some((node, _)) = holder {
            homes.insert(id, node.clone());
        }
    }
    homes
}

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

    /// The node with the fewest replicas of this service, then the fewest of all.
    fn choose(&self, id: &InstanceId, service: &DeclaredService) -> Result<NodeName, String> {
        let mut best: Option<(u32, &NodeName)> = None;
        let mut obstacles: BTreeMap<String, Vec<&NodeName>> = BTreeMap::new();
        for (_, node) in &self.by_load {
            if let Some(obstacle) = self.obstacle(node, id, service) {
                obstacles.entry(obstacle).or_default().push(node);
                continue;
            }
            let same = self
                .taken
                .get(node)
                .and_then(|t| t.services.get(&id.service))
                .copied()
                .unwrap_or_default();
            if best.is_none_or(|(fewest, _)| same < fewest) {
                best = Some((same, node));
            }
            if same == 0 {
                break;
            }
        }
        best.map(|(_, node)| node.clone()).ok_or_else(|| {
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
        })
    }

    /// What keeps a replica from a node.
    fn obstacle(
        &self,
        node: &NodeName,
        id: &InstanceId,
        service: &DeclaredService,
    ) -> Option<String> {
        let Some(spec) = self.declared.nodes.get(node) else {
            return Some("it is not declared".into());
        };
        if let Some(constraint) = service.spec.constraints.iter().find(|c| !c.holds(spec)) {
            return Some(format!("`{constraint}` does not hold"));
        }
        let nothing = Taken::default();
        let taken = self.taken.get(node).unwrap_or(&nothing);
        if let Some(capacity) = spec.capacity
            && !service.spec.reserves.fits_beside(taken.reserved, capacity)
        {
            return Some(format!(
                "what it reserves does not fit beside what {} others reserve",
                taken.instances
            ));
        }
        service.spec.container.ports.iter().find_map(|port| {
            let host_port = port.host_port?;
            let other = taken.ports.get(&(host_port, port.protocol))?;
            (other != id).then(|| format!("its port {host_port} is taken by {other}"))
        })
    }
}
