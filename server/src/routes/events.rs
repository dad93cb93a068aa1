//! Returns the events after a cursor, or only those of the audit, as one page of JSON or as a stream of
//! server-sent events.

use std::time::Duration;

use axum::Json;
use axum::http::HeaderMap;
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use lifecycle_core::api::wire::EventsV1;
use lifecycle_core::model::{Event, EventKind};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::endpoints::accepts_stream;
use super::request::Parameters;
use crate::auth::Viewer;
use crate::problem::Problem;
use crate::watches;

/// The interval at which a stream polls for events that another manager recorded.
const POLL: Duration = Duration::from_secs(5);

/// How many pages without a requested event are read for one response.
const SKIPPED_PAGES: usize = 20;

/// The query of `GET /v1/events` and `GET /v1/audit`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    /// The id of an event, or `latest`. If absent, all stored events are returned.
    #[schemars(regex(pattern = "^(latest|[0-9]{1,19})$"))]
    after: Option<String>,
}

/// The requested events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selection {
    All,
    Audit,
}

impl Selection {
    fn includes(self, event: &Event) -> bool {
        self == Self::All || event.event.kind == EventKind::Audit
    }
}

/// `GET /v1/events`.
pub(super) async fn list(
    caller: Viewer,
    api: Api,
    query: Parameters<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    respond(Selection::All, caller, api, query, &headers).await
}

/// `GET /v1/audit`.
pub(super) async fn audit(
    caller: Viewer,
    api: Api,
    query: Parameters<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    respond(Selection::Audit, caller, api, query, &headers).await
}

async fn respond(
    selection: Selection,
    Viewer(caller): Viewer,
    api: Api,
    Parameters(query): Parameters<After>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    // A reconnecting client sends the id of the last received event (HTML Standard, "Server-sent
    // events").
    let last_seen = headers.get("last-event-id");
    let last_seen = last_seen.map(|value| cursor(value.to_str().unwrap_or_default()));
    let after = query.after.as_deref().map(cursor).transpose()?;
    let after = match last_seen.transpose()?.or(after) {
        None => 0,
        Some(Cursor::Latest) => api.manager.last_event().await?,
        Some(Cursor::After(id)) => id,
    };
    let place = if accepts_stream(headers) {
        Some(api.streams.events.open(&caller)?)
    } else {
        None
    };
    let page = next_page(&api, selection, after).await?;
    if let Some(place) = place {
        let (tokens, behind) = (api.tokens.clone(), api.streams.behind);
        let stream = stream(api, selection, page);
        return Ok(watches::respond(stream, behind, tokens, caller, place));
    }
    Ok(Json(page).into_response())
}

/// The place in the events after which a page starts.
#[derive(Debug, Clone, Copy)]
enum Cursor {
    /// The end of the stored events.
    Latest,
    After(u64),
}

fn cursor(text: &str) -> Result<Cursor, Problem> {
    if text == "latest" {
        return Ok(Cursor::Latest);
    }
    text.parse().map(Cursor::After).map_err(|_| {
        let why = "it is not a number";
        Problem::bad_request("the cursor", why, "send the id of an event, or `latest`")
    })
}

/// Returns the requested events of the first page after `after` that contains one. After many pages
/// without one, returns an empty page, whose cursor is later than `after`.
async fn next_page(api: &Api, selection: Selection, after: u64) -> Result<EventsV1, Problem> {
    let mut cursor = after;
    let mut skipped = 0;
    loop {
        let mut page = api.manager.events(cursor).await.map_err(Problem::gone)?;
        let is_last = page.events.is_empty();
        page.events.retain(|event| selection.includes(event));
        if is_last || skipped == SKIPPED_PAGES || !page.events.is_empty() {
            return Ok(page);
        }
        cursor = page.cursor;
        skipped += 1;
    }
}

/// Sends the first page of events. After each commit, sends the new events.
fn stream(
    api: Api,
    selection: Selection,
    first: EventsV1,
) -> impl Stream<Item = Result<Sent, Problem>> {
    let state = (api, first.events.into_iter(), first.cursor);
    futures_util::stream::unfold(state, move |(mut api, mut ready, mut cursor)| async move {
        loop {
            if let Some(event) = ready.next() {
                let sent = Sent::default()
                    .id(event.id.to_string())
                    .json_data(&event)
                    .unwrap_or_default();
                return Some((Ok(sent), (api, ready, cursor)));
            }
            // A later commit may have recorded events that the page does not contain.
            api.commits.mark_unchanged();
            let page = match next_page(&api, selection, cursor).await {
                Ok(page) => page,
                Err(problem) => return Some((Err(problem), (api, ready, cursor))),
            };
            let is_passed = page.events.is_empty() && page.cursor != cursor;
            (ready, cursor) = (page.events.into_iter(), page.cursor);
            if is_passed {
                // A client that reconnects continues after the other events, which may be deleted
                // by then.
                let passed = Sent::default().id(cursor.to_string());
                return Some((Ok(passed), (api, ready, cursor)));
            }
            if !ready.as_slice().is_empty() {
                continue;
            }
            // Wait for the next commit, but not forever: a standby manager records nothing.
            if let Ok(changed) = tokio::time::timeout(POLL, api.commits.changed()).await {
                changed.ok()?;
            }
        }
    })
}
