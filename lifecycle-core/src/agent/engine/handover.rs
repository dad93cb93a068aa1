//! Hands the sockets over to the next agent, and finishes the connections that were accepted before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Engine;
use crate::agent::control::Command;
use crate::agent::handover::Offer;
use crate::agent::previous::Previous;
use crate::agent::socket;
use crate::agent::store::Lock;
use crate::network::ReportKind;

/// How long after the handover redirected connections may still arrive. The kernel repeats a lost
/// handshake within this time.
const REDIRECTED_WITHIN: Duration = Duration::from_secs(3);

/// A task that serves a socket, and a second descriptor of the socket for the next agent.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) task: JoinHandle<()>,
    pub(super) socket: OwnedFd,
}

impl Engine {
    /// Passes the sockets to the next agent, and stops accepting once that agent serves. Otherwise,
    /// nothing changes.
    pub(super) async fn hand_over(
        &mut self,
        stream: &mut UnixStream,
        lock: &Lock,
    ) -> io::Result<()> {
        let is_current = |name| self.store.is_current(name);
        if self.options.name.as_deref().is_some_and(is_current) {
            return Err(io::Error::other(
                "the manager has not declared another agent",
            ));
        }
        let listeners = self.listening.values().map(|one| one.socket.as_fd());
        let dns = self.dns.iter().flat_map(|dns| &dns.sockets);
        let offer = Offer {
            lock: lock.as_fd(),
            namespace: self.addresses.namespace(),
            sockets: listeners.chain(dns.map(AsFd::as_fd)).collect(),
        };
        offer.send(stream).await?;
        self.closing.cancel();
        if let Err(error) = self.redirects.end() {
            tracing::warn!(%error, "cannot stop redirecting published ports");
        }
        Ok(())
    }

    /// Follows the tables of the next agent until all connections have ended, also those of the
    /// previous agent.
    pub(in crate::agent) async fn finish(mut self, mut commands: mpsc::Receiver<Command>) {
        let listeners = std::mem::take(&mut self.listening).into_values();
        let mut tasks: Vec<_> = listeners.map(|listening| listening.task).collect();
        tasks.extend(self.dns.take().map(|dns| dns.server.detach()));
        let redirects = std::mem::take(&mut self.redirects);
        let room = std::sync::Arc::clone(&self.forwarding.room);
        let ended = async move {
            for task in tasks {
                // Ignore the error: a task that panicked has no connections.
                drop(task.await);
            }
            // Connections that were redirected before the next agent did so may still arrive.
            if !redirects.is_empty() {
                sleep(REDIRECTED_WITHIN).await;
            }
            // Each open connection has a permit.
            drop(room.acquire_many(socket::most_connections()).await);
            // The rules are necessary until the last redirected connection has ended.
            drop(redirects);
        };
        tokio::pin!(ended);
        let mut has_ended = false;
        while !has_ended || self.previous.is_some() {
            tokio::select! {
                Some(command) = commands.recv() => {
                    let kind = self.follow(command.line).await;
                    // Ignore the error: the next agent has disconnected.
                    drop(command.answer.send(self.reporter.report(kind)));
                }
                () = &mut ended, if !has_ended => has_ended = true,
                () = Previous::ended(self.previous.as_ref()) => self.previous = None,
            }
        }
    }

    /// Directs waiting connections to the endpoints of the next agent's table.
    async fn follow(&mut self, line: Bytes) -> ReportKind {
        match serde_json::from_slice(&line) {
            Ok(table) => {
                self.pass_on(&line).await;
                self.set_targets(&table);
                ReportKind::Accepted
            }
            Err(error) => ReportKind::Refused {
                why: error.to_string(),
            },
        }
    }

    /// Starts to send tables to the previous agent.
    pub(in crate::agent) async fn succeed(&mut self, stream: UnixStream) {
        self.previous = Some(Previous::new(stream, &self.reporter));
        let table = self.table.as_ref().map(serde_json::to_vec);
        if let Some(Ok(table)) = table {
            self.pass_on(&table.into()).await;
        }
    }

    /// Sends a table to the previous agent. If that agent does not accept it, its connections are no
    /// longer counted.
    pub(super) async fn pass_on(&mut self, table: &Bytes) {
        let Some(previous) = &mut self.previous else {
            return;
        };
        if let Err(error) = previous.follow(table).await {
            tracing::warn!(%error, "the previous agent did not accept a table");
            self.previous = None;
        }
    }
}
