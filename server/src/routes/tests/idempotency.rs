//! Tests requests with an `Idempotency-Key`.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use lifecycle_core::secret::Sensitive;
use serde_json::{Value, json};

use super::{Served, json, problem, request};

/// Sends a request with a key.
async fn send(
    served: &Served,
    (method, path): (&str, &str),
    body: &str,
    keys: &[&[u8]],
    token: &Sensitive,
) -> axum::http::Response<Body> {
    let mut sent = request(method, path, Some(token), Body::from(body.to_owned()));
    for key in keys {
        let key = HeaderValue::from_bytes(key).unwrap();
        sent.headers_mut().append("Idempotency-Key", key);
    }
    served.send(sent).await
}

const SCALE: (&str, &str) = ("POST", "/v1/services/web/scale");

async fn scale(served: &Served, replicas: u16, key: &str) -> (StatusCode, Value) {
    let body = json!({ "replicas": replicas }).to_string();
    let admin = &served.admin;
    let response = send(served, SCALE, &body, &[key.as_bytes()], admin).await;
    (response.status(), json(response).await)
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_gets_the_same_answer() {
    let served = Served::ready().await;
    let (status, first) = scale(&served, 2, "a").await;
    assert_eq!(
        (status, &first["changed"]),
        (StatusCode::ACCEPTED, &json!(true))
    );
    assert!(first["operation"].is_string(), "{first}");
    let other = scale(&served, 3, "b").await.1;
    assert_eq!(other["changed"], true);
    assert_eq!(scale(&served, 2, "a").await, (status, first));
    assert_eq!(scale(&served, 3, "c").await.1["changed"], false);

    // After a day, a key can be used again. The manager has lost its lease in the meantime.
    tokio::time::advance(Duration::from_hours(25)).await;
    while scale(&served, 5, "a").await.0 != StatusCode::ACCEPTED {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    // The key was used for another body, path or method.
    let (status, reused) = scale(&served, 4, "a").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{reused}");
    assert_eq!(reused["what"], "the Idempotency-Key");
    for request in [
        ("POST", "/v1/services/web/stop"),
        ("DELETE", "/v1/overrides/web.replicas"),
    ] {
        let reused = send(&served, request, "", &[b"a"], &served.admin).await;
        problem(reused, StatusCode::UNPROCESSABLE_ENTITY, request.1).await;
    }
}

/// A key is not checked before the token and its role, and other requests ignore it.
#[tokio::test(start_paused = true)]
async fn keys_are_checked_after_the_token() {
    let served = Served::ready().await;
    let invalid: [&[&[u8]]; 4] = [&[b""], &[b"a", b"b"], &[&[b'a'; 256]], &["ä".as_bytes()]];
    for keys in invalid {
        let body = r#"{"replicas": 2}"#;
        let rejected = send(&served, SCALE, body, keys, &served.admin).await;
        let body = problem(rejected, StatusCode::BAD_REQUEST, "invalid key").await;
        assert_eq!(body["what"], "the Idempotency-Key");
        let read = ("GET", "/v1/services");
        let ignored = send(&served, read, "", keys, &served.read).await;
        assert_eq!(ignored.status(), StatusCode::OK);
        let outsider = Sensitive::new("lcm_unknown");
        let denied = send(&served, SCALE, "", keys, &outsider).await;
        problem(denied, StatusCode::UNAUTHORIZED, "no token").await;
    }
    let forbidden = send(&served, SCALE, "{}", &[b"a"], &served.read).await;
    problem(forbidden, StatusCode::FORBIDDEN, "viewer").await;
    // The failed request is not recorded.
    assert_eq!(scale(&served, 2, "a").await.0, StatusCode::ACCEPTED);
}
