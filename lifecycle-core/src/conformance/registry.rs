//! What every [`Registry`] keeps: the suite that the registries in memory, on SQLite and on
//! PostgreSQL pass.

pub mod batch;
pub mod event;
pub mod lease;
pub mod record;
mod sample;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::model::{Epoch, Event};
use crate::registry::{EventPage, Lease, Registry, Snapshot};

/// Where the suite's registries come from.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// A registry that nobody has used. The suite takes leases of [`Backend::ttl`] in it.
    async fn fresh(&self) -> Result<Arc<dyn Registry>>;

    /// The same registry as a process sees it that starts after this one has ended. `None` if
    /// it ends with its process.
    async fn reopen(&self, registry: Arc<dyn Registry>) -> Result<Option<Arc<dyn Registry>>>;

    /// The time of a lease whose end is awaited; long enough for a few calls.
    fn ttl(&self) -> Duration;

    /// Lets `time` pass by the clock that the registry's leases run out by.
    async fn pass(&self, time: Duration);
}

/// Runs the whole suite, each part on a registry of its own.
///
/// # Panics
/// If a guarantee does not hold.
pub async fn all(backend: &dyn Backend) -> Result<()> {
    batch::a_new_registry_is_empty(&*backend.fresh().await?).await?;
    batch::a_batch_is_recorded_whole_or_not_at_all(&*backend.fresh().await?).await?;
    batch::a_stale_epoch_is_refused(backend).await?;
    batch::changes_apply_in_their_order(&*backend.fresh().await?).await?;
    record::a_declaration_makes_the_next_generation(&*backend.fresh().await?).await?;
    record::an_identical_declaration_makes_no_generation(&*backend.fresh().await?).await?;
    record::records_come_back_as_they_were_put(&*backend.fresh().await?).await?;
    record::endpoints_follow_their_instance(&*backend.fresh().await?).await?;
    record::rejections_are_kept_until_cleared(&*backend.fresh().await?).await?;
    record::operations_are_found_until_they_end(&*backend.fresh().await?).await?;
    record::credentials_are_kept_by_name(&*backend.fresh().await?).await?;
    event::events_are_read_in_pages(&*backend.fresh().await?).await?;
    event::pruned_events_are_gone(&*backend.fresh().await?).await?;
    event::event_ids_rise_by_one_whoever_commits(backend.fresh().await?).await?;
    batch::a_reader_sees_one_moment(backend.fresh().await?).await?;
    lease::one_of_many_takers_leads(backend.fresh().await?).await?;
    lease::a_take_over_and_a_write_do_not_cross(backend.fresh().await?).await?;
    lease::a_lease_is_renewed_released_and_taken_over(backend).await?;
    batch::a_large_batch_is_recorded(&*backend.fresh().await?).await?;
    batch::everything_outlives_the_process(backend).await
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
        Lease::HeldBy { holder, until } => panic!("{holder} leads until {until}"),
    }
}

fn conflict<T: Debug>(result: &Result<T>) {
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
}

fn stale<T: Debug>(result: Result<T>, tried: Epoch, in_force: Epoch) {
    match result {
        Err(Error::StaleEpoch { ours, current }) => {
            assert_eq!((ours, current), (tried, in_force));
        }
        other => panic!("{other:?}"),
    }
}

/// Runs all at once, on as many threads as the runtime has.
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
        Err(error) => Err(Error::failed("task of the suite", error.to_string())),
    }
}

async fn page(registry: &dyn Registry, after: u64, limit: u32) -> Result<Vec<Event>> {
    match registry.events(after, limit).await? {
        EventPage::Events(events) => Ok(events),
        gone @ EventPage::Gone { .. } => panic!("nothing after {after} was pruned: {gone:?}"),
    }
}

fn node_names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.nodes.keys().map(ToString::to_string).collect()
}
