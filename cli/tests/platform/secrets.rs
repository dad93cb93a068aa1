//! Secrets are where they have to be and nowhere else.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::docker::{Node, docker};
use crate::https::Https;
use crate::project::Project;
use crate::subprocess::Finished;

/// What users plant, each by another way.
const PLANTED: [(&str, &str); 4] = [
    ("environment", "planted-in-the-environment-5f1d"),
    ("environment file", "planted-in-an-environment-file-77b0"),
    ("variable", "planted-as-a-variable-e3c4"),
    (BUILD_ARGUMENT, "planted-as-build-argument-8c2a"),
];

/// The one secret that Docker itself writes down: in an image's history, for whoever has the
/// image.
const BUILD_ARGUMENT: &str = "build argument";

const SERVICE: &str = r#"
  web:
    build:
      context: ./web
      args:
        PLANTED: planted-as-build-argument-8c2a
    ports: ["8080:8080"]
    env_file: ./secret.env
    environment:
      GREETING: planted-in-the-environment-5f1d
      INTERPOLATED: ${PLANTED_VARIABLE}
    labels:
      motto: nothing-to-hide
    x-lifecycle:
      api: read
"#;

/// What may not be found, by name.
pub(crate) type Secret = (&'static str, String);

/// What is looked for of a key in PEM.
pub(crate) fn longest_line(text: &str) -> String {
    let line = text.lines().max_by_key(|line| line.len());
    line.unwrap_or_default().to_owned()
}

/// The platform's own secrets.
pub(crate) fn own(project: &Project) -> Vec<Secret> {
    let files = [
        "platform.key",
        "ca.key",
        "admin.token",
        "read.token",
        "ssh.key",
    ];
    let secret = |file| (file, longest_line(&project.kept(file)));
    files.into_iter().map(secret).collect()
}

/// Fails if one of these places, which have names, holds one of these secrets.
pub(crate) fn are_not_in(secrets: &[Secret], places: &[(&str, String)]) {
    for (secret, value) in secrets {
        assert!(value.len() >= 20, "{secret} is a secret");
        for (place, text) in places {
            assert!(!text.is_empty(), "{place} was looked at");
            assert!(
                !text.contains(value),
                "{place} holds the secret {secret}: {}",
                around(text, value)
            );
        }
    }
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
    project.write(
        "secret.env",
        "FROM_A_FILE=planted-in-an-environment-file-77b0\n",
    );
    project.write(".env", "PLANTED_VARIABLE=planted-as-a-variable-e3c4\n");
    // Everything that the program can be brought to say.
    project.set("LIFECYCLE_LOG", "trace");
    project.ends(0, &["up"]);
    project.ends(0, &["--json", "up"]);
    project.ends(0, &["--json", "plan"]);
    project.status();
    project.ends(0, &["status"]);
    project.ends(1, &["logs", "nobody"]);
    assert!(project.said().contains("TRACE"), "it says much");
    let (node, id) = (project.node(), project.id());
    let planted = PLANTED.map(|(name, value)| (name, value.to_owned()));
    let secrets = [own(&project), planted.into()].concat();

    let service = node.inspect("lifecycle.service=web");
    let environment = service["Config"]["Env"].to_string();
    for (name, value) in PLANTED {
        assert_eq!(
            environment.contains(value),
            name != BUILD_ARGUMENT,
            "the service gets what it was given: {name}"
        );
    }

    let shell = |script: &str| node.exec(&["sh", "-c", script]);
    let mut places = vec![("what the commands said", project.said())];
    let log = node.call(&["docker", "logs", &node.manager().id]);
    assert!(log.stderr.contains("the API listens"), "{}", log.stderr);
    places.push(("the manager's log", both(&log)));
    places.push((
        "events",
        serde_json::to_string(&project.api().events(0)).unwrap(),
    ));
    for (name, path) in [
        ("the platform as the API shows it", "/v1/platform"),
        ("nodes as the API shows them", "/v1/nodes"),
        ("services as the API shows them", "/v1/services"),
        ("the progress", "/v1/progress"),
    ] {
        let api = Https::new(node.address(), 7443, &project.kept("ca.pem"));
        let answer = api.ask("GET", path, Some(&project.kept("admin.token")), "");
        assert_eq!(answer.status, 200, "{path}");
        places.push((name, answer.body));
        let wrong = api.ask(
            "PUT",
            path,
            Some(&project.kept("admin.token")),
            PLANTED[0].1,
        );
        places.push(("an error", wrong.body));
    }
    places.push(("command lines", command_lines("/hello.pl")));
    let manager = node.inspect("lifecycle.role=manager");
    let environ = format!("cat /proc/{}/environ", manager["State"]["Pid"]);
    places.push(("the manager's environment", shell(&environ)));
    places.push(("the node", docker(&["inspect", &node.container])));
    places.push((
        "containers",
        without_environment(service).to_string() + &manager.to_string(),
    ));
    assert!(places.last().unwrap().1.contains("nothing-to-hide"));
    places.push((
        "images",
        shell("docker image inspect $(docker image ls -q)"),
    ));
    let files = "docker volume ls -q | xargs -r docker volume inspect; \
                 docker network inspect $(docker network ls -q)";
    places.push(("volumes and networks", shell(files)));
    let happened = "docker events --since 0 --until $(date +%s)";
    places.push(("the engine's events", shell(happened)));
    let registry = format!("cat /var/lib/lifecycle/{id}/registry.db*");
    let registry = shell(&registry);
    assert!(registry.starts_with("SQLite format 3"));
    places.push(("the registry", registry));
    let identity = ".lifecycle/platform.json";
    places.push(("what may be committed", project.read(identity)));
    are_not_in(&secrets, &places);

    let history = shell("for i in $(docker image ls -q); do docker history --no-trunc $i; done");
    for (secret, value) in &secrets {
        assert!(
            *secret == BUILD_ARGUMENT || !history.contains(value),
            "an image's history holds the secret {secret}"
        );
    }
    files_that_hold(&node, &secrets, &id);

    let kept = std::fs::read_dir(project.state()).unwrap();
    for entry in kept.map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{} is its owner's alone", entry.path().display());
    }
    what_was_handed_over_is_roots_alone(&node, &id);
    project.ends(0, &["down", "--yes"]);
}

/// Of the files on the manager's node.
pub(crate) fn what_was_handed_over_is_roots_alone(node: &Node, id: &str) {
    let directory = format!("/var/lib/lifecycle/{id}/manager");
    let modes = node.exec(&["find", &directory, "-type", "f", "-printf", "%m %U\n"]);
    assert!(modes.lines().count() >= 7, "{modes}");
    assert!(modes.lines().all(|mode| mode == "400 0"), "{modes}");
}

/// The files of a node that hold a value. What containers see of their images is not looked at.
pub(crate) fn files_with(node: &Node, value: &str) -> Vec<String> {
    let search = "grep -rlF --exclude-dir=overlay2 -e \"$0\" \
                  /etc /home /root /run /tmp /var 2>/dev/null || true";
    let found = node.exec(&["sh", "-c", search, value]);
    found.lines().map(str::to_owned).collect()
}

/// Looks into every file of the node: secrets are in what was handed to the manager, in the
/// platform's own directory for services, and, of a service's environment, where the engine
/// keeps its containers.
fn files_that_hold(node: &Node, secrets: &[Secret], id: &str) {
    let ours = format!("/var/lib/lifecycle/{id}/");
    for (secret, value) in secrets {
        for file in &files_with(node, value) {
            let of_ours = file.strip_prefix(&ours);
            let is_handed = of_ours.is_some_and(|f| {
                f.starts_with("manager/") || (*secret == "read.token" && !f.starts_with("registry"))
            });
            let is_the_engines = file.starts_with("/var/lib/docker/") || file.starts_with("/run/");
            let is_planted = PLANTED.iter().any(|(name, _)| name == secret);
            assert!(
                is_handed || (is_planted && is_the_engines),
                "{file} holds the secret {secret}"
            );
        }
    }
}

pub(crate) fn both(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

/// The command lines of all processes of this machine, those on nodes among them, one of which is
/// known to run there.
pub(crate) fn command_lines(one: &str) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // Most of it is no process, and processes end.
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            all.push_str(&String::from_utf8_lossy(&line));
            all.push('\n');
        }
    }
    assert!(all.contains(one), "nodes are seen from here");
    all
}

pub(crate) fn without_environment(mut container: Value) -> Value {
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
