//! Tests that a project's files alone cannot make a command send credentials to an address that
//! does not belong to Azure.

use std::io::ErrorKind;
use std::net::TcpListener;

use lifecycle_azure::simulator::{CLIENT, SUBSCRIPTION, TENANT};

use crate::project::{Project, TRUST};

/// The commands that read the settings for the cloud or the code store.
const COMMANDS: [&[&str]; 6] = [
    &["plan"],
    &["doctor"],
    &["up", "--yes"],
    &["up", "--yes", "--publish"],
    &["publish"],
    &["down", "--yes"],
];

/// A server that the author of the project's files could read.
struct Elsewhere(TcpListener);

impl Elsewhere {
    fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn address(&self) -> String {
        format!("https://{}", self.0.local_addr().unwrap())
    }

    fn received_nothing(&self, after: &str) {
        let outcome = self.0.accept();
        let is_none = { outcome.as_ref() }.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        assert!(is_none, "{after}: {outcome:?}");
    }
}

fn project() -> Project {
    let project = Project::new();
    project.compose("  web:\n    build: web\n");
    project.write("web/Dockerfile", "FROM debian:bookworm-slim\n");
    project.set("AWS_SECRET_ACCESS_KEY", "c2VjcmV0");
    project
}

fn cloud(endpoint: Option<&str>, authority: Option<&str>) -> String {
    let line = |key: &str, address: Option<&str>| {
        address.map_or_else(String::new, |address| format!("{key} = \"{address}\"\n"))
    };
    format!(
        "[cloud]\nprovider = \"azure\"\nsubscription = \"{SUBSCRIPTION}\"\n\
         location = \"westeurope\"\n{}{}login = {{ method = \"client-secret\", tenant = \
         \"{TENANT}\", client = \"{CLIENT}\", secret = {{ env = \"AWS_SECRET_ACCESS_KEY\" }} }}\n",
        line("endpoint", endpoint),
        line("authority", authority)
    )
}

fn are_refused(project: &Project, elsewhere: &Elsewhere, setting: &str) {
    let has_store = setting.starts_with("`code.");
    for command in COMMANDS {
        if command[0] == "publish" && !has_store {
            continue;
        }
        let finished = project.call(command);
        let said = finished.stdout + &finished.stderr;
        assert_ne!(finished.status.code(), Some(0), "{command:?}: {said}");
        if command[0] != "down" {
            assert!(said.contains(setting), "{command:?}: {said}");
            let hint = format!("--trust-address {}", elsewhere.address());
            assert!(said.contains(&hint), "{command:?}: {said}");
        }
        elsewhere.received_nothing(&format!("{command:?} with {setting}"));
    }
}

#[test]
fn credentials_are_sent_only_to_azure() {
    let (project, elsewhere) = (project(), Elsewhere::listen());
    let address = elsewhere.address();
    project.write("platform.toml", &cloud(None, Some(&address)));
    // The variable counts only in the environment of the command.
    project.write(".env", &format!("{TRUST}={address}\n"));
    are_refused(&project, &elsewhere, "`cloud.authority`");
    project.write("platform.toml", &cloud(Some(&address), None));
    are_refused(&project, &elsewhere, "`cloud.endpoint`");
    project.ends(1, &["plan"]);

    let share = |key: &str| {
        format!(
            "[code]\nstore = \"azure-files\"\naccount = \"store\"\nshare = \"code\"\n\
             endpoint = \"{address}\"\n{key} = {{ env = \"AWS_SECRET_ACCESS_KEY\" }}\n"
        )
    };
    for key in ["key", "sas"] {
        project.write("platform.toml", &share(key));
        are_refused(&project, &elsewhere, "`code.endpoint`");
    }

    // The operator trusts the address.
    project.write("platform.toml", &share("key"));
    project.call(&["plan", "--trust-address", &address]);
    assert!(elsewhere.0.accept().is_ok());
}
