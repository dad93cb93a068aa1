//! Tests which tokens permit which requests, and the requests about tokens.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use lifecycle_core::manager::NewToken;
use lifecycle_core::model::TokenName;

use futures_util::StreamExt as _;

use super::*;
use crate::auth::Peer;

impl Served {
    /// Creates a token with this name and role.
    pub(super) async fn token(
        &self,
        name: &str,
        role: TokenRole,
        expires_in: Option<Duration>,
    ) -> Sensitive {
        let mut rounds = self.manager.rounds();
        while !self.manager.is_open() {
            rounds.changed().await.unwrap();
        }
        let new = NewToken {
            name: TokenName::try_from(name).unwrap(),
            role,
            scope: None,
            expires_in,
        };
        self.manager.create_token(new).await.unwrap().1
    }
}

#[tokio::test(start_paused = true)]
async fn every_route_rejects_a_missing_or_invalid_token() {
    let served = Served::ready().await;
    let an_hour = Duration::from_hours(1);
    let expired = served.token("expired", Admin, Some(an_hour)).await;
    let revoked = served.token("revoked", Admin, None).await;
    for token in [&expired, &revoked] {
        let accepted = served.request("GET", "/v1/platform", Some(token)).await;
        assert_eq!(accepted.status(), StatusCode::OK);
    }
    served.manager.revoke_token("revoked").await.unwrap();
    tokio::time::sleep(an_hour).await;
    let unknown = new_api_token();
    let garbage = Sensitive::new("lcm_\u{fe}");
    let mut addresses = (1..).map(Ipv4Addr::from_bits);
    for (method, path, _) in ROUTES {
        let tokens = [&unknown, &garbage, &expired, &revoked].map(Some);
        for token in tokens.into_iter().chain([None]) {
            let mut sent = request(method, path, token, Body::empty());
            let peer = Peer(addresses.next().unwrap().into());
            sent.extensions_mut().insert(peer);
            let response = served.send(sent).await;
            assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
            let label = format!("{method} {path}");
            let body = problem(response, StatusCode::UNAUTHORIZED, &label).await;
            assert_eq!(body["kind"], "denied");
        }
    }
    let mut basic = request("GET", "/v1/platform", None, Body::empty());
    let value = format!("Basic {}", served.admin.expose());
    basic
        .headers_mut()
        .insert(AUTHORIZATION, value.parse().unwrap());
    let response = served.send(basic).await;
    problem(response, StatusCode::UNAUTHORIZED, "another scheme").await;
    assert_eq!(
        served.get("/v1/platform").await["state"],
        "running",
        "nothing was deleted"
    );
}

/// Requests without a valid token are answered with 429 after a while, but only those.
#[tokio::test(start_paused = true)]
async fn failed_authentication_is_limited_and_recorded_for_each_address() {
    let served = Served::ready().await;
    let garbage = new_api_token();
    let status = async |address: u8, token: Option<&Sensitive>| {
        let mut sent = request("GET", "/v1/platform", token, Body::empty());
        let address = Ipv4Addr::new(10, 0, 0, address);
        sent.extensions_mut().insert(Peer(address.into()));
        served.send(sent).await
    };
    for number in 0..30 {
        let token = Some(&garbage).filter(|_| number % 2 == 0);
        let response = status(1, token).await;
        if number < 20 {
            problem(response, StatusCode::UNAUTHORIZED, "permitted").await;
            continue;
        }
        let after: u64 = response.headers()[RETRY_AFTER]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=61).contains(&after), "{after}");
        let body = problem(response, StatusCode::TOO_MANY_REQUESTS, "too often").await;
        assert_eq!(body["kind"], "denied");
        assert!(!body.to_string().contains(garbage.expose()), "{body}");
    }
    let others = status(2, Some(&garbage)).await;
    problem(others, StatusCode::UNAUTHORIZED, "another address").await;
    let valid = status(1, Some(&served.admin)).await;
    assert_eq!(valid.status(), StatusCode::OK, "the address is locked out");

    let recorded = async || {
        let page = served.get("/v1/audit").await;
        let events = page["events"].as_array().unwrap().clone();
        let denied = events.into_iter().map(|event| event["data"].clone());
        let denied = denied.filter(|data| data["request"] == "authenticate");
        denied
            .map(|data| (data["peer"].clone(), data["number"].as_u64().unwrap()))
            .collect::<Vec<_>>()
    };
    tokio::time::sleep(Duration::from_secs(30)).await;
    let expected = [("10.0.0.1".into(), 30), ("10.0.0.2".into(), 1)];
    assert_eq!(recorded().await, expected);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        status(1, None).await;
    }
    assert_eq!(recorded().await, expected, "more than once a minute");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(recorded().await[2..], [("10.0.0.1".into(), 2)]);
    let permitted = status(1, None).await;
    problem(permitted, StatusCode::UNAUTHORIZED, "a minute later").await;
}

#[tokio::test(start_paused = true)]
async fn each_role_permits_exactly_its_requests() {
    for role in [Viewer, Operator, Admin] {
        let unchanged = Served::ready().await;
        let shared = unchanged.token("other", role, None).await;
        for (method, path, needed) in ROUTES {
            let permitted = method != "GET" && role >= needed;
            let own = if permitted {
                Some(Served::ready().await)
            } else {
                None
            };
            let served = own.as_ref().unwrap_or(&unchanged);
            let token = match (role, &own) {
                // The services of the platform have a token of this role.
                (Viewer, _) => served.read.clone(),
                (_, None) => shared.clone(),
                (role, Some(own)) => own.token("other", role, None).await,
            };
            let response = served.request(method, path, Some(&token)).await;
            let label = format!("{method} {path} as {role}");
            if role < needed {
                let body = problem(response, StatusCode::FORBIDDEN, &label).await;
                assert_eq!(body["kind"], "forbidden", "{label}");
                let why = body["why"].as_str().unwrap();
                assert!(why.contains(&format!("needs the role {needed}")), "{why}");
                assert_eq!(served.get("/v1/platform").await["state"], "running");
            } else {
                let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
                assert!(!denied.contains(&response.status()), "{label}");
                assert!(!response.status().is_server_error(), "{label}");
            }
        }
    }
}

/// Returns whether a path of the documentation, whose variable segments are in capitals, matches a
/// path.
pub(super) fn matches(documented: &str, path: &str) -> bool {
    let documented: Vec<&str> = documented.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    let is_variable = |segment: &str| segment.chars().all(|c| c.is_ascii_uppercase());
    let same = |(pattern, segment): (&&str, &&str)| {
        pattern == segment || (!pattern.is_empty() && is_variable(pattern))
    };
    documented.len() == path.len() && documented.iter().zip(&path).all(same)
}

#[test]
fn the_documentation_lists_each_route_with_its_role() {
    let page = include_str!("../../../../docs/api.md");
    let rows: Vec<(&str, &str, &str)> = page
        .lines()
        .filter_map(|line| {
            let (request, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let (method, path) = request.split_once(' ')?;
            let path = path.split('?').next()?;
            let role = rest.split(" | ").next()?;
            let needs_token = path.starts_with("/v1/") || path == "/metrics";
            needs_token.then_some((method, path, role))
        })
        .collect();
    let routes = ROUTES.iter().filter(|route| !route.1.contains("nothing"));
    for (method, path, role) in routes.clone() {
        let found = rows
            .iter()
            .find(|row| row.0 == *method && matches(row.1, path));
        let documented = found.map(|row| row.2.to_owned());
        assert_eq!(documented, Some(role.to_string()), "{method} {path}");
    }
    assert_eq!(rows.len(), routes.count(), "{rows:?}");
}

#[tokio::test(start_paused = true)]
async fn a_created_token_is_shown_once_and_accepted_until_it_is_revoked() {
    let served = Served::ready().await;
    let admin = Some(&served.admin);
    served.token("first", Viewer, None).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let body = r#"{"name": "ci", "role": "operator", "expires_in": 3600}"#;
    let create = request("POST", "/v1/tokens", admin, body.into());
    let created = served.send(create).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    assert_eq!(created.headers()["cache-control"], "no-store");
    let created = json(created).await;
    let token = Sensitive::new(created["token"].as_str().unwrap());
    let id = created["id"].as_str().unwrap();
    assert!(token.expose().starts_with(&format!("lcm_{id}_")));

    let restart = served.request("POST", "/v1/services/web/restart", Some(&token));
    assert_eq!(restart.await.status(), StatusCode::ACCEPTED);
    let list = json(served.request("GET", "/v1/tokens", admin).await).await;
    let found = list.as_array().unwrap().iter();
    let names: Vec<&str> = found.map(|token| token["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bootstrapper", "first", "ci"]);
    assert!(!list.to_string().contains("lcm_"), "{list}");

    let again = request("POST", "/v1/tokens", admin, body.into());
    let again = served.send(again).await;
    problem(again, StatusCode::CONFLICT, "the same name").await;
    for path in ["/v1/tokens/ci", &format!("/v1/tokens/{id}")] {
        let revoked = served.request("DELETE", path, admin).await;
        assert_eq!(revoked.status(), StatusCode::OK);
        assert!(json(revoked).await["revoked_at"].is_string());
    }
    let denied = served.request("GET", "/v1/platform", Some(&token)).await;
    problem(denied, StatusCode::UNAUTHORIZED, "revoked").await;
    let first = served.request("DELETE", "/v1/tokens/bootstrapper", admin);
    problem(first.await, StatusCode::CONFLICT, "the last one").await;
    let absent = served.request("DELETE", "/v1/tokens/absent", admin);
    problem(absent.await, StatusCode::NOT_FOUND, "absent").await;
    let events = served.get("/v1/events").await.to_string();
    assert!(events.contains("token-revoked"), "{events}");
    assert!(!events.contains(token.expose()), "{events}");
}

#[tokio::test(start_paused = true)]
async fn an_invalid_request_for_a_token_is_rejected_with_an_example() {
    let served = Served::ready().await;
    served.token("first", Viewer, None).await;
    for body in [
        "",
        "[]",
        r#"{"name": "ci"}"#,
        r#"{"name": "ci", "role": "root"}"#,
        r#"{"name": "", "role": "viewer"}"#,
        r#"{"name": "ci", "role": "viewer", "expires_in": "1d"}"#,
        r#"{"name": "ci", "role": "viewer", "expires_in": -1}"#,
        r#"{"name": "ci", "role": "viewer", "expires": 1}"#,
    ] {
        let sent = request("POST", "/v1/tokens", Some(&served.admin), body.into());
        let response = served.send(sent).await;
        let problem = problem(response, StatusCode::BAD_REQUEST, body).await;
        let hint = problem["hint"].as_str().unwrap();
        assert!(hint.contains(r#""role": "viewer""#), "{hint}");
    }
    let never = r#"{"name": "ci", "role": "viewer", "expires_in": 0}"#;
    let sent = request("POST", "/v1/tokens", Some(&served.admin), never.into());
    let response = served.send(sent).await;
    problem(response, StatusCode::UNPROCESSABLE_ENTITY, never).await;
    let large = Body::from(vec![b' '; 5 << 10]);
    let sent = request("POST", "/v1/tokens", Some(&served.admin), large);
    let response = served.send(sent).await;
    problem(response, StatusCode::PAYLOAD_TOO_LARGE, "large").await;
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_revoked_token_end() {
    let served = Served::ready().await;
    let token = served.token("ci", Admin, None).await;
    let api = client::client(&served.router, &token);
    let command = lifecycle_core::runtime::ExecCommand::new(["run-forever"]);
    let mut running = lifecycle_core::api::ManagerApi::exec(&api, "web", command)
        .await
        .unwrap();
    let open = async |path: &str, accept: &str| {
        let mut request = request("GET", path, Some(&token), Body::empty());
        let headers = request.headers_mut();
        headers.insert("accept", accept.parse().unwrap());
        let response = served.send(request).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.into_body()
    };
    let events = open("/v1/events?after=latest", "text/event-stream").await;
    let logs = open("/v1/services/web/logs?follow=true", "*/*").await;
    served.manager.revoke_token("ci").await.unwrap();
    assert!(events.collect().await.is_ok());
    let cut = logs.collect().await.map(drop).unwrap_err();
    assert!(cut.to_string().contains("no longer valid"), "{cut}");
    while let Some(output) = running.output.next().await {
        if output.is_err() {
            break;
        }
    }
}
