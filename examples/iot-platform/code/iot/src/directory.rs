//! Where the other services are: asked of the lifecycle manager, remembered for a moment.
//!
//! What the manager said last is used while it does not answer, so that data flows while it
//! is away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lifecycle_core::api::wire::ServiceV1;
use lifecycle_core::api::{ApiClient, ManagerApi as _};
use lifecycle_core::model::ServiceName;

use crate::failure::{Failure, Result};

/// How long an answer of the manager is good.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// The replicas of a service that were ready at a moment.
#[derive(Debug, Clone)]
struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
    is_doubted: bool,
}

/// Looks services up.
#[derive(Debug)]
pub(crate) struct Directory {
    manager: ApiClient,
    known: Mutex<BTreeMap<String, Known>>,
    turn: AtomicUsize,
}

impl Directory {
    /// The directory for this container, with the credential that it was given.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self {
            manager: ApiClient::of_this_service()?,
            known: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// All services with all replicas, ready or not.
    pub(crate) async fn services(&self) -> Result<Vec<ServiceV1>> {
        Ok(self.manager.services().await?)
    }

    /// A ready replica of a service; each in turn.
    pub(crate) async fn find(&self, service: &str) -> Result<SocketAddr> {
        let addresses = self.addresses(service).await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        addresses
            .get(turn % addresses.len().max(1))
            .copied()
            .ok_or_else(|| Failure::Unavailable {
                service: service.to_owned(),
                why: "no replica is ready".into(),
            })
    }

    /// A replica did not answer: ask the manager again before the next attempt.
    pub(crate) fn doubt(&self, service: &str) {
        if let Some(known) = self.known().get_mut(service) {
            known.is_doubted = true;
        }
    }

    async fn addresses(&self, service: &str) -> Result<Vec<SocketAddr>> {
        let known = self.known().get(service).cloned();
        if let Some(known) = &known
            && !known.is_doubted
            && known.at.elapsed() < GOOD_FOR
        {
            return Ok(known.addresses.clone());
        }
        let name = ServiceName::try_from(service).map_err(lifecycle_core::Error::from)?;
        let addresses = match (self.manager.endpoints(&name).await, known) {
            (Ok(endpoints), _) => endpoints
                .iter()
                .map(|endpoint| SocketAddr::new(endpoint.ip, endpoint.port))
                .collect(),
            (Err(error), Some(known)) => {
                tracing::warn!("the manager does not say where {service} is: {error}");
                known.addresses
            }
            (Err(error), None) => return Err(error.into()),
        };
        let known = Known {
            addresses: addresses.clone(),
            at: Instant::now(),
            is_doubted: false,
        };
        self.known().insert(service.to_owned(), known);
        Ok(addresses)
    }

    /// A panic elsewhere leaves the map whole.
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
