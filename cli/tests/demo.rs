//! Runs the demo on a machine without a usable Docker. The demo must report the reason and simulate
//! the platform.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The exit code of a simulated demo.
const SIMULATED: i32 = 3;

/// Runs `script/demo` with the programs that were built for this test. Returns the script's output.
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
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(SIMULATED), "{text}");
    text
}

fn assert_complete_bring_up(output: &str, why: &str) {
    for line in [
        "provision node hub",
        "provision node edge-1",
        "provision node edge-2",
        "monitoring-1 is ready",
        "This was a SIMULATION",
        why,
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    // `monitoring` must be the last service to become ready.
    let last = output.lines().rfind(|line| line.contains(" is ready on "));
    assert!(last.unwrap().contains("monitoring-1"), "{output}");
}

#[test]
fn unreachable_engine_is_reported_and_platform_simulated() {
    let output = demo(|command| {
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    });
    assert_complete_bring_up(
        &output,
        "Reason: Docker cannot be used here: it does not respond at DOCKER_HOST=unix:///nonexistent/docker.sock",
    );
}

#[test]
fn unsuitable_engine_is_reported_and_platform_simulated() {
    let programs = tempfile::tempdir().unwrap();
    let docker = programs.path().join("docker");
    let refuses = "#!/bin/sh\n\
                   case $1 in version | image) exit 0 ;; esac\n\
                   echo 'docker: operation not permitted.' >&2\n\
                   exit 125\n";
    std::fs::write(&docker, refuses).unwrap();
    std::fs::set_permissions(&docker, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = demo(|command| {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", programs.path().display()));
    });
    assert_complete_bring_up(
        &output,
        "Reason: Docker cannot be used here: it is running, but rejects the privileges that a node \
         with its own engine needs: docker: operation not permitted.",
    );
}
