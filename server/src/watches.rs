//! Responds with streams of server-sent events. The last event of a stream that the server ends is
//! `closed`, and contains the reason as a problem document, so that a client can distinguish this end from
//! a lost connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use lifecycle_core::Error;
use lifecycle_core::manager::{Caller, Tokens};
use tokio::time::Instant;

use crate::problem::Problem;
use crate::streams::Place;

/// A stream that is open.
struct Watch {
    events: BoxStream<'static, Result<Sent, Problem>>,
    /// Completes when the caller's token ends.
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    caller: Caller,
    /// How long the client may take no event although there are some.
    behind: Duration,
    /// When the latest event was handed over to the connection. The connection asks for the next one
    /// immediately, unless its buffers are full.
    handed_over: Option<Instant>,
    _place: Place,
}

/// Responds with `events`, until one of them is a problem, the caller's token ends, or the client takes no
/// event for the duration `behind` although there are some. Keeps `place` as long as the stream is open.
pub(crate) fn respond(
    events: impl Stream<Item = Result<Sent, Problem>> + Send + 'static,
    behind: Duration,
    tokens: Tokens,
    caller: Caller,
    place: Place,
) -> Response {
    let ended = {
        let caller = caller.clone();
        Box::pin(async move { tokens.until_ended(&caller).await })
    };
    let watch = Watch {
        events: events.boxed(),
        ended,
        caller,
        behind,
        handed_over: None,
        _place: place,
    };
    let sent = stream::unfold(Some(watch), async |watch| {
        let mut watch = watch?;
        let problem = match watch.next().await? {
            Ok(event) => {
                watch.handed_over = Some(Instant::now());
                return Some((Ok::<_, Infallible>(event), Some(watch)));
            }
            Err(problem) => problem,
        };
        let reason = problem.document(&watch.caller);
        // Without an id, a client that connects again continues after the last event.
        let closed = Sent::default().event("closed").json_data(&reason);
        Some((Ok(closed.unwrap_or_default()), None))
    });
    Sse::new(sent)
        .keep_alive(KeepAlive::default())
        .into_response()
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Sent, Problem>> {
        if self
            .handed_over
            .is_some_and(|at| at.elapsed() > self.behind)
        {
            return Some(Err(fell_behind(self.behind)));
        }
        tokio::select! {
            event = self.events.next() => event,
            () = &mut self.ended => Some(Err(Problem::unauthorized("the stream"))),
        }
    }
}

fn fell_behind(behind: Duration) -> Problem {
    Problem::too_many(Error::exhausted(
        "the client has fallen behind",
        format!("it received no event for {behind:?} although there were some"),
        "connect again with the id of the last received event as Last-Event-ID, and read faster",
    ))
}
