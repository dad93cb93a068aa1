//! The state of the simulation, which outlives the processes that act on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::actor::Actor;
use super::behaviour::Behaviour;
use super::chance::Chance;
use super::cloud::SimCloud;
use super::code::{CodeBases, SimCodeStore};
use super::engine::Image;
use super::fault::{FaultPlan, Faults};
use super::host::{SimConnector, SimPreparer};
use super::ledger::{EffectRecord, Ledger, Violation};
use super::machine::{Machine, System};
use super::options::{FaultRates, Latencies, SimOptions};
use super::probe::SimProbe;
use crate::clock::{SeededIds, TokioClock};
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::host::HostOutput;
use crate::model::{NodeName, NodeSpec, PlatformId, Protocol, PublicPorts};
use crate::network::Table;
use crate::reconcile::Backends;
use crate::registry::Registry;
use crate::runtime::{
    ContainerSpec, ImageLogin, ImageLogins, ImageRegistry, ObservedContainer, Owner,
};

/// The start time of every world: 2026-01-01T00:00:00Z.
const START: DateTime<Utc> = match DateTime::from_timestamp(1_767_225_600, 0) {
    Some(beginning) => beginning,
    None => DateTime::UNIX_EPOCH,
};

/// Settings of the whole world.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) chance: Chance,
    pub(super) latencies: Latencies,
    pub(super) rates: FaultRates,
    pub(super) sizes: Option<BTreeSet<String>>,
    pub(super) behaviours: BTreeMap<String, Behaviour>,
    pub(super) preloaded: BTreeMap<String, Image>,
    pub(super) pullable: BTreeMap<String, Image>,
    /// The registries that require a login to pull images.
    pub(super) private: ImageLogins,
    /// The logins that registries reject.
    pub(super) expired: ImageLogins,
    /// Pairs of a text and an output. Hosts return the output for scripts that contain the text.
    pub(super) answers: Vec<(String, HostOutput)>,
    began: Instant,
}

impl Rules {
    /// Converts an instant to the world's date and time.
    pub(super) fn date(&self, at: Instant) -> DateTime<Utc> {
        chrono::Duration::from_std(at.saturating_duration_since(self.began))
            .ok()
            .and_then(|passed| START.checked_add_signed(passed))
            .unwrap_or(START)
            .trunc_subsecs(6)
    }
}

/// The state of the whole world.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rules: Rules,
    pub(super) ledger: Ledger,
    pub(super) faults: FaultPlan,
    pub(super) code: CodeBases,
    pub(super) machines: BTreeMap<u64, Machine>,
    named: BTreeMap<Option<PlatformId>, BTreeMap<NodeName, u64>>,
    addressed: BTreeMap<IpAddr, u64>,
    /// The platforms for which shared resources of nodes were created.
    pub(super) shared: BTreeSet<PlatformId>,
    next_machine: u64,
    next_operation: u64,
    pub(super) calls: u64,
    pub(super) calls_by_word: BTreeMap<String, u64>,
    pub(super) incarnation: u64,
    /// The latest incarnation that crashed.
    pub(super) crashed: u64,
}

impl State {
    /// Applies due changes of a machine. A change may delete the machine.
    pub(super) fn advance(&mut self, number: u64, now: Instant) {
        let Some(machine) = self.machines.get_mut(&number) else {
            return;
        };
        machine.advance(now, &self.rules, &mut self.ledger);
        if machine.gone {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u64) {
        let Some(machine) = self.machines.remove(&number) else {
            return;
        };
        self.addressed.remove(&machine.ip());
        let owner = machine.owner.as_ref().map(|owner| owner.id);
        if let Some(names) = self.named.get_mut(&owner) {
            names.remove(&machine.name);
        }
    }

    /// Checks the invariants for each instance with a container that has started since the last
    /// check.
    pub(super) fn check(&mut self, now: Instant) {
        while let Some(key) = self.ledger.take_suspect() {
            for number in self.ledger.machines_running(&key) {
                self.advance(number, now);
            }
            let at = self.rules.date(now);
            self.ledger.check(&key, at);
        }
    }

    /// Returns a machine by its platform and name, after applying due changes. If `owner` is
    /// `None`, looks for a machine that belongs to no platform.
    pub(super) fn find(
        &mut self,
        owner: Option<PlatformId>,
        name: &NodeName,
        now: Instant,
    ) -> Option<&mut Machine> {
        let number = *self.named.get(&owner)?.get(name)?;
        self.advance(number, now);
        self.machines.get_mut(&number)
    }

    /// Returns the numbers of all machines of a platform, sorted by name.
    pub(super) fn numbers(&self, owner: PlatformId) -> Vec<u64> {
        self.named
            .get(&Some(owner))
            .map(|names| names.values().copied().collect())
            .unwrap_or_default()
    }

    /// Returns the numbers of all machines with this name, regardless of their platform.
    pub(super) fn numbers_named(&self, name: &NodeName) -> Vec<u64> {
        self.named
            .values()
            .filter_map(|names| names.get(name).copied())
            .collect()
    }

    pub(super) fn at_address(&mut self, ip: IpAddr, now: Instant) -> Option<&mut Machine> {
        let number = *self.addressed.get(&ip)?;
        self.advance(number, now);
        self.machines.get_mut(&number)
    }

    pub(super) fn add(&mut self, spec: &NodeSpec, owner: Option<Owner>) -> &mut Machine {
        self.next_machine += 1;
        let number = self.next_machine;
        let machine = Machine::new(number, spec, owner, &self.rules);
        let id = machine.owner.as_ref().map(|owner| owner.id);
        self.named
            .entry(id)
            .or_default()
            .insert(spec.name.clone(), number);
        self.addressed.insert(machine.ip(), number);
        self.machines.entry(number).or_insert(machine)
    }

    /// Makes `owner` the owner of a machine that belongs to no platform.
    pub(super) fn hand_over(&mut self, name: &NodeName, owner: &Owner) -> Option<&mut Machine> {
        let number = self.named.get_mut(&None)?.remove(name)?;
        self.named
            .entry(Some(owner.id))
            .or_default()
            .insert(name.clone(), number);
        let machine = self.machines.get_mut(&number)?;
        machine.owner = Some(owner.clone());
        machine.created = false;
        Some(machine)
    }

    /// Releases a machine: afterwards, it belongs to no platform.
    pub(super) fn release(&mut self, name: &NodeName, owner: &Owner) {
        let names = self.named.get_mut(&Some(owner.id));
        let Some(number) = names.and_then(|names| names.remove(name)) else {
            return;
        };
        self.named
            .entry(None)
            .or_default()
            .insert(name.clone(), number);
        if let Some(machine) = self.machines.get_mut(&number) {
            machine.owner = None;
            machine.adopted = false;
            machine.open_ports = PublicPorts::default();
        }
    }

    pub(super) fn new_token(&mut self) -> String {
        self.next_operation += 1;
        format!("operation-{}", self.next_operation)
    }
}

/// A simulated world. Clones refer to the same world.
#[derive(Debug, Clone)]
pub struct SimWorld {
    state: Arc<Mutex<State>>,
    crashes: Arc<watch::Sender<u64>>,
    clock: TokioClock,
}

impl SimWorld {
    /// Creates a world with default options and this seed. Must be called in the runtime that uses
    /// the world, because the world reads that runtime's clock.
    pub fn new(seed: u64) -> Self {
        Self::with_options(SimOptions::seeded(seed))
    }

    /// Creates a world with these options.
    pub fn with_options(options: SimOptions) -> Self {
        let rules = Rules {
            chance: Chance::new(options.seed, options.pace_percent),
            latencies: options.latencies,
            rates: options.rates,
            sizes: options.sizes,
            behaviours: BTreeMap::new(),
            preloaded: BTreeMap::new(),
            pullable: BTreeMap::new(),
            private: ImageLogins::new(),
            expired: ImageLogins::new(),
            answers: Vec::new(),
            began: Instant::now(),
        };
        let state = State {
            rules,
            ledger: Ledger::default(),
            faults: FaultPlan::default(),
            code: CodeBases::default(),
            machines: BTreeMap::new(),
            named: BTreeMap::new(),
            addressed: BTreeMap::new(),
            shared: BTreeSet::new(),
            next_machine: 0,
            next_operation: 0,
            calls: 0,
            calls_by_word: BTreeMap::new(),
            incarnation: 1,
            crashed: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            crashes: Arc::new(watch::Sender::new(0)),
            clock: TokioClock::starting_at(START),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report_crash(&self, incarnation: u64) {
        self.crashes.send_replace(incarnation);
    }

    /// Returns the clock of the world, which follows `tokio::time`.
    pub fn clock(&self) -> TokioClock {
        self.clock
    }

    fn actor(&self) -> Actor {
        let incarnation = self.lock().incarnation;
        Actor::new(self.clone(), incarnation)
    }

    /// Returns the cloud account of a platform, for the current incarnation.
    pub fn cloud(&self, owner: &Owner) -> SimCloud {
        SimCloud::new(self.actor(), owner.clone())
    }

    /// Returns a connector to the nodes of a platform, for the current incarnation.
    pub fn connector(&self, owner: &Owner) -> SimConnector {
        SimConnector::new(self.actor(), owner.clone())
    }

    /// Returns a preparer for hosts of this world.
    pub fn preparer(&self) -> SimPreparer {
        SimPreparer
    }

    /// Returns a readiness probe, for the current incarnation.
    pub fn probe(&self) -> SimProbe {
        SimProbe::new(self.actor())
    }

    /// Returns the code store, for the current incarnation.
    pub fn code(&self) -> SimCodeStore {
        SimCodeStore::new(self.actor())
    }

    /// Returns all backends for a platform of this world and the current incarnation. The caller
    /// provides the registry, because the registry must outlive incarnations.
    pub fn backends(&self, owner: &Owner, registry: Arc<dyn Registry>) -> Backends {
        let (seed, incarnation) = {
            let state = self.lock();
            (state.rules.chance.seed(), state.incarnation)
        };
        Backends {
            registry,
            cloud: Arc::new(self.cloud(owner)),
            connector: Arc::new(self.connector(owner)),
            preparer: Arc::new(self.preparer()),
            probe: Arc::new(self.probe()),
            code: Arc::new(self.code()),
            clock: Arc::new(self.clock()),
            // Each incarnation creates different ids.
            ids: Arc::new(SeededIds::new(seed.wrapping_add(incarnation))),
            own_image: None,
        }
    }

    /// Returns a handle that causes faults.
    pub fn faults(&self) -> Faults {
        Faults::new(self.clone())
    }

    /// Returns the current incarnation of the acting process, starting at 1.
    pub fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    /// Restarts the acting process. Calls on existing handles never return.
    pub fn next_incarnation(&self) -> u64 {
        let mut state = self.lock();
        state.incarnation += 1;
        state.incarnation
    }

    /// Waits until the current incarnation has crashed.
    pub async fn crashed(&self) {
        let incarnation = self.incarnation();
        let mut crashes = self.crashes.subscribe();
        // Ignore the error: the sender exists as long as the world, which is borrowed here.
        let _ = crashes.wait_for(|crashed| *crashed >= incarnation).await;
    }

    /// Specifies how the containers of a service behave from their next start on, and what the
    /// images of the service declare. For the manager, the name of the service is
    /// `lifecycle-manager`.
    pub fn behave(&self, service: &str, behaviour: Behaviour) {
        self.lock()
            .rules
            .behaviours
            .insert(service.to_owned(), behaviour);
    }

    /// Adds this image to all current and future engines.
    pub fn preload_image(&self, name: &str) {
        let mut state = self.lock();
        let state = &mut *state;
        let image = state.rules.plain_image(name);
        state.rules.preloaded.insert(name.to_owned(), image.clone());
        for machine in state.machines.values_mut() {
            if machine.engine.installed {
                let images = &mut machine.engine.images;
                images.insert(name.to_owned(), image.clone());
            }
        }
    }

    /// Makes this image available for pulling.
    pub fn publish_image(&self, name: &str) {
        let mut state = self.lock();
        let image = state.rules.plain_image(name);
        state.rules.pullable.insert(name.to_owned(), image);
    }

    /// Makes a registry of images require this login.
    pub fn require_login(&self, registry: ImageRegistry, login: ImageLogin) {
        self.lock().rules.private.insert(registry, login);
    }

    /// Makes a registry of images reject this login. Images that are public can be pulled without one.
    pub fn expire_login(&self, registry: ImageRegistry, login: ImageLogin) {
        self.lock().rules.expired.insert(registry, login);
    }

    /// Sets the output of hosts for scripts that contain `text`; the default is exit code 0 without
    /// output.
    pub fn answer(&self, text: &str, output: HostOutput) {
        self.lock().rules.answers.push((text.to_owned(), output));
    }

    /// Adds a running machine that belongs to no platform, so that a platform can adopt it.
    pub fn add_machine(&self, spec: &NodeSpec) {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        let number = state.add(spec, None).number;
        if let Some(machine) = state.machines.get_mut(&number) {
            machine.created = false;
            machine.power = Power::Running;
            machine.boot = 1;
            machine.system = System::Boots(now);
        }
    }

    /// Returns a receiver for the connections that are opened to a TCP port of a node during the
    /// current boot.
    pub fn listen(
        &self,
        node: &NodeName,
        port: u16,
    ) -> Result<mpsc::UnboundedReceiver<DuplexStream>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.with_machine(node, |machine, _, _| {
            machine.listeners.insert(port, sender);
        })?;
        Ok(receiver)
    }

    /// Applies due changes, then passes a machine with this name to `read`.
    pub(super) fn with_machine<T>(
        &self,
        node: &NodeName,
        read: impl FnOnce(&mut Machine, &Rules, &mut Ledger) -> T,
    ) -> Result<T> {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        let missing = || Error::not_found(format!("node {node}"));
        for number in state.numbers_named(node) {
            state.advance(number, now);
            if let Some(machine) = state.machines.get_mut(&number) {
                let seen = read(machine, &state.rules, &mut state.ledger);
                state.check(now);
                return Ok(seen);
            }
        }
        Err(missing())
    }

    /// Returns the actual state of a node immediately, without a simulated call.
    pub fn node(&self, node: &NodeName) -> Option<ObservedNode> {
        self.with_machine(node, |machine, rules, _| machine.observed(rules))
            .ok()
    }

    /// Returns all containers on a node, of all platforms, immediately and without a simulated
    /// call.
    pub fn containers(&self, node: &NodeName) -> Vec<ObservedContainer> {
        let now = Instant::now();
        self.with_machine(node, |machine, rules, _| {
            machine.engine.all_observed(now, rules)
        })
        .unwrap_or_default()
    }

    /// Returns the latest table that the agent of a node received.
    pub fn agent_table(&self, node: &NodeName) -> Option<Table> {
        self.with_machine(node, |machine, _, _| {
            machine.engine.tables().next().cloned()
        })
        .ok()
        .flatten()
    }

    /// Sets the number of connections that are open from a node, through its agent, to a container
    /// on any node.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the node does not exist.
    pub fn open_connections(&self, node: &NodeName, container: &str, open: u64) -> Result<()> {
        self.with_machine(node, |machine, _, _| {
            machine.agent.open.insert(container.to_owned(), open);
            machine.notify();
        })
    }

    /// Returns the specification with which a container was created.
    pub fn spec_of(&self, node: &NodeName, container: &str) -> Option<ContainerSpec> {
        self.with_machine(node, |machine, _, _| {
            let found = machine.engine.containers.values();
            let mut named = found.filter(|c| c.spec.name == container);
            named.next().map(|c| c.spec.clone())
        })
        .ok()
        .flatten()
    }

    /// Returns the names of all images on a node.
    pub fn images(&self, node: &NodeName) -> BTreeSet<String> {
        self.with_machine(node, |machine, _, _| {
            machine.engine.images.keys().cloned().collect()
        })
        .unwrap_or_default()
    }

    /// Returns how often an engine was installed on a node.
    pub fn installed(&self, node: &NodeName) -> u32 {
        self.with_machine(node, |machine, _, _| machine.prepared)
            .unwrap_or_default()
    }

    /// Returns a file of a node: its mode and contents.
    pub fn file(&self, node: &NodeName, path: &str) -> Option<(u32, Bytes)> {
        self.with_machine(node, |machine, _, _| machine.files.get(path).cloned())
            .ok()
            .flatten()
    }

    /// Returns the paths of all files that were written to a node.
    pub fn files(&self, node: &NodeName) -> Vec<String> {
        self.with_machine(node, |machine, _, _| {
            machine.files.keys().cloned().collect()
        })
        .unwrap_or_default()
    }

    /// Writes a file on a node, as a program on the node would.
    pub fn write_file(&self, node: &NodeName, path: &str, contents: &str) {
        let file = (0o600, Bytes::from(contents.to_owned()));
        // A deleted node has no programs, so nothing is written.
        self.with_machine(node, |machine, _, _| {
            machine.files.insert(path.to_owned(), file);
        })
        .ok();
    }

    /// Returns whether something currently answers at an address.
    pub fn answers(&self, ip: IpAddr, port: u16) -> bool {
        let now = Instant::now();
        self.lock().at_address(ip, now).is_some_and(|machine| {
            machine.is_reachable() && machine.engine.answers(port, Protocol::Tcp, now)
        })
    }

    /// Returns the number of calls, by the first word of their title, for example `state`.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.lock().calls_by_word.clone()
    }

    /// Returns all effects, in order.
    pub fn effects(&self) -> Vec<EffectRecord> {
        self.lock().ledger.effects.clone()
    }

    /// Returns all effects as text. The same seed and the same calls always produce the same text.
    pub fn transcript(&self) -> String {
        let state = self.lock();
        let lines = state.ledger.effects.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Returns all violations of invariants.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().ledger.violations.clone()
    }

    /// Returns descriptions of everything that remains of a platform; empty after its removal.
    pub fn leftovers(&self, owner: &Owner) -> Vec<String> {
        let now = Instant::now();
        let mut state = self.lock();
        let numbers: Vec<u64> = state.machines.keys().copied().collect();
        let mut left = Vec::new();
        for number in numbers {
            state.advance(number, now);
            if let Some(machine) = state.machines.get(&number) {
                if machine.owner.as_ref().is_some_and(|of| of.id == owner.id) {
                    left.push(format!("node {}", machine.name));
                    if !machine.open_ports.is_empty() {
                        left.push(format!("open ports of {}", machine.name));
                    }
                }
                let on_engine = machine.engine.leftovers(owner.id);
                let words = on_engine
                    .into_iter()
                    .map(|what| format!("{what} on {}", machine.name));
                left.extend(words);
            }
        }
        if state.shared.contains(&owner.id) {
            left.push("network".into());
        }
        left
    }
}

impl Rules {
    /// Returns an image without exposed ports, health check or command.
    pub(super) fn plain_image(&self, name: &str) -> Image {
        Image {
            id: format!("sha256:{}", self.chance.hex(&["image", name], 0)),
            ..Image::of_program(name)
        }
    }
}
