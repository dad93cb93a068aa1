//! Tests a platform whose registry is in PostgreSQL, with separate databases for two kinds of
//! records.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::docker::{Belongings, Network, docker};
use crate::postgres_server::{PASSWORD, PostgresServer};
use crate::project::Project;
use crate::subprocess::until;

const ENVIRONMENT: &str = "planted-in-the-environment-77e0";

const SERVICE: &str = r#"
  web:
    build: ./web
    ports: ["8080:8080"]
    environment:
      GREETING: planted-in-the-environment-77e0
"#;

const SETTINGS: &str = r#"
[registry]
url = { env = "REGISTRY_URL" }
nodes = { file = "secrets/nodes.url" }
microservices = { file = "secrets/microservices.url" }
"#;

const DATABASES: [&str; 3] = ["central", "nodes", "microservices"];

/// The default subnet for local nodes.
const NODES: &str = "10.89.0.0/16";

#[test]
fn platform_with_postgres_registry() {
    let project = Project::new();
    let network = Network::new(&format!("{}-database", project.name));
    let gateway = network.gateway();
    let (server, port) = PostgresServer::start_at(gateway, &[NODES, "samehost"]);
    for database in DATABASES {
        server.create(database);
    }
    project.compose(SERVICE);
    project.web_server("web");
    project.write("platform.toml", SETTINGS);
    for database in &DATABASES[1..] {
        let url = PostgresServer::url_at(gateway, port, database);
        let url = format!("{url}?sslmode=disable\n");
        project.write(&format!("secrets/{database}.url"), &url);
    }
    let url = PostgresServer::url_at(gateway, port, "central");
    project.write(".env", &format!("REGISTRY_URL={url}\n"));
    let refused = project.ends(1, &["up"]);
    let hint = "append `?sslmode=disable`";
    assert!(refused.stderr.contains(hint), "{}", refused.stderr);
    project.write(".env", &format!("REGISTRY_URL={url}?sslmode=disable\n"));

    unreachable_server_is_reported_first(&project, &server);

    project.ends(0, &["up"]);
    let status = project.status();
    assert_eq!(status["platform"]["state"], "running");
    let endpoint = &status["services"][0]["instances"][0]["endpoints"][0];
    let shown = format!(
        "web|microservice|{}|{}\n",
        text(&endpoint["ip"]),
        endpoint["port"]
    );
    let query = "SELECT service, class, ip, port FROM endpoints";
    for database in ["central", "microservices"] {
        until(
            "the endpoint is recorded in the database",
            Duration::from_secs(20),
            || (server.query_in(database, query) == shown).then_some(()),
        );
    }
    assert_eq!(server.query_in("nodes", query), "");
    assert_eq!(
        server.query_in("nodes", "SELECT name, power FROM nodes"),
        "node-1|running\n"
    );
    assert_eq!(
        server.query_in("microservices", "SELECT name FROM nodes"),
        ""
    );
    let manager = "SELECT manager_node, manager_ip, manager_port FROM platform";
    let ip = text(&status["nodes"][0]["addresses"]["private"]);
    assert_eq!(
        server.query_in("central", manager),
        format!("node-1|{ip}|7443\n")
    );

    assert_no_leaks(&project, &server);
    nothing_changes_after_a_manager_crash(&project);
    down_and_up_again(&project, &server);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn unreachable_server_is_reported_first(project: &Project, server: &PostgresServer) {
    server.stop();
    let refused = project.ends(1, &["up"]);
    assert!(
        refused.stderr.contains("registry.url"),
        "{}",
        refused.stderr
    );
    assert!(project.identity().is_none(), "an identity was stored");
    let planned = project.ends(0, &["plan"]);
    assert!(
        planned.stdout.contains("registry.url"),
        "{}",
        planned.stdout
    );
    server.run();
    let planned = project.ends(0, &["plan"]);
    assert!(
        !planned.stdout.contains("registry.url"),
        "{}",
        planned.stdout
    );
    assert_eq!(
        server.query_in("central", "\\dt"),
        "",
        "`plan` left something on the machine"
    );
}

/// Checks that secrets are stored only where they are needed.
fn assert_no_leaks(project: &Project, server: &PostgresServer) {
    let (node, id) = (project.node(), project.id());
    let mut secrets = vec![PASSWORD.to_owned(), ENVIRONMENT.to_owned()];
    for file in ["platform.key", "admin.token"] {
        secrets.push(project.kept(file));
    }
    let log = node.call(&["docker", "logs", &node.manager().id]);
    let mut places = vec![
        ("the output of the commands", project.said()),
        ("the manager's log", log.stdout + &log.stderr),
        (
            "the manager",
            node.inspect("lifecycle.role=manager").to_string(),
        ),
        ("the node", docker(&["inspect", &node.container])),
        (
            "events",
            serde_json::to_string(&project.api().events(0)).unwrap(),
        ),
    ];
    for database in DATABASES {
        places.push((database, server.dump_of(database)));
    }
    for (place, text) in &places {
        for secret in &secrets {
            // A database dump contains binary values in hexadecimal.
            let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            assert!(!text.contains(secret.as_str()), "{place} holds {secret}");
            assert!(
                !text.contains(&hex),
                "{place} contains {secret}, in hexadecimal"
            );
        }
    }
    let file = format!("/var/lib/lifecycle/{id}/manager/registry.json");
    assert_eq!(node.exec(&["stat", "-c", "%a %U", &file]), "400 root");
    // Only this file may contain the password.
    assert!(node.exec(&["cat", &file]).contains(PASSWORD));
}

fn nothing_changes_after_a_manager_crash(project: &Project) {
    let (api, node) = (project.api(), project.node());
    let (service, manager) = (node.service("web"), node.manager());
    let generation = project.status()["platform"]["generation"].clone();
    node.docker(&["kill", &manager.id]);
    node.docker(&["start", &manager.id]);
    // The restarted manager can lead only after the killed manager's lease has expired.
    until("everything is ready", Duration::from_mins(2), || {
        api.is_ready().then_some(())
    });
    project.ends(0, &["up"]);
    assert_eq!(node.service("web"), service);
    assert_eq!(node.manager().id, manager.id);
    assert_eq!(project.status()["platform"]["generation"], generation);
}

/// Checks that `up` works after `down`. `down` deletes the platform's key, but the database still
/// contains values that are encrypted with this key.
fn down_and_up_again(project: &Project, server: &PostgresServer) {
    let id = project.id();
    project.ends(0, &["down", "--yes"]);
    assert!(Belongings::of(&id).is_empty(), "{:?}", Belongings::of(&id));
    for database in ["central", "microservices"] {
        let count = |table: &str| {
            let query = format!("SELECT count(*) FROM {table}");
            server.query_in(database, &query)
        };
        let counts = ["services", "instances", "endpoints"].map(count);
        assert_eq!(counts, ["0\n", "0\n", "0\n"], "{database}");
    }
    let operation = "SELECT state FROM operations";
    assert_eq!(server.query_in("central", operation), "succeeded\n");
    project.ends(0, &["up"]);
    assert_eq!(project.status()["platform"]["state"], "running");
    project.ends(0, &["down", "--yes"]);
}
