//! Tests that code bases are published to a share of a simulated Azure Files, and that plans use
//! the published versions.

use std::time::Duration;

use lifecycle_azure::simulator::files::ShareSas;
use lifecycle_azure::simulator::{
    AzureSimulator, STORAGE_ACCOUNT, STORAGE_KEY, STORAGE_SHARE, SimulatorOptions,
};
use lifecycle_core::clock::{Clock as _, SystemClock};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::project::{Project, TRUST};
use crate::subprocess::run;
use crate::terminal::OnTerminal;

/// Selects a subnet that local nodes cannot use, so that every `up` fails after it has read the
/// files.
const TAKEN: &str = "[cloud]\nprovider = \"local\"\nsubnet = \"172.17.0.0/16\"\n";

/// A simulated Azure that serves a share.
struct Share {
    runtime: Runtime,
    azure: AzureSimulator,
}

impl Share {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let azure = AzureSimulator::start(SimulatorOptions::default());
        let azure = runtime.block_on(azure).unwrap();
        Self { runtime, azure }
    }

    /// Declares the share as the project's code store. `with` is the line that sets the key or the
    /// signature.
    fn declare(&self, project: &Project, with: &str) {
        let endpoint = self.azure.secure_files_endpoint();
        project.set(TRUST, &endpoint);
        project.write("ca.pem", &self.azure.authority_pem());
        project.write(
            "platform.toml",
            &format!(
                "{TAKEN}[code]\nstore = \"azure-files\"\naccount = \"{STORAGE_ACCOUNT}\"\n\
                 share = \"{STORAGE_SHARE}\"\nendpoint = \"{endpoint}\"\n\
                 ca = \"ca.pem\"\n{with}\n"
            ),
        );
    }

    /// Returns how many requests since the last call changed the share.
    fn writes(&self) -> usize {
        let writes = self.azure.requests().writes().len();
        self.azure.requests().clear();
        writes
    }
}

#[test]
fn plans_use_published_code_bases() {
    let (share, project) = (Share::start(), project());
    share.declare(&project, "key = { env = \"FILES_KEY\" }");
    project.set("FILES_KEY", STORAGE_KEY);

    let unpublished = project.ends(2, &["plan"]).stderr;
    assert!(
        unpublished.contains("bootstrapper publish sensor")
            && unpublished.contains("compose.yaml:"),
        "{unpublished}"
    );
    assert_eq!(share.writes(), 0);

    let published = project.ends(0, &["publish"]).stdout;
    let lines: Vec<&str> = published.lines().collect();
    assert_eq!(lines.len(), 2, "{published}");
    for (line, name) in lines.iter().zip(["edge/api ", "sensor "]) {
        assert!(
            line.starts_with(name) && line.contains("published, "),
            "{published}"
        );
    }
    assert!(share.writes() > 0);
    project.ends(0, &["plan"]);

    let again = document(&project, &["publish", "--json"]);
    for one in again["code_bases"].as_array().unwrap() {
        assert_eq!(
            (&one["unchanged"], &one["bytes_sent"]),
            (&true.into(), &0.into())
        );
    }
    assert_eq!(share.writes(), 0, "existing files were written again");

    // Only one file has changed, so only this file must be uploaded.
    project.write("sensor/main.c", "int main(void) { return 1; }\n");
    let outdated = project.ends(0, &["plan"]).stderr;
    assert!(
        outdated.contains("code base `sensor` differs"),
        "{outdated}"
    );
    assert!(!outdated.contains("edge/api"), "{outdated}");
    assert_eq!(share.writes(), 0);
    let changed = document(&project, &["publish", "--json", "sensor"]);
    let [one] = changed["code_bases"].as_array().unwrap().as_slice() else {
        panic!("{changed}");
    };
    let sent = one["bytes_sent"].as_u64().unwrap();
    assert!((1..20_000).contains(&sent), "{changed}");

    names_and_directories(&project);
    up_publishes_if_confirmed(&share, &project);
    drop(share.runtime);
}

#[test]
fn publish_warns_about_files_that_a_code_base_lacks() {
    let (share, project) = (Share::start(), Project::new());
    share.declare(&project, "key = { env = \"FILES_KEY\" }");
    project.set("FILES_KEY", STORAGE_KEY);
    project.compose("  server:\n    build: {context: server, dockerfile: Production}\n");
    project.write("server/Production", "FROM scratch\nCOPY program conf/ /\n");
    project.write("server/conf/a", "a");
    let published = project.ends(0, &["publish"]).stderr;
    let warning = "code base `server` lacks `program`, which line 2 of its `Production` copies";
    assert!(published.contains(warning), "{published}");
    assert!(!published.contains("`conf"), "{published}");

    project.write("server/program", "");
    project.write("server/.dockerignore", "conf\n");
    let published = project.ends(0, &["publish"]).stderr;
    assert!(published.contains("lacks `conf/`"), "{published}");
    assert!(!published.contains("`program`"), "{published}");
}

#[test]
fn doctor_finds_a_share_that_does_not_exist() {
    let (share, project) = (Share::start(), Project::new());
    let missing = "key = { env = \"FILES_KEY\" }";
    share.declare(&project, missing);
    project.set("FILES_KEY", STORAGE_KEY);
    let settings = project.read("platform.toml");
    let declared = format!("share = \"{STORAGE_SHARE}\"");
    assert!(settings.contains(&declared), "{settings}");
    project.write(
        "platform.toml",
        &settings.replace(&declared, "share = \"absent\""),
    );
    // No code base is on this machine, so nothing is compared.
    for compose in [
        "  web: {image: \"debian:bookworm-slim\"}\n",
        "  web:\n    build: elsewhere\n",
    ] {
        project.compose(compose);
        let found = project.ends(1, &["doctor"]).stdout;
        assert!(found.contains("share `absent`"), "{found}");
        assert!(found.contains("share-rm create"), "{found}");
    }
    project.compose("  web:\n    build: here\n");
    project.write("here/Dockerfile", "FROM debian:bookworm-slim\n");
    let found = project.ends(1, &["doctor"]).stdout;
    assert!(found.contains("share-rm create"), "{found}");
}

/// Creates a project with two code bases.
fn project() -> Project {
    let project = Project::new();
    project.compose("  sensor:\n    build: ./sensor\n  api:\n    build: {context: edge/api}\n");
    for code in ["sensor", "edge/api"] {
        project.write(&format!("{code}/Dockerfile"), "FROM scratch\nCOPY . /\n");
        project.write(&format!("{code}/main.c"), "int main(void) { return 0; }\n");
    }
    project.write("sensor/data", &"0123456789abcdef".repeat(64 << 10));
    project
}

fn document(project: &Project, arguments: &[&str]) -> Value {
    let finished = project.ends(0, arguments);
    serde_json::from_str(&finished.stdout).unwrap()
}

fn names_and_directories(project: &Project) {
    let mistyped = project.ends(1, &["publish", "sensr"]).stderr;
    assert!(mistyped.contains("did you mean `sensor`?"), "{mistyped}");
    // A path argument is relative to the current directory.
    let mut command = project.command(&["publish", "--json", "."]);
    command.current_dir(project.path("edge/api"));
    let here = run(&mut command, Duration::from_mins(1));
    let here: Value = serde_json::from_str(&here.stdout).unwrap();
    assert_eq!(here["code_bases"][0]["name"], "edge/api");
    let outside = project.ends(1, &["publish", "/tmp"]).stderr;
    assert!(outside.contains("outside"), "{outside}");
    // A published code base stays in the share, even if its directory is missing on this machine.
    std::fs::rename(project.path("edge"), project.path("away")).unwrap();
    let rest = document(project, &["publish", "--json"]);
    assert_eq!(rest["elsewhere"][0], "edge/api");
    project.ends(0, &["plan"]);
    let absent = project.ends(1, &["publish", "edge/api"]).stderr;
    assert!(
        absent.contains("edge/api") && absent.contains("does not exist"),
        "{absent}"
    );
    std::fs::rename(project.path("away"), project.path("edge")).unwrap();
}

fn up_publishes_if_confirmed(share: &Share, project: &Project) {
    let change = |text: &str| project.write("sensor/main.c", text);
    let is_outdated = || {
        project
            .ends(0, &["plan"])
            .stderr
            .contains("`sensor` differs")
    };
    share.writes();
    change("int main(void) { return 2; }\n");
    let used = project.ends(1, &["up"]).stderr;
    assert!(used.contains("the published code bases are used"), "{used}");
    assert!(
        used.contains("172.17.0.0/16"),
        "`up` did not continue: {used}"
    );
    assert!(is_outdated() && share.writes() == 0);

    let up = OnTerminal::start(project.command(&["up"]));
    up.shows("Publish the code bases on this machine first? [Y/n]");
    up.types("n\r");
    up.ends(1);
    assert!(is_outdated() && share.writes() == 0);

    let up = OnTerminal::start(project.command(&["up"]));
    up.shows("Publish the code bases on this machine first? [Y/n]");
    up.types("\r");
    up.ends(1);
    assert!(!is_outdated());

    change("int main(void) { return 3; }\n");
    let output = project.ends(1, &["up", "--publish"]).stderr;
    assert!(output.contains("publish code base sensor"), "{output}");
    assert!(!is_outdated());
}

#[test]
fn share_secrets_are_never_shown() {
    let (share, project) = (Share::start(), project());
    let wrong = "d3Jvbmcga2V5IG9mIGEgdGVzdA==";
    share.declare(&project, "key = { env = \"FILES_KEY\" }");
    project.set("FILES_KEY", wrong);
    let refused = project.ends(1, &["publish"]);
    assert!(refused.stderr.contains("keys list"), "{}", refused.stderr);
    project.ends(1, &["publish", "--json"]);

    let terms = ShareSas {
        share: STORAGE_SHARE.to_owned(),
        permissions: "rl".to_owned(),
        starts: None,
        expires: SystemClock.now() + chrono::TimeDelta::hours(1),
    };
    let sas = share.azure.files().share_sas(STORAGE_ACCOUNT, &terms);
    let sas = sas.unwrap().expose_secret().to_owned();
    let signature = sas.split("sig=").nth(1).unwrap();
    let signature = signature.split('&').next().unwrap();
    project.write("share.sas", &sas);
    share.declare(&project, "sas = { file = \"share.sas\" }");
    let refused = project.ends(1, &["publish"]);
    assert!(refused.stderr.contains("rcwdl"), "{}", refused.stderr);
    for secret in [wrong, signature] {
        assert!(!project.said().contains(secret), "{}", project.said());
    }
    drop(share.runtime);
}

#[test]
fn directories_are_not_published() {
    let project = project();
    let refused = project.ends(1, &["publish"]).stderr;
    assert!(refused.contains("no store to publish to"), "{refused}");
    assert!(
        refused.contains("azure-files"),
        "the hint is missing: {refused}"
    );
}
