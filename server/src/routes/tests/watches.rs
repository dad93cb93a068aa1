//! Tests streams of server-sent events over real connections: those whose clients fall behind are closed
//! with a reason, and continue without a gap.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lifecycle_core::manager::NewToken;
use lifecycle_core::model::TokenName;
use lifecycle_core::secret::Sensitive;
use serde_json::Value;
use tokio::time::timeout;

use super::connections::{Endpoint, HERE, SOON};
use super::hostile::real_time;
use super::*;
use crate::connections::Limits;
use crate::routes::Api;
use crate::streams::{StreamLimits, Streams};

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) id: Option<String>,
    /// The type; empty if it is not given.
    pub(super) kind: String,
    pub(super) data: String,
}

impl Received {
    pub(super) fn number(&self) -> u64 {
        self.id.as_ref().unwrap().parse().unwrap()
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        Self {
            id: field("id:"),
            kind: field("event:").unwrap_or_default(),
            data: field("data:").unwrap_or_default(),
        }
    }
}

/// An open stream of server-sent events. It reads only when the next event is requested.
#[derive(Debug)]
pub(super) struct Watching {
    body: Incoming,
    text: String,
}

impl Watching {
    pub(super) async fn open(
        endpoint: &Endpoint,
        from: Ipv4Addr,
        path: &str,
        token: &Sensitive,
        last_seen: Option<&str>,
    ) -> Self {
        let stream = endpoint.tls(from).await.unwrap();
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(16 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(path)
            .header(HOST, "manager")
            .header(ACCEPT, "text/event-stream")
            .header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        if let Some(id) = last_seen {
            request = request.header("last-event-id", id);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// Returns the next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Received> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                // Comments keep idle streams alive.
                if !event.starts_with(':') {
                    return Some(Received::parse(&event));
                }
                continue;
            }
            let frame = self.body.frame().await?.unwrap();
            if let Some(data) = frame.data_ref() {
                self.text.push_str(std::str::from_utf8(data).unwrap());
            }
        }
    }
}

/// Creates and revokes a token, which records four events.
pub(super) async fn record_events(manager: &Manager) {
    let new = NewToken {
        name: TokenName::try_from("repeated").unwrap(),
        role: Viewer,
        scope: None,
        expires_in: None,
    };
    manager.create_token(new).await.unwrap();
    manager.revoke_token("repeated").await.unwrap();
}

/// Returns routes whose streams are closed when they are this far behind.
fn closing_after(served: &Served, behind: Duration) -> Router {
    router(Api {
        streams: Arc::new(Streams::new(StreamLimits {
            behind,
            ..StreamLimits::default()
        })),
        ..Api::from(Arc::clone(&served.manager))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_falls_behind_is_closed_with_a_reason_and_continues_without_a_gap() {
    let served = real_time().await;
    served.token("first", Viewer, None).await;
    let behind = Duration::from_secs(1);
    let endpoint = Endpoint::serve(closing_after(&served, behind), Limits::default()).await;
    let latest = async || {
        let page = served.get("/v1/events?after=latest").await;
        page["cursor"].as_u64().unwrap()
    };
    let first = latest().await;
    let path = format!("/v1/events?after={first}");
    let open = async |last_seen: Option<&str>| {
        Watching::open(&endpoint, HERE, &path, &served.read, last_seen).await
    };
    let mut slow = open(None).await;
    // More than the buffers of the connection can hold.
    for _ in 0..8_000 {
        record_events(&served.manager).await;
    }
    let last = latest().await;
    tokio::time::sleep(behind * 2).await;

    let mut seen = Vec::new();
    let closed = loop {
        let event = timeout(SOON, slow.next()).await.unwrap().unwrap();
        if event.kind == "closed" {
            break event;
        }
        seen.push(event.number());
    };
    assert!(*seen.last().unwrap() < last, "nothing was left to send");
    assert_eq!(closed.id, None, "the id would replace the cursor");
    let reason: Value = serde_json::from_str(&closed.data).unwrap();
    assert_eq!(reason["kind"], "exhausted", "{reason}");
    assert!(reason["hint"].as_str().unwrap().contains("Last-Event-ID"));
    assert_eq!(timeout(SOON, slow.next()).await.unwrap(), None);

    let cursor = seen.last().unwrap().to_string();
    let mut again = open(Some(&cursor)).await;
    while *seen.last().unwrap() < last {
        let event = timeout(SOON, again.next()).await.unwrap().unwrap();
        seen.push(event.number());
    }
    let expected: Vec<u64> = (first + 1..=last).collect();
    assert_eq!(seen, expected);
}
