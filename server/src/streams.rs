//! Limits how many streams each token has open: log streams, event streams, endpoint streams, and commands
//! in containers. A stream lasts as long as its client, and occupies a connection to an engine or
//! repeated queries of the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::manager::Caller;
use lifecycle_core::model::{TokenId, TokenRole};

use crate::problem::Problem;

/// If this many times the limit for one token are open in total, only admins may open more.
const IN_TOTAL: usize = 4;

/// The number of open streams per token, and how far they may fall behind. `docs/api.md` lists the defaults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLimits {
    pub(crate) logs: usize,
    pub(crate) events: usize,
    pub(crate) endpoints: usize,
    pub(crate) commands: usize,
    /// How long the client of a stream of events or endpoints may take no event although there are some.
    pub(crate) behind: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            // `bootstrapper logs` opens one stream for each service.
            logs: 256,
            events: 128,
            endpoints: 128,
            commands: 64,
            behind: Duration::from_secs(30),
        }
    }
}

/// The open streams of all tokens.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) logs: Limited,
    pub(crate) events: Limited,
    pub(crate) endpoints: Limited,
    pub(crate) commands: Limited,
    pub(crate) behind: Duration,
}

impl Streams {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self {
            logs: Limited::new("log streams", limits.logs),
            events: Limited::new("event streams", limits.events),
            endpoints: Limited::new("endpoint streams", limits.endpoints),
            commands: Limited::new("commands in containers", limits.commands),
            behind: limits.behind,
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
    open: Arc<Open>,
}

/// The number of open streams, for each token that has any.
#[derive(Debug, Default)]
struct Open(Mutex<BTreeMap<TokenId, usize>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TokenId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for a stream. Dropping this value makes the place available again.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Open>,
    token: TokenId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.token);
            }
        }
    }
}

impl Limited {
    fn new(kind: &'static str, limit: usize) -> Self {
        Self {
            kind,
            limit,
            open: Arc::default(),
        }
    }

    /// Returns a place for a stream of this caller's token. The place must be kept as long as the
    /// stream is open.
    pub(crate) fn open(&self, caller: &Caller) -> Result<Place, Problem> {
        let mut open = self.open.lock();
        let own = open.get(&caller.token).copied().unwrap_or_default();
        let total: usize = open.values().sum();
        let exceeded = if own >= self.limit {
            Some((own, format!("of token {}", caller.name)))
        } else if caller.role < TokenRole::Admin && total >= self.limit * IN_TOTAL {
            Some((total, "of all tokens".to_owned()))
        } else {
            None
        };
        if let Some((count, whose)) = exceeded {
            return Err(Problem::too_many(Error::exhausted(
                format!("too many {} {whose}", self.kind),
                format!("{count} are open, and more are not allowed"),
                "end some of them, or wait until they have ended, then repeat the request",
            )));
        }
        open.insert(caller.token.clone(), own + 1);
        Ok(Place {
            open: Arc::clone(&self.open),
            token: caller.token.clone(),
        })
    }
}
