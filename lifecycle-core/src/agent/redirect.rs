//! Forwards new connections to published ports of the node, while the container engine does not.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use tokio_util::task::AbortOnDropHandle;

use super::nftables::Rules;
use super::socket;
use crate::clock::{IdSource as _, RandomIds};
use crate::model::ServiceName;
use crate::network::Table;

/// A service and the container port to which connections are forwarded.
pub(super) type Destination = (ServiceName, u16);

/// The redirected ports of the node.
#[derive(Debug, Default)]
pub(super) struct Redirects {
    rules: Option<Rules>,
    /// The listener for each destination. It stays open when the port is no longer redirected,
    /// because connections may still be in its queue.
    listeners: BTreeMap<Destination, Listener>,
    /// The ports in the kernel's rules.
    active: BTreeMap<u16, Destination>,
}

#[derive(Debug)]
struct Listener {
    port: u16,
    _task: AbortOnDropHandle<()>,
}

impl Redirects {
    /// Checks that ports can be redirected.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        self.rules = Some(rules()?);
        Ok(())
    }

    /// Stops redirecting the ports that `table` does not redirect, so that the engine serves them.
    pub(super) fn withdraw(&mut self, table: &Table) -> io::Result<()> {
        self.listeners
            .retain(|(service, _), _| table.services.contains_key(service));
        let required = required(table);
        let mut left = self.active.clone();
        left.retain(|port, destination| required.get(port) == Some(destination));
        self.activate(left)
    }

    /// Redirects the ports that `table` redirects. `serve` starts to forward the connections of a
    /// listener.
    pub(super) fn redirect(
        &mut self,
        table: &Table,
        serve: impl Fn(TcpListener, &Destination) -> Option<AbortOnDropHandle<()>>,
    ) -> io::Result<()> {
        let required = required(table);
        for destination in required.values() {
            if self.listeners.contains_key(destination) {
                continue;
            }
            let listener = listen()?;
            let port = listener.local_addr()?.port();
            if let Some(task) = serve(listener, destination) {
                let listener = Listener { port, _task: task };
                self.listeners.insert(destination.clone(), listener);
            }
        }
        self.activate(required)
    }

    /// Stops redirecting all ports, because the next agent redirects them. The listeners remain for
    /// the connections in their queues.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.activate(BTreeMap::new())
    }

    /// Returns whether no connection can arrive at a listener.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    fn activate(&mut self, ports: BTreeMap<u16, Destination>) -> io::Result<()> {
        if ports == self.active {
            return Ok(());
        }
        let listening = ports.iter().filter_map(|(port, destination)| {
            let listener = self.listeners.get(destination)?;
            Some((*port, listener.port))
        });
        let listening: BTreeMap<u16, u16> = listening.collect();
        let rules = match self.rules.take() {
            Some(rules) => rules,
            None => rules()?,
        };
        let set = rules.set(&listening);
        self.rules = Some(rules);
        set?;
        self.active = ports;
        Ok(())
    }
}

/// Creates an empty set of rules. Its name is unique, because the rules of the previous agent may still
/// exist.
fn rules() -> io::Result<Rules> {
    Rules::new(format!("lifecycle-{}", RandomIds.uuid().simple()))
}

fn required(table: &Table) -> BTreeMap<u16, Destination> {
    let redirects = table.redirects.iter();
    redirects
        .map(|redirect| {
            let destination = (redirect.service.clone(), redirect.container_port);
            (redirect.port, destination)
        })
        .collect()
}

/// Listens on a free port at all addresses of the node.
fn listen() -> io::Result<TcpListener> {
    socket::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| socket::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}
