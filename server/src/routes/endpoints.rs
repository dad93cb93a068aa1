//! Returns the endpoints of one service or of all services, as JSON or as a stream of server-sent events.

use std::sync::Arc;

use axum::http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, stream};

use super::Api;
use super::request::Segment;
use crate::auth::Viewer;
use crate::endpoints::{Of, Tagged};
use crate::problem::Problem;
use crate::watches;

/// `GET /v1/services/{name}/endpoints`: returns the addresses of the ready replicas.
pub(super) async fn of_service(
    caller: Viewer,
    api: Api,
    Segment(name): Segment,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    respond(Of::Service(name), caller, api, &headers).await
}

/// `GET /v1/endpoints`: returns the addresses of the ready replicas of all services.
pub(super) async fn all(caller: Viewer, api: Api, headers: HeaderMap) -> Result<Response, Problem> {
    respond(Of::All, caller, api, &headers).await
}

async fn respond(
    of: Of,
    Viewer(caller): Viewer,
    api: Api,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let tagged = api.endpoints.get(&of).await?;
    if accepts_stream(headers) {
        let place = api.streams.endpoints.open(&caller)?;
        let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let stream = stream(api.clone(), of, seen.map(str::to_owned));
        let behind = api.streams.behind;
        return Ok(watches::respond(stream, behind, api.tokens, caller, place));
    }
    if is_known(headers, &tagged) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tagged.etag)]).into_response());
    }
    let json = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, json), (ETAG, tagged.etag)], tagged.body).into_response())
}

/// Returns whether the client requests a stream of server-sent events.
pub(super) fn accepts_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|value| value.contains("text/event-stream"))
}

/// Returns whether `If-None-Match` contains the tag. Tags are compared as weak tags (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, tagged: &Tagged) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    let tags = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut tags = tags.map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == tagged.etag)
}

/// Sends the endpoints, unless the client has seen them, and again after each change.
fn stream(
    api: Api,
    of: Of,
    seen: Option<String>,
) -> impl Stream<Item = Result<Sent, Problem>> + Send {
    let changes = api.endpoints.changes();
    let seen = seen.map(Arc::from);
    stream::unfold((api, of, seen, changes), async |state| {
        let (api, of, seen, mut changes): (_, _, Option<Arc<str>>, _) = state;
        let next = api.endpoints.changed(&of, seen.as_deref(), &mut changes);
        match next.await? {
            Ok(tagged) => {
                let body = std::str::from_utf8(&tagged.body).unwrap_or_default();
                let sent = Sent::default().id(&*tagged.id).data(body);
                Some((Ok(sent), (api, of, Some(tagged.id), changes)))
            }
            Err(error) => {
                let problem = Problem::from(error);
                Some((Err(problem), (api, of, seen, changes)))
            }
        }
    })
}
