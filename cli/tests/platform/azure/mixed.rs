//! Tests a platform on Azure that also has an existing VM of the subscription and a machine elsewhere.

use std::time::Duration;

use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_docker::generate_ssh_key;
use serde_json::{Value, json};

use super::simulated::SimulatedAzure;
use super::users_vm::UsersVm;
use crate::docker::{Node, docker};
use crate::document::instances;
use crate::machine::{Machine, up_without_traces};
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::until;

/// The user's resource group with the network and the existing VM.
const GROUP: &str = "office";
const VM: &str = "ledger";
/// The password of the machine and of the VM's account.
const PASSWORD: &str = crate::machine::PASSWORD;

/// Creates an account with a password on the VM, as an administrator would.
fn set_up_account(vm: &Node) {
    let script = format!(
        "set -e; useradd --create-home --shell /bin/bash clerk; echo 'clerk:{PASSWORD}' | chpasswd; \
         echo 'clerk ALL=(ALL) ALL' > /etc/sudoers.d/clerk; chmod 0440 /etc/sudoers.d/clerk; \
         sed -i '/^ *PasswordAuthentication/d' /etc/ssh/sshd_config; \
         rm -f /etc/ssh/sshd_config.d/*.conf; \
         echo 'PasswordAuthentication yes' >> /etc/ssh/sshd_config; \
         pkill -HUP -o sshd"
    );
    vm.exec(&["sh", "-c", &script]);
}

/// Returns the network of the simulated machines on this machine's engine.
fn network_of(vm: &Node) -> String {
    let format = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}}{{end}}";
    docker(&["inspect", "--format", format, &vm.container])
}

/// Returns the VM's tags of the platform.
fn tags(azure: &SimulatedAzure) -> Vec<String> {
    let path = format!("resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines/{VM}");
    let vm = azure.get(&path);
    let tags = vm["tags"].as_object().into_iter().flatten();
    let tags = tags.map(|(name, _)| name.clone());
    tags.filter(|name| name.contains("lifecycle")).collect()
}

fn running_on(status: &Value) -> Vec<&str> {
    let ready = |one: &&Value| one["state"] == "ready";
    let instances = instances(status).into_iter().filter(ready);
    let mut nodes: Vec<&str> = instances.map(|one| one["node"].as_str().unwrap()).collect();
    nodes.sort_unstable();
    nodes
}

#[test]
fn an_existing_vm_and_a_machine_elsewhere_are_nodes_of_an_azure_platform() {
    let azure = SimulatedAzure::start();
    let project = Project::new();
    let identity = json!({ "name": project.name, "id": RandomIds.uuid() });
    project.write(".lifecycle/platform.json", &identity.to_string());
    let key = generate_ssh_key().unwrap();
    let vm = UsersVm::start(&azure, &project, GROUP, VM, &key).node;
    set_up_account(&vm);
    let edge = Machine::start(format!("{}-edge", project.name), &network_of(&vm));
    let theirs = azure.resources();

    project.static_server("server");
    let services = |replicas: u8| {
        project.compose(&format!(
            "  web:{STATIC_SERVER}    ports: [\"8080:8000\"]\n    deploy: {{replicas: {replicas}}}\n"
        ));
    };
    services(3);
    let settings = azure.platform_toml(&project, &format!("resource_group = \"{GROUP}\"\n"));
    let existing = format!(
        "[nodes.books]\nexisting = \"{VM}\"\nuser = \"clerk\"\n\
         password = {{ env = \"OPS_PASSWORD\" }}\n{}",
        edge.node("edge", "provider = \"hosts\"")
    );
    let declare = |nodes: &str| {
        project.write(
            "platform.toml",
            &format!("{settings}\n[nodes.hub]\n{nodes}"),
        );
    };
    declare(&existing);
    project.ends(0, &["publish"]);

    // Without the password, nothing is changed.
    let refused = project.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("`OPS_PASSWORD`"),
        "{}",
        refused.stderr
    );
    assert!(tags(&azure).is_empty());
    assert_eq!(azure.resources(), theirs);

    let up = up_without_traces(&project, PASSWORD);
    let status = project.status();
    assert_eq!(
        running_on(&status),
        ["books", "edge", "hub"],
        "{}",
        up.stderr
    );
    let nodes = status["nodes"].as_array().unwrap();
    let hub = azure.machines(&project.id()).remove("hub").unwrap();
    for node in nodes {
        let address = node["addresses"]["private"].as_str().unwrap();
        let page = format!("exec 3<>/dev/tcp/{address}/8080; echo reached");
        hub.exec(&["timeout", "10", "bash", "-c", &page]);
    }
    let doctor = project.ends(0, &["doctor"]);
    let reached = doctor.stdout.matches("reaches other nodes: 2").count();
    assert_eq!(reached, 3, "{}", doctor.stdout);
    for tree in ["/var/lib/lifecycle", "/home"] {
        for node in [&vm, &hub] {
            let found = node.call(&["grep", "-rlF", "-e", PASSWORD, tree]).stdout;
            assert_eq!(found, "");
        }
    }
    let before = azure.requests().len();
    project.ends(0, &["up"]);
    assert!(azure.changes_after(before).is_empty());

    // The manager starts the existing VM through Azure.
    let machine =
        format!("resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines/{VM}");
    azure.post(&format!("{machine}/deallocate"));
    let power = |state: &str| {
        let view = azure.get(&format!("{machine}/instanceView"));
        view["statuses"].to_string().contains(state).then_some(())
    };
    until("the VM is started again", Duration::from_mins(3), || {
        power("PowerState/running")
    });
    until("its service runs again", Duration::from_mins(3), || {
        (running_on(&project.status()).len() == 3).then_some(())
    });

    // A machine that is no longer declared is released, and the VM is released by `down`.
    let books = existing.split("[nodes.edge]").next().unwrap();
    declare(books);
    services(2);
    project.ends(0, &["up", "--yes"]);
    let left = edge.traces();
    assert!(!left.contains("lifecycle"), "{left}");
    project.ends(0, &["down", "--yes"]);
    assert_eq!(azure.resources(), theirs);
    assert!(tags(&azure).is_empty());
    assert!(power("PowerState/running").is_some());
    let accounts = vm.exec(&["cat", "/etc/passwd"]);
    assert!(
        accounts.contains("clerk") && !accounts.contains("lifecycle manager"),
        "{accounts}"
    );
    assert!(vm.call(&["ls", "/var/lib/lifecycle"]).status.code() != Some(0));
    assert_eq!(vm.exec(&["docker", "ps", "--all", "--quiet"]), "");
}
