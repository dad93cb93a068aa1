//! Runs the conformance suite for engines against Docker: through the socket of this machine, over
//! SSH with a forwarded socket, and over SSH with the relay.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use fixture::{SHELL, SOCKET, Swept, TestHost, owner, shell_image};
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::conformance::runtime::{self, RuntimeFixture};
use lifecycle_core::runtime::{ContainerRuntime, Owner};
use lifecycle_docker::{DockerEngine, SshAccess};

type Engine = Arc<dyn ContainerRuntime>;

fn local(owner: &Owner) -> Engine {
    Arc::new(DockerEngine::local(SOCKET, owner.clone()).unwrap())
}

fn over_ssh(access: &Arc<SshAccess>, owner: &Owner) -> Engine {
    Arc::new(DockerEngine::over_ssh(Arc::clone(access), owner.clone()).unwrap())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs the suite with two platforms. `engine` returns the engine client for a platform.
async fn passes(engine: impl Fn(&Owner) -> Engine, other_engine: Engine, free_port: u16) {
    let (ours, theirs) = (owner(), owner());
    let shell = |script| words(&["sh", "-c", script]);
    runtime::all(&RuntimeFixture {
        runtime: engine(&ours),
        owner: ours.clone(),
        stranger: (engine(&theirs), theirs),
        other_engine: Some(other_engine),
        prefix: format!("ldt-{}", ours.id.short()),
        image: SHELL.into(),
        runs_long: shell("trap 'exit 0' TERM; sleep 600 & wait"),
        exits_0: words(&["true"]),
        exits_3: shell("exit 3"),
        prints: shell("echo out; echo err >&2"),
        free_port,
    })
    .await;
}

/// Returns the first of three consecutive host ports that are free on this machine.
fn free_port() -> u16 {
    let random = RandomIds.uuid().as_u128() % 9_000;
    let begin = 20_000 + u16::try_from(random).unwrap();
    let is_free = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    (begin..29_900)
        .find(|&first| (first..first + 3).all(is_free))
        .unwrap()
}

/// Loads the suite's image into a machine's engine; returns how many relays were needed.
async fn with_image(machine: &TestHost) -> usize {
    let archive = local(&owner()).export_image(SHELL).await.unwrap();
    let engine = over_ssh(&machine.access(), &owner());
    engine.import_image(archive).await.unwrap();
    engine.info().await.unwrap();
    machine.relays().await
}

#[tokio::test]
async fn the_local_engine_passes_the_suite() {
    shell_image().await;
    let other = TestHost::with_engine().await;
    // If a check fails, `Swept` removes the resources that have the owner's label.
    let swept = std::sync::Mutex::new(Vec::new());
    let engine = |owner: &Owner| {
        swept.lock().unwrap().push(Swept(owner.clone()));
        local(owner)
    };
    passes(engine, over_ssh(&other.access(), &owner()), free_port()).await;
}

#[tokio::test]
async fn an_engine_over_a_forwarded_socket_passes_the_suite() {
    shell_image().await;
    let machine = TestHost::with_engine().await;
    machine.exec("usermod -aG docker ops").await;
    assert_eq!(with_image(&machine).await, 0, "a relay is running");
    let access = machine.access();
    passes(|owner| over_ssh(&access, owner), local(&owner()), 20_500).await;
}

#[tokio::test]
async fn an_engine_over_the_relay_passes_the_suite() {
    shell_image().await;
    let machine = TestHost::with_engine().await;
    assert!(with_image(&machine).await > 0, "no relay is running");
    let access = machine.access();
    passes(|owner| over_ssh(&access, owner), local(&owner()), 20_500).await;
}
