//! Tests a platform on machines that exist already.

use std::time::Duration;

use serde_json::Value;

use crate::docker::{self, docker};
use crate::machine::{Machine, Network, PASSWORD, up_without_traces};
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::until;

#[test]
fn a_platform_on_existing_machines() {
    let project = Project::new();
    let network = Network(format!("{}-machines", project.name));
    docker(&["network", "create", &network.0]);
    let machines = ["hub", "one", "two"]
        .map(|node| Machine::start(format!("{}-{node}", project.name), &network.0));
    let [hub, one, two] = &machines;
    let settings = |nodes: &[String]| {
        let text = format!("[cloud]\nprovider = \"hosts\"\n{}", nodes.concat());
        project.write("platform.toml", &text);
    };
    let nodes = [
        hub.node("hub", ""),
        one.node("one", ""),
        two.node("two", ""),
    ];
    settings(&nodes);
    project.static_server("server");
    let services = |replicas: u8| {
        project.compose(&format!(
            "  web:{STATIC_SERVER}    ports: [\"8080:8000\"]\n    deploy: {{replicas: {replicas}}}\n\
             \x20   volumes: [data:/data]\nvolumes: {{data: {{}}}}\n"
        ));
    };
    services(3);

    // Without the password, nothing is changed.
    let refused = project.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("`OPS_PASSWORD`"),
        "{}",
        refused.stderr
    );
    assert_eq!(hub.exec("getent passwd lifecycle || true"), "");

    let up = up_without_traces(&project, PASSWORD);
    assert_eq!(
        up.stderr.matches("on first use").count(),
        3,
        "{}",
        up.stderr
    );
    for machine in &machines {
        assert!(machine.answers(8080), "{}", machine.name);
    }
    // Other nodes reach a container at a port that is bound at the private address only.
    let bound = "docker ps --filter label=lifecycle.service=web --format '{{.Ports}}'";
    let bound = one.exec(bound);
    let chosen = bound.split(", ").filter(|port| !port.contains(":8080->"));
    let expected = format!("{}:2", one.address());
    assert!(
        chosen.clone().count() == 1 && chosen.clone().all(|port| port.starts_with(&expected)),
        "{bound}"
    );
    let status = project.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);

    // The password is nowhere else either, and later commands do not need it.
    let search = format!("grep -rlF -e {PASSWORD} /var/lib/lifecycle /home /tmp || true");
    for machine in &machines {
        assert_eq!(machine.exec(&search), "", "{}", machine.name);
    }
    let logs = "docker logs $(docker ps -q --filter label=lifecycle.role=manager) 2>&1";
    assert!(!hub.exec(logs).contains(PASSWORD));
    project.ends(0, &["up"]);
    let doctor = project.ends(0, &["doctor"]);
    let reached = doctor.stdout.matches("reaches other nodes: 2").count();
    assert_eq!(reached, 3, "{}", doctor.stdout);

    // The account of the platform accepts only the new key after a rotation.
    let old = project.kept("ssh.pub");
    project.ends(0, &["rotate", "ssh-key"]);
    for machine in &machines {
        let keys = machine.exec("cat /home/lifecycle/.ssh/authorized_keys");
        assert_eq!(keys.trim(), project.kept("ssh.pub").trim());
        assert_ne!(keys.trim(), old.trim());
    }
    project.ends(0, &["up"]);

    // The services of a machine start again after a reboot.
    let started = "docker inspect --format '{{.State.StartedAt}}' \
                   $(docker ps -q --filter label=lifecycle.role=instance)";
    let before = one.exec(started);
    docker(&["restart", "--time", "0", &one.name]);
    until("the service runs again", Duration::from_mins(2), || {
        let now = docker::call(&["exec", &one.name, "sh", "-c", started]);
        (now.status.success() && now.stdout.trim() != before && one.answers(8080)).then_some(())
    });

    // A machine with another host key is refused until its new key is declared.
    two.exec("rm /etc/ssh/ssh_host_* /run/sshd.pid");
    docker(&["restart", "--time", "0", &two.name]);
    two.await_ssh();
    let refused = project.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("host key changed"),
        "{}",
        refused.stderr
    );
    let key = two.exec("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    let [first, second, _] = nodes;
    let third = two.node("two", &format!("host_key = \"{key}\""));
    settings(&[first.clone(), second.clone(), third]);
    project.ends(0, &["up"]);

    // A machine that is no longer declared is released.
    settings(&[first, second]);
    services(2);
    project.ends(0, &["up", "--yes"]);
    let volume = two.exec("docker volume ls --quiet");
    assert!(volume.contains("data"), "{volume}");
    let routes = "ip route show type unreachable";
    assert_ne!(one.exec(routes), "");
    let clean = |machine: &Machine| {
        assert_eq!(machine.exec(routes), "");
        let traces = machine.traces();
        for trace in ["lifecycle", &project.name] {
            let lines = traces.lines().filter(|line| line.contains(trace));
            let left: Vec<&str> = lines.filter(|line| !line.ends_with("-data")).collect();
            assert!(left.is_empty(), "{}: {left:?}", machine.name);
        }
        machine.exec("command -v dockerd && docker version >/dev/null");
    };
    clean(two);
    project.ends(0, &["up"]);
    let status: Value = project.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);

    project.ends(0, &["down", "--yes", "--volumes"]);
    clean(hub);
    clean(one);
    assert_eq!(
        one.exec("docker volume ls --quiet; docker ps -aq; docker images -q"),
        ""
    );
}
