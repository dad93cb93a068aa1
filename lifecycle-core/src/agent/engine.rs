//! Applies tables incrementally: unchanged services are not touched, and open connections of
//! changed or removed services are kept.

mod handover;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::control::Command;
use super::dns::{Answerer, Forwarder, Sockets, Zone};
use super::handover::Inherited;
use super::metrics::View;
use super::namespace::Addresses;
use super::previous::Previous;
use super::redirect::Redirects;
use super::report::Reporter;
use super::resolvers::{ResolvConf, for_containers, write_in_place};
use super::service::{Backend, Service, Targets};
use super::store::{CHECK_EVERY, Lock, Store};
use super::tcp::{self, Forwarding};
use super::udp::{self, Bounds};
use super::workers::Workers;
use super::{AgentOptions, RESOLV_CONF, socket};
use crate::error::Result;
use crate::model::{InstanceId, Protocol, ServiceName};
use crate::network::{Block, ReportKind, Table};
use handover::Listening;

/// The interval between retries, for example while an address is still in use.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Identifies a listener by its service, address, port, and protocol.
type ListenerKey = (ServiceName, Ipv4Addr, u16, Protocol);

/// Holds the active table, and the listeners and tasks that serve it.
#[derive(Debug)]
pub(super) struct Engine {
    options: Arc<AgentOptions>,
    store: Store,
    addresses: Addresses,
    reporter: Arc<Reporter>,
    resolvers: watch::Receiver<Arc<ResolvConf>>,
    forwarding: Arc<Forwarding>,
    answerer: Arc<Answerer>,
    zone: watch::Sender<Arc<Zone>>,
    view: watch::Sender<Arc<View>>,
    table: Option<Table>,
    /// The table from disk, until it has been applied.
    last: Option<Table>,
    services: BTreeMap<ServiceName, Arc<Service>>,
    backends: HashMap<(InstanceId, String), Weak<Backend>>,
    listening: BTreeMap<ListenerKey, Listening>,
    /// The listeners that are missing because their address is in use.
    missing: BTreeSet<ListenerKey>,
    redirects: Redirects,
    dns: Option<Dns>,
    /// The sockets of the previous agent that are not used yet.
    inherited: Inherited,
    /// Cancelled when the next agent accepts the connections.
    closing: CancellationToken,
    previous: Option<Previous>,
}

/// The DNS server on the first address of a block, and further descriptors of its sockets.
#[derive(Debug)]
struct Dns {
    block: Block,
    server: AbortOnDropHandle<()>,
    sockets: Vec<OwnedFd>,
}

impl Engine {
    /// Creates an engine and applies the table from disk.
    pub(super) async fn start(
        options: Arc<AgentOptions>,
        store: Store,
        addresses: Addresses,
        workers: Workers,
        reporter: Arc<Reporter>,
        resolvers: watch::Receiver<Arc<ResolvConf>>,
        inherited: Inherited,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let zone = watch::Sender::default();
        let forwarder = Forwarder {
            resolvers: resolvers.clone(),
            port: options.resolvers_port,
        };
        let forwarding = Forwarding {
            workers,
            reporter: Arc::clone(&reporter),
            room: Arc::new(Semaphore::new(socket::most_connections() as usize)),
            connect_within: options.connect_within,
            vanished_after: options.vanished_after,
        };
        let (view, seen) = watch::channel(Arc::default());
        let mut engine = Self {
            last: store.load(),
            answerer: Arc::new(Answerer::new(zone.subscribe(), forwarder)),
            forwarding: Arc::new(forwarding),
            options,
            store,
            addresses,
            reporter,
            resolvers,
            zone,
            view,
            table: None,
            services: BTreeMap::new(),
            backends: HashMap::new(),
            listening: BTreeMap::new(),
            missing: BTreeSet::new(),
            redirects: Redirects::default(),
            dns: None,
            inherited,
            closing: CancellationToken::new(),
            previous: None,
        };
        if engine.options.route
            && let Err(error) = engine.redirects.prepare()
        {
            tracing::error!(%error, "cannot redirect published ports");
            engine.reporter.cannot_redirect(error.to_string());
        }
        engine.resume().await;
        engine.inherited.clear();
        (engine, seen)
    }

    /// Returns whether the table from disk, if there is one, has been applied.
    pub(super) fn has_resumed(&self) -> bool {
        self.last.is_none()
    }

    /// Serves until another agent has taken over. Returns the connection to that agent.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut next: mpsc::Receiver<UnixStream>,
        lock: &Lock,
    ) -> (Self, UnixStream) {
        let mut again = interval(TRY_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(command) = commands.recv() => {
                    let kind = self.take(command.line).await;
                    // Ignore the error: the feeder has disconnected.
                    drop(command.answer.send(self.reporter.report(kind)));
                }
                Some(mut stream) = next.recv() => match self.hand_over(&mut stream, lock).await {
                    Ok(()) => return (self, stream),
                    Err(error) => tracing::warn!(%error, "another agent did not take over"),
                },
                () = Previous::ended(self.previous.as_ref()) => self.previous = None,
                Ok(()) = self.resolvers.changed() => self.write_resolv_conf(),
                // Another process may have changed the file.
                _ = check.tick() => self.write_resolv_conf(),
                _ = again.tick() => {
                    self.resume().await;
                    self.listen_to_missing();
                    if let Some(table) = self.table.take() {
                        self.redirect(&table, Ok(()));
                        self.table = Some(table);
                    }
                    self.answer_dns().await;
                }
            }
        }
    }

    /// Applies the table from disk, unless it has been applied or replaced by a newer table.
    async fn resume(&mut self) {
        let Some(last) = self.last.take() else {
            return;
        };
        if let Err(error) = self.apply(last.clone(), false).await {
            tracing::error!(error = %error.chain(), "cannot apply the stored table");
            self.last = Some(last);
        }
    }

    async fn take(&mut self, line: Bytes) -> ReportKind {
        let text = line.clone();
        let parsed = tokio::task::spawn_blocking(move || {
            let table: Table = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            match invalid(&table) {
                Some(why) => Err(why),
                None => Ok(table),
            }
        });
        let refused = |why: String| ReportKind::Refused { why };
        let table = match parsed.await {
            Ok(Ok(table)) => table,
            Ok(Err(why)) => return refused(format!("the line is not a valid table: {why}")),
            Err(error) => return refused(error.to_string()),
        };
        // If no table is active yet, compare with the table from disk.
        if let Some(ours) = self.table.as_ref().or(self.last.as_ref()) {
            let (offered, current) = ((table.epoch, table.version), (ours.epoch, ours.version));
            if offered < current {
                return refused(format!(
                    "the table (epoch {}, version {}) is older than the active table (epoch {}, \
                     version {})",
                    offered.0, offered.1, current.0, current.1
                ));
            }
            if offered == current && self.table.is_some() {
                return ReportKind::Accepted;
            }
        }
        // First, so that the first reports about the table contain the previous agent's connections.
        self.pass_on(&line).await;
        match self.apply(table, true).await {
            Ok(()) => ReportKind::Accepted,
            Err(error) => {
                tracing::error!(error = %error.chain(), "cannot apply a table");
                refused(error.chain())
            }
        }
    }

    /// Applies a table. Sets the route and saves the table first: if either fails, nothing else has
    /// changed.
    async fn apply(&mut self, table: Table, new: bool) -> Result<()> {
        self.addresses.route_here(table.block).await?;
        if new {
            self.store.save(&table).await?;
        }
        self.last = None;
        // The engine serves these ports again, so this must not wait for anything else.
        let withdrawn = self.redirects.withdraw(&table);
        self.set_targets(&table);
        self.stop_listening(&table).await;
        self.missing = listeners(&table)
            .filter(|place| !self.listening.contains_key(place))
            .collect();
        self.listen_to_missing();
        self.redirect(&table, withdrawn);
        // Publish names only after listening on their addresses.
        self.zone.send_replace(Arc::new(Zone::new(&table)));
        self.view.send_replace(Arc::new(View {
            epoch: table.epoch.0,
            version: table.version,
            services: self.services.values().map(Arc::clone).collect(),
        }));
        tracing::info!(
            epoch = %table.epoch, version = table.version, services = table.services.len(),
            "a table is active"
        );
        self.table = Some(table);
        self.answer_dns().await;
        self.write_resolv_conf();
        Ok(())
    }

    fn set_targets(&mut self, table: &Table) {
        self.services
            .retain(|name, _| table.services.contains_key(name));
        self.backends
            .retain(|_, backend| backend.strong_count() > 0);
        let mut gone: HashMap<_, _> = self.backends.clone();
        let mut draining = Vec::new();
        for (name, entry) in &table.services {
            let mut targets = Targets::new(table.wait);
            for listed in &entry.backends {
                let key = (listed.instance.clone(), listed.container.clone());
                gone.remove(&key);
                let known = self.backends.get(&key).and_then(Weak::upgrade);
                // The node responds again.
                let known = known.filter(|backend| !backend.is_lost());
                let backend = known.unwrap_or_else(|| {
                    let changed = Arc::clone(&self.reporter.wake);
                    let new = Backend::new(key.0.clone(), key.1.clone(), changed);
                    let new = Arc::new(new);
                    self.backends.insert(key, Arc::downgrade(&new));
                    new
                });
                backend.ready.store(!listed.draining, Ordering::Relaxed);
                backend.draining.store(listed.draining, Ordering::Relaxed);
                if listed.draining {
                    draining.push(backend);
                    continue;
                }
                for (port, address) in &listed.endpoints {
                    targets.add(*port, &backend, *address);
                }
            }
            let service = self
                .services
                .entry(name.clone())
                .or_insert_with(|| Arc::new(Service::new(name.clone(), self.options.waiting)));
            service.targets.send_replace(Arc::new(targets));
        }
        // Backends that are no longer in the table get no new connections. Open connections may
        // finish, unless the backend's node does not respond.
        for backend in gone.values().filter_map(Weak::upgrade) {
            backend.ready.store(false, Ordering::Relaxed);
            backend.draining.store(false, Ordering::Relaxed);
            if table.lost.contains_key(&backend.container) {
                backend.lose();
            }
        }
        self.reporter.in_force(table.epoch, table.version, draining);
    }

    /// Stops listening on addresses that are not in the table, and waits until they are free.
    async fn stop_listening(&mut self, table: &Table) {
        let required: BTreeSet<ListenerKey> = listeners(table).collect();
        let obsolete = self
            .listening
            .extract_if(.., |place, _| !required.contains(place));
        let stopped: Vec<_> = obsolete.map(|(_, listening)| listening.task).collect();
        stop(stopped).await;
        let listeners = required
            .iter()
            .map(|(_, address, port, protocol)| (SocketAddr::from((*address, *port)), *protocol));
        let dns = SocketAddr::from((table.block.agent(), self.options.dns_port));
        let redirected = table.redirects.iter();
        let redirected = redirected.map(|redirect| (of_node(redirect.port), Protocol::Tcp));
        let others = redirected.chain([(dns, Protocol::Udp)]);
        self.reporter.keep_only(&listeners.chain(others).collect());
    }

    fn listen_to_missing(&mut self) {
        for place in std::mem::take(&mut self.missing) {
            let Some(service) = self.services.get(&place.0) else {
                continue;
            };
            let (name, address, port, protocol) = &place;
            let at = SocketAddr::from((*address, *port));
            match self.listen(service, at, *protocol) {
                Ok(listener) => {
                    self.reporter.listens(at, *protocol);
                    self.listening.insert(place, listener);
                }
                Err(error) => {
                    let is_new = self
                        .reporter
                        .cannot_listen(Some(name), at, *protocol, &error);
                    if is_new {
                        tracing::error!(%error, service = %name, %at, %protocol,
                            "cannot listen; retrying");
                    }
                    self.missing.insert(place);
                }
            }
        }
    }

    /// Redirects the published ports in the table. Reports a failure, also that of the withdrawal
    /// `before`.
    fn redirect(&mut self, table: &Table, before: io::Result<()>) {
        let (services, forwarding) = (&self.services, &self.forwarding);
        let redirected = self.redirects.redirect(table, |listener, (_, name, port)| {
            let service = Arc::clone(services.get(name)?);
            let task_forwarding = Arc::clone(forwarding);
            // The next agent has listeners of its own.
            let accept = tcp::accept(
                listener,
                service,
                *port,
                task_forwarding,
                CancellationToken::new(),
            );
            let task = forwarding.workers.spawn_in_turn(accept);
            Some(AbortOnDropHandle::new(task))
        });
        let done = before.and(redirected);
        if let (Err(error), true) = (&done, table.redirects.is_empty()) {
            tracing::error!(%error, "cannot stop redirecting published ports; retrying");
        }
        for redirect in &table.redirects {
            let (service, at) = (&redirect.service, of_node(redirect.port));
            match &done {
                Ok(()) => self.reporter.listens(at, Protocol::Tcp),
                Err(error) => {
                    let service = Some(service);
                    let is_new = self
                        .reporter
                        .cannot_listen(service, at, Protocol::Tcp, error);
                    if is_new {
                        tracing::error!(%error, service = %redirect.service, %at,
                            "cannot redirect a published port; retrying");
                    }
                }
            }
        }
    }

    fn listen(
        &self,
        service: &Arc<Service>,
        at: SocketAddr,
        protocol: Protocol,
    ) -> io::Result<Listening> {
        let port = at.port();
        let service = Arc::clone(service);
        let workers = &self.forwarding.workers;
        let (socket, task): (OwnedFd, _) = match protocol {
            Protocol::Tcp => {
                let listener = match self.inherited.listener(at) {
                    Some(listener) => listener,
                    None => self.addresses.make(move || socket::listen(at))?,
                };
                let forwarding = Arc::clone(&self.forwarding);
                let second = listener.try_clone()?.into();
                // Each listener has its own token, so that the threads do not share its lock.
                let closing = self.closing.child_token();
                let accept = tcp::accept(listener, service, port, forwarding, closing);
                (second, workers.spawn_in_turn(accept))
            }
            Protocol::Udp => {
                let socket = match self.inherited.datagrams(at) {
                    Some(socket) => socket,
                    None => self.addresses.make(move || socket::datagrams(at))?,
                };
                let bounds = Bounds {
                    sessions: self.options.udp_sessions,
                    idle: self.options.udp_idle,
                    room: Arc::clone(&self.forwarding.room),
                    closing: self.closing.child_token(),
                };
                let second = socket.try_clone()?.into();
                let serve = udp::serve(socket, service, port, bounds);
                (second, workers.spawn_in_turn(serve))
            }
        };
        Ok(Listening { task, socket })
    }
}

impl Engine {
    /// Answers DNS on the first address of the table's block.
    async fn answer_dns(&mut self) {
        let Some(block) = self.table.as_ref().map(|table| table.block) else {
            return;
        };
        match self.dns.take() {
            Some(dns) if dns.block == block && !dns.server.is_finished() => {
                self.dns = Some(dns);
                return;
            }
            Some(dns) => {
                drop(dns.sockets);
                stop([dns.server.detach()]).await;
            }
            None => {}
        }
        let at = SocketAddr::from((block.agent(), self.options.dns_port));
        let inherited = self
            .inherited
            .datagrams(at)
            .zip(self.inherited.listener(at));
        let sockets = match inherited {
            Some((datagrams, streams)) => Ok(Sockets { datagrams, streams }),
            None => self.addresses.make(move || Sockets::bind(at)),
        };
        match sockets.and_then(|sockets| Ok((sockets.descriptors()?, sockets))) {
            Ok((descriptors, sockets)) => {
                let closing = self.closing.child_token();
                let server = tokio::spawn(Arc::clone(&self.answerer).serve(sockets, closing));
                self.dns = Some(Dns {
                    block,
                    server: AbortOnDropHandle::new(server),
                    sockets: descriptors,
                });
                self.reporter.listens(at, Protocol::Udp);
            }
            Err(error) => {
                let is_new = self.reporter.cannot_listen(None, at, Protocol::Udp, &error);
                if is_new {
                    tracing::error!(%error, %at, "cannot serve DNS; retrying");
                }
            }
        }
    }

    fn write_resolv_conf(&mut self) {
        let node = Arc::clone(&self.resolvers.borrow_and_update());
        let Some(table) = &self.table else {
            return;
        };
        let path = self.store.path(RESOLV_CONF);
        if let Err(error) = write_in_place(&path, &for_containers(table, &node)) {
            tracing::error!(%error, path = %path.display(), "cannot write the containers' \
                resolv.conf");
        }
    }
}

/// Returns a port at all addresses of the node.
fn of_node(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

/// Returns the listeners that a table requires.
fn listeners(table: &Table) -> impl Iterator<Item = ListenerKey> {
    table.services.iter().flat_map(|(name, entry)| {
        let ports = entry.ports.iter();
        ports.map(|(port, protocol)| (name.clone(), entry.address, *port, *protocol))
    })
}

/// Aborts tasks and waits until their resources are free.
async fn stop(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    let tasks: Vec<_> = tasks.into_iter().collect();
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        // Ignore the error: the task was aborted on purpose.
        drop(task.await);
    }
}

/// Returns the reason why a table is invalid, if there is one.
fn invalid(table: &Table) -> Option<String> {
    let block = table.block;
    let mut ports = BTreeSet::new();
    for redirect in &table.redirects {
        let (port, service) = (redirect.port, &redirect.service);
        if port == 0 || redirect.container_port == 0 || !ports.insert(port) {
            return Some(format!("port {port} is invalid or is redirected twice"));
        }
        if !table.services.contains_key(service) {
            return Some(format!(
                "port {port} is redirected to {service}, which is not in the table"
            ));
        }
    }
    let mut taken = HashMap::new();
    for (name, entry) in &table.services {
        let address = entry.address;
        if !block.contains(address) || address == block.agent() {
            return Some(format!(
                "the address {address} of service {name} is outside {block} or is the agent's own"
            ));
        }
        if let Some(other) = taken.insert(address, name) {
            return Some(format!(
                "services {name} and {other} have the same address {address}"
            ));
        }
        if entry.ports.iter().any(|(port, _)| *port == 0) {
            return Some(format!("service {name} has port 0"));
        }
        for backend in &entry.backends {
            for at in backend.endpoints.values() {
                if let SocketAddr::V4(at) = at
                    && block.contains(*at.ip())
                {
                    return Some(format!(
                        "the endpoint {at} of {} is a service address, not the address of a node",
                        backend.instance
                    ));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(services: &serde_json::Value) -> Table {
        serde_json::from_value(json!({
            "epoch": 1, "version": 1, "platform": "demo", "block": "127.80.0.0/16", "wait": 1,
            "services": services,
        }))
        .unwrap()
    }

    #[test]
    fn rejects_tables_with_loops_or_duplicates() {
        let entry =
            |address: &str| json!({ "address": address, "ports": [[80, "tcp"]], "backends": [] });
        assert_eq!(
            invalid(&table(
                &json!({ "a": entry("127.80.0.2"), "b": entry("127.80.0.3") })
            )),
            None
        );
        let at = |at: &str| {
            json!({ "a": { "address": "127.80.0.2", "ports": [], "backends": [
            { "instance": "a-1", "container": "a-1", "endpoints": [[80, "tcp", at]] } ] } })
        };
        assert_eq!(invalid(&table(&at("10.0.0.4:20000"))), None);
        for endpoint in [
            json!({ "a": entry("127.81.0.2") }),
            json!({ "a": entry("127.80.0.1") }),
            json!({ "a": entry("127.80.0.2"), "b": entry("127.80.0.2") }),
            json!({ "a": { "address": "127.80.0.2", "ports": [[0, "tcp"]], "backends": [] } }),
            at("127.80.0.9:80"),
        ] {
            assert!(invalid(&table(&endpoint)).is_some(), "{endpoint}");
        }
    }
}
