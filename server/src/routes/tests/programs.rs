//! Tests the API and its document with programs in Python, which `script/test` installs: a validator,
//! Schemathesis, and a generator of clients. The manager runs in a simulation.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use lifecycle_core::model::TokenRole;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::sim::{SimOptions, SimWorld};
use tokio::net::TcpListener;
use tokio::process::Command;

use super::Served;
use crate::auth::Peer;

/// The operations without a simple response: a stream of lines, and an upgraded connection.
const STREAMS: [&str; 2] = ["get_logs", "exec"];

/// The least number of requests for each role.
const EXAMPLES: u32 = 2_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api")
}

fn document() -> PathBuf {
    root().join("docs/openapi.json")
}

/// Returns a command that runs a program of the virtual environment.
fn program(name: &str) -> Command {
    let venv = root().join("target/api-tools");
    let program = venv.join("bin").join(name);
    assert!(
        program.exists(),
        "the tools for the API are not installed: python3 -m venv {0} && {0}/bin/pip install -r {1}",
        venv.display(),
        files().join("requirements.txt").display(),
    );
    let mut command = Command::new(program);
    command.env_clear().kill_on_drop(true);
    command
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

/// A manager in a simulation, whose API is served without TLS.
struct Listening {
    served: Served,
    url: String,
}

impl Listening {
    async fn start() -> Self {
        // Fast enough to run with the system's clock, which the programs use, too.
        let world = SimWorld::with_options(SimOptions {
            pace_percent: 1,
            ..SimOptions::seeded(1)
        });
        let served = Served::in_world(&world, "base:1").started().await;
        // Each request has another address, because many requests without a token from one address
        // are answered with 429 instead of 401.
        let address = Arc::new(AtomicU32::new(1));
        let router =
            served
                .router
                .clone()
                .layer(from_fn(move |mut request: Request, next: Next| {
                    let next_address = address.fetch_add(1, Ordering::Relaxed);
                    let peer = Peer(IpAddr::V4(Ipv4Addr::from_bits(next_address)));
                    request.extensions_mut().insert(peer);
                    next.run(request)
                }));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { served, url }
    }
}

#[tokio::test]
async fn the_document_is_valid() {
    let mut validator = program("openapi-spec-validator");
    let output = validator.arg("--schema").arg("3.1").arg(document());
    let output = output.output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Runs Schemathesis without or only with these operations. Returns the number of its requests.
async fn check(listening: &Listening, token: &Sensitive, option: &str, operations: &[&str]) -> u32 {
    let directory = tempfile::tempdir().unwrap();
    let mut schemathesis = program("schemathesis");
    schemathesis
        .current_dir(&directory)
        .env("HOME", directory.path())
        .arg("--config-file")
        .arg(files().join("schemathesis.toml"))
        .arg("run")
        .arg(document())
        .args(["--url", &listening.url, "--checks", "all", "--no-color"])
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", token.expose()));
    for operation in operations {
        schemathesis.args([option, operation]);
    }
    let output = schemathesis.output().await.unwrap();
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");
    let summary = printed.split("Test cases:").nth(1).unwrap();
    let generated = summary.split_whitespace().next().unwrap();
    println!("{}", &printed[printed.find("API Operations").unwrap()..]);
    // No request has revoked the token, after which all others would be rejected.
    let response = listening.served.request("GET", "/v1/platform", Some(token));
    assert_eq!(response.await.status(), StatusCode::OK);
    generated.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_failure_as_viewer() {
    let listening = Listening::start().await;
    let token = listening
        .served
        .token("a-viewer", TokenRole::Viewer, None)
        .await;
    let examples = check(&listening, &token, "--exclude-operation-id", &STREAMS).await;
    assert!(examples >= EXAMPLES, "only {examples} examples");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_failure_as_operator() {
    let listening = Listening::start().await;
    let token = listening
        .served
        .token("an-operator", TokenRole::Operator, None)
        .await;
    // The platform is not always ready after changes, so the status of this operation may be 503.
    let excluded = [STREAMS[0], STREAMS[1], "check_readiness"];
    let examples = check(&listening, &token, "--exclude-operation-id", &excluded).await;
    assert!(examples >= EXAMPLES, "only {examples} examples");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_failure_as_admin() {
    let listening = Listening::start().await;
    let token = &listening.served.admin;
    // No change is accepted after the deletion of the platform has begun, so it is last.
    let excluded = [STREAMS[0], STREAMS[1], "check_readiness", "delete_platform"];
    let examples = check(&listening, token, "--exclude-operation-id", &excluded).await;
    assert!(examples >= EXAMPLES, "only {examples} examples");
    let last = ["delete_platform", "get_operation"];
    check(&listening, token, "--include-operation-id", &last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_client_restarts_a_service_and_deploys_an_application() {
    let listening = Listening::start().await;
    let directory = tempfile::tempdir().unwrap();
    let tools = root().join("target/api-tools/bin");
    let mut generator = program("openapi-python-client");
    generator
        .current_dir(&directory)
        // The generator formats the client with a program of the same environment.
        .env("PATH", tools)
        .arg("generate")
        .arg("--path")
        .arg(document())
        .args(["--meta", "none", "--output-path"])
        .arg(directory.path().join("lifecycle_manager_client"));
    let generated = generator.output().await.unwrap();
    let printed = text(&generated);
    assert!(generated.status.success(), "{printed}");
    // The generator warns about the formats that it does not know, and about schemas that it omits.
    assert!(!printed.contains("Unable to process"), "{printed}");
    let mut script = program("python");
    script
        .env("PYTHONPATH", directory.path())
        .env("LIFECYCLE_URL", &listening.url)
        .env("LIFECYCLE_TOKEN", listening.served.admin.expose())
        .arg(files().join("client.py"))
        .args(["web", "base:1"]);
    let ran = script.output().await.unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    let printed = text(&ran);
    assert!(printed.ends_with("chat is removed\n"), "{printed}");
}
