//! Keeps the endpoints of all services in memory, as the bodies of responses, so that a lookup neither
//! reads the registry nor writes JSON. They are read again after each commit and each round of this
//! manager, and twice per second, because another manager may have recorded others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use lifecycle_core::api::ManagerApi;
use lifecycle_core::manager::Changes;
use lifecycle_core::reconcile::Round;
use lifecycle_core::{Error, Result};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// How long the endpoints are used without a notification.
const READ_EVERY: Duration = Duration::from_millis(500);

/// A body, and a tag that identifies its content.
#[derive(Debug, Clone)]
pub(crate) struct Tagged {
    pub(crate) body: Bytes,
    /// The tag in quotes, as in `ETag`.
    pub(crate) etag: HeaderValue,
    /// The tag without quotes, as the id of an event.
    pub(crate) id: Arc<str>,
}

impl Tagged {
    fn new(content: &impl Serialize) -> Result<Self> {
        let unwritable =
            |error: &dyn std::error::Error| Error::failed("writing endpoints", error.to_string());
        let body = serde_json::to_vec(content).map_err(|error| unwritable(&error))?;
        let mut id = hex::encode(Sha256::digest(&body));
        id.truncate(32);
        let etag =
            HeaderValue::try_from(format!("\"{id}\"")).map_err(|error| unwritable(&error))?;
        Ok(Self {
            body: body.into(),
            etag,
            id: id.into(),
        })
    }
}

/// The endpoints at one time.
#[derive(Debug)]
struct Published {
    all: Tagged,
    of_service: BTreeMap<String, Tagged>,
}

/// What a lookup returns the endpoints of.
#[derive(Debug, Clone)]
pub(crate) enum Of {
    All,
    Service(String),
}

/// The endpoints of all services.
#[derive(Debug)]
pub(crate) struct Endpoints {
    manager: Arc<dyn ManagerApi>,
    changes: Changes,
    latest: Mutex<Option<Latest>>,
    /// Held while the endpoints are read, so that concurrent requests read them once.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Latest {
    /// The time, the commit and the round before the read.
    at: Instant,
    commit: u64,
    round: Arc<Round>,
    /// `None` if they could not be read.
    published: Option<Arc<Published>>,
}

impl Endpoints {
    pub(crate) fn new(manager: Arc<dyn ManagerApi>, changes: Changes) -> Self {
        Self {
            manager,
            changes,
            latest: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the current endpoints.
    pub(crate) async fn get(&self, of: &Of) -> Result<Tagged> {
        let published = match self.known(None) {
            Some(known) => known?,
            None => self.read().await?,
        };
        match of {
            Of::All => Ok(published.all.clone()),
            Of::Service(name) => {
                if let Some(tagged) = published.of_service.get(name) {
                    return Ok(tagged.clone());
                }
                // The error for a service outside of the caller's scope differs.
                let instances = self.manager.service(name).await?.instances.into_iter();
                let endpoints = instances.flat_map(|instance| instance.endpoints);
                Tagged::new(&endpoints.collect::<Vec<_>>())
            }
        }
    }

    /// Returns the endpoints if they have changed since those with the id `seen`, otherwise waits until
    /// they change. Returns `None` if they will not change any more.
    pub(crate) async fn changed(
        &self,
        of: &Of,
        seen: Option<&str>,
        changes: &mut Changes,
    ) -> Option<Result<Tagged>> {
        loop {
            changes.mark_seen();
            match self.get(of).await {
                Ok(tagged) if seen == Some(&*tagged.id) => {}
                result => return Some(result),
            }
            changes.next().await?;
        }
    }

    pub(crate) fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// Returns the endpoints as last read, unless they may be outdated. A read that began after `asked` is
    /// current enough for a request that has waited since then: otherwise, frequent changes would make each
    /// of the waiting requests read again, one after the other.
    fn known(&self, asked: Option<Instant>) -> Option<Result<Arc<Published>>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = latest.as_ref()?;
        let is_unchanged = latest.at.elapsed() < READ_EVERY
            && latest.commit == *self.changes.commits.borrow()
            && Arc::ptr_eq(&latest.round, &self.changes.rounds.borrow());
        let is_current = is_unchanged || asked.is_some_and(|asked| latest.at >= asked);
        is_current.then(|| latest.published.clone().ok_or_else(unavailable))
    }

    async fn read(&self) -> Result<Arc<Published>> {
        let asked = Instant::now();
        let _reading = self.reading.lock().await;
        if let Some(known) = self.known(Some(asked)) {
            return known;
        }
        let at = Instant::now();
        let commit = *self.changes.commits.borrow();
        let round = Arc::clone(&self.changes.rounds.borrow());
        let read = self.publish().await.map(Arc::new);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(Latest {
            at,
            commit,
            round,
            published: read.as_ref().ok().cloned(),
        });
        read
    }

    async fn publish(&self) -> Result<Published> {
        let endpoints = self.manager.all_endpoints().await?;
        let all = Tagged::new(&endpoints)?;
        let of_service = endpoints
            .into_iter()
            .map(|(service, endpoints)| Ok((service.to_string(), Tagged::new(&endpoints)?)))
            .collect::<Result<_>>()?;
        Ok(Published { all, of_service })
    }
}

fn unavailable() -> Error {
    Error::not_ready("the manager", "the endpoints cannot be read at the moment")
}
