//! Tests what a token with a scope permits.

use std::collections::BTreeMap;

use lifecycle_core::api::{LocalApi, ManagerApi as _, ScopedApi};
use lifecycle_core::manager::NewToken;
use lifecycle_core::model::{ServiceClass, TokenName, TokenScope};

use lifecycle_core::reconcile::RetryOptions;
use lifecycle_core::runtime::ExecCommand;

use super::tokens::matches;
use super::*;

impl Served {
    /// Creates an admin token that is limited to `scope`.
    async fn limited(&self, name: &str, scope: TokenScope) -> Sensitive {
        let new = NewToken {
            name: TokenName::try_from(name).unwrap(),
            role: Admin,
            scope: Some(scope),
            expires_in: None,
        };
        self.manager.create_token(new).await.unwrap().1
    }

    async fn put(&self, path: &str, token: &Sensitive, service: &Value) -> Response<Body> {
        let body = Body::from(service.to_string());
        self.send(request("PUT", path, Some(token), body)).await
    }
}

fn services(names: &[&str]) -> TokenScope {
    let names = names.iter().map(|name| ServiceName::try_from(*name));
    TokenScope::new([], names.map(Result::unwrap))
}

/// Returns what the documentation lists in the column `scope`, by method and path.
fn documented() -> BTreeMap<(&'static str, &'static str), &'static str> {
    let page = include_str!("../../../../docs/api.md");
    let rows = page.lines().filter_map(|line| {
        let (request, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (method, path) = request.split_once(' ')?;
        let scope = rest.split(" | ").nth(1)?;
        Some(((method, path.split('?').next()?), scope))
    });
    rows.collect()
}

#[tokio::test(start_paused = true)]
async fn a_scope_permits_exactly_what_the_documentation_lists() {
    let documented = documented();
    let routes = ROUTES.iter().filter(|route| !route.1.contains("nothing"));
    let shared = Served::ready().await;
    let read_only = [
        shared.limited("own", services(&["web", "new"])).await,
        shared.limited("other", services(&["other"])).await,
    ];
    for (method, path, _) in routes {
        let mut rows = documented.iter();
        let row = rows.find(|((of, pattern), _)| of == method && matches(pattern, path));
        let (_, scope) = row.unwrap();
        let own = if *method == "GET" || *scope == "none" {
            None
        } else {
            Some(Served::ready().await)
        };
        let tokens = match &own {
            None => read_only.clone(),
            Some(own) => [
                own.limited("own", services(&["web", "new"])).await,
                own.limited("other", services(&["other"])).await,
            ],
        };
        let served = own.as_ref().unwrap_or(&shared);
        for (token, is_own) in tokens.iter().zip([true, false]).rev() {
            let label = format!("{method} {path}, documented as {scope}, own: {is_own}");
            let body = if path.ends_with("/scale") {
                r#"{"replicas": 2}"#
            } else {
                ""
            };
            let sent = request(method, path, Some(token), body.into());
            let response = served.send(sent).await;
            let status = response.status();
            if path.ends_with("/exec") {
                // Without a connection to upgrade, the request is rejected before its scope is checked.
                assert_eq!(status, StatusCode::BAD_REQUEST);
                continue;
            }
            assert!(!status.is_server_error(), "{label}: {status}");
            let is_unknown = status == StatusCode::NOT_FOUND && path.contains("/operations/");
            let is_permitted = match *scope {
                "any" | "filtered" => true,
                "own" => is_own || is_unknown,
                "none" => false,
                other => panic!("{label}: unknown scope {other}"),
            };
            if !is_permitted {
                let body = problem(response, StatusCode::FORBIDDEN, &label).await;
                assert_eq!(body["kind"], "forbidden", "{label}");
                let why = body["why"].as_str().unwrap();
                assert!(why.contains("limited to service "), "{label}: {why}");
                continue;
            }
            assert_ne!(status, StatusCode::FORBIDDEN, "{label}");
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{label}");
            if *scope == "filtered" {
                let body = json(response).await;
                let is_empty = body.to_string().matches("web").count() == 0;
                assert!(is_own || is_empty, "{label}: {body}");
            }
        }
    }
    let listed = shared
        .request("GET", "/v1/services", Some(&read_only[0]))
        .await;
    assert_eq!(json(listed).await[0]["name"], "web");
}

#[tokio::test(start_paused = true)]
async fn a_name_never_leads_beyond_the_scope() {
    let served = Served::ready().await;
    let local = Arc::new(LocalApi::new(Arc::clone(&served.manager)));
    let other = ScopedApi::new(local.clone(), services(&["other"]));
    let web = ScopedApi::new(local, services(&["web"]));
    let command = || ExecCommand::new(&["id".to_owned()]);
    for name in ["web", "web-1"] {
        let error = other.exec(name, command()).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
        let error = other.why(name).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
        web.exec(name, command()).await.unwrap();
        web.why(name).await.unwrap();
    }
    for name in ["n1", "node:n1", "service:n1"] {
        let options = RetryOptions::default();
        let error = web.retry(name, options).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
        let error = web.why(name).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
    }
    let replica_of_nothing = web.retry("web-9", RetryOptions::default()).await;
    assert!(matches!(replica_of_nothing, Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_token_for_a_class_deploys_only_services_of_this_class() {
    let served = Served::ready().await;
    let scope = TokenScope::new([ServiceClass::Application], []);
    let token = served.limited("deployer", scope).await;
    let service = serde_json::json!({"image": "base:1"});
    let accepted = served.put("/v1/applications/chat", &token, &service).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let applied = json(accepted).await;
    let operation = format!("/v1/operations/{}", applied["operation"].as_str().unwrap());
    let follow = async |path: &str| {
        let response = served.request("GET", path, Some(&token)).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        json(response).await
    };
    assert_eq!(follow(&operation).await["kind"], "declare");
    assert_eq!(follow("/v1/services").await.as_array().unwrap().len(), 1);
    let planned = served.put("/v1/applications/next?dry_run=true", &token, &service);
    let plan = json(planned.await).await;
    let instances = plan["instances"].as_object().unwrap().keys();
    assert_eq!(instances.collect::<Vec<_>>(), ["chat-1", "next-1"]);
    for (path, label) in [
        ("/v1/models/chat", "another class"),
        ("/v1/microservices/other", "a new service of another class"),
        ("/v1/applications/web", "a service that has another class"),
    ] {
        let rejected = served.put(path, &token, &service).await;
        problem(rejected, StatusCode::FORBIDDEN, label).await;
    }
    let mut rounds = served.manager.rounds();
    rounds
        .wait_for(|round| round.settled && round.generation().0 == 2)
        .await
        .unwrap();
    let events = follow("/v1/events").await;
    let events = events["events"].as_array().unwrap().iter();
    let subjects: Vec<String> = events.map(|event| event["subject"].to_string()).collect();
    assert!(!subjects.is_empty());
    assert!(
        subjects.iter().all(|subject| subject.contains("chat")),
        "{subjects:?}"
    );

    let path = "/v1/applications/chat";
    let removed = served.request("DELETE", path, Some(&token)).await;
    assert_eq!(removed.status(), StatusCode::ACCEPTED);
    let removed = json(removed).await;
    let operation = format!("/v1/operations/{}", removed["operation"].as_str().unwrap());
    assert_eq!(follow(&operation).await["request"], "remove");
}

#[tokio::test(start_paused = true)]
async fn a_limited_token_changes_no_service_that_shares_a_network_beyond_its_scope() {
    let served = Served::ready().await;
    let joined = serde_json::json!({"image": "base:1", "network_mode": "service:web"});
    let admin = served.admin.clone();
    let added = served.put("/v1/applications/proxy", &admin, &joined).await;
    assert_eq!(added.status(), StatusCode::ACCEPTED);
    let token = served.limited("one", services(&["proxy"])).await;
    let both = served.limited("both", services(&["proxy", "web"])).await;
    for request in ["stop", "start", "restart"] {
        let path = format!("/v1/services/proxy/{request}");
        let rejected = served.request("POST", &path, Some(&token)).await;
        let body = problem(rejected, StatusCode::FORBIDDEN, request).await;
        assert!(body["why"].as_str().unwrap().contains("web"), "{body}");
    }
    let path = "/v1/overrides/proxy.stopped";
    let rejected = served.request("DELETE", path, Some(&token)).await;
    problem(rejected, StatusCode::FORBIDDEN, path).await;
    let stop = "/v1/services/proxy/stop";
    let accepted = served.request("POST", stop, Some(&both)).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_limited_token_cannot_read_a_token_for_more() {
    let served = Served::ready().await;
    let admin = served.admin.clone();
    let service = serde_json::json!({"image": "base:1", "x-lifecycle": {"api": "operate"}});
    let added = served.put("/v1/applications/robot", &admin, &service).await;
    assert_eq!(added.status(), StatusCode::ACCEPTED);
    let local = Arc::new(LocalApi::new(Arc::clone(&served.manager)));
    let scope = TokenScope::new([ServiceClass::Application], []);
    let limited = ScopedApi::new(local, scope);
    let read = ExecCommand::new(&["cat".to_owned(), "/run/lifecycle/token".to_owned()]);
    for name in ["robot", "robot-1"] {
        let error = limited.exec(name, read.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_embedded_program_is_limited_in_the_same_way() {
    let served = Served::ready().await;
    let local = Arc::new(LocalApi::new(Arc::clone(&served.manager)));
    let scope = TokenScope::new([ServiceClass::Application], []);
    let limited = ScopedApi::new(local, scope);
    let name = ServiceName::try_from("spy").unwrap();
    let text = "{image: 'base:1', privileged: true}";
    let error = limited.apply_service(ServiceClass::Application, &name, text);
    let error = error.await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limited_token_declares_no_service_that_reaches_beyond_its_scope() {
    let served = Served::ready().await;
    let owner = serde_json::json!({
        "image": "base:1", "volumes": ["data:/data"], "networks": {"default": {"aliases": ["brain"]}},
    });
    let admin = served.admin.clone();
    let added = served.put("/v1/models/Owner", &admin, &owner).await;
    assert_eq!(added.status(), StatusCode::ACCEPTED);
    let scope = TokenScope::new([ServiceClass::Application], []);
    let token = served.limited("deployer", scope).await;
    let cases = [
        ("privileged", serde_json::json!(true)),
        ("cap_add", serde_json::json!(["NET_ADMIN"])),
        ("security_opt", serde_json::json!(["apparmor=unconfined"])),
        ("pid", serde_json::json!("host")),
        ("ipc", serde_json::json!("host")),
        ("uts", serde_json::json!("host")),
        ("userns_mode", serde_json::json!("host")),
        ("cgroup", serde_json::json!("host")),
        ("cgroup_parent", serde_json::json!("system.slice")),
        ("runtime", serde_json::json!("runc")),
        ("devices", serde_json::json!(["/dev/sda:/dev/sda"])),
        ("device_cgroup_rules", serde_json::json!(["c 1:3 mr"])),
        ("oom_kill_disable", serde_json::json!(true)),
        ("network_mode", serde_json::json!("host")),
        ("network_mode", serde_json::json!("service:web")),
        ("volumes", serde_json::json!(["/etc:/host"])),
        ("volumes", serde_json::json!(["data:/stolen"])),
        ("container_name", serde_json::json!("web-alias")),
        ("depends_on", serde_json::json!(["Owner"])),
        ("logging", serde_json::json!({"driver": "syslog"})),
        ("x-lifecycle", serde_json::json!({"api": "operate"})),
    ];
    for (key, value) in cases {
        let service = serde_json::json!({"image": "base:1", key: value});
        let label = service.to_string();
        let rejected = served.put("/v1/applications/spy", &token, &service).await;
        let body = problem(rejected, StatusCode::FORBIDDEN, &label).await;
        assert_eq!(body["kind"], "forbidden", "{label}: {body}");
        let dry = "/v1/applications/spy?dry_run=true";
        let rejected = served.put(dry, &token, &service).await;
        problem(rejected, StatusCode::FORBIDDEN, &label).await;
    }
    let plain = serde_json::json!({"image": "base:1"});
    for name in [
        "WEB",
        "owner",
        "brain",
        "registry.example",
        "db.shop.internal",
    ] {
        let path = format!("/v1/applications/{name}");
        let rejected = served.put(&path, &token, &plain).await;
        let body = problem(rejected, StatusCode::FORBIDDEN, name).await;
        assert!(body["why"].as_str().unwrap().contains("the name"), "{body}");
    }
    let harmless = serde_json::json!({
        "image": "base:1", "volumes": ["own:/data"], "ports": ["8080"], "read_only": true,
        "security_opt": ["no-new-privileges:true"], "cap_drop": ["ALL"], "depends_on": ["web"],
        "logging": {"driver": "json-file"},
    });
    let accepted = served.put("/v1/applications/calm", &token, &harmless).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
}
