//! Tests what `GET /metrics` returns, its description in `docs/metrics.md`, and the dashboard.

mod pages;
mod scrape;

use axum::http::header::CONTENT_TYPE;
use lifecycle_core::api::ManagerApi as _;
use lifecycle_core::api::wire::OperationStateV1;
use lifecycle_core::metrics::Family;

use super::client::client;
use super::*;
use crate::routes::Api;
use scrape::Scrape;

impl Served {
    async fn scrape(&self) -> Scrape {
        let response = self.request("GET", "/metrics", Some(&self.read)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(response.headers()[CONTENT_TYPE], media_type);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let scrape = Scrape::parse(std::str::from_utf8(&bytes).unwrap());
        for secret in [&self.admin, &self.read] {
            assert!(!scrape.text.contains(secret.expose()));
        }
        scrape
    }

    /// Returns all metrics, without a request.
    fn families(&self) -> Vec<Family> {
        Api::from(Arc::clone(&self.manager)).metrics.families()
    }
}

#[tokio::test(start_paused = true)]
async fn the_metrics_show_the_state_of_the_platform() {
    let scrape = Served::ready().await.scrape().await;
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        (format!("lifecycle_build_info{{version={version:?}}}"), 1),
        ("lifecycle_leading".into(), 1),
        ("lifecycle_epoch".into(), 1),
        ("lifecycle_first_round_done".into(), 1),
        ("lifecycle_generation".into(), 1),
        ("lifecycle_settled_generation".into(), 1),
        ("lifecycle_settled".into(), 1),
        ("lifecycle_nodes{state=\"running\"}".into(), 1),
        ("lifecycle_nodes{state=\"unknown\"}".into(), 0),
        ("lifecycle_node_ready{node=\"n1\"}".into(), 1),
        ("lifecycle_rollouts{state=\"failed\"}".into(), 0),
        ("lifecycle_agents{state=\"outdated\"}".into(), 0),
        ("lifecycle_planned_steps".into(), 0),
        ("lifecycle_running_steps".into(), 0),
        ("lifecycle_leads_ended_total".into(), 0),
        (
            "lifecycle_service_replicas{class=\"microservice\",service=\"web\"}".into(),
            1,
        ),
        (
            "lifecycle_service_ready_replicas{class=\"microservice\",service=\"web\"}".into(),
            1,
        ),
        (
            "lifecycle_instances{class=\"microservice\",service=\"web\",state=\"ready\"}".into(),
            1,
        ),
        (
            "lifecycle_events_total{kind=\"first-round-done\"}".into(),
            1,
        ),
        ("lifecycle_settling_duration_seconds_count".into(), 1),
        (
            "lifecycle_step_duration_seconds_count{action=\"start-instance\",outcome=\"succeeded\"}"
                .into(),
            1,
        ),
    ];
    for (series, value) in expected {
        assert_eq!(scrape.value(&series), value, "{series}\n{}", scrape.text);
    }
    let passes = scrape.value("lifecycle_reconcile_duration_seconds_count");
    assert!(passes >= 2, "{passes}");
    assert_eq!(
        scrape.value("lifecycle_plan_duration_seconds_count"),
        passes
    );
    let commits = "lifecycle_registry_request_duration_seconds_count{outcome=\"succeeded\",request=\"commit\"}";
    assert!(scrape.value(commits) > 2);
    let renewals = "lifecycle_lease_requests_total{outcome=\"held\"}";
    assert!(scrape.value(renewals) > 1);
}

#[tokio::test(start_paused = true)]
async fn the_metrics_show_replicas_that_are_not_ready_and_steps_that_fail() {
    let mut served = Served::with_image("absent:1");
    served.run();
    let retries = "lifecycle_step_retries_total{action=\"pull-image\"}";
    let scrape = loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let scrape = served.scrape().await;
        if scrape.get(retries) > Some(0) && scrape.value("lifecycle_running_steps") == 0 {
            break scrape;
        }
    };
    let of_web = |name: &str| format!("{name}{{class=\"microservice\",service=\"web\"}}");
    assert_eq!(scrape.value(&of_web("lifecycle_service_replicas")), 1);
    assert_eq!(scrape.value(&of_web("lifecycle_service_ready_replicas")), 0);
    assert_eq!(scrape.value("lifecycle_first_round_done"), 0);
    assert_eq!(scrape.value("lifecycle_settled"), 0);
    assert_eq!(scrape.value("lifecycle_generation"), 1);
    assert_eq!(scrape.value("lifecycle_settled_generation"), 0);
    assert_eq!(scrape.value("lifecycle_held{cause=\"backoff\"}"), 1);
    let failed = "lifecycle_step_duration_seconds_count{action=\"pull-image\",outcome=\"failed\"}";
    let (failed, retries) = (scrape.value(failed), scrape.value(retries));
    assert!(failed >= 2, "{}", scrape.text);
    assert_eq!(retries, failed - 1);
}

#[tokio::test(start_paused = true)]
async fn the_metrics_show_operations_and_requests() {
    let served = Served::ready().await;
    let api = client(&served.router, &served.admin);
    let running = "lifecycle_operations_running{kind=\"restart\"}";
    let ended = "lifecycle_operations_ended_total{kind=\"restart\",state=\"succeeded\"}";
    let before = served.scrape().await;
    assert_eq!((before.get(running), before.value(ended)), (None, 0));
    let restart = api.restart("web", None).await.unwrap();
    assert_eq!(served.scrape().await.value(running), 1);
    while api.operation(restart.id()).await.unwrap().state == OperationStateV1::Running {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let denied = served
        .request("POST", "/v1/services/web/restart", Some(&served.read))
        .await;
    problem(denied, StatusCode::FORBIDDEN, "a viewer").await;
    served.request("GET", "/v1/platform", None).await;
    let after = served.scrape().await;
    assert_eq!((after.get(running), after.value(ended)), (None, 1));
    let count = |operation: &str, status: &str| {
        let name = "lifecycle_http_request_duration_seconds_count";
        let series = format!("{name}{{operation=\"{operation}\",status=\"{status}\"}}");
        after.get(&series)
    };
    let restarts = "POST /v1/services/{name}/restart";
    assert_eq!(count(restarts, "2xx"), Some(1));
    assert_eq!(count(restarts, "4xx"), Some(1));
    assert_eq!(count("unauthenticated", "4xx"), Some(1));
    assert_eq!(count("GET /metrics", "2xx"), Some(2));
}

/// A client cannot create series without bounds.
#[tokio::test(start_paused = true)]
async fn labels_contain_no_paths_and_no_invented_methods() {
    let served = Served::ready().await;
    for token in [None, Some(&served.read)] {
        for (method, path) in [
            ("INVENTED", "/v1/nodes"),
            ("PATCH", "/v1/nodes"),
            ("DELETE", "/v1/nodes"),
            ("GET", "/v1/invented/path"),
            ("GET", "/invented"),
            ("INVENTED", "/healthz"),
            ("GET", "/v1/services/invented"),
        ] {
            served.request(method, path, token).await;
        }
    }
    let scrape = served.scrape().await;
    let found = scrape.text.to_lowercase().contains("invented");
    assert!(!found, "{}", scrape.text);
    let operations = scrape.labels("lifecycle_http_request_duration_seconds_count", "operation");
    let expected = ["GET /v1/services/{name}", "unauthenticated", "unknown"];
    assert_eq!(operations, expected.map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_returns_the_state_of_the_platform() {
    let served = Served::standby();
    let standby = served.scrape().await;
    assert_eq!(standby.value("lifecycle_leading"), 0);
    assert_eq!(standby.value("lifecycle_epoch"), 0);
    for family in [
        "lifecycle_nodes",
        "lifecycle_generation",
        "lifecycle_instances",
    ] {
        assert!(standby.labels(family, "state").is_empty(), "{family}");
        assert_eq!(standby.get(family), None);
    }

    let served = Served::ready().await;
    served.manager.resign().await.unwrap();
    let resigned = served.scrape().await;
    assert_eq!(resigned.value("lifecycle_leading"), 0);
    assert_eq!(resigned.get("lifecycle_settled"), None);
}

/// Reading the metrics needs no lock that a change holds while it waits for the registry.
#[tokio::test(start_paused = true)]
async fn many_scrapes_do_not_delay_the_control_loop() {
    let served = Served::ready().await;
    let mut declaration = served.declaration.clone();
    for service in declaration.services.values_mut() {
        service.replicas = 3;
    }
    let applied = served.manager.apply(declaration);
    let scrapes = async {
        for _ in 0..100 {
            served.scrape().await;
        }
    };
    let (applied, ()) = tokio::join!(applied, scrapes);
    let generation = applied.unwrap().generation;
    let mut rounds = served.manager.rounds();
    let settled = rounds.wait_for(|round| round.settled && round.generation() == generation);
    tokio::time::timeout(Duration::from_mins(1), settled)
        .await
        .unwrap()
        .unwrap();
    let scrape = served.scrape().await;
    let ready = "lifecycle_service_ready_replicas{class=\"microservice\",service=\"web\"}";
    assert_eq!(scrape.value(ready), 3);
}
