//! Tests that `rotate all` replaces every credential of a running platform: the old ones are refused,
//! and no container of a service is restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{SshAccess, SshCredential, SshTarget, SshTimings};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::docker::{Node, Run};
use crate::https::{Https, plain_get};
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::until;

/// The port of the manager's API.
const API: u16 = 7443;

/// Declares a service that reads the states of all services from the manager every two seconds, and a
/// web server.
fn services() -> String {
    let server = STATIC_SERVER.replace("[authentication]", "[monitoring]");
    format!(
        "  watcher:{server}    ports: [\"9090:8000\"]\n    \
         deploy: {{placement: {{constraints: [\"node.hostname == b\"]}}}}\n    \
         x-lifecycle: {{api: read}}\n  \
         web:\n    build: ./web\n    ports: [\"8080:8080\"]\n    \
         deploy: {{placement: {{constraints: [\"node.hostname == a\"]}}}}\n"
    )
}

/// The credentials of a platform at one time.
struct Credentials {
    admin: String,
    authority: String,
    ssh: String,
    service: String,
}

impl Credentials {
    fn of(project: &Project, watcher: &Node) -> Self {
        let token = format!(
            "cat /var/lib/lifecycle/{}/service-api/watcher/token",
            project.id()
        );
        Self {
            admin: project.kept("admin.token"),
            authority: project.kept("ca.pem"),
            ssh: project.kept("ssh.key"),
            service: watcher.exec(&["sh", "-c", &token]),
        }
    }

    fn api(&self, manager: &Node) -> Https {
        Https::new(manager.address(), API, &self.authority)
    }
}

/// Returns whether a node accepts a private key.
fn accepts(node: &Node, key: &str) -> bool {
    let keys = node.exec(&["cat", "/var/lib/node/host-keys"]);
    let target = SshTarget {
        node: "tested".parse().unwrap(),
        address: node.address(),
        port: 22,
        user: "lifecycle".into(),
        host_keys: keys.lines().map(str::to_owned).collect(),
    };
    let credential = SshCredential::PrivateKey(Sensitive::new(key));
    let access = SshAccess::new(target, &credential, SshTimings::default()).unwrap();
    match Runtime::new().unwrap().block_on(access.check()) {
        Ok(()) => true,
        Err(Error::Denied { .. }) => false,
        Err(error) => panic!("{}", error.chain()),
    }
}

/// Returns the runs of all containers except for the manager's, by node.
fn workloads(project: &Project) -> BTreeMap<String, BTreeMap<String, Run>> {
    let nodes = Node::all(&project.id()).into_iter();
    let runs = nodes.map(|(name, node)| {
        let mut runs = node.runs();
        runs.retain(|container, _| !container.contains("lifecycle-manager"));
        (name, runs)
    });
    runs.collect()
}

/// Waits until the watcher has read the states of all services after `since`.
fn watcher_reads(node: &Node, since: &str) {
    let address = node.address().to_string();
    until(
        "the watcher reads from the manager",
        Duration::from_mins(1),
        || {
            let response = plain_get(&address, 9090, "/");
            let (_, body) = response.split_once("\r\n\r\n")?;
            let summary: Value = serde_json::from_str(body).ok()?;
            let is_new = summary["at"].as_str().is_some_and(|at| at > since);
            (is_new && summary["manager"].is_null()).then_some(())
        },
    );
}

fn now(node: &Node) -> String {
    node.exec(&["date", "-u", "+%Y-%m-%dT%H:%M:%S"])
}

#[test]
fn all_credentials_are_replaced_while_services_run() {
    let project = Project::new();
    project.compose(&services());
    project.web_server("web");
    project.static_server("server");
    project.write("platform.toml", "[nodes.a]\n[nodes.b]\n");
    project.ends(0, &["up"]);
    let find = |name: &str| Node::find(&project.id(), name).unwrap();
    let (a, b) = (find("a"), find("b"));
    watcher_reads(&b, "");
    let old = Credentials::of(&project, &b);
    let created = project.ends(0, &["token", "create", "ci", "--role", "admin"]);
    let ci = created.stdout.trim().to_owned();
    let before = workloads(&project);
    assert_eq!(
        before["b"].len(),
        2,
        "the watcher and the agent: {before:?}"
    );
    let status = |credentials: &Credentials, token: &str| {
        let response = credentials
            .api(&a)
            .try_request("GET", "/v1/services", Some(token), "");
        response.map(|response| response.status)
    };
    assert_eq!(status(&old, &old.admin), Some(200));
    assert_eq!(status(&old, &old.service), Some(200));
    assert!(accepts(&a, &old.ssh) && accepts(&b, &old.ssh));

    let rotated = project.ends(0, &["rotate", "all", "--json"]);
    let rotated: Value = serde_json::from_str(&rotated.stdout).unwrap();
    let all = serde_json::json!(["tokens", "ssh-key", "authority"]);
    assert_eq!(rotated["rotated"], all);
    assert_eq!(rotated["unrotated_tokens"], serde_json::json!(["ci"]));

    let new = Credentials::of(&project, &b);
    assert_eq!(workloads(&project), before, "a container was restarted");
    // Each new credential is accepted, so the checks of the old ones are meaningful.
    assert_eq!(status(&new, &new.admin), Some(200));
    assert_eq!(status(&new, &new.service), Some(200));
    assert_eq!(status(&new, &ci), Some(200));
    assert_eq!(status(&new, &old.admin), Some(401));
    assert_eq!(status(&new, &old.service), Some(401));
    assert_eq!(
        status(&old, &new.admin),
        None,
        "the old authority is trusted"
    );
    for node in [&a, &b] {
        assert!(accepts(node, &new.ssh));
        assert!(!accepts(node, &old.ssh));
    }
    // The running container reads its files again.
    watcher_reads(&b, &now(&b));
    project.status();
    project.ends(0, &["logs", "web"]);
    project.ends(0, &["up"]);
    assert_eq!(workloads(&project), before, "`up` restarted a container");

    // Nodes that boot again, and nodes that are created later, do not accept the old key.
    project.ends(0, &["node", "restart", "b"]);
    project.ends(0, &["node", "add", "c", "--like", "b"]);
    for node in ["b", "c"].map(find) {
        assert!(accepts(&node, &new.ssh));
        assert!(!accepts(&node, &old.ssh));
    }
    watcher_reads(&find("b"), &now(&b));
    a_copy_of_the_old_state_is_rejected_with_a_hint(&project, &old);
    project.ends(0, &["down", "--yes"]);
}

/// Runs a command with single files of the state as they were before the rotation, as on the computer
/// of a colleague.
fn a_copy_of_the_old_state_is_rejected_with_a_hint(project: &Project, old: &Credentials) {
    for (file, text) in [
        ("admin.token", &old.admin),
        ("ca.pem", &old.authority),
        ("ssh.key", &old.ssh),
    ] {
        let path = project.state().join(file);
        let current = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let failed = project.ends(1, &["status"]);
        assert!(
            failed.stderr.contains("bootstrapper rotate"),
            "{file}: {}",
            failed.stderr
        );
        std::fs::write(&path, current).unwrap();
    }
    project.status();
}
