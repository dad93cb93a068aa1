//! The conformance suite for [`Registry`]. The registries in memory, in SQLite, and in PostgreSQL
//! must pass it.

pub mod batch;
pub mod chunk;
pub mod event;
pub mod lease;
pub mod record;
mod sample;
pub mod token;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::model::{Epoch, Event};
use crate::registry::{EventPage, Lease, Registry, Snapshot};

/// Creates registries for the suite.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// Creates a registry. The suite acquires leases with a duration of [`Backend::ttl`] in this
    /// registry.
    async fn fresh(&self) -> Result<Arc<dyn Registry>>;

    /// Reopens the registry, as a new process would. Returns `None` if the registry is not
    /// persistent.
    async fn reopen(&self, registry: Arc<dyn Registry>) -> Result<Option<Arc<dyn Registry>>>;

    /// Returns the duration of the leases that must expire during the suite. It must be long enough
    /// for a few calls.
    fn ttl(&self) -> Duration;

    /// Advances the clock that determines when the registry's leases expire.
    async fn pass(&self, time: Duration);
}

/// Runs the whole suite, each part with a new registry.
///
/// # Panics
/// If a guarantee does not hold.
pub async fn all(backend: &dyn Backend) -> Result<()> {
    batch::a_new_registry_is_empty(&*backend.fresh().await?).await?;
    batch::a_batch_is_atomic(&*backend.fresh().await?).await?;
    batch::a_stale_epoch_is_rejected(backend).await?;
    batch::an_epoch_is_raised(backend).await?;
    batch::changes_apply_in_order(&*backend.fresh().await?).await?;
    record::a_declaration_creates_the_next_generation(&*backend.fresh().await?).await?;
    record::an_identical_declaration_creates_no_generation(&*backend.fresh().await?).await?;
    record::the_latest_revisions_are_kept(backend).await?;
    record::records_are_stored_unchanged(&*backend.fresh().await?).await?;
    record::endpoints_follow_their_instance(&*backend.fresh().await?).await?;
    record::rejections_are_kept_until_cleared(&*backend.fresh().await?).await?;
    record::volumes_are_kept_by_node_and_name(&*backend.fresh().await?).await?;
    record::operations_are_found_until_they_end(&*backend.fresh().await?).await?;
    record::answers_are_kept_until_they_are_deleted(&*backend.fresh().await?).await?;
    record::credentials_are_kept_by_name(&*backend.fresh().await?).await?;
    token::tokens_are_stored_by_id(backend).await?;
    chunk::chunks_are_stored_by_digest(backend).await?;
    chunk::unused_chunks_are_deleted(backend).await?;
    event::events_are_read_in_pages(&*backend.fresh().await?).await?;
    event::pruned_events_are_reported_as_gone(&*backend.fresh().await?).await?;
    event::event_ids_increase_by_one(backend.fresh().await?).await?;
    batch::a_snapshot_is_consistent(backend.fresh().await?).await?;
    lease::one_of_many_contenders_leads(backend.fresh().await?).await?;
    lease::a_takeover_waits_for_running_writes(backend.fresh().await?).await?;
    lease::a_lease_is_renewed_released_and_taken_over(backend).await?;
    batch::a_large_batch_is_recorded(&*backend.fresh().await?).await?;
    batch::everything_is_persistent(backend).await
}

async fn lead(registry: &dyn Registry) -> Result<Epoch> {
    let lease = registry
        .acquire_lease("suite", Duration::from_mins(10))
        .await?;
    Ok(held(lease))
}

fn held(lease: Lease) -> Epoch {
    match lease {
        Lease::Held(epoch) => epoch,
        Lease::HeldBy { holder, until } => panic!("{holder} is the leader until {until}"),
    }
}

fn conflict<T: Debug>(result: &Result<T>) {
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
}

fn stale<T: Debug>(result: Result<T>, tried: Epoch, expected: Epoch) {
    match result {
        Err(Error::StaleEpoch { ours, current }) => {
            assert_eq!((ours, current), (tried, expected));
        }
        other => panic!("{other:?}"),
    }
}

/// Runs tasks concurrently, on as many threads as the runtime has.
async fn together<T: Send + 'static>(
    tasks: impl Iterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    let tasks: Vec<_> = tasks.map(tokio::spawn).collect();
    let mut ended = Vec::with_capacity(tasks.len());
    for task in tasks {
        ended.push(joined(task.await)??);
    }
    Ok(ended)
}

fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> Result<T> {
    match ended {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Error::failed("a task of the suite", error.to_string())),
    }
}

async fn page(registry: &dyn Registry, after: u64, limit: u32) -> Result<Vec<Event>> {
    match registry.events(after, limit).await? {
        EventPage::Events(events) => Ok(events),
        gone @ EventPage::Gone { .. } => panic!("events after {after} are gone: {gone:?}"),
    }
}

fn node_names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.nodes.keys().map(ToString::to_string).collect()
}
