//! Limits how many streams each token has open: log streams, event streams, and commands in
//! containers. A stream lasts as long as its client, and occupies a connection to an engine or
//! repeated queries of the registry.

use std::sync::Arc;

use lifecycle_core::Error;
use lifecycle_core::manager::Access;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// The number of open streams per token. `docs/api.md` lists the defaults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLimits {
    pub(crate) logs: usize,
    pub(crate) events: usize,
    pub(crate) commands: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            // `bootstrapper logs` opens one stream for each service.
            logs: 256,
            events: 128,
            commands: 64,
        }
    }
}

/// The open streams of all tokens.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) logs: Limited,
    pub(crate) events: Limited,
    pub(crate) commands: Limited,
}

impl Streams {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self {
            logs: Limited::new("log streams", limits.logs),
            events: Limited::new("event streams", limits.events),
            commands: Limited::new("commands in containers", limits.commands),
        }
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new(StreamLimits::default())
    }
}

/// The open streams of one kind.
#[derive(Debug)]
pub(crate) struct Limited {
    kind: &'static str,
    limit: usize,
    admin: Arc<Semaphore>,
    read: Arc<Semaphore>,
}

impl Limited {
    fn new(kind: &'static str, limit: usize) -> Self {
        let places = || Arc::new(Semaphore::new(limit));
        Self {
            kind,
            limit,
            admin: places(),
            read: places(),
        }
    }

    /// Returns a place for a stream of the token with this access. The place must be kept as long as
    /// the stream is open.
    pub(crate) fn open(&self, access: Access) -> Result<OwnedSemaphorePermit, Problem> {
        let (places, token) = match access {
            Access::Admin => (&self.admin, "admin"),
            Access::Read => (&self.read, "read"),
        };
        Arc::clone(places).try_acquire_owned().map_err(|_| {
            Problem::too_many(Error::exhausted(
                format!("too many {} of the {token} token", self.kind),
                format!("{} are open, and more are not allowed", self.limit),
                "end some of them, or wait until they have ended, then repeat the request",
            ))
        })
    }
}
