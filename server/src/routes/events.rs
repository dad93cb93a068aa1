//! Returns the events after a cursor, as one page of JSON or as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use lifecycle_core::api::wire::EventsV1;
use lifecycle_core::model::Event;
use serde::Deserialize;

use super::Api;
use super::request::Parameters;
use crate::auth::Viewer;
use crate::problem::Problem;

/// The interval at which a stream polls for events that another manager recorded.
const POLL: Duration = Duration::from_secs(5);

/// The query of `GET /v1/events`.
#[derive(Debug, Deserialize)]
pub(super) struct After {
    /// The id of an event, or `latest`. If absent, all stored events are returned.
    after: Option<String>,
}

/// `GET /v1/events`.
pub(super) async fn list(
    Viewer(caller): Viewer,
    State(api): State<Api>,
    Parameters(query): Parameters<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A reconnecting client sends the id of the last received event (HTML Standard, "Server-sent
    // events").
    let last_seen = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let after = match last_seen.or(query.after).as_deref() {
        None => 0,
        Some("latest") => api.manager.last_event().await?,
        Some(text) => text.parse().map_err(|_| {
            let why = "it is not a number";
            Problem::bad_request("the cursor", why, "send the id of an event, or `latest`")
        })?,
    };
    let requests_stream = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/event-stream"));
    let place = if requests_stream {
        Some(api.streams.events.open(&caller)?)
    } else {
        None
    };
    let page = page(&api, after).await?;
    if let Some(place) = place {
        let tokens = api.tokens.clone();
        let ended = async move { tokens.until_ended(&caller).await };
        let stream = stream(api, page.events, after)
            .take_until(ended)
            .map(move |sent| {
                let _open = &place;
                sent
            });
        return Ok(Sse::new(stream)
            .keep_alive(KeepAlive::default())
            .into_response());
    }
    Ok(Json(page).into_response())
}

async fn page(api: &Api, after: u64) -> Result<EventsV1, Problem> {
    api.manager.events(after).await.map_err(Problem::gone)
}

/// Sends the first page of events. After each round of the control loop, sends the new events.
fn stream(
    mut api: Api,
    first: Vec<Event>,
    after: u64,
) -> impl Stream<Item = Result<Sent, Infallible>> {
    // The first page already contains the events of earlier rounds.
    api.rounds.mark_unchanged();
    let state = (api, first.into_iter(), after);
    futures_util::stream::unfold(state, |(mut api, mut ready, mut cursor)| async move {
        loop {
            if let Some(event) = ready.next() {
                cursor = event.id;
                let sent = Sent::default()
                    .id(event.id.to_string())
                    .json_data(&event)
                    .unwrap_or_default();
                return Some((Ok(sent), (api, ready, cursor)));
            }
            match page(&api, cursor).await {
                Ok(page) if !page.events.is_empty() => {
                    ready = page.events.into_iter();
                    continue;
                }
                Ok(_) => {}
                Err(_) => return None,
            }
            // Wait for the next round, but not forever: a standby manager has no rounds.
            if let Ok(changed) = tokio::time::timeout(POLL, api.rounds.changed()).await {
                changed.ok()?;
            }
        }
    })
}
