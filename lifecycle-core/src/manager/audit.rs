//! Records who requested each change. The record is an event in the same transaction as the change.

use std::fmt;
use std::net::IpAddr;

use serde_json::json;

use super::{Caller, Manager};
use crate::model::{EventKind, NewEvent, Subject};

tokio::task_local! {
    static ACTOR: Actor;
}

/// The sender of a request for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The program that embeds the manager.
    Program,
    /// The holder of a token.
    Token {
        caller: Caller,
        /// The address that the request came from, if it came over a network. Requests through an SSH
        /// connection to the manager's node come from that node.
        peer: Option<IpAddr>,
    },
}

impl Actor {
    /// Runs `work` on behalf of this actor: the changes that `work` requests from a [`Manager`] are
    /// recorded with this actor. Without this call, the actor is [`Actor::Program`]. Does not apply to
    /// tasks that `work` spawns.
    pub async fn perform<F: Future>(self, work: F) -> F::Output {
        ACTOR.scope(self, work).await
    }

    pub(super) fn current() -> Self {
        ACTOR.try_with(Self::clone).unwrap_or(Self::Program)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program => f.write_str("the program that runs the manager"),
            Self::Token { caller, peer } => {
                write!(f, "token {} ({})", caller.name, caller.token)?;
                match peer {
                    Some(peer) => write!(f, " from {peer}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The request that deletes the platform.
pub(super) const DELETE: &str = "delete-platform";

/// Returns whether an event reports that the deletion of the platform was requested.
pub(crate) fn is_deletion(event: &NewEvent) -> bool {
    let request = event.data["request"].as_str();
    event.kind == EventKind::Audit && request.is_some_and(|request| request.starts_with(DELETE))
}

impl Manager {
    /// Returns the event about a requested change. `request` is its name in the API's
    /// documentation.
    pub(super) fn audit(&self, request: &str, subject: Subject) -> NewEvent {
        let actor = Actor::current();
        let data = match &actor {
            Actor::Program => json!({ "request": request }),
            Actor::Token { caller, peer } => json!({
                "request": request,
                "token": caller.token,
                "name": caller.name,
                "peer": peer,
            }),
        };
        let message = match &subject {
            Subject::Platform => format!("{actor}: {request}"),
            subject => format!("{actor}: {request}, {subject}"),
        };
        NewEvent {
            at: self.backends.clock.now(),
            kind: EventKind::Audit,
            subject,
            message,
            data,
        }
    }
}
