//! Tests a platform whose machines can be reached only through a jump host in the same network.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::host::SshKeyPair;
use lifecycle_docker::generate_ssh_key;
use serde_json::{Value, json};

use super::secrets;
use super::simulated::{SimulatedAzure, small_project};
use super::users_vm::{ACCOUNT, UsersVm};
use crate::docker::Belongings;
use crate::document::instances;
use crate::project::Project;

/// The user's resource group with the network and the jump host.
const GROUP: &str = "office";
const JUMP_HOST: &str = "jump";
/// Time limit for a connection attempt, which would hang if a firewall drops the packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

struct JumpHost {
    address: IpAddr,
    host_key: String,
    /// The key that only the jump host accepts.
    key: SshKeyPair,
}

impl JumpHost {
    /// Creates a jump host: a VM with a public address, in the network that the platform will use.
    fn start(azure: &SimulatedAzure, project: &Project) -> Self {
        let key = generate_ssh_key().unwrap();
        let vm = UsersVm::start(azure, project, GROUP, JUMP_HOST, &key);
        let host_key = vm.node.exec(&["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]);
        Self {
            address: vm.address,
            host_key,
            key,
        }
    }

    /// Returns the lines that declare the jump host in `[cloud]` of platform.toml.
    fn declared(&self, host_key: &str) -> String {
        let words: Vec<&str> = host_key.split_whitespace().take(2).collect();
        format!(
            "jump_host = {{ address = \"{}\", user = \"{ACCOUNT}\", host_key = \"{}\", \
             key = {{ file = \"jump.key\" }} }}\n",
            self.address,
            words.join(" ")
        )
    }

    /// Returns the name that messages use for the jump host.
    fn name(&self) -> String {
        format!("jump host {ACCOUNT}@{}:22", self.address)
    }
}

/// Creates a project that has an identity but has never been started.
fn project(azure: &SimulatedAzure) -> Project {
    let closed = format!("public_ip = false\nresource_group = \"{GROUP}\"\n#jump\n");
    let project = small_project(azure, &closed);
    let identity = json!({ "name": project.name, "id": RandomIds.uuid() });
    project.write(".lifecycle/platform.json", &identity.to_string());
    project
}

/// Replaces text in platform.toml.
fn change(project: &Project, from: &str, to: &str) {
    let text = project.read("platform.toml");
    assert!(text.contains(from), "{text}");
    project.write("platform.toml", &text.replace(from, to));
}

fn is_open(address: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_TIMEOUT).is_ok()
}

/// Checks that this machine can reach the jump host but not the nodes.
fn assert_only_jump_host_is_open(status: &Value) {
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        assert_eq!(node["addresses"]["public"], Value::Null, "{node}");
        let address = node["addresses"]["private"].as_str().unwrap();
        for port in [22, 2375, 7443, 8000, 8080] {
            assert!(!is_open(address.parse().unwrap(), port), "{port}: {node}");
        }
    }
}

/// Runs all commands that query or change a running platform.
fn all_commands_work(project: &Project) {
    let says = |arguments: &[&str], text: &str| {
        let finished = project.ends(0, arguments);
        assert!(finished.stdout.contains(text), "{}", finished.stdout);
    };
    says(&["plan"], "Nothing to do");
    says(&["status"], "web");
    says(&["doctor"], "jump host");
    says(&["why", "web"], "web");
    says(&["--json", "events"], "web");
    project.ends(0, &["logs", "web"]);
    project.ends(0, &["exec", "web", "--", "/iot-platform", "check"]);
    project.ends(0, &["restart", "web"]);
}

#[test]
fn platform_without_public_addresses_uses_a_jump_host() {
    let azure = SimulatedAzure::start();
    let project = project(&azure);
    let jump = JumpHost::start(&azure, &project);
    assert!(is_open(jump.address, 22));
    let theirs = azure.resources();
    project.write("jump.key", jump.key.private.expose());
    // Enable the most detailed logs.
    project.set("LIFECYCLE_LOG", "trace");
    project.ends(0, &["publish"]);

    // Declare a wrong host key for the jump host: `up` must fail before it creates machines.
    let strange = generate_ssh_key().unwrap().public;
    change(&project, "#jump\n", &jump.declared(&strange));
    let doctor = project.ends(1, &["doctor"]);
    assert!(doctor.stdout.contains(&jump.name()), "{}", doctor.stdout);
    let up = project.ends(1, &["up"]);
    assert!(up.stderr.contains(&jump.name()), "{}", up.stderr);
    assert_eq!(azure.resources(), theirs, "{}", up.stderr);

    change(
        &project,
        &jump.declared(&strange),
        &jump.declared(&jump.host_key),
    );
    project.ends(0, &["doctor"]);
    // Publishing used the share's key. From now on, use a signature instead.
    let signature = secrets::share_signature();
    project.write("share.sas", &signature);
    let key = json!(azure.storage_key());
    change(
        &project,
        &format!("\nkey = {{ file = {key} }}\n"),
        "\nsas = { file = \"share.sas\" }\n",
    );
    project.ends(0, &["up"]);
    let status = project.status();
    assert_eq!(status["platform"]["state"], "running", "{status}");
    assert_eq!(instances(&status).len(), 1, "{status}");
    assert_only_jump_host_is_open(&status);
    all_commands_work(&project);

    let before = azure.requests().len();
    project.ends(0, &["up"]);
    let changes = azure.changes_after(before);
    assert!(
        changes.is_empty(),
        "a second `up` made changes: {changes:?}"
    );

    let planted = secrets::planted(&azure, &signature, jump.key.private.expose());
    secrets::are_nowhere_else(&azure, &project, &planted);

    change(
        &project,
        &jump.declared(&jump.host_key),
        &jump.declared(&strange),
    );
    for command in ["status", "up"] {
        let failed = project.ends(1, &[command]);
        assert!(failed.stderr.contains(&jump.name()), "{}", failed.stderr);
    }
    change(
        &project,
        &jump.declared(&strange),
        &jump.declared(&jump.host_key),
    );

    project.ends(0, &["down", "--yes"]);
    assert_eq!(azure.resources(), theirs);
    assert_eq!(
        azure
            .machines(&project.id())
            .into_keys()
            .collect::<Vec<_>>(),
        [JUMP_HOST]
    );
    assert!(Belongings::of(&project.id()).is_empty());
}
