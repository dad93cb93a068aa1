//! Tests that commands show what they wait for and until when, with and without a terminal.

use std::net::TcpListener;
use std::time::Duration;

use crate::project::{Project, TRUST};
use crate::terminal::OnTerminal;

/// Time limit for a command to show that it is waiting.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);

/// Declares a code store that accepts connections but never responds. Returns its listener.
fn unresponsive_store(project: &Project) -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    project.compose("  api:\n    build: api\n");
    project.write("api/Dockerfile", "FROM debian:bookworm-slim\n");
    project.write(
        "platform.toml",
        &format!(
            "[code]\nstore = \"azure-files\"\naccount = \"silent\"\nshare = \"code\"\n\
             endpoint = \"https://127.0.0.1:{port}\"\nkey = {{ env = \"FILES_KEY\" }}\n"
        ),
    );
    project.set("FILES_KEY", "c2VjcmV0");
    project.set(TRUST, &format!("https://127.0.0.1:{port}"));
    listener
}

#[test]
fn waits_are_shown_with_and_without_a_terminal() {
    let project = Project::new();
    let _silent = unresponsive_store(&project);
    let without = project.start(&["plan"]);
    let published = project.start(&["publish"]);
    let on_terminal = OnTerminal::start(project.command(&["up"]));
    let with_spinner = OnTerminal::start(project.command(&["publish"]));
    std::thread::sleep(SHOWN_WITHIN);
    for (screen, text) in [
        (&on_terminal, "waiting: the code store's response"),
        // This wait is shown on the line of the running step's spinner.
        (&with_spinner, "publish code base api"),
    ] {
        let raw = screen.raw();
        assert!(raw.contains(text) && raw.contains("since "), "{raw}");
    }
    on_terminal.interrupts();
    on_terminal.ends(130);
    with_spinner.interrupts();
    with_spinner.ends(130);
    for (running, text) in [
        (without, "… waiting: the code store's response (since "),
        (published, "… publish code base api (since "),
    ] {
        let said = running.kill_after(Duration::ZERO).stderr;
        let line = said.lines().find(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("no {text:?}: {said}"));
        assert!(line.contains(", until ") && line.contains(" UTC"), "{line}");
    }
}
