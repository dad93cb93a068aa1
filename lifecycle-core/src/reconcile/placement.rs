//! Decides which node each replica is placed on. Constraints, reserved resources, volumes and host
//! ports exclude nodes. A replica stays on its node; new replicas are spread over the nodes. Replicas
//! that join the network of another one are placed together with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::declared::{Declared, DeclaredService};
use super::index::{Index, Seen};
use super::input::History;
use super::observe::Observed;
use crate::cloud::Power;
use crate::model::{
    Constraint, InstanceId, NodeName, NodeSpec, Protocol, Resources, RestartPolicy, Scheduling,
    VolumeName,
};
use crate::runtime::ContainerState;

/// The node of each replica, and why some replicas have no node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// For each replica that fits on a node, the node on which it is placed.
    pub nodes: BTreeMap<InstanceId, NodeName>,
    /// For each remaining replica, why it fits on no node.
    pub unplaceable: BTreeMap<InstanceId, String>,
    /// For each replica that stays on a drained or stopped node, why it fits on no other node.
    pub staying: BTreeMap<InstanceId, String>,
}

/// Places all declared replicas.
pub fn place(declared: &Declared, observed: &Observed, history: &History) -> Placement {
    let index = Index::new(declared, observed, history);
    let placed = place_indexed(declared, observed, history, &index);
    let replicas = index.replicas.iter().zip(&placed.nodes);
    let named = |whys: BTreeMap<usize, String>| {
        let whys = whys.into_iter();
        whys.map(|(position, why)| (index.replicas[position].clone(), why))
            .collect()
    };
    Placement {
        nodes: replicas
            .filter_map(|(id, node)| Some((id.clone(), (*node)?.clone())))
            .collect(),
        unplaceable: named(placed.unplaceable),
        staying: named(placed.staying),
    }
}

/// A placement that identifies replicas by their positions in an index.
#[derive(Debug)]
pub(super) struct IndexedPlacement<'a> {
    pub(super) nodes: Vec<Option<&'a NodeName>>,
    pub(super) unplaceable: BTreeMap<usize, String>,
    pub(super) staying: BTreeMap<usize, String>,
}

pub(super) fn place_indexed<'a>(
    declared: &'a Declared,
    observed: &'a Observed,
    history: &'a History,
    index: &Index<'a>,
) -> IndexedPlacement<'a> {
    let homes = Homes::new(declared, observed, history, index);
    let mut placing = Placing {
        index,
        homes: &homes,
        specs: declared.nodes.values().collect(),
        taken: index.nodes.iter().map(|_| Taken::default()).collect(),
        by_load: (0..index.nodes.len()).map(|node| (0, node)).collect(),
        placed: IndexedPlacement {
            nodes: vec![None; index.replicas.len()],
            unplaceable: BTreeMap::new(),
            staying: BTreeMap::new(),
        },
    };
    let mut unplaced: Vec<Vec<usize>> = Vec::with_capacity(index.services.len());
    let mut leaving: Vec<(usize, usize, usize)> = Vec::new();
    let mut possible: Vec<(Home, usize)> = Vec::new();
    for (service_position, service) in index.services.iter().enumerate() {
        let mut left = Vec::new();
        let joins = service.service.spec.container.connection.joins();
        for replica in service.positions().filter(|_| joins.is_none()) {
            if let Some(node) = homes.runs_at(replica, service.service)
                && !homes.is_drained(node)
                && placing
                    .obstacle(node, replica, service_position, service.service)
                    .is_none()
            {
                placing.put(node, replica, service_position, service.service);
                continue;
            }
            possible.clear();
            homes.of(replica, service.service, &mut possible);
            for (joiner, position) in &index.joiners[replica] {
                homes.of(*position, index.services[*joiner].service, &mut possible);
            }
            homes.sort(&mut possible);
            let home = possible.iter().map(|(_, node)| *node).find(|node| {
                placing
                    .obstacle(*node, replica, service_position, service.service)
                    .is_none()
            });
            match home {
                Some(node) if homes.has_completed(node, replica, service.service) => {
                    placing.put(node, replica, service_position, service.service);
                }
                Some(node)
                    if homes.is_off(node)
                        && (index.binds(replica, service_position) || may_end(service.service)) =>
                {
                    let why = "it has volumes or may have completed on the stopped node";
                    placing.stay(node, replica, service_position, service.service, why);
                }
                Some(node) if homes.is_drained(node) || homes.is_off(node) => {
                    leaving.push((service_position, replica, node));
                }
                Some(node) => placing.put(node, replica, service_position, service.service),
                None => left.push(replica),
            }
        }
        unplaced.push(left);
    }
    // Replicas that run go before those that do not.
    for (service_position, replica, drained) in leaving {
        let service = index.services[service_position].service;
        placing.move_off(drained, replica, service_position, service);
    }
    for (service_position, replicas) in unplaced.into_iter().enumerate() {
        placing.spread(
            service_position,
            index.services[service_position].service,
            replicas,
        );
    }
    placing.refuse_joiners();
    placing.placed
}

/// The observed facts that tie replicas to nodes.
struct Homes<'i, 'a> {
    /// The declared nodes, by position.
    specs: Vec<&'a NodeSpec>,
    observed: &'a Observed,
    history: &'a History,
    index: &'i Index<'a>,
    /// For each mounted volume, the positions of the nodes that have it, or from which it vanished. A
    /// volume that vanished still binds its replica, which otherwise would start elsewhere with an empty
    /// one.
    volumes: BTreeMap<&'a VolumeName, BTreeSet<usize>>,
    /// The volumes that vanished, with their nodes.
    vanished: BTreeSet<(&'a VolumeName, usize)>,
    /// For each image, the positions of up to `FEW_HOLDERS` nodes that have it.
    images: BTreeMap<&'a str, Vec<usize>>,
}

/// The maximum number of recorded nodes per image. New replicas prefer these nodes.
const FEW_HOLDERS: usize = 16;

impl<'i, 'a> Homes<'i, 'a> {
    fn new(
        declared: &'a Declared,
        observed: &'a Observed,
        history: &'a History,
        index: &'i Index<'a>,
    ) -> Self {
        let mounted: BTreeSet<&VolumeName> = declared
            .services
            .values()
            .flat_map(|s| &s.spec.container.volumes)
            .map(|mount| &mount.volume)
            .collect();
        let mut volumes: BTreeMap<&VolumeName, BTreeSet<usize>> = BTreeMap::new();
        let mut vanished = BTreeSet::new();
        let mut images: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (name, view) in &observed.nodes {
            let Some(node) = index.node(name) else {
                continue;
            };
            let Some(state) = view.engine_state() else {
                // The volumes that were used there may still exist.
                let used = history.volumes.get(name).into_iter().flatten();
                for volume in used.filter(|volume| mounted.contains(volume)) {
                    volumes.entry(volume).or_default().insert(node);
                }
                continue;
            };
            for volume in state.volumes.iter().filter(|v| mounted.contains(v)) {
                volumes.entry(volume).or_default().insert(node);
            }
            let used = history.volumes.get(name).into_iter().flatten();
            let gone = used.filter(|v| mounted.contains(v) && !state.volumes.contains(*v));
            for volume in gone {
                volumes.entry(volume).or_default().insert(node);
                vanished.insert((volume, node));
            }
            for image in state.images.keys() {
                let holders = images.entry(image).or_default();
                if holders.len() < FEW_HOLDERS {
                    holders.push(node);
                }
            }
        }
        Self {
            specs: declared.nodes.values().collect(),
            observed,
            history,
            index,
            volumes,
            vanished,
            images,
        }
    }

    /// Returns the node of the replica's only container, if that container runs the declared
    /// specification.
    fn runs_at(&self, replica: usize, service: &DeclaredService) -> Option<usize> {
        let [seen] = self.index.seen[replica].as_slice() else {
            return None;
        };
        let is_best = seen.is_running() && seen.is_current(service);
        seen.node_position.filter(|_| is_best)
    }

    /// Adds the nodes that a replica is tied to.
    fn of(&self, replica: usize, service: &DeclaredService, homes: &mut Vec<(Home, usize)>) {
        for seen in &self.index.seen[replica] {
            let current = seen.is_current(service);
            let home = match (seen.is_running(), current) {
                (true, true) => Home::Runs,
                (true, false) => Home::RunsOldSpec,
                (false, true) => Home::Stopped,
                (false, false) => Home::StoppedOldSpec,
            };
            homes.extend(seen.node_position.map(|node| (home, node)));
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
        let holder = mounts.iter().find_map(|mount| {
            let mut holders = self.volumes.get(&mount.volume)?.iter();
            holders.find(|node| !self.vanished.contains(&(&mount.volume, **node)))
        });
        homes.extend(holder.map(|node| (Home::HasVolume, *node)));
    }

    /// Returns whether the replica has a container on the node, or was last seen there.
    fn has(&self, node: usize, replica: usize) -> bool {
        let mut seen = self.index.seen[replica].iter();
        seen.any(|seen| seen.node_position == Some(node))
            || self.index.last_seen[replica].and_then(|name| self.index.node(name)) == Some(node)
    }

    /// If a volume binds the replica to another node, returns the volume and that node. A replica
    /// that has run is bound to the volume on the node where it ran. A new replica is bound only if
    /// its service has a single replica.
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
                .filter_map(|seen| seen.node_position);
            let last = self.index.last_seen[replica].and_then(|name| self.index.node(name));
            let mut was_at = was_at.chain(last).peekable();
            let is_new = was_at.peek().is_none();
            let home = was_at.find(|node| holders.contains(node));
            let only = || holders.first().copied();
            let binds = is_new && service.spec.replicas == 1;
            let holder = home.or_else(|| only().filter(|_| binds))?;
            Some((volume, holder))
        })
    }

    /// Returns whether replicas must leave the node. The replicas on a node whose engine is not observed
    /// do not leave it: they may still run there, and their volumes are not known.
    fn is_drained(&self, node: usize) -> bool {
        let spec = self.specs[node];
        (spec.scheduling == Scheduling::Drained || spec.stopped) && self.has_engine(node)
    }

    /// Returns whether the replica is a job that has completed on the node. It must not run again
    /// elsewhere.
    fn has_completed(&self, node: usize, replica: usize, service: &DeclaredService) -> bool {
        let is_completed = |seen: &Seen<'_>| {
            seen.node_position == Some(node)
                && matches!(seen.container.state, ContainerState::Exited { code: 0, .. })
                && seen.is_current(service)
        };
        let id = &self.index.replicas[replica];
        may_end(service)
            && !self.history.restarts.contains_key(id)
            && self.index.seen[replica].iter().any(is_completed)
    }

    /// Returns whether the node was stopped on request. Nothing runs on it, so a replica without volumes
    /// can start elsewhere.
    fn is_off(&self, node: usize) -> bool {
        let view = self.observed.nodes.get(self.index.nodes[node]);
        self.specs[node].stopped && view.is_some_and(|view| view.machine.power == Power::Stopped)
    }

    /// Sorts the nodes that a replica is tied to, strongest ties first. A replica on a drained node
    /// prefers a ready node that is not drained, to which it may have begun to move.
    fn sort(&self, homes: &mut [(Home, usize)]) {
        let leaves = homes.iter().any(|(_, node)| self.is_drained(*node));
        homes.sort_unstable_by_key(|(home, node)| {
            let class = match (self.is_drained(*node), self.has_engine(*node)) {
                _ if !leaves => 0,
                (false, true) => 0,
                (true, _) => 1,
                (false, false) => 2,
            };
            (class, *home, *node)
        });
    }

    /// Returns whether the node exists, and its engine was observed.
    fn has_engine(&self, node: usize) -> bool {
        let view = self.observed.nodes.get(self.index.nodes[node]);
        view.is_some_and(|view| view.engine_state().is_some())
    }

    /// Returns whether the volumes of a node are known.
    fn is_known(&self, node: usize) -> bool {
        let view = self.observed.nodes.get(self.index.nodes[node]);
        view.is_none_or(|view| view.engine_state().is_some())
    }
}

/// Returns whether containers of the service may end with code 0 and are then not started again.
fn may_end(service: &DeclaredService) -> bool {
    matches!(
        service.restart,
        RestartPolicy::No | RestartPolicy::OnFailure { .. }
    )
}

/// What ties a replica to a node, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    /// A container of the declared specification is running on the node.
    Runs,
    /// The replica was last seen on the node and may still run there, because the node cannot be
    /// observed.
    MayRun,
    /// A container of an old specification is running on the node.
    RunsOldSpec,
    /// The node has a stopped container of the declared specification.
    Stopped,
    LastSeen,
    /// The node has a stopped container of an old specification.
    StoppedOldSpec,
    HasVolume,
    /// The previous plan placed the replica on the node.
    WasPlaced,
}

/// A node's rank for a service: its replicas of the service, all its replicas, and its position.
type Rank = (u32, usize, usize);

/// A service with more unplaced replicas than this gets its own sorted set of nodes.
const MANY_REPLICAS: usize = 16;

/// The address at which a replica uses a host port (`None` for all addresses), and the replica's
/// position.
type PortUse = (Option<IpAddr>, usize);

/// The resources that placed replicas use on a node.
#[derive(Debug, Default)]
struct Taken {
    instances: usize,
    reserved: Resources,
    /// The replica that uses each host port.
    ports: BTreeMap<(u16, Protocol), Vec<PortUse>>,
    /// The number of replicas of each service.
    services: BTreeMap<usize, u32>,
}

struct Placing<'i, 'a> {
    index: &'i Index<'a>,
    homes: &'i Homes<'i, 'a>,
    /// The declared nodes, by position.
    specs: Vec<&'a NodeSpec>,
    taken: Vec<Taken>,
    /// The nodes, sorted by number of replicas, then by position.
    by_load: BTreeSet<(usize, usize)>,
    placed: IndexedPlacement<'a>,
}

impl<'a> Placing<'_, 'a> {
    /// Places a replica and those that join its network.
    fn put(
        &mut self,
        node: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) {
        let index = self.index;
        self.put_alone(node, replica, service_position, service);
        for (joiner, position) in &index.joiners[replica] {
            self.put_alone(node, *position, *joiner, index.services[*joiner].service);
        }
    }

    fn put_alone(
        &mut self,
        node: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) {
        let taken = &mut self.taken[node];
        if self.by_load.remove(&(taken.instances, node)) {
            self.by_load.insert((taken.instances + 1, node));
        }
        taken.instances += 1;
        taken.reserved = taken.reserved.saturating_add(service.spec.reserves);
        *taken.services.entry(service_position).or_default() += 1;
        for port in &service.spec.container.ports {
            if let Some(host_port) = port.host_port {
                let users = taken.ports.entry((host_port, port.protocol));
                users.or_default().push((port.host_ip, replica));
            }
        }
        self.placed.nodes[replica] = Some(self.index.nodes[node]);
    }

    /// Places the replicas of a service that are tied to no node, each on the node with the lowest
    /// rank.
    fn spread(
        &mut self,
        service_position: usize,
        service: &'a DeclaredService,
        replicas: Vec<usize>,
    ) {
        // A sorted set is faster if there are many replicas to place, or if constraints exclude
        // many nodes.
        let mut candidates = (replicas.len() > MANY_REPLICAS
            || !service.spec.constraints.is_empty())
        .then(|| self.candidates(service_position, service));
        let holders = self.homes.images.get(service.image.as_str());
        let holders = holders.map_or(&[][..], Vec::as_slice);
        let mut no_node: Option<String> = None;
        for replica in replicas {
            // If one replica fits on no node, the following replicas do not fit either.
            if let Some(why) = &no_node {
                self.placed.unplaceable.insert(replica, why.clone());
                continue;
            }
            let choice = match &mut candidates {
                Some(candidates) => {
                    self.take_candidate(replica, service_position, service, candidates)
                }
                None => self
                    .choose(replica, service_position, service)
                    .map(|node| self.holder(node, holders, replica, service_position, service)),
            };
            if let Some(node) = choice {
                self.put(node, replica, service_position, service);
                if let Some(candidates) = &mut candidates {
                    candidates.insert(self.rank(node, service_position));
                }
            } else {
                let why =
                    self.reasons(|node| self.obstacle(node, replica, service_position, service));
                self.placed.unplaceable.insert(replica, why.clone());
                // With volumes, the following replicas may still fit, because volumes bind each
                // replica separately.
                let binds = self.index.binds(replica, service_position);
                no_node = (!binds).then_some(why);
            }
        }
    }

    /// Places a replica that is on a drained node on another one, or, if it fits on no other node, on
    /// the drained one.
    fn move_off(
        &mut self,
        drained: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) {
        let ranks = (0..self.specs.len()).map(|node| self.rank(node, service_position));
        let best = ranks
            .filter(|(_, _, node)| {
                self.obstacle_to_move(*node, replica, service_position, service)
                    .is_none()
            })
            .min();
        if let Some((_, _, node)) = best {
            self.put(node, replica, service_position, service);
            return;
        }
        let why =
            self.reasons(|node| self.obstacle_to_move(node, replica, service_position, service));
        self.stay(drained, replica, service_position, service, &why);
    }

    /// Places a replica on the drained or stopped node where it is.
    fn stay(
        &mut self,
        node: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
        why: &str,
    ) {
        self.put(node, replica, service_position, service);
        let joiners = self.index.joiners[replica].iter();
        for position in joiners.map(|(_, position)| *position).chain([replica]) {
            self.placed.staying.insert(position, why.to_owned());
        }
    }

    /// Returns why a replica on a drained node cannot move to a node.
    fn obstacle_to_move<'s>(
        &'s self,
        node: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) -> Option<Obstacle<'s>> {
        let spec = self.specs[node];
        if spec.stopped {
            Some(Obstacle::Stopped)
        } else if spec.scheduling != Scheduling::Open {
            Some(Obstacle::Scheduling(spec.scheduling))
        } else if !self.homes.has_engine(node) {
            Some(Obstacle::NotReady)
        } else {
            self.obstacle(node, replica, service_position, service)
        }
    }

    /// Records why replicas that join a network have no node.
    fn refuse_joiners(&mut self) {
        let index = self.index;
        for service in &index.services {
            let Some(joined) = service.service.spec.container.connection.joins() else {
                continue;
            };
            for replica in service.positions() {
                if self.placed.nodes[replica].is_some() {
                    continue;
                }
                let why = match index.joined[replica] {
                    Some(joined) => format!(
                        "it joins the network of {}, which fits on no node",
                        index.replicas[joined]
                    ),
                    None => format!("{joined} has no replica whose network it can join"),
                };
                self.placed.unplaceable.insert(replica, why);
            }
        }
    }

    fn rank(&self, node: usize, service_position: usize) -> Rank {
        let taken = &self.taken[node];
        let same = taken
            .services
            .get(&service_position)
            .copied()
            .unwrap_or_default();
        (same, taken.instances, node)
    }

    /// Returns the nodes that meet a service's constraints.
    fn candidates(&self, service_position: usize, service: &DeclaredService) -> BTreeSet<Rank> {
        let nodes = self.specs.iter().enumerate();
        nodes
            .filter(|(_, spec)| service.spec.constraints.iter().all(|c| c.holds(spec)))
            .map(|(node, _)| self.rank(node, service_position))
            .collect()
    }

    /// Removes candidates, best first, until one fits, and returns that one.
    fn take_candidate(
        &self,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
        candidates: &mut BTreeSet<Rank>,
    ) -> Option<usize> {
        std::iter::from_fn(|| candidates.pop_first())
            .map(|(_, _, node)| node)
            .find(|node| {
                self.obstacle(*node, replica, service_position, service)
                    .is_none()
            })
    }

    /// Returns the best node by searching all nodes, without a sorted set.
    fn choose(
        &self,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) -> Option<usize> {
        let mut best: Option<(u32, usize)> = None;
        for (_, node) in &self.by_load {
            if self
                .obstacle(*node, replica, service_position, service)
                .is_some()
            {
                continue;
            }
            let (same, _, _) = self.rank(*node, service_position);
            if best.is_none_or(|(fewest, _)| same < fewest) {
                best = Some((same, *node));
            }
            if same == 0 {
                break;
            }
        }
        best.map(|(_, node)| node)
    }

    /// Returns a node that has the image and is as good as the chosen node, or else the chosen
    /// node.
    fn holder(
        &self,
        chosen: usize,
        holders: &[usize],
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) -> usize {
        let (same, all, _) = self.rank(chosen, service_position);
        let suits = |node: &usize| {
            let (of_service, of_all, _) = self.rank(*node, service_position);
            of_service <= same
                && of_all <= all
                && self
                    .obstacle(*node, replica, service_position, service)
                    .is_none()
        };
        let mut holders = holders.iter().copied();
        holders.find(suits).unwrap_or(chosen)
    }

    /// Returns why a replica fits on no node, as text.
    fn reasons<'s>(&'s self, obstacle: impl Fn(usize) -> Option<Obstacle<'s>>) -> String {
        let mut obstacles: BTreeMap<String, Vec<&NodeName>> = BTreeMap::new();
        for (node, name) in self.index.nodes.iter().enumerate() {
            if let Some(obstacle) = obstacle(node) {
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

    /// Returns why a replica, together with those that join its network, does not fit on a node.
    fn obstacle<'s>(
        &'s self,
        node: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
    ) -> Option<Obstacle<'s>> {
        let spec = self.specs[node];
        let is_open = spec.scheduling == Scheduling::Open && !spec.stopped;
        if !is_open && !self.homes.has(node, replica) {
            return Some(if spec.stopped {
                Obstacle::Stopped
            } else {
                Obstacle::Scheduling(spec.scheduling)
            });
        }
        let index = self.index;
        let joiners = index.joiners[replica].iter();
        let reserves = joiners.fold(service.spec.reserves, |sum, (joiner, _)| {
            sum.saturating_add(index.services[*joiner].service.spec.reserves)
        });
        let own = self.obstacle_alone(node, replica, service_position, service, reserves);
        let of_joiner = |(joiner, position): &(usize, usize)| {
            let service = index.services[*joiner].service;
            // The reserved resources are counted above.
            let counted = Resources::default();
            let obstacle = self.obstacle_alone(node, *position, *joiner, service, counted)?;
            Some(Obstacle::Joiner {
                id: &index.replicas[*position],
                obstacle: Box::new(obstacle),
            })
        };
        own.or_else(|| index.joiners[replica].iter().find_map(of_joiner))
    }

    fn obstacle_alone<'s>(
        &'s self,
        node: usize,
        replica: usize,
        service_position: usize,
        service: &'a DeclaredService,
        reserves: Resources,
    ) -> Option<Obstacle<'s>> {
        let spec = self.specs[node];
        if let Some(constraint) = service.spec.constraints.iter().find(|c| !c.holds(spec)) {
            return Some(Obstacle::Constraint(constraint));
        }
        if let Some((volume, position)) = self.homes.bound(node, replica, service) {
            let holder = self.index.nodes[position];
            return Some(if self.homes.vanished.contains(&(volume, position)) {
                Obstacle::VanishedVolume { volume, holder }
            } else {
                Obstacle::Volume { volume, holder }
            });
        }
        let taken = &self.taken[node];
        let same = taken
            .services
            .get(&service_position)
            .copied()
            .unwrap_or_default();
        if let Some(most) = service.spec.max_per_node
            && same >= u32::from(most)
        {
            return Some(Obstacle::Full { most });
        }
        if let Some(capacity) = spec.capacity
            && !reserves.fits_with(taken.reserved, capacity)
        {
            let others = taken.instances;
            return Some(Obstacle::Capacity { others });
        }
        let mut choices = service.spec.container.port_choices.iter();
        let is_used_up = |ports: usize| usize::try_from(same).is_ok_and(|same| same >= ports);
        if let Some(choice) = choices.find(|choice| is_used_up(choice.candidates.len())) {
            return Some(Obstacle::PortRange {
                first: choice.candidates.first().copied().unwrap_or_default(),
                last: choice.candidates.last().copied().unwrap_or_default(),
            });
        }
        service.spec.container.ports.iter().find_map(|port| {
            let host_port = port.host_port?;
            let users = taken.ports.get(&(host_port, port.protocol))?;
            // A port at all addresses conflicts with the same port at a single one.
            let (_, by) = users.iter().find(|(address, by)| {
                let conflicts = address.is_none() || port.host_ip.is_none();
                *by != replica && (conflicts || *address == port.host_ip)
            })?;
            Some(Obstacle::Port {
                host_port,
                by: &self.index.replicas[*by],
            })
        })
    }
}

/// Why a replica does not fit on a node.
#[derive(Debug)]
enum Obstacle<'a> {
    Scheduling(Scheduling),
    Stopped,
    NotReady,
    Constraint(&'a Constraint),
    Volume {
        volume: &'a VolumeName,
        holder: &'a NodeName,
    },
    VanishedVolume {
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
    /// A replica that joins the network does not fit.
    Joiner {
        id: &'a InstanceId,
        obstacle: Box<Obstacle<'a>>,
    },
    PortRange {
        first: u16,
        last: u16,
    },
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheduling(scheduling) => write!(f, "{scheduling}"),
            Self::Stopped => f.write_str("stopped"),
            Self::NotReady => f.write_str("not ready"),
            Self::Constraint(constraint) => {
                write!(f, "does not meet the constraint `{constraint}`")
            }
            Self::Volume { volume, holder } => {
                write!(
                    f,
                    "the replica's volume {volume} is on {holder}, and data is not moved"
                )
            }
            Self::VanishedVolume { volume, holder } => write!(
                f,
                "the replica's volume {volume} was on {holder}, where it no longer exists (`bootstrapper \
                 retry NAME --recreate-volume` allows an empty one)"
            ),
            Self::Full { most } => {
                write!(
                    f,
                    "already runs the maximum number of replicas per node ({most})"
                )
            }
            Self::Capacity { others } => write!(
                f,
                "does not have enough free capacity ({others} other replicas are placed on it)"
            ),
            Self::PortRange { first, last } => {
                write!(
                    f,
                    "other replicas of the service use all ports from {first} to {last}"
                )
            }
            Self::Port { host_port, by } => {
                write!(f, "port {host_port} is already used by {by}")
            }
            Self::Joiner { id, obstacle } => {
                write!(f, "{id}, which joins the replica's network: {obstacle}")
            }
        }
    }
}
