//! Tests the requests about endpoints: tags and streams.

use axum::http::header::{ETAG, IF_NONE_MATCH};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use lifecycle_core::api::{EndpointList, ManagerApi as _};
use lifecycle_core::model::{Event, Protocol, ServiceName};
use lifecycle_core::platform::OverrideChange;
use lifecycle_core::{Error, Result};

use super::client::client;
use super::*;

const ONE: &str = "/v1/services/web/endpoints";
const ALL: &str = "/v1/endpoints";

impl Served {
    /// Creates a manager whose service `web` has an endpoint.
    pub(super) async fn with_endpoint(mut self) -> Self {
        for service in self.declaration.services.values_mut() {
            service.container.expose = vec![(8080, Protocol::Tcp)];
        }
        self.manager.apply(self.declaration.clone()).await.unwrap();
        let mut commits = self.manager.changes().commits;
        while self.get(ONE).await.as_array().unwrap().is_empty() {
            commits.changed().await.unwrap();
        }
        self
    }
}

/// Opens a stream; `last_seen` is the id of the last received event.
async fn watch(served: &Served, path: &str, last_seen: Option<&str>) -> Body {
    let mut watch = request("GET", path, Some(&served.read), Body::empty());
    let headers = watch.headers_mut();
    headers.insert("accept", "text/event-stream".parse().unwrap());
    if let Some(id) = last_seen {
        headers.insert("last-event-id", id.parse().unwrap());
    }
    let response = served.send(watch).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    response.into_body()
}

/// Reads one server-sent event; returns its type, its id and its data.
async fn next(body: &mut Body) -> (String, String, Value) {
    let frame = body.frame().await.unwrap().unwrap();
    let text = std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let data = serde_json::from_str(&field("data:")).unwrap();
    (field("event:"), field("id:"), data)
}

async fn tag(served: &Served, path: &str, if_none_match: Option<&str>) -> (StatusCode, String) {
    let mut get = request("GET", path, Some(&served.read), Body::empty());
    if let Some(tags) = if_none_match {
        let headers = get.headers_mut();
        headers.insert(IF_NONE_MATCH, tags.parse().unwrap());
    }
    let response = served.send(get).await;
    let tag = response.headers()[ETAG].to_str().unwrap().to_owned();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.is_empty(), status == StatusCode::NOT_MODIFIED);
    (status, tag)
}

#[tokio::test(start_paused = true)]
async fn the_tag_of_endpoints_changes_with_them() {
    let served = Served::ready().await.with_endpoint().await;
    for path in [ONE, ALL] {
        let (status, first) = tag(&served, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        for known in [
            first.clone(),
            format!("\"other\", W/{first}"),
            "*".to_owned(),
        ] {
            let again = tag(&served, path, Some(&known)).await;
            assert_eq!(again, (StatusCode::NOT_MODIFIED, first.clone()), "{known}");
        }
        let other = tag(&served, path, Some("\"other\"")).await;
        assert_eq!(other, (StatusCode::OK, first));
    }
    let before = tag(&served, ONE, None).await.1;
    let scale = OverrideChange::Scale(2);
    served.manager.override_service("web", scale).await.unwrap();
    let mut commits = served.manager.changes().commits;
    while served.get(ONE).await.as_array().unwrap().len() < 2 {
        commits.changed().await.unwrap();
    }
    let (status, after) = tag(&served, ONE, Some(&before)).await;
    assert_eq!(status, StatusCode::OK);
    assert_ne!(after, before);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_endpoints_begins_with_the_list_and_continues_with_each_new_one() {
    let served = Served::ready().await.with_endpoint().await;
    let mut all = watch(&served, ALL, None).await;
    let mut one = watch(&served, ONE, None).await;
    let (kind, first_id, first) = next(&mut one).await;
    assert_eq!(kind, "");
    assert_eq!(first, served.get(ONE).await);
    assert_eq!(format!("\"{first_id}\""), tag(&served, ONE, None).await.1);
    assert_eq!(next(&mut all).await.2, served.get(ALL).await);

    // A client that has seen this list gets the next one only after a change.
    let mut seen = watch(&served, ONE, Some(&first_id)).await;
    let scale = OverrideChange::Scale(2);
    served.manager.override_service("web", scale).await.unwrap();
    let (_, id, two) = next(&mut seen).await;
    assert_ne!(id, first_id);
    assert_eq!(two.as_array().unwrap().len(), 2, "{two}");
    assert_eq!(next(&mut one).await.2, two);
    assert_eq!(next(&mut all).await.2["web"], two);
    // A client that has missed the change gets the current list at once.
    let mut missed = watch(&served, ONE, Some(&first_id)).await;
    assert_eq!(next(&mut missed).await.1, id);

    // The watch of a service ends with the service.
    let mut without = served.declaration.clone();
    without.services.clear();
    served.manager.apply(without).await.unwrap();
    let reason = loop {
        let (kind, _, data) = next(&mut one).await;
        if kind == "closed" {
            break data;
        }
    };
    assert_eq!(reason["kind"], "not-found", "{reason}");
    assert!(one.frame().await.is_none());
    let absent = served.request("GET", ONE, Some(&served.read)).await;
    problem(absent, StatusCode::NOT_FOUND, ONE).await;
    while next(&mut all).await.2 != serde_json::json!({}) {}
}

#[tokio::test(start_paused = true)]
async fn watches_of_a_revoked_token_end_with_a_reason() {
    let served = Served::ready().await;
    let token = served.token("ci", Viewer, None).await;
    let mut watches = Vec::new();
    for path in [ONE, ALL, "/v1/events?after=latest"] {
        let mut watch = request("GET", path, Some(&token), Body::empty());
        let accept = "text/event-stream".parse().unwrap();
        watch.headers_mut().insert("accept", accept);
        watches.push(served.send(watch).await.into_body());
    }
    served.manager.revoke_token("ci").await.unwrap();
    for mut watch in watches {
        let reason = loop {
            let (kind, _, data) = next(&mut watch).await;
            if kind == "closed" {
                break data;
            }
        };
        assert_eq!(reason["kind"], "denied", "{reason}");
        assert!(watch.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_returns_the_endpoints_of_all_services() {
    let served = Served::ready().await.with_endpoint().await;
    let api = client(&served.router, &served.read);
    let all = api.all_endpoints().await.unwrap();
    let web = ServiceName::try_from("web").unwrap();
    assert_eq!(all[&web], api.endpoints(&web).await.unwrap());
    assert_eq!(all[&web].len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_watches_endpoints_and_events() {
    let served = Served::ready().await.with_endpoint().await;
    let token = served.token("watcher", Viewer, None).await;
    let api = client(&served.router, &token);
    let web = ServiceName::try_from("web").unwrap();
    let from = api.last_event().await.unwrap();
    let mut events = api.watch_events(from).await.unwrap();
    let mut watched = api.watch_endpoints(&web).await.unwrap();
    let mut list = EndpointList::watch(Arc::new(api.clone()), web.clone())
        .await
        .unwrap();
    assert_eq!(watched.next().await.unwrap().unwrap(), *list.current());

    let scale = OverrideChange::Scale(2);
    served.manager.override_service("web", scale).await.unwrap();
    while list.current().len() < 2 {
        list.changed().await;
    }
    while watched.next().await.unwrap().unwrap() != *list.current() {}
    let first = events.next().await.unwrap().unwrap();
    assert_eq!(first.id, from + 1);
    assert_eq!(events.next().await.unwrap().unwrap().id, from + 2);

    // A stream ends with the reason that the manager sends.
    served.manager.revoke_token("watcher").await.unwrap();
    let ended = async |mut events: BoxStream<'static, Result<Event>>| {
        loop {
            if let Err(error) = events.next().await.unwrap() {
                assert!(events.next().await.is_none());
                return error;
            }
        }
    };
    let error = ended(events).await;
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let unknown = ServiceName::try_from("unknown").unwrap();
    let error = client(&served.router, &served.read)
        .watch_endpoints(&unknown)
        .await;
    assert!(matches!(error, Err(Error::NotFound { .. })));
}
