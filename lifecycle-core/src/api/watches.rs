//! Streams of the events and endpoints of a manager in the same process.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use super::wire::EndpointV1;
use super::{LocalApi, ManagerApi as _};
use crate::error::Result;
use crate::manager::Changes;
use crate::model::{Event, ServiceName};

/// The interval at which a stream polls for events that another manager recorded.
const POLL: Duration = Duration::from_secs(5);

/// Returns the events after a cursor, and new ones as they are recorded.
pub(super) async fn events(
    api: LocalApi,
    after: u64,
    mut changes: Changes,
) -> Result<BoxStream<'static, Result<Event>>> {
    changes.mark_seen();
    let first = api.events(after).await?;
    let state = (api, VecDeque::from(first.events), first.cursor, changes);
    let events = stream::try_unfold(state, async |(api, mut ready, mut cursor, mut changes)| {
        loop {
            if let Some(event) = ready.pop_front() {
                return Ok(Some((event, (api, ready, cursor, changes))));
            }
            // A later commit may have recorded events that the page does not contain.
            changes.mark_seen();
            let page = api.events(cursor).await?;
            (ready, cursor) = (page.events.into(), page.cursor);
            if ready.is_empty() {
                let notified = tokio::time::timeout(POLL, changes.commits.changed()).await;
                if let Ok(Err(_)) = notified {
                    return Ok(None);
                }
            }
        }
    });
    Ok(events.boxed())
}

/// Returns the endpoints of a service, and again after each change.
pub(super) async fn endpoints(
    api: LocalApi,
    service: ServiceName,
    mut changes: Changes,
) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>> {
    changes.mark_seen();
    let first = api.endpoints(&service).await?;
    let state = (api, service, first.clone(), changes);
    let next = stream::try_unfold(state, async |(api, service, known, mut changes)| {
        while changes.next().await.is_some() {
            changes.mark_seen();
            let current = api.endpoints(&service).await?;
            if current != known {
                return Ok(Some((current.clone(), (api, service, current, changes))));
            }
        }
        Ok(None)
    });
    Ok(stream::iter([Ok(first)]).chain(next).boxed())
}
