//! Tests the limits on the open streams of each token.

use std::sync::Arc;

use axum::Router;
use lifecycle_core::Error;
use lifecycle_core::api::ManagerApi as _;
use lifecycle_core::runtime::ExecCommand;

use super::client::client;
use super::*;
use crate::routes::Api;
use crate::streams::{StreamLimits, Streams};

/// Returns routes that allow one stream of each kind per token.
fn one_of_each(served: &Served) -> Router {
    let limits = StreamLimits {
        logs: 1,
        events: 1,
        endpoints: 1,
        commands: 1,
        ..StreamLimits::default()
    };
    router(Api {
        streams: Arc::new(Streams::new(limits)),
        ..Api::from(Arc::clone(&served.manager))
    })
}

async fn get(router: &Router, path: &str, token: &Sensitive, accept: &str) -> Response<Body> {
    let mut request = request("GET", path, Some(token), Body::empty());
    let accept = accept.parse().unwrap();
    request.headers_mut().insert("accept", accept);
    router.clone().call(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_has_a_limited_number_of_streams() {
    let served = Served::ready().await;
    let router = one_of_each(&served);
    for (path, accept) in [
        ("/v1/events?after=latest", "text/event-stream"),
        ("/v1/endpoints", "text/event-stream"),
        ("/v1/services/web/endpoints", "text/event-stream"),
        ("/v1/services/web/logs?follow=true", "application/x-ndjson"),
    ] {
        let open = get(&router, path, &served.read, accept).await;
        assert_eq!(open.status(), StatusCode::OK, "{path}");
        let refused = get(&router, path, &served.read, accept).await;
        let refused = problem(refused, StatusCode::TOO_MANY_REQUESTS, path).await;
        // The caller can act on it, so even the read token gets the complete error.
        assert_eq!(refused["kind"], "exhausted", "{refused}");
        let hint = refused["hint"].as_str().unwrap();
        assert!(hint.contains("end some of them"), "{hint}");

        let other = get(&router, path, &served.admin, accept).await;
        assert_eq!(other.status(), StatusCode::OK, "the other token: {path}");
        drop(open);
        let next = get(&router, path, &served.read, accept).await;
        assert_eq!(next.status(), StatusCode::OK, "after the end: {path}");
        // Requests that are not streams are not limited.
        for _ in 0..2 {
            let page = get(&router, "/v1/events", &served.read, "application/json").await;
            assert_eq!(page.status(), StatusCode::OK);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_tokens_together_have_a_limited_number_of_streams() {
    let served = Served::ready().await;
    let router = one_of_each(&served);
    let (path, accept) = ("/v1/events?after=latest", "text/event-stream");
    let mut open = Vec::new();
    for number in 0..4 {
        let token = served
            .token(&format!("viewer-{number}"), Viewer, None)
            .await;
        let stream = get(&router, path, &token, accept).await;
        assert_eq!(stream.status(), StatusCode::OK, "{number}");
        open.push(stream);
    }
    let refused = get(&router, path, &served.read, accept).await;
    let refused = problem(refused, StatusCode::TOO_MANY_REQUESTS, path).await;
    let what = refused["what"].as_str().unwrap();
    assert!(what.contains("of all tokens"), "{what}");
    let admin = get(&router, path, &served.admin, accept).await;
    assert_eq!(
        admin.status(),
        StatusCode::OK,
        "admins are never locked out"
    );
    drop((open, admin));
    let next = get(&router, path, &served.read, accept).await;
    assert_eq!(next.status(), StatusCode::OK, "after the end");
}

#[tokio::test(start_paused = true)]
async fn a_token_has_a_limited_number_of_commands() {
    let served = Served::ready().await;
    let router = one_of_each(&served);
    let api = client(&router, &served.admin);
    let command = || ExecCommand::new(["run-forever"]);
    let open = api.exec("web", command()).await.unwrap();
    let refused = api.exec("web", command()).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Exhausted { .. }), "{refused:?}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("end some")));
    drop(open);
    // The server notices the end of the connection a moment later.
    while let Err(error) = api.exec("web", command()).await.map(drop) {
        assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
        tokio::task::yield_now().await;
    }
}
