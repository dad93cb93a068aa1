//! The demo where Docker cannot run: it says so, and brings the platform up in a simulation.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The exit code that says: simulated.
const SIMULATED: i32 = 3;

/// Runs the demo with the programs that were built for this test, and gives what it says.
fn demo(change: impl FnOnce(&mut Command)) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_bootstrapper"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../script/demo");
    let mut command = Command::new(script);
    command
        .arg("--built")
        .env("CARGO_TARGET_DIR", program.ancestors().nth(2).unwrap())
        .env_remove("DOCKER_HOST")
        .stdin(Stdio::null());
    change(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(SIMULATED), "{said}");
    said
}

fn is_a_whole_bring_up(said: &str, why: &str) {
    for line in [
        "provision node hub",
        "provision node edge-1",
        "provision node edge-2",
        "monitoring-1 is ready",
        "This was a SIMULATION",
        why,
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // The last of all, as it is declared.
    let last = said.lines().rfind(|line| line.contains(" is ready on "));
    assert!(last.unwrap().contains("monitoring-1"), "{said}");
}

#[test]
fn an_engine_that_does_not_answer_is_named_and_the_platform_simulated() {
    let said = demo(|command| {
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    });
    is_a_whole_bring_up(
        &said,
        "Reason: Docker cannot be used here: it does not respond at DOCKER_HOST=unix:///nonexistent/docker.sock",
    );
}

#[test]
fn an_engine_that_refuses_what_nodes_need_is_named_and_the_platform_simulated() {
    let programs = tempfile::tempdir().unwrap();
    let docker = programs.path().join("docker");
    let refuses = "#!/bin/sh\n\
                   case $1 in version | image) exit 0 ;; esac\n\
                   echo 'docker: operation not permitted.' >&2\n\
                   exit 125\n";
    std::fs::write(&docker, refuses).unwrap();
    std::fs::set_permissions(&docker, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = demo(|command| {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", programs.path().display()));
    });
    is_a_whole_bring_up(
        &said,
        "Reason: Docker cannot be used here: it is running, but refuses the privileges that a node \
         with its own engine needs: docker: operation not permitted.",
    );
}
