//! Tests that a changed service loses no request while its replicas are replaced. Clients on another
//! node send requests all the time, some over a new connection for each request.
//!
//! In one case the manager is killed during the rollout, at random moments.
//!
//! By default, each case is one rollout. With `LIFECYCLE_TEST_WHOLE=1`, each case repeats its rollout
//! for at least a minute (`script/endure`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use lifecycle_core::api::wire::InstanceStateV1;
use lifecycle_core::model::{EventKind, Subject};
use serde::Deserialize;

use crate::crashes::{Moments, managers_process};
use crate::docker::{Node, Run, run_of};
use crate::project::{Api, Project};
use crate::subprocess::{Finished, until};

const NODES: &str = "[nodes.a]\n[nodes.b]\n[manager]\nnode = \"a\"\n";

/// `benches/rollout_load` contains the program.
const PROGRAM: &str = "rollout-load";
const DOCKERFILE: &str = "FROM scratch\nCOPY rollout-load /\nENTRYPOINT [\"/rollout-load\"]\n";

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

/// How many requests must succeed before and after each rollout.
const CALM_REQUESTS: u64 = 100;

/// Time limit for each wait. A request that takes longer than 30 seconds has failed.
const TIMEOUT: Duration = Duration::from_mins(2);

/// How often the number of ready replicas is read during a rollout.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long each case lasts with `LIFECYCLE_TEST_WHOLE`.
const WHOLE: Duration = Duration::from_mins(1);

/// The results that the clients of one kind counted since the last report.
#[derive(Debug, Deserialize)]
struct Counts {
    requests: u64,
    failed: u64,
    /// How many requests each version of the server answered.
    versions: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Report {
    new: Counts,
    keep_alive: Counts,
}

impl Report {
    /// Returns how many requests each version of the server answered.
    fn versions(&self) -> BTreeMap<u32, u64> {
        let mut versions = BTreeMap::new();
        for (version, count) in self.new.versions.iter().chain(&self.keep_alive.versions) {
            *versions.entry(version.parse().unwrap()).or_default() += count;
        }
        versions
    }

    fn requests(&self) -> u64 {
        self.new.requests + self.keep_alive.requests
    }
}

/// The platform under load.
struct Loaded {
    project: Project,
    api: Api,
    /// Where the clients serve their report.
    reports: (IpAddr, u16),
    /// The declared version of `web`.
    version: u32,
    /// The version that serves after the latest completed rollout, and how it behaves.
    serving: (u32, Server),
}

/// The result of one rollout.
struct Rollout {
    server: Server,
    up: Finished,
    report: Report,
    /// The smallest number of ready replicas during the rollout.
    least_ready: usize,
    took: Duration,
}

/// How a version of `web` behaves (`$SERVER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// Answers all requests before it ends.
    Drains,
    /// Ends on SIGTERM without answering, as many programs do.
    EndsAtOnce,
    NeverReady,
}

/// Returns the declaration of `web`. `update` contains the settings of the rollout. The grace period
/// is short, because the connections of keep-alive clients do not end earlier.
fn web(version: u32, server: Server, update: &str) -> String {
    let (server, ready_within) = match server {
        Server::Drains => ("drains", "1m"),
        Server::EndsAtOnce => ("ends-at-once", "1m"),
        Server::NeverReady => ("never-ready", "3s"),
    };
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

impl Loaded {
    fn start() -> Self {
        let project = Project::new();
        project.write("platform.toml", NODES);
        project.write("load/Dockerfile", DOCKERFILE);
        project.put_program(PROGRAM, &format!("load/{PROGRAM}"));
        project.compose(&format!("{}{CLIENTS}", web(1, Server::EndsAtOnce, "")));
        project.ends(0, &["up"]);
        let api = project.api();
        let clients = api.service("clients").instances[0].endpoints[0].clone();
        Self {
            project,
            api,
            reports: (clients.ip, clients.port),
            version: 1,
            serving: (1, Server::EndsAtOnce),
        }
    }

    /// Returns what the clients counted since the last report. Waits until all requests that have
    /// begun until now have ended.
    fn report(&self) -> (String, Report) {
        let mut stream = TcpStream::connect(self.reports).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(b"GET /report HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (body.to_owned(), serde_json::from_str(body).unwrap())
    }

    /// Waits until the clients have sent requests while the platform does not change. Returns which
    /// versions answered.
    fn calm(&self) -> BTreeMap<u32, u64> {
        // The previous report contains earlier requests, so begin with a new one.
        self.report();
        let (mut requests, mut versions) = (0, BTreeMap::new());
        until("the clients send requests", TIMEOUT, || {
            let (text, report) = self.report();
            assert_eq!(
                (report.new.failed, report.keep_alive.failed),
                (0, 0),
                "{text}"
            );
            requests += report.requests();
            versions.extend(report.versions());
            (requests >= CALM_REQUESTS).then_some(())
        });
        versions
    }

    /// Declares the next version of `web` and runs `up` under load.
    #[expect(clippy::print_stdout, reason = "prints the counted requests")]
    fn roll_out(&mut self, label: &str, server: Server, update: &str) -> Rollout {
        self.version += 1;
        self.calm();
        let web = web(self.version, server, update);
        self.project.compose(&format!("{web}{CLIENTS}"));
        let (began, cursor) = (Instant::now(), self.api.last_event());
        let mut up = self.project.start(&["up"]);
        let (mut least_ready, mut polls) = (REPLICAS, 0);
        while up.runs() {
            least_ready = least_ready.min(self.ready());
            polls += 1;
            std::thread::sleep(POLL_INTERVAL);
        }
        let took = began.elapsed();
        least_ready = least_ready.min(self.least_ready_since(cursor));
        let up = up.finish(TIMEOUT);
        self.project.keep(&up);
        let (text, report) = self.report();
        println!(
            "{label}: `up` took {took:.1?}, at least {least_ready} of {REPLICAS} ready in {polls} polls\n  \
             {text}"
        );
        for counts in [&report.new, &report.keep_alive] {
            assert!(counts.requests > 0 && counts.failed == 0, "{label}: {text}");
        }
        Rollout {
            server,
            up,
            report,
            least_ready,
            took,
        }
    }

    /// Declares the next version of `web`, runs `up` under load, and kills the manager after a time.
    #[expect(clippy::print_stdout, reason = "prints the counted requests")]
    fn roll_out_and_kill_the_manager(&mut self, after: Duration) {
        self.version += 1;
        self.calm();
        let web = web(self.version, Server::Drains, "");
        self.project.compose(&format!("{web}{CLIENTS}"));
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

    /// Checks that the rollout is complete, and that both versions served during it.
    fn is_complete(&mut self, rollout: &Rollout) {
        assert_eq!(rollout.up.status.code(), Some(0), "{}", rollout.up.stderr);
        let versions = rollout.report.versions().into_keys();
        assert!(
            versions.eq([self.serving.0, self.version]),
            "{:?}",
            rollout.report
        );
        self.serving = (self.version, rollout.server);
        let versions = self.calm().into_keys();
        assert!(versions.eq([self.version]), "an old version still serves");
    }

    /// Returns how many replicas of `web` are ready.
    fn ready(&self) -> usize {
        let web = self.api.service("web");
        let replicas = web.instances.iter();
        replicas
            .filter(|replica| {
                replica.state == InstanceStateV1::Ready && !replica.endpoints.is_empty()
            })
            .count()
    }

    /// Returns how many containers of `web` were ready at the same time since an event, according
    /// to the events. At the first event, all replicas are ready.
    fn least_ready_since(&self, cursor: u64) -> usize {
        let (mut ready, mut least) = (REPLICAS, REPLICAS);
        for event in self.api.events(cursor) {
            match (event.event.kind, event.event.subject) {
                (EventKind::Ready, Subject::Instance(id)) if id.service.as_str() == "web" => {
                    ready += 1;
                }
                (EventKind::NotReady, Subject::Instance(id)) if id.service.as_str() == "web" => {
                    ready -= 1;
                    least = least.min(ready);
                }
                _ => {}
            }
        }
        assert_eq!(ready, REPLICAS);
        least
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

/// Repeats a case for as long as the environment requests. Runs it at least once.
fn repeat(mut case: impl FnMut()) {
    let began = Instant::now();
    let is_whole = std::env::var_os("LIFECYCLE_TEST_WHOLE").is_some();
    loop {
        case();
        if !is_whole || began.elapsed() >= WHOLE {
            return;
        }
    }
}

#[test]
fn rollouts_lose_no_request() {
    let mut loaded = Loaded::start();
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
    for text in ["web-1: not ready within 3s", &output] {
        assert!(stderr.contains(text), "{text}: {stderr}");
    }
    let versions = rollout.report.versions().into_keys();
    assert!(versions.eq([loaded.serving.0]), "{:?}", rollout.report);
    assert_eq!(rollout.least_ready, REPLICAS);
    assert_eq!(loaded.running(), running);
}
