//! Which node each replica goes to: constraints, reserved resources and host ports decide what
//! is possible; a replica stays where it is, and where its volume is; others are spread. Pure and
//! deterministic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::declared::{Declared, DeclaredService};
use super::index::Index;
use super::input::History;
use super::observe::Observed;
use crate::model::{Constraint, InstanceId, NodeName, NodeSpec, Protocol, Resources, VolumeName};

/// Where each replica goes, and why some go nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The node of each replica that fits somewhere.
    pub nodes: BTreeMap<InstanceId, NodeName>,
    /// What keeps the others from every node.
    pub misfits: BTreeMap<InstanceId, String>,
}

/// Places all declared replicas.
pub fn place(declared: &Declared, observed: &Observed, history: &History) -> Placement {
    let index = Index::new(declared, observed, history);
    let placed = place_indexed(declared, observed, history, &index);
    let replicas = index.replicas.iter().zip(&placed.nodes);
    Placement {
        nodes: replicas
            .filter_map(|(id, node)| Some((id.clone(), (*node)?.clone())))
            .collect(),
        misfits: placed
            .misfits
            .into_iter()
            .map(|(place, why)| (index.replicas[place].clone(), why))
            .collect(),
    }
}

/// A placement by the places of an index.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub(super) nodes: Vec<Option<&'a NodeName>>,
    pub(super) misfits: BTreeMap<usize, String>,
}

pub(super) fn place_indexed<'a>(
    declared: &'a Declared,
    observed: &'a Observed,
    history: &'a History,
    index: &Index<'a>,
) -> Placed<'a> {
    let homes = Homes::new(declared, observed, history, index);
    let mut placing = Placing {
        index,
        homes: &homes,
        specs: declared.nodes.values().collect(),
        taken: index.nodes.iter().map(|_| Taken::default()).collect(),
        by_load: (0..index.nodes.len()).map(|node| (0, node)).collect(),
        placed: Placed {
            nodes: vec![None; index.replicas.len()],
            misfits: BTreeMap::new(),
        },
    };
    let mut homeless: Vec<Vec<usize>> = Vec::with_capacity(index.services.len());
    let mut free: Vec<(Home, usize)> = Vec::new();
    for (place, service) in index.services.iter().enumerate() {
        let mut left = Vec::new();
        for replica in service.places() {
            if let Some(node) = homes.runs_at(replica, service.service)
                && placing
                    .obstacle(node, replica, place, service.service)
                    .is_none()
            {
                placing.put(node, replica, place, service.service);
                continue;
            }
            homes.of(replica, service.service, &mut free);
            let home = free.iter().map(|(_, node)| *node).find(|node| {
                placing
                    .obstacle(*node, replica, place, service.service)
                    .is_none()
            });
            match home {
                Some(node) => placing.put(node, replica, place, service.service),
                None => left.push(replica),
            }
        }
        homeless.push(left);
    }
    for (place, replicas) in homeless.into_iter().enumerate() {
        placing.spread(place, index.services[place].service, replicas);
    }
    placing.placed
}

/// What ties replicas to nodes.
struct Homes<'i, 'a> {
    observed: &'a Observed,
    history: &'a History,
    index: &'i Index<'a>,
    /// The nodes that have each volume which is mounted, by place.
    volumes: BTreeMap<&'a VolumeName, BTreeSet<usize>>,
    /// A few of the nodes that have each image, by place.
    images: BTreeMap<&'a str, Vec<usize>>,
}

/// How many nodes that have an image are looked at for one that suits as well as any other.
const FEW_HOLDERS: usize = 16;

impl<'i, 'a> Homes<'i, 'a> {
    fn new(
        declared: &'a Declared,
        observed: &'a Observed,
        history: &'a History,
        index: &'i Index<'a>,
    ) -> Self {
        let wanted: BTreeSet<&VolumeName> = declared
            .services
            .values()
            .flat_map(|s| &s.spec.container.volumes)
            .map(|mount| &mount.volume)
            .collect();
        let mut volumes: BTreeMap<&VolumeName, BTreeSet<usize>> = BTreeMap::new();
        let mut images: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (name, view) in &observed.nodes {
            let Some(state) = view.engine_state() else {
                continue;
            };
            let Some(node) = index.node(name) else {
                continue;
            };
            for volume in state.volumes.iter().filter(|v| wanted.contains(v)) {
                volumes.entry(volume).or_default().insert(node);
            }
            for image in &state.images {
                let holders = images.entry(image).or_default();
                if holders.len() < FEW_HOLDERS {
                    holders.push(node);
                }
            }
        }
        Self {
            observed,
            history,
            index,
            volumes,
            images,
        }
    }

    /// The node of a replica that has one container and no better home could have.
    fn runs_at(&self, replica: usize, service: &DeclaredService) -> Option<usize> {
        let [seen] = self.index.seen[replica].as_slice() else {
            return None;
        };
        let is_best = seen.is_running() && seen.container.digest == service.digest;
        seen.place.filter(|_| is_best)
    }

    /// Where a replica is, was, has its volumes, or was going to be: the best home first.
    fn of(&self, replica: usize, service: &DeclaredService, homes: &mut Vec<(Home, usize)>) {
        homes.clear();
        for seen in &self.index.seen[replica] {
            let current = service.digest == seen.container.digest;
            let home = match (seen.is_running(), current) {
                (true, true) => Home::Runs,
                (true, false) => Home::FormerRuns,
                (false, true) => Home::Lies,
                (false, false) => Home::FormerLies,
            };
            homes.extend(seen.place.map(|node| (home, node)));
        }
        let mut add = |home, name: &NodeName| {
            homes.extend(self.index.node(name).map(|node| (home, node)));
        };
        if let Some(node) = self.index.last_seen[replica] {
            let home = match self.observed.nodes.get(node) {
                Some(view) if view.may_run_unseen() => Home::MayRun,
                _ => Home::LastSeen,
            };
            add(home, node);
        }
        if let Some(node) = self.history.placed.get(&self.index.replicas[replica]) {
            add(Home::WasPlaced, node);
        }
        let mounts = &service.spec.container.volumes;
        let holder = mounts
            .iter()
            .find_map(|m| self.volumes.get(&m.volume)?.first());
        homes.extend(holder.map(|node| (Home::HasVolume, *node)));
        homes.sort_unstable();
    }

    /// A volume that keeps a replica from a node: its data is on others. Where the replica was
    /// counts first; one that never was anywhere is bound if it is the only one of its service,
    /// since each of several has data of its own.
    fn bound(
        &self,
        node: usize,
        replica: usize,
        service: &'a DeclaredService,
    ) -> Option<(&'a VolumeName, usize)> {
        let mounts = &service.spec.container.volumes;
        if mounts.is_empty() || !self.is_known(node) {
            return None;
        }
        let mounts = mounts.iter().filter(|mount| !mount.options.external);
        let mut bound = mounts.filter_map(|mount| {
            let holders = self.volumes.get(&mount.volume)?;
            let elsewhere = !holders.contains(&node);
            Some((&mount.volume, holders)).filter(|_| elsewhere)
        });
        bound.find_map(|(volume, holders)| {
            let was_at = self.index.seen[replica]
                .iter()
                .filter_map(|seen| seen.place);
            let last = self.index.last_seen[replica].and_then(|name| self.index.node(name));
            let mut was_at = was_at.chain(last).peekable();
            let is_new = was_at.peek().is_none();
            let home = was_at.find(|place| holders.contains(place));
            let only = || holders.first().copied();
            let binds = is_new && service.spec.replicas == 1;
            let holder = home.or_else(|| only().filter(|_| binds))?;
            Some((volume, holder))
        })
    }

    /// Whether it is known what volumes a node has: one that does not answer may have any.
    fn is_known(&self, node: usize) -> bool {
        let view = self.observed.nodes.get(self.index.nodes[node]);
        view.is_none_or(|view| view.engine_state().is_some())
    }
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
    /// The plan before placed it there.
    WasPlaced,
}

/// Replicas of one service and of all on a node: the order in which it is tried.
type Rank = (u32, usize, usize);

/// From how many replicas without a home on a service gets an index of its own.
const MANY_REPLICAS: usize = 16;

/// What is taken on a node.
#[derive(Debug, Default)]
struct Taken {
    instances: usize,
    reserved: Resources,
    /// Which replica has each host port.
    ports: BTreeMap<(u16, Protocol), usize>,
    /// How many replicas of each service are there.
    services: BTreeMap<usize, u32>,
}

struct Placing<'i, 'a> {
    index: &'i Index<'a>,
    homes: &'i Homes<'i, 'a>,
    /// The declared nodes, by place.
    specs: Vec<&'a NodeSpec>,
    taken: Vec<Taken>,
    /// Nodes by how many replicas they have, then by name: the order in which they are tried.
    by_load: BTreeSet<(usize, usize)>,
    placed: Placed<'a>,
}

impl<'a> Placing<'_, 'a> {
    fn put(&mut self, node: usize, replica: usize, place: usize, service: &'a DeclaredService) {
        let taken = &mut self.taken[node];
        if self.by_load.remove(&(taken.instances, node)) {
            self.by_load.insert((taken.instances + 1, node));
        }
        taken.instances += 1;
        taken.reserved = taken.reserved.saturating_add(service.spec.reserves);
        *taken.services.entry(place).or_default() += 1;
        for port in &service.spec.container.ports {
            if let Some(host_port) = port.host_port {
                taken.ports.insert((host_port, port.protocol), replica);
            }
        }
        self.placed.nodes[replica] = Some(self.index.nodes[node]);
    }

    /// Places replicas of one service that have no home: each on the node with the fewest of the
    /// service, then the fewest of all.
    fn spread(&mut self, place: usize, service: &'a DeclaredService, replicas: Vec<usize>) {
        // An index of the service's own pays off where going through all nodes would not end soon.
        let mut candidates = (replicas.len() > MANY_REPLICAS
            || !service.spec.constraints.is_empty())
        .then(|| self.candidates(place, service));
        let holders = self.homes.images.get(service.image.as_str());
        let holders = holders.map_or(&[][..], Vec::as_slice);
        let mut misfit: Option<String> = None;
        for replica in replicas {
            // What keeps one of them from every node keeps all that come after it.
            if let Some(why) = &misfit {
                self.placed.misfits.insert(replica, why.clone());
                continue;
            }
            let choice = match &mut candidates {
                Some(candidates) => self.take_candidate(replica, place, service, candidates),
                None => self
                    .choose(replica, place, service)
                    .map(|node| self.holder(node, holders, replica, place, service)),
            };
            if let Some(node) = choice {
                self.put(node, replica, place, service);
                if let Some(candidates) = &mut candidates {
                    candidates.insert(self.rank(node, place));
                }
            } else {
                let why = self.obstacles(replica, place, service);
                self.placed.misfits.insert(replica, why.clone());
                // But for volumes, which bind each replica by itself.
                misfit = service.spec.container.volumes.is_empty().then_some(why);
            }
        }
    }

    /// How much a node has, of one service and of all.
    fn rank(&self, node: usize, place: usize) -> Rank {
        let taken = &self.taken[node];
        let same = taken.services.get(&place).copied().unwrap_or_default();
        (same, taken.instances, node)
    }

    /// The nodes that meet a service's constraints.
    fn candidates(&self, place: usize, service: &DeclaredService) -> BTreeSet<Rank> {
        let nodes = self.specs.iter().enumerate();
        nodes
            .filter(|(_, spec)| service.spec.constraints.iter().all(|c| c.holds(spec)))
            .map(|(node, _)| self.rank(node, place))
            .collect()
    }

    /// Takes the best candidate out, and those before it that are full for this service.
    fn take_candidate(
        &self,
        replica: usize,
        place: usize,
        service: &'a DeclaredService,
        candidates: &mut BTreeSet<Rank>,
    ) -> Option<usize> {
        std::iter::from_fn(|| candidates.pop_first())
            .map(|(_, _, node)| node)
            .find(|node| self.obstacle(*node, replica, place, service).is_none())
    }

    /// The same choice without an index.
    fn choose(&self, replica: usize, place: usize, service: &'a DeclaredService) -> Option<usize> {
        let mut best: Option<(u32, usize)> = None;
        for (_, node) in &self.by_load {
            if self.obstacle(*node, replica, place, service).is_some() {
                continue;
            }
            let (same, _, _) = self.rank(*node, place);
            if best.is_none_or(|(fewest, _)| same < fewest) {
                best = Some((same, *node));
            }
            if same == 0 {
                break;
            }
        }
        best.map(|(_, node)| node)
    }

    /// A node that has the image and is as good as the chosen one otherwise, or the chosen one.
    fn holder(
        &self,
        chosen: usize,
        holders: &[usize],
        replica: usize,
        place: usize,
        service: &'a DeclaredService,
    ) -> usize {
        let (same, all, _) = self.rank(chosen, place);
        let suits = |node: &usize| {
            let (of_service, of_all, _) = self.rank(*node, place);
            of_service <= same
                && of_all <= all
                && self.obstacle(*node, replica, place, service).is_none()
        };
        let mut holders = holders.iter().copied();
        holders.find(suits).unwrap_or(chosen)
    }

    /// What keeps a replica from every node, in words.
    fn obstacles(&self, replica: usize, place: usize, service: &'a DeclaredService) -> String {
        let mut obstacles: BTreeMap<String, Vec<&NodeName>> = BTreeMap::new();
        for (node, name) in self.index.nodes.iter().enumerate() {
            if let Some(obstacle) = self.obstacle(node, replica, place, service) {
                let nodes = obstacles.entry(obstacle.to_string()).or_default();
                nodes.push(name);
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
        node: usize,
        replica: usize,
        place: usize,
        service: &'a DeclaredService,
    ) -> Option<Obstacle<'s>> {
        let spec = self.specs[node];
        if let Some(constraint) = service.spec.constraints.iter().find(|c| !c.holds(spec)) {
            return Some(Obstacle::Constraint(constraint));
        }
        if let Some((volume, holder)) = self.homes.bound(node, replica, service) {
            let holder = self.index.nodes[holder];
            return Some(Obstacle::Volume { volume, holder });
        }
        let taken = &self.taken[node];
        let same = taken.services.get(&place).copied().unwrap_or_default();
        if let Some(most) = service.spec.most_per_node
            && same >= u32::from(most)
        {
            return Some(Obstacle::Full { most });
        }
        if let Some(capacity) = spec.capacity
            && !service.spec.reserves.fits_beside(taken.reserved, capacity)
        {
            let others = taken.instances;
            return Some(Obstacle::Capacity { others });
        }
        service.spec.container.ports.iter().find_map(|port| {
            let host_port = port.host_port?;
            let by = *taken.ports.get(&(host_port, port.protocol))?;
            let by_another = by != replica;
            by_another.then(|| Obstacle::Port {
                host_port,
                by: &self.index.replicas[by],
            })
        })
    }
}

/// What keeps a replica from a node. Put into words only when no node is left.
#[derive(Debug)]
enum Obstacle<'a> {
    Constraint(&'a Constraint),
    Volume {
        volume: &'a VolumeName,
        holder: &'a NodeName,
    },
    Full {
        most: u16,
    },
    Capacity {
        others: usize,
    },
    Port {
        host_port: u16,
        by: &'a InstanceId,
    },
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constraint(constraint) => write!(f, "`{constraint}` does not hold"),
            Self::Volume { volume, holder } => {
                write!(
                    f,
                    "its volume {volume} is on {holder}, and data does not move"
                )
            }
            Self::Full { most } => write!(f, "it has {most} of the service, as many as it may"),
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
