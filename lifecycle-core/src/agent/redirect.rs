//! Forwards new connections to published ports of the node, while the container engine does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use tokio_util::task::AbortOnDropHandle;

use super::nftables::{Redirect, Rules};
use super::socket;
use crate::clock::{IdSource as _, RandomIds};
use crate::model::ServiceName;
use crate::network::Table;

/// A published port, and the service and container port to which its connections are forwarded.
pub(super) type Forwarded = (u16, ServiceName, u16);

/// The redirected ports of the node.
#[derive(Debug, Default)]
pub(super) struct Redirects {
    rules: Option<Rules>,
    /// A listener stays open when its port is no longer redirected, because connections may still be
    /// in its queue.
    listeners: BTreeMap<Forwarded, Listener>,
    /// The redirects in the kernel's rules.
    active: Vec<Redirect>,
}

#[derive(Debug)]
struct Listener {
    port: u16,
    takes_new: bool,
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
            .retain(|(_, service, _), _| table.services.contains_key(service));
        let required = required(table);
        for (forwarded, listener) in &mut self.listeners {
            listener.takes_new &= required.contains(forwarded);
        }
        self.activate()
    }

    /// Redirects the ports that `table` redirects. `serve` starts to forward the connections of a
    /// listener.
    pub(super) fn redirect(
        &mut self,
        table: &Table,
        serve: impl Fn(TcpListener, &Forwarded) -> Option<AbortOnDropHandle<()>>,
    ) -> io::Result<()> {
        let required = required(table);
        for forwarded in &required {
            if self.listeners.contains_key(forwarded) {
                continue;
            }
            let listener = listen()?;
            let port = listener.local_addr()?.port();
            if let Some(task) = serve(listener, forwarded) {
                let listener = Listener {
                    port,
                    takes_new: true,
                    _task: task,
                };
                self.listeners.insert(forwarded.clone(), listener);
            }
        }
        for (forwarded, listener) in &mut self.listeners {
            listener.takes_new = required.contains(forwarded);
        }
        self.activate()
    }

    /// Stops redirecting all ports, because the next agent redirects them. The listeners remain for
    /// the connections in their queues.
    pub(super) fn end(&mut self) -> io::Result<()> {
        for listener in self.listeners.values_mut() {
            listener.takes_new = false;
        }
        self.activate()
    }

    /// Returns whether no connection can arrive at a listener.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    fn activate(&mut self) -> io::Result<()> {
        let listeners = self.listeners.iter();
        let redirects: Vec<Redirect> = listeners
            .map(|((port, ..), listener)| Redirect {
                port: *port,
                listener: listener.port,
                takes_new: listener.takes_new,
            })
            .collect();
        if redirects == self.active {
            return Ok(());
        }
        let rules = match &mut self.rules {
            Some(rules) => rules,
            missing => missing.insert(rules()?),
        };
        rules.set(&redirects)?;
        self.active = redirects;
        Ok(())
    }
}

/// Creates an empty set of rules. Its name is unique, because the rules of the previous agent may still
/// exist.
fn rules() -> io::Result<Rules> {
    Rules::new(format!("lifecycle-{}", RandomIds.uuid().simple()))
}

fn required(table: &Table) -> BTreeSet<Forwarded> {
    let redirects = table.redirects.iter();
    redirects
        .map(|redirect| {
            let service = redirect.service.clone();
            (redirect.port, service, redirect.container_port)
        })
        .collect()
}

/// Listens on a free port at all addresses of the node.
fn listen() -> io::Result<TcpListener> {
    socket::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| socket::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}
