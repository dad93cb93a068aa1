//! Secrets are where they have to be and nowhere else.

use serde_json::Value;

use crate::docker::docker;
use crate::project::Project;
use crate::subprocess::Finished;

const ENVIRONMENT: &str = "planted-in-the-environment-5f1d";
const ARGUMENT: &str = "planted-as-build-argument-8c2a";

const SERVICE: &str = r#"
  web:
    build:
      context: ./web
      args:
        PLANTED: planted-as-build-argument-8c2a
    ports: ["8080:8080"]
    environment:
      GREETING: planted-in-the-environment-5f1d
    x-lifecycle:
      api: read
"#;

/// What may not be found, by name. Of a key in PEM its longest line is looked for.
fn secrets(project: &Project) -> Vec<(&'static str, String)> {
    let line = |file: &str| {
        let text = project.kept(file);
        text.lines().max_by_key(|l| l.len()).unwrap().to_owned()
    };
    let mut secrets = vec![
        ("environment", ENVIRONMENT.to_owned()),
        ("build argument", ARGUMENT.to_owned()),
    ];
    for file in [
        "platform.key",
        "ca.key",
        "admin.token",
        "read.token",
        "ssh.key",
    ] {
        secrets.push((file, line(file)));
    }
    for (name, secret) in &secrets {
        assert!(secret.len() >= 20, "{name} is a secret");
    }
    secrets
}

#[test]
fn secrets_are_nowhere_but_where_they_belong() {
    let project = Project::new();
    project.compose(SERVICE);
    project.web_server("web");
    project.write(
        "web/Dockerfile",
        "FROM debian:bookworm-slim\nARG PLANTED\nRUN test -n \"$PLANTED\"\nCOPY hello.pl /\n\
         EXPOSE 8080\nCMD [\"perl\", \"/hello.pl\"]\n",
    );
    project.ends(0, &["up"]);
    project.ends(0, &["--json", "up"]);
    project.status();
    project.ends(0, &["status"]);
    let (node, id) = (project.node(), project.id());
    let secrets = secrets(&project);

    let service = node.inspect("lifecycle.service=web");
    let environment = service["Config"]["Env"].to_string();
    assert!(
        environment.contains(ENVIRONMENT),
        "the service gets what it was given"
    );

    let mut places = vec![("what the commands said", project.said())];
    let log = node.call(&["docker", "logs", &node.manager().id]);
    assert!(log.stderr.contains("the API listens"), "{}", log.stderr);
    places.push(("the manager's log", both(&log)));
    places.push((
        "events",
        serde_json::to_string(&project.api().events(0)).unwrap(),
    ));
    places.push(("command lines", command_lines()));
    places.push(("the node", docker(&["inspect", &node.container])));
    places.push((
        "containers",
        without_environment(service).to_string()
            + &node.inspect("lifecycle.role=manager").to_string(),
    ));
    let images = "docker image inspect $(docker image ls --quiet)";
    places.push(("images", node.exec(&["sh", "-c", images])));
    let registry = format!("cat /var/lib/lifecycle/{id}/registry.db*");
    let registry = node.exec(&["sh", "-c", &registry]);
    assert!(registry.starts_with("SQLite format 3"));
    places.push(("the registry", registry));
    for (place, text) in &places {
        for (secret, value) in &secrets {
            assert!(
                !text.contains(value),
                "{place} holds the secret {secret}: {}",
                around(text, value)
            );
        }
    }

    let directory = format!("/var/lib/lifecycle/{id}/manager");
    let modes = node.exec(&["find", &directory, "-type", "f", "-printf", "%m %U\n"]);
    assert!(modes.lines().count() >= 7, "{modes}");
    assert!(modes.lines().all(|mode| mode == "400 0"), "{modes}");
    project.ends(0, &["down", "--yes"]);
}

fn both(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

/// The command lines of all processes of this machine, those on nodes among them.
fn command_lines() -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // Most of it is no process, and processes end.
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            all.push_str(&String::from_utf8_lossy(&line));
            all.push('\n');
        }
    }
    assert!(all.contains("/hello.pl"), "nodes are seen from here");
    all
}

fn without_environment(mut container: Value) -> Value {
    container["Config"]["Env"] = Value::Null;
    container
}

/// What stands around a value, without the value.
fn around(text: &str, value: &str) -> String {
    let Some((before, after)) = text.split_once(value) else {
        return String::new();
    };
    let before: String = before.chars().rev().take(80).collect();
    let before: String = before.chars().rev().collect();
    let after: String = after.chars().take(80).collect();
    format!("{before}…{after}")
}
