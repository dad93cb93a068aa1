//! Tests that a changed service loses no request while its replicas are replaced. Clients on another
//! node send requests all the time, some over a new connection for each request.
//!
//! In one case the manager is killed during the rollout, at random moments.
//!
//! By default, each case is one rollout. With `LIFECYCLE_TEST_WHOLE=1`, each case repeats its rollout
//! for at least a minute (`script/endure`).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::crashes::{Moments, managers_process};
use crate::docker::{Node, Run, run_of};
use crate::load::{self, Loaded, Server, TIMEOUT, repeat};
use crate::project::Project;
use crate::subprocess::{Finished, until};

pub(crate) const NODES: &str = "[nodes.a]\n[nodes.b]\n[manager]\nnode = \"a\"\n";

const CLIENTS: &str = r#"
  clients:
    build: ./load
    command: [clients, "web:8000", "9000"]
    expose: ["9000"]
    depends_on: [web]
    x-lifecycle: {ready: "http://:9000/"}
    deploy: {placement: {constraints: ["node.hostname == a"]}}
"#;

/// The number of replicas of `web`.
const REPLICAS: usize = 3;

/// Returns the declaration of `web`. `update` contains the settings of the rollout. The grace period
/// is short, because the connections of keep-alive clients do not end earlier.
pub(crate) fn web(version: u32, server: Server, update: &str) -> String {
    let ready_within = match server {
        Server::Drains | Server::EndsAtOnce => "1m",
        Server::NeverReady => "3s",
    };
    let server = server.name();
    format!(
        r#"
  web:
    build: ./load
    command: [server, "8000"]
    environment: {{VERSION: "{version}", SERVER: {server}}}
    expose: ["8000"]
    stop_grace_period: 2s
    x-lifecycle: {{ready: "http://:8000/ready", ready_within: {ready_within}}}
    deploy:
      replicas: {REPLICAS}
      placement: {{constraints: ["node.hostname == b"]}}
      update_config: {{{update}}}
"#
    )
}

pub(crate) fn start() -> Loaded {
    start_in(load::project(NODES))
}

/// Starts the services in a new project with [`NODES`].
pub(crate) fn start_in(project: Project) -> Loaded {
    project.compose(&declare(1, Server::EndsAtOnce, ""));
    project.ends(0, &["up"]);
    let api = project.api();
    let clients = api.service("clients").instances[0].endpoints[0].clone();
    Loaded {
        project,
        api,
        reports: (clients.ip, clients.port).into(),
        service: "web",
        replicas: REPLICAS,
        declare,
        version: 1,
        serving: (1, Server::EndsAtOnce),
    }
}

fn declare(version: u32, server: Server, update: &str) -> String {
    let web = web(version, server, update);
    format!("{web}{CLIENTS}")
}

impl Loaded {
    /// Declares the next version of `web`, runs `up` under load, and kills the manager after a time.
    #[expect(clippy::print_stdout, reason = "prints the counted requests")]
    fn roll_out_and_kill_the_manager(&mut self, after: Duration) {
        self.version += 1;
        self.calm();
        self.project
            .compose(&declare(self.version, Server::Drains, ""));
        let (node, pid) = managers_process(&self.project).unwrap();
        let before = node.manager();
        let up = self.project.start(&["up"]);
        std::thread::sleep(after);
        node.exec(&["kill", "-KILL", &pid]);
        let up = up.finish(TIMEOUT);
        self.project.keep(&up);
        assert_eq!(up.status.code(), Some(0), "{}", up.stderr);
        until("the manager is running again", TIMEOUT, || {
            (node.manager().started_at != before.started_at).then_some(())
        });
        until("everything is ready", TIMEOUT, || {
            self.api.is_ready().then_some(())
        });
        let (text, report) = self.report();
        println!("manager killed after {after:.1?}:\n  {text}");
        for counts in [&report.new, &report.keep_alive] {
            assert!(counts.requests > 0 && counts.failed == 0, "{text}");
        }
        self.serving = (self.version, Server::Drains);
        let versions = self.calm().into_keys();
        assert!(versions.eq([self.version]), "an old version still serves");
        assert_eq!(self.running().len(), REPLICAS);
    }

    /// Returns the containers of `web` that are running.
    fn running(&self) -> BTreeSet<Run> {
        let nodes = Node::all(&self.project.id());
        let containers = nodes["b"].inspect_all().into_iter();
        let label = "lifecycle.service";
        containers
            .filter(|container| {
                container["Config"]["Labels"][label] == "web"
                    && container["State"]["Running"] == true
            })
            .map(|container| run_of(&container))
            .collect()
    }
}

#[test]
fn rollouts_lose_no_request() {
    let mut loaded = start();
    repeat(|| open_requests_end_before_the_server(&mut loaded));
    let mut took = Duration::ZERO;
    repeat(|| took = new_replicas_start_first(&mut loaded));
    for moment in Moments::seeded().spread(took) {
        loaded.roll_out_and_kill_the_manager(moment);
    }
    repeat(|| old_replicas_stop_first(&mut loaded));
    repeat(|| a_failed_version_is_rolled_back(&mut loaded));
    // The document follows its schema. The service is rolled back already, so nothing changes.
    let document = ["--json", "rollout", "rollback", "web"];
    loaded.project.ends(0, &document);
    loaded.project.ends(0, &["down", "--yes"]);
}

/// A server that ends on SIGTERM without answering loses no request: it is stopped only after its
/// open connections have ended. A keep-alive client may have to repeat a request.
fn open_requests_end_before_the_server(loaded: &mut Loaded) {
    if loaded.serving.1 != Server::EndsAtOnce {
        let rollout = loaded.roll_out("before the next case", Server::EndsAtOnce, "");
        loaded.is_complete(&rollout);
    }
    let rollout = loaded.roll_out("server ends at once", Server::Drains, "");
    loaded.is_complete(&rollout);
}

/// Returns how long the rollout took.
fn new_replicas_start_first(loaded: &mut Loaded) -> Duration {
    let rollout = loaded.roll_out("start-first", Server::Drains, "");
    assert_eq!(rollout.least_ready, REPLICAS);
    loaded.is_complete(&rollout);
    rollout.took
}

fn old_replicas_stop_first(loaded: &mut Loaded) {
    let rollout = loaded.roll_out("stop-first", Server::Drains, "order: stop-first");
    assert_eq!(rollout.least_ready, REPLICAS - 1);
    loaded.is_complete(&rollout);
}

fn a_failed_version_is_rolled_back(loaded: &mut Loaded) {
    let running = loaded.running();
    assert_eq!(running.len(), REPLICAS);
    let rollout = loaded.roll_out("rollback", Server::NeverReady, "failure_action: rollback");
    let Finished { status, stderr, .. } = &rollout.up;
    assert_eq!(status.code(), Some(1), "{stderr}");
    let output = format!("\n    version {} cannot read its cache\n", loaded.version);
    for text in [
        "web-1: its new specification failed: not ready within 3s",
        &output,
    ] {
        assert!(stderr.contains(text), "{text}: {stderr}");
    }
    let versions = rollout.report.versions().into_keys();
    assert!(versions.eq([loaded.serving.0]), "{:?}", rollout.report);
    assert_eq!(rollout.least_ready, REPLICAS);
    assert_eq!(loaded.running(), running);
}
