//! Events after a cursor: a page of JSON, or server-sent events for who asks for those.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use lifecycle_core::api::wire::EventsV1;
use lifecycle_core::manager::Manager;
use lifecycle_core::model::Event;
use lifecycle_core::registry::EventPage;
use serde::Deserialize;

use super::request::Parameters;
use crate::auth::Reader;
use crate::problem::Problem;

/// How many events a page holds at most.
const PAGE: u32 = 500;

/// How soon is looked again for what another manager has recorded.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Debug, Deserialize)]
pub(super) struct After {
    /// An event's id, or `latest`; without it, all that is kept.
    after: Option<String>,
}

/// Events after a cursor.
pub(super) async fn list(
    _: Reader,
    State(manager): State<Arc<Manager>>,
    Parameters(query): Parameters<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A stream that broke off says itself where it was (HTML Standard, "Server-sent events").
    let last_seen = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let after = match last_seen.or(query.after).as_deref() {
        None => 0,
        Some("latest") => manager.snapshot().await?.last_event,
        Some(text) => text
            .parse()
            .map_err(|_| Problem::bad_request("`after` is an event's id, or `latest`"))?,
    };
    let wants_stream = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/event-stream"));
    let events = page(&manager, after).await?;
    if wants_stream {
        let stream = stream(manager, events, after);
        return Ok(Sse::new(stream)
            .keep_alive(KeepAlive::default())
            .into_response());
    }
    let cursor = events.last().map_or(after, |event| event.id);
    Ok(Json(EventsV1 { events, cursor }).into_response())
}

async fn page(manager: &Manager, after: u64) -> Result<Vec<Event>, Problem> {
    match manager.events(after, PAGE).await? {
        EventPage::Events(events) => Ok(events),
        EventPage::Gone { oldest } => Err(Problem::gone(format!(
            "events before {oldest} are not kept"
        ))),
    }
}

/// Sends what there is, then looks again whenever the control loop has moved.
fn stream(
    manager: Arc<Manager>,
    first: Vec<Event>,
    after: u64,
) -> impl Stream<Item = Result<Sent, Infallible>> {
    let rounds = manager.rounds();
    let state = (manager, rounds, first.into_iter(), after);
    futures_util::stream::unfold(
        state,
        |(manager, mut rounds, mut ready, mut cursor)| async move {
            loop {
                if let Some(event) = ready.next() {
                    cursor = event.id;
                    let sent = Sent::default()
                        .id(event.id.to_string())
                        .json_data(&event)
                        .unwrap_or_default();
                    return Some((Ok(sent), (manager, rounds, ready, cursor)));
                }
                match page(&manager, cursor).await {
                    Ok(events) if !events.is_empty() => {
                        ready = events.into_iter();
                        continue;
                    }
                    Ok(_) => {}
                    Err(_) => return None,
                }
                // A manager that does not lead is told nothing: it looks again after a while.
                if let Ok(changed) = tokio::time::timeout(LOOK_AGAIN, rounds.changed()).await {
                    changed.ok()?;
                }
            }
        },
    )
}
