//! Reads streams from the manager: lines of JSON, and server-sent events.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyStream;
use hyper::Response;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use sse_stream::SseByteStream;

use super::interrupted;
use crate::api::problem::ProblemV1;
use crate::error::{Error, Result};

/// How long a stream of events may receive nothing. The manager sends a comment every 15 seconds.
const NOTHING_FOR: Duration = Duration::from_secs(45);

/// Parses each line of a response.
pub(super) fn lines<T: DeserializeOwned + 'static>(
    response: Response<Incoming>,
) -> BoxStream<'static, Result<T>> {
    let reader = tokio_util::io::StreamReader::new(Box::pin(chunks(response)));
    let lines = tokio::io::AsyncBufReadExt::lines(reader);
    let lines = stream::try_unfold(lines, async |mut lines| {
        let line = lines.next_line().await.map_err(interrupted)?;
        line.map(|text| Ok((serde_json::from_str(&text).map_err(interrupted)?, lines)))
            .transpose()
    });
    lines.boxed()
}

/// Parses the data of server-sent events. The stream ends with an error: the reason that the manager sent,
/// or [`Error::Interrupted`].
pub(super) fn events<T: DeserializeOwned + Send + 'static>(
    response: Response<Incoming>,
) -> BoxStream<'static, Result<T>> {
    let received = SseByteStream::new(Box::pin(audible(chunks(response))));
    let events = stream::unfold(Some(received), async |received| {
        let mut received = received?;
        loop {
            let event = match received.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Some((Err(interrupted(error)), None)),
                None => return Some((Err(ended()), None)),
            };
            // An event without data only updates the cursor.
            let Some(data) = event.data else { continue };
            return Some(match event.event.as_deref() {
                None => match serde_json::from_str(&data) {
                    Ok(content) => (Ok(content), Some(received)),
                    Err(error) => (Err(interrupted(error)), None),
                },
                Some("closed") => (Err(reason(&data)), None),
                // An event of a later version.
                Some(_) => continue,
            });
        }
    });
    events.boxed()
}

/// Returns the reason for which the manager closed a stream.
fn reason(data: &str) -> Error {
    let problem: Option<ProblemV1> = serde_json::from_str(data).ok();
    problem.and_then(|it| it.error()).unwrap_or_else(ended)
}

fn ended() -> Error {
    Error::Interrupted {
        what: "the connection to the manager".into(),
        source: None,
    }
}

fn chunks(response: Response<Incoming>) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    BodyStream::new(response.into_body()).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(std::io::Error::other(error))),
    })
}

/// Ends with an error if nothing arrives for too long.
fn audible(
    chunks: impl Stream<Item = std::io::Result<Bytes>> + Send,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::unfold(Box::pin(chunks), async |mut chunks| {
        let next = tokio::time::timeout(NOTHING_FOR, chunks.next()).await;
        let next = next.unwrap_or_else(|_| {
            let why = format!("nothing was received for {NOTHING_FOR:?}");
            Some(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why)))
        });
        next.map(|chunk| (chunk, chunks))
    })
}
