//! Tests that a machine that exists already becomes a node of a running platform, and is released.

use std::time::Duration;

use serde_json::Value;

use crate::docker::docker;
use crate::machine::{Machine, Network, PASSWORD, up_without_traces};
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::{Finished, run};

/// Adopts a machine as the node `late`.
fn adopt(project: &Project, machine: &Machine, more: &[&str]) -> Finished {
    let address = machine.address();
    let mut arguments = vec![
        "node",
        "adopt",
        "late",
        "--address",
        &address,
        "--user",
        "ops",
    ];
    arguments.extend(["--password-env", "OPS_PASSWORD"]);
    arguments.extend(more);
    let mut command = project.command(&arguments);
    run(
        command.env("OPS_PASSWORD", PASSWORD),
        Duration::from_mins(8),
    )
}

fn adopted(project: &Project, machine: &Machine, more: &[&str]) -> Finished {
    let adopted = adopt(project, machine, more);
    let (stdout, stderr) = (&adopted.stdout, &adopted.stderr);
    assert_eq!(adopted.status.code(), Some(0), "{stdout}\n{stderr}");
    assert!(!format!("{stdout}{stderr}").contains(PASSWORD), "{stderr}");
    adopted
}

fn nodes(project: &Project) -> usize {
    project.status()["nodes"].as_array().unwrap().len()
}

fn overrides(project: &Project) -> Vec<String> {
    let listed = project.ends(0, &["override", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let overrides = listed["overrides"].as_array().unwrap().iter();
    overrides
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

fn assert_clean(project: &Project, machine: &Machine) {
    let traces = machine.traces();
    for trace in ["lifecycle", &project.name] {
        let left: Vec<&str> = traces.lines().filter(|line| line.contains(trace)).collect();
        assert!(left.is_empty(), "{}: {left:?}", machine.name);
    }
}

#[test]
fn a_machine_is_adopted_at_run_time() {
    let project = Project::new();
    let network = Network(format!("{}-machines", project.name));
    docker(&["network", "create", &network.0]);
    let [hub, late] =
        ["hub", "late"].map(|node| Machine::start(format!("{}-{node}", project.name), &network.0));
    let hub_only = format!("[cloud]\nprovider = \"hosts\"\n{}", hub.node("hub", ""));
    project.write("platform.toml", &hub_only);
    project.static_server("server");
    project.compose(&format!(
        "  web:{STATIC_SERVER}    ports: [\"8080:8000\"]\n"
    ));
    up_without_traces(&project, PASSWORD);

    // The second replica fits on no node.
    project.ends(1, &["scale", "web=2"]);

    // Nothing is recorded about a machine that rejects the login.
    let wrong = project.ends(
        1,
        &[
            "node",
            "adopt",
            "late",
            "--address",
            &late.address(),
            "--user",
            "ops",
        ],
    );
    assert!(
        wrong.stderr.contains("no password or key"),
        "{}",
        wrong.stderr
    );
    let other_key = late.exec("cut -d' ' -f1,2 /etc/ssh/ssh_host_rsa_key.pub");
    let hub_key = hub.exec("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    assert_ne!(other_key, hub_key);
    let wrong = adopt(&project, &late, &["--host-key", &hub_key]);
    assert!(wrong.stderr.contains("host key"), "{}", wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(overrides(&project), ["web.replicas"]);
    assert_clean(&project, &late);

    let output = adopted(&project, &late, &[]);
    let key = late.exec("cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub");
    assert!(output.stderr.contains(&key), "{}", output.stderr);
    assert!(late.answers(8080));
    assert_eq!(overrides(&project), ["web.replicas", "late.added"]);

    // The password is nowhere.
    let search = format!("grep -rlF -e {PASSWORD} /var/lib/lifecycle /home /tmp || true");
    for machine in [&hub, &late] {
        assert_eq!(machine.exec(&search), "", "{}", machine.name);
    }
    let logs = "docker logs $(docker ps -q --filter label=lifecycle.role=manager) 2>&1";
    assert!(!hub.exec(logs).contains(PASSWORD));
    for command in [
        &["events", "--json"][..],
        &["operation", "list", "--json"],
        &["history", "--json"],
        &["export", "--dry-run", "--json"],
    ] {
        let output = project.ends(0, command).stdout;
        assert!(!output.contains(PASSWORD), "{command:?}: {output}");
    }

    // `up` keeps the node, and a repeated adoption changes nothing.
    project.ends(0, &["up"]);
    assert_eq!(nodes(&project), 2);
    adopted(&project, &late, &[]);
    project.ends(0, &["doctor"]);

    // This computer cannot replace credentials on the machine.
    for credential in ["tokens", "ssh-key", "authority"] {
        let refused = project.ends(1, &["rotate", credential]).stderr;
        assert!(refused.contains("added at run time: late"), "{refused}");
    }

    // Another platform cannot take the machine over.
    let second = Project::new();
    second.write(
        "platform.toml",
        &format!("[cloud]\nprovider = \"hosts\"\n{}", late.node("late", "")),
    );
    second.static_server("server");
    second.compose(&format!("  web:{STATIC_SERVER}"));
    second.set("OPS_PASSWORD", PASSWORD);
    let refused = second.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("belongs to another platform"),
        "{}",
        refused.stderr
    );

    // A removed node is released.
    project.ends(0, &["scale", "web=1"]);
    project.ends(0, &["node", "remove", "late", "--yes"]);
    assert_clean(&project, &late);
    assert_eq!(nodes(&project), 1);
    assert_eq!(overrides(&project), [""; 0]);

    // The files can declare an adopted machine, without its password.
    adopted(&project, &late, &["--label", "zone=b"]);
    project.ends(0, &["export"]);
    let exported = project.read("platform.toml");
    assert!(exported.contains("[nodes.late]"), "{exported}");
    assert!(exported.contains(&key), "{exported}");
    project.ends(0, &["up"]);
    assert_eq!(overrides(&project), [""; 0]);
    assert_eq!(nodes(&project), 2);
    project.write("platform.toml", &hub_only);
    project.ends(0, &["up", "--yes"]);
    assert_clean(&project, &late);
    project.ends(0, &["up"]);

    // `down` releases an adopted machine.
    adopted(&project, &late, &[]);
    project.ends(0, &["down", "--yes", "--volumes"]);
    assert_clean(&project, &hub);
    assert_clean(&project, &late);
}
