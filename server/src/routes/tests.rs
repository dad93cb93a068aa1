//! Tests the routes without TLS, with a manager in a simulation: authorization, and the responses
//! to invalid requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use lifecycle_core::Error;
use lifecycle_core::clock::{Clock, RandomIds};
use lifecycle_core::manager::{FirstToken, Manager, ManagerOptions};
use lifecycle_core::model::TokenRole::{self, Admin, Operator, Viewer};
use lifecycle_core::model::{
    ImageSource, NodeName, NodeSpec, PlatformId, ServiceName, ServiceSpec,
};
use lifecycle_core::platform::{CloudSpec, Declaration, ManagerEndpoint, ManagerSpec};
use lifecycle_core::reconcile::{Backends, DriverOptions, RecordedPlan, plan};
use lifecycle_core::registry::MemoryRegistry;
use lifecycle_core::runtime::{ImageLogins, Owner};
use lifecycle_core::secret::{PlatformKey, Sensitive, new_api_token};
use lifecycle_core::sim::SimWorld;
use serde_json::Value;
use tokio::task::JoinSet;
use tower_service::Service as _;

use super::{LARGEST_BODY, router};

mod chunks;
mod client;
mod commands;
mod connections;
mod endpoints;
mod errors;
mod gate;
mod hostile;
mod idempotency;
mod load;
mod metrics;
mod openapi;
mod programs;
mod scopes;
mod spans;
mod streams;
mod tokens;
mod watches;

/// Every route that needs a token, and the least powerful role that it permits.
const ROUTES: [(&str, &str, TokenRole); 63] = [
    ("GET", "/metrics", Viewer),
    ("GET", "/v1/platform", Viewer),
    ("PUT", "/v1/platform", Admin),
    ("DELETE", "/v1/platform", Admin),
    ("GET", "/v1/platform/plan", Admin),
    ("POST", "/v1/platform/plan", Admin),
    ("PUT", "/v1/image-logins", Admin),
    ("POST", "/v1/chunks/missing", Admin),
    ("PUT", "/v1/chunks/0123", Admin),
    ("GET", "/v1/nodes", Viewer),
    ("GET", "/v1/nodes/n1", Viewer),
    ("POST", "/v1/nodes", Operator),
    ("POST", "/v1/machines", Admin),
    ("DELETE", "/v1/nodes/n1", Operator),
    ("POST", "/v1/nodes/n1/restart", Operator),
    ("POST", "/v1/nodes/n1/prepare", Operator),
    ("POST", "/v1/nodes/n1/cordon", Operator),
    ("POST", "/v1/nodes/n1/drain", Operator),
    ("POST", "/v1/nodes/n1/uncordon", Operator),
    ("POST", "/v1/nodes/n1/stop", Operator),
    ("POST", "/v1/nodes/n1/start", Operator),
    ("GET", "/v1/services", Viewer),
    ("GET", "/v1/services/web", Viewer),
    ("GET", "/v1/instances", Viewer),
    ("GET", "/v1/endpoints", Viewer),
    ("GET", "/v1/services/web/endpoints", Viewer),
    ("GET", "/v1/services/web/logs", Viewer),
    ("POST", "/v1/services/web/restart", Operator),
    ("POST", "/v1/services/web/rollout/pause", Operator),
    ("POST", "/v1/services/web/scale", Operator),
    ("POST", "/v1/services/web/stop", Operator),
    ("POST", "/v1/services/web/start", Operator),
    ("POST", "/v1/services/web/exec", Admin),
    ("GET", "/v1/microservices", Viewer),
    ("GET", "/v1/microservices/web", Viewer),
    ("PUT", "/v1/microservices/new", Admin),
    ("DELETE", "/v1/microservices/new", Admin),
    ("GET", "/v1/applications", Viewer),
    ("GET", "/v1/applications/new", Viewer),
    ("PUT", "/v1/applications/new", Admin),
    ("DELETE", "/v1/applications/new", Admin),
    ("GET", "/v1/models", Viewer),
    ("GET", "/v1/models/new", Viewer),
    ("PUT", "/v1/models/new", Admin),
    ("DELETE", "/v1/models/new", Admin),
    ("GET", "/v1/overrides", Viewer),
    ("DELETE", "/v1/overrides/web.replicas", Operator),
    ("GET", "/v1/export", Admin),
    ("GET", "/v1/revisions", Viewer),
    ("POST", "/v1/revisions/1/rollback", Admin),
    ("POST", "/v1/retry/web", Operator),
    ("GET", "/v1/why/web", Viewer),
    ("GET", "/v1/events", Viewer),
    ("GET", "/v1/audit", Viewer),
    ("GET", "/v1/progress", Viewer),
    ("GET", "/v1/operations", Viewer),
    (
        "GET",
        "/v1/operations/00000000-0000-0000-0000-000000000000",
        Viewer,
    ),
    (
        "POST",
        "/v1/operations/00000000-0000-0000-0000-000000000000/cancel",
        Operator,
    ),
    ("GET", "/v1/tokens", Admin),
    ("POST", "/v1/tokens", Admin),
    ("DELETE", "/v1/tokens/ci", Admin),
    ("GET", "/v1/openapi.json", Viewer),
    ("GET", "/v1/nothing/here", Viewer),
];

/// An API and its credentials.
struct Served {
    manager: Arc<Manager>,
    router: Router,
    declaration: Declaration,
    admin: Sensitive,
    read: Sensitive,
    /// Runs the manager. Dropping the set ends it.
    tasks: JoinSet<Error>,
}

impl Served {
    /// Creates a manager that does not lead yet.
    fn standby() -> Self {
        Self::with_image("base:1")
    }

    /// Creates a manager that does not lead yet; the platform's service uses `image`.
    fn with_image(image: &str) -> Self {
        Self::in_world(&SimWorld::new(1), image)
    }

    /// Creates a manager of this world that does not lead yet; the platform's service uses `image`.
    fn in_world(world: &SimWorld, image: &str) -> Self {
        world.preload_image("base:1");
        let owner = Owner {
            id: PlatformId::new(uuid::Uuid::from_u128(1 << 100)),
            name: "demo".try_into().unwrap(),
        };
        let clock: Arc<dyn Clock> = Arc::new(world.clock());
        let backends = Backends {
            registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
            cloud: Arc::new(world.cloud(&owner)),
            connector: Arc::new(world.connector(&owner)),
            preparer: Arc::new(world.preparer()),
            probe: Arc::new(world.probe()),
            code: Arc::new(world.code()),
            clock,
            ids: Arc::new(RandomIds),
            own_image: None,
        };
        let node = NodeName::try_from("n1").unwrap();
        let web = ServiceName::try_from("web").unwrap();
        let declaration = Declaration {
            name: owner.name.clone(),
            id: owner.id,
            manager: ManagerSpec {
                node: node.clone(),
                port: ManagerSpec::PORT,
            },
            cloud: CloudSpec::Local { subnet: None },
            nodes: BTreeMap::from([(node.clone(), NodeSpec::new(node.clone()))]),
            services: BTreeMap::from([(
                web.clone(),
                ServiceSpec::new(web, ImageSource::Image(image.into())),
            )]),
            volumes: BTreeSet::new(),
            network: lifecycle_core::platform::NetworkSpec::default(),
            deadlines: lifecycle_core::cloud::CloudDeadlines::default(),
            overrides: lifecycle_core::platform::Overrides::default(),
        };
        let (admin, read) = (new_api_token(), new_api_token());
        let options = ManagerOptions {
            name: owner.name,
            platform: owner.id,
            key: PlatformKey::generate(),
            endpoint: ManagerEndpoint {
                node,
                ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: ManagerSpec::PORT,
            },
            image: None,
            authority: "a certificate".into(),
            ssh_public: String::new(),
            admin_token: FirstToken::of(&admin),
            token_rotation: 0,
            read_token: Some(read.clone()),
            image_logins: ImageLogins::new(),
            declaration: Some(declaration.clone()),
            holder: "a test".into(),
            lease: Duration::from_secs(15),
            driver: DriverOptions::default(),
            mirrors: None,
        };
        let manager = Manager::new(backends, options);
        Self {
            router: router(Arc::clone(&manager).into()),
            manager,
            declaration,
            admin,
            read,
            tasks: JoinSet::new(),
        }
    }

    /// Runs the manager.
    fn run(&mut self) {
        self.tasks.spawn(Arc::clone(&self.manager).run());
    }

    /// Creates a manager that has completed its first round.
    async fn ready() -> Self {
        Self::standby().started().await
    }

    /// Runs the manager, and waits until it has completed its first round.
    async fn started(mut self) -> Self {
        self.run();
        let mut rounds = self.manager.rounds();
        rounds.wait_for(|round| round.settled).await.unwrap();
        self
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().call(request).await.unwrap()
    }

    /// Sends a request without a body.
    async fn request(&self, method: &str, path: &str, token: Option<&Sensitive>) -> Response<Body> {
        self.send(request(method, path, token, Body::empty())).await
    }

    /// Sends a `GET` with the token of the platform's services and returns the body.
    async fn get(&self, path: &str) -> Value {
        let response = self.request("GET", path, Some(&self.read)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        json(response).await
    }
}

fn request(method: &str, path: &str, token: Option<&Sensitive>, body: Body) -> Request<Body> {
    let method: Method = method.parse().unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    request.body(body).unwrap()
}

async fn json(response: Response<Body>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

/// Asserts that the response is a problem with this status, and returns the body.
async fn problem(response: Response<Body>, status: StatusCode, label: &str) -> Value {
    assert_eq!(response.status(), status, "{label}");
    assert_eq!(
        response.headers()[CONTENT_TYPE],
        "application/problem+json",
        "{label}"
    );
    let body = json(response).await;
    assert_eq!(body["status"], status.as_u16(), "{label}");
    for key in ["kind", "title"] {
        assert!(body[key].is_string(), "{label}: {body}");
    }
    body
}

#[tokio::test(start_paused = true)]
async fn health_checks_require_no_credential() {
    let served = Served::standby();
    let health = served.request("GET", "/healthz", None).await;
    assert_eq!(health.status(), StatusCode::OK);
    let ready = served.request("GET", "/readyz", None).await;
    assert!(ready.headers().contains_key(RETRY_AFTER));
    let body = problem(ready, StatusCode::SERVICE_UNAVAILABLE, "/readyz").await;
    assert_eq!(body["kind"], "not-ready");

    let served = Served::ready().await;
    assert!(served.manager.is_open());
    let ready = served.request("GET", "/readyz", None).await;
    assert_eq!(ready.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn before_the_end_of_the_first_round_only_some_changes_are_accepted() {
    let served = Served::standby();
    let admin = Some(&served.admin);
    let path = "/v1/services/web/restart";
    let outsider = served.request("POST", path, None).await;
    problem(outsider, StatusCode::UNAUTHORIZED, path).await;
    let response = served.request("POST", path, admin).await;
    assert!(response.headers().contains_key(RETRY_AFTER));
    let body = problem(response, StatusCode::SERVICE_UNAVAILABLE, path).await;
    assert_eq!(body["kind"], "not-ready");

    // This manager leads, but it cannot complete its first round, because the service's image does
    // not exist.
    let mut served = Served::with_image("absent:1");
    served.run();
    let mut rounds = served.manager.rounds();
    rounds
        .wait_for(|s| !s.plan.instances.is_empty())
        .await
        .unwrap();
    assert!(!served.manager.is_open());
    let body = serde_json::to_vec(&served.declaration).unwrap();
    let put = request("PUT", "/v1/platform", Some(&served.admin), body.into());
    let applied = served.send(put).await;
    assert_eq!(applied.status(), StatusCode::OK);
    assert_eq!(json(applied).await["changed"], false);
    let deleted = served
        .request("DELETE", "/v1/platform", Some(&served.admin))
        .await;
    assert_eq!(deleted.status(), StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn the_latest_plan_contains_its_input() {
    let served = Served::standby();
    let (path, admin) = ("/v1/platform/plan", Some(&served.admin));
    let early = served.request("GET", path, admin).await;
    assert!(early.headers().contains_key(RETRY_AFTER));
    problem(early, StatusCode::SERVICE_UNAVAILABLE, path).await;

    let served = Served::ready().await;
    let response = served.request("GET", path, Some(&served.admin)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let recorded: RecordedPlan = serde_json::from_value(json(response).await).unwrap();
    assert_eq!(recorded.plan.instances.len(), 1);
    assert_eq!(plan(&recorded.input), *recorded.plan);
}

#[tokio::test(start_paused = true)]
async fn a_standby_manager_responds_with_retry_after() {
    let served = Served::standby();
    let body = serde_json::to_vec(&served.declaration).unwrap();
    let put = request("PUT", "/v1/platform", Some(&served.admin), body.into());
    let response = served.send(put).await;
    assert!(response.headers().contains_key(RETRY_AFTER));
    problem(response, StatusCode::SERVICE_UNAVAILABLE, "PUT").await;
}

#[tokio::test(start_paused = true)]
async fn an_invalid_declaration_is_rejected_without_quoting_it() {
    let served = Served::ready().await;
    let text = "{\n  \"name\": \"hunter2-is-the-password\",\n  \"id\": 5\n}";
    let mut declaration = serde_json::to_value(&served.declaration).unwrap();
    declaration["services"]["web"]["replicas"] = "hunter2-is-the-password".into();
    let wrong_kind = declaration.to_string();
    for (method, path) in [("PUT", "/v1/platform"), ("POST", "/v1/platform/plan")] {
        for body in [text, &wrong_kind, "", "hunter2-is-the-password"] {
            let body = Body::from(body.to_owned());
            let sent = request(method, path, Some(&served.admin), body);
            let response = served.send(sent).await;
            let body = problem(response, StatusCode::BAD_REQUEST, path).await;
            assert!(!body.to_string().contains("hunter2"), "{body}");
            let detail = body["why"].as_str().unwrap();
            assert!(detail.contains("line "), "{detail}");
        }
        let large = Body::from(vec![b' '; LARGEST_BODY + 1]);
        let sent = request(method, path, Some(&served.admin), large);
        let response = served.send(sent).await;
        problem(response, StatusCode::PAYLOAD_TOO_LARGE, path).await;
    }
    assert_eq!(served.get("/v1/platform").await["generation"], 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_names_and_invalid_requests_are_problems() {
    let served = Served::ready().await;
    let admin = Some(&served.admin);
    for (method, path, status) in [
        ("GET", "/v1/services/absent/logs", StatusCode::NOT_FOUND),
        (
            "GET",
            "/v1/services/absent/endpoints",
            StatusCode::NOT_FOUND,
        ),
        (
            "GET",
            "/v1/services/%20/logs",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        ("GET", "/v1/nothing/here", StatusCode::NOT_FOUND),
        ("GET", "/v1/operations/five", StatusCode::BAD_REQUEST),
        ("GET", "/v1/events?after=yesterday", StatusCode::BAD_REQUEST),
        ("GET", "/v1/events?after=1000000", StatusCode::GONE),
        (
            "GET",
            "/v1/services/web/logs?tail=some",
            StatusCode::BAD_REQUEST,
        ),
        (
            "DELETE",
            "/v1/platform?volumes=perhaps",
            StatusCode::BAD_REQUEST,
        ),
        ("DELETE", "/v1/nodes", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let response = served.request(method, path, admin).await;
        let label = format!("{method} {path}");
        problem(response, status, &label).await;
    }
    assert_eq!(served.get("/v1/platform").await["state"], "running");
}

#[tokio::test(start_paused = true)]
async fn events_come_as_pages_with_a_cursor() {
    let served = Served::ready().await;
    let all = served.get("/v1/events").await;
    let events = all["events"].as_array().unwrap();
    let ids: Vec<u64> = events.iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert!(ids.len() > 3 && ids.is_sorted(), "{ids:?}");
    assert_eq!(all["cursor"].as_u64(), ids.last().copied());
    let rest = served.get(&format!("/v1/events?after={}", ids[1])).await;
    assert_eq!(rest["events"].as_array().unwrap()[..], events[2..]);
    let none = served.get("/v1/events?after=latest").await;
    assert_eq!(none["events"], serde_json::json!([]));
    assert_eq!(none["cursor"], all["cursor"]);
}

/// Reads `count` server-sent events; returns the id and the document of each.
async fn read_events(body: &mut Body, count: usize) -> Vec<(u64, Value)> {
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    text.split_terminator("\n\n")
        .map(|event| {
            let field = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("{name} in {event}")).trim()
            };
            let document = serde_json::from_str(field("data:")).unwrap();
            (field("id:").parse().unwrap(), document)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn events_are_streamed_from_a_cursor() {
    let served = Served::ready().await;
    let all = served.get("/v1/events").await;
    let events = all["events"].as_array().unwrap();
    let stream = |path: &str, last_seen: Option<u64>| {
        let mut stream = request("GET", path, Some(&served.read), Body::empty());
        let headers = stream.headers_mut();
        headers.insert("accept", "text/event-stream".parse().unwrap());
        if let Some(id) = last_seen {
            headers.insert("last-event-id", id.to_string().parse().unwrap());
        }
        stream
    };
    let response = served.send(stream("/v1/events?after=0", None)).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    for ((id, document), event) in read_events(&mut body, events.len())
        .await
        .iter()
        .zip(events)
    {
        assert_eq!(document, event);
        assert_eq!(Some(*id), event["id"].as_u64());
    }

    // After a reconnect, `Last-Event-ID` takes precedence over the query.
    let last_seen = events[events.len() - 3]["id"].as_u64();
    let response = served.send(stream("/v1/events?after=0", last_seen)).await;
    let rest = read_events(&mut response.into_body(), 2).await;
    assert_eq!(rest[0].1, events[events.len() - 2]);
    assert_eq!(rest[1].1, events[events.len() - 1]);

    // The stream continues with new events.
    let mut changed = served.declaration.clone();
    for service in changed.services.values_mut() {
        service.replicas = 2;
    }
    served.manager.apply(changed).await.unwrap();
    let next = read_events(&mut body, 1).await;
    assert_eq!(next[0].1["kind"], "declared");
    assert_eq!(Some(next[0].0), all["cursor"].as_u64().map(|last| last + 1));

    // The audit contains only requested changes, also those before the cursor of other events.
    let response = served.send(stream("/v1/audit", None)).await;
    let mut audit = response.into_body();
    let first = read_events(&mut audit, 1).await;
    assert_eq!(first[0].1["data"]["request"], "apply");
    served.token("ci", Viewer, None).await;
    let next = read_events(&mut audit, 1).await;
    assert_eq!(next[0].1["kind"], "audit");
    assert!(next[0].0 > first[0].0);

    let gone = served.send(stream("/v1/events?after=1000000", None)).await;
    problem(gone, StatusCode::GONE, "a cursor from another registry").await;
}

#[tokio::test(start_paused = true)]
async fn progress_omits_the_plan_if_the_request_excludes_it() {
    let served = Served::ready().await;
    let whole = served.get("/v1/progress").await;
    assert!(whole["plan"]["instances"].is_object(), "{whole}");
    let short = served.get("/v1/progress?plan=false").await;
    assert_eq!(short.get("plan"), None, "{short}");
    assert_eq!(short["settled"], whole["settled"]);
}
