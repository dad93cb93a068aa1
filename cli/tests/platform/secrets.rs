//! Tests that secrets are stored only where they are needed.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::docker::{Node, docker};
use crate::https::Https;
use crate::project::Project;
use crate::subprocess::Finished;

/// The secrets that the test declares, each in a different way.
const PLANTED: [(&str, &str); 4] = [
    ("environment", "planted-in-the-environment-5f1d"),
    ("environment file", "planted-in-an-environment-file-77b0"),
    ("variable", "planted-as-a-variable-e3c4"),
    (BUILD_ARGUMENT, "planted-as-build-argument-8c2a"),
];

/// The only secret that may leak: Docker stores build arguments in the image's history.
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

const SERVICES_TOKEN: &str = "the service's token";

/// The name and the value of a secret.
pub(crate) type Secret = (&'static str, String);

/// Returns the longest line of a PEM key. A search for this line finds the key even if its line
/// breaks were changed.
pub(crate) fn longest_line(text: &str) -> String {
    let line = text.lines().max_by_key(|line| line.len());
    line.unwrap_or_default().to_owned()
}

/// Returns the platform's own secrets.
pub(crate) fn own(project: &Project) -> Vec<Secret> {
    let files = ["platform.key", "ca.key", "admin.token", "ssh.key"];
    let secret = |file| (file, longest_line(&project.kept(file)));
    files.into_iter().map(secret).collect()
}

/// Checks that no text in `places` contains a secret. Messages name the place.
pub(crate) fn are_not_in(secrets: &[Secret], places: &[(&str, String)]) {
    for (secret, value) in secrets {
        assert!(value.len() >= 20, "{secret} is too short to search for");
        for (place, text) in places {
            assert!(!text.is_empty(), "{place} is empty");
            assert!(
                !text.contains(value),
                "{place} contains the secret {secret}: {}",
                around(text, value)
            );
        }
    }
}

#[test]
fn secrets_are_only_where_they_must_be() {
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
    // Enable the most detailed logs.
    project.set("LIFECYCLE_LOG", "trace");
    project.ends(0, &["up"]);
    project.ends(0, &["--json", "up"]);
    project.ends(0, &["--json", "plan"]);
    project.status();
    project.ends(0, &["status"]);
    project.ends(1, &["logs", "nobody"]);
    assert!(project.said().contains("TRACE"), "traces are missing");
    let (node, id) = (project.node(), project.id());
    let planted = PLANTED.map(|(name, value)| (name, value.to_owned()));
    let token = format!("cat /var/lib/lifecycle/{id}/service-api/web/token");
    let token = (SERVICES_TOKEN, node.exec(&["sh", "-c", &token]));
    let secrets = [own(&project), planted.into(), vec![token]].concat();

    let service = node.inspect("lifecycle.service=web");
    let environment = service["Config"]["Env"].to_string();
    for (name, value) in PLANTED {
        assert_eq!(
            environment.contains(value),
            name != BUILD_ARGUMENT,
            "the service does not have {name}"
        );
    }

    let shell = |script: &str| node.exec(&["sh", "-c", script]);
    let mut places = vec![("the output of the commands", project.said())];
    let log = node.call(&["docker", "logs", &node.manager().id]);
    assert!(
        log.stderr.contains("the API is listening"),
        "{}",
        log.stderr
    );
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
        let answer = api.request("GET", path, Some(&project.kept("admin.token")), "");
        assert_eq!(answer.status, 200, "{path}");
        places.push((name, answer.body));
        let wrong = api.request(
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
    places.push(("the files that may be committed", project.read(identity)));
    are_not_in(&secrets, &places);

    let history = shell("for i in $(docker image ls -q); do docker history --no-trunc $i; done");
    for (secret, value) in &secrets {
        assert!(
            *secret == BUILD_ARGUMENT || !history.contains(value),
            "an image's history contains the secret {secret}"
        );
    }
    files_that_hold(&node, &secrets, &id);

    let kept = std::fs::read_dir(project.state()).unwrap();
    for entry in kept.map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert_eq!(
            mode,
            0,
            "{} is accessible to others",
            entry.path().display()
        );
    }
    assert_only_root_can_read(&node, &id);
    project.ends(0, &["down", "--yes"]);
}

/// Checks that only root can open the platform's directory and the agent's directory on a node.
pub(crate) fn assert_only_root_can_open(node: &Node, id: &str) {
    for directory in ["", "/agent"] {
        let directory = format!("/var/lib/lifecycle/{id}{directory}");
        let mode = node.exec(&["stat", "-c", "%a %U", &directory]);
        assert_eq!(mode, "700 root", "{directory}");
    }
}

/// Checks that only root can read the platform's files on the manager's node.
pub(crate) fn assert_only_root_can_read(node: &Node, id: &str) {
    assert_only_root_can_open(node, id);
    let directory = format!("/var/lib/lifecycle/{id}/manager");
    let modes = node.exec(&["find", &directory, "-type", "f", "-printf", "%m %U\n"]);
    assert!(modes.lines().count() >= 7, "{modes}");
    assert!(modes.lines().all(|mode| mode == "400 0"), "{modes}");
}

/// Returns the files on a node that contain a value. Does not search the file systems of
/// containers.
pub(crate) fn files_with(node: &Node, value: &str) -> Vec<String> {
    let search = "grep -rlF --exclude-dir=overlay2 -e \"$0\" \
                  /etc /home /root /run /tmp /var 2>/dev/null || true";
    let found = node.exec(&["sh", "-c", search, value]);
    found.lines().map(str::to_owned).collect()
}

/// Checks that secrets are only in the manager's files and in the platform's directory for
/// services. Secrets from a service's environment may also be in the engine's files.
fn files_that_hold(node: &Node, secrets: &[Secret], id: &str) {
    let ours = format!("/var/lib/lifecycle/{id}/");
    for (secret, value) in secrets {
        for file in &files_with(node, value) {
            let of_ours = file.strip_prefix(&ours);
            let is_handed = of_ours.is_some_and(|f| {
                f.starts_with("manager/")
                    || (*secret == SERVICES_TOKEN && f == "service-api/web/token")
            });
            let is_the_engines = file.starts_with("/var/lib/docker/") || file.starts_with("/run/");
            let is_planted = PLANTED.iter().any(|(name, _)| name == secret);
            assert!(
                is_handed || (is_planted && is_the_engines),
                "{file} contains the secret {secret}"
            );
        }
    }
}

pub(crate) fn both(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

/// Returns the command lines of all processes on this machine and its nodes. Panics if no command
/// line contains `expected`.
pub(crate) fn command_lines(expected: &str) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // Skip entries that are not processes, and processes that have exited.
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            all.push_str(&String::from_utf8_lossy(&line));
            all.push('\n');
        }
    }
    assert!(all.contains(expected), "the processes on nodes are missing");
    all
}

pub(crate) fn without_environment(mut container: Value) -> Value {
    container["Config"]["Env"] = Value::Null;
    container
}

/// Returns the text before and after a value, for a message that does not show the value itself.
fn around(text: &str, value: &str) -> String {
    let Some((before, after)) = text.split_once(value) else {
        return String::new();
    };
    let before: String = before.chars().rev().take(80).collect();
    let before: String = before.chars().rev().collect();
    let after: String = after.chars().take(80).collect();
    format!("{before}…{after}")
}
