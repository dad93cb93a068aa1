//! The load of the tests of rollouts: a server and its clients (`benches/rollout_load`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lifecycle_core::api::wire::InstanceStateV1;
use lifecycle_core::model::{EventKind, Subject};
use serde::Deserialize;

use crate::project::{Api, Project};
use crate::subprocess::{Finished, until};

/// The program with the server and the clients.
pub(crate) const PROGRAM: &str = "rollout-load";
const DOCKERFILE: &str = "FROM scratch\nCOPY rollout-load /\nENTRYPOINT [\"/rollout-load\"]\n";

/// How many requests must succeed before and after each rollout.
const CALM_REQUESTS: u64 = 100;

/// Time limit for each wait. A request that takes longer than 30 seconds has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(2);

/// How often the number of ready replicas is read during a rollout.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long each case lasts with `LIFECYCLE_TEST_WHOLE`.
const WHOLE: Duration = Duration::from_mins(1);

/// The results that the clients of one kind counted since the last report.
#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// How many requests each version of the server answered.
    versions: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) new: Counts,
    pub(crate) keep_alive: Counts,
}

impl Report {
    /// Returns how many requests each version of the server answered.
    pub(crate) fn versions(&self) -> BTreeMap<u32, u64> {
        let mut versions = BTreeMap::new();
        for (version, count) in self.new.versions.iter().chain(&self.keep_alive.versions) {
            *versions.entry(version.parse().unwrap()).or_default() += count;
        }
        versions
    }

    pub(crate) fn requests(&self) -> u64 {
        self.new.requests + self.keep_alive.requests
    }
}

/// A service under load.
pub(crate) struct Loaded {
    pub(crate) project: Project,
    pub(crate) api: Api,
    /// Where the clients serve their report.
    pub(crate) reports: SocketAddr,
    pub(crate) service: &'static str,
    pub(crate) replicas: usize,
    /// Returns the services of the project. `update` contains the settings of the rollout.
    pub(crate) declare: fn(version: u32, server: Server, update: &str) -> String,
    /// The declared version of the service.
    pub(crate) version: u32,
    /// The version that serves after the latest completed rollout, and how it behaves.
    pub(crate) serving: (u32, Server),
}

/// The result of one rollout.
pub(crate) struct Rollout {
    server: Server,
    pub(crate) up: Finished,
    pub(crate) report: Report,
    /// The smallest number of ready replicas during the rollout.
    pub(crate) least_ready: usize,
    pub(crate) took: Duration,
}

/// How a version of the server behaves (`$SERVER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// Answers all requests before it ends.
    Drains,
    /// Ends on SIGTERM without answering, as many programs do.
    EndsAtOnce,
    NeverReady,
}

impl Server {
    /// Returns the value of `$SERVER`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drains => "drains",
            Self::EndsAtOnce => "ends-at-once",
            Self::NeverReady => "never-ready",
        }
    }
}

impl Loaded {
    pub(crate) fn report(&self) -> (String, Report) {
        report(self.reports)
    }

    /// Waits until the clients have sent requests while the platform does not change. Returns which
    /// versions answered.
    pub(crate) fn calm(&self) -> BTreeMap<u32, u64> {
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

    /// Declares the next version and runs `up` under load.
    #[expect(clippy::print_stdout, reason = "prints the counted requests")]
    pub(crate) fn roll_out(&mut self, label: &str, server: Server, update: &str) -> Rollout {
        self.version += 1;
        self.calm();
        let services = (self.declare)(self.version, server, update);
        self.project.compose(&services);
        let (began, cursor) = (Instant::now(), self.api.last_event());
        let mut up = self.project.start(&["up"]);
        let (mut least_ready, mut polls) = (self.replicas, 0);
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
            "{label}: `up` took {took:.1?}, at least {least_ready} of {} ready in {polls} polls\n  {text}",
            self.replicas
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

    /// Changes the manager's program and runs `up` under load.
    pub(crate) fn upgrade(&self, label: &str) {
        self.upgrade_to(label, &Project::change_manager);
    }

    /// Changes the programs and runs `up` under load.
    #[expect(clippy::print_stdout, reason = "prints the counted requests")]
    pub(crate) fn upgrade_to(&self, label: &str, change: &dyn Fn(&Project)) {
        self.calm();
        change(&self.project);
        let began = Instant::now();
        self.project.ends(0, &["up"]);
        let took = began.elapsed();
        let (text, report) = self.report();
        println!("{label}: `up` took {took:.1?}\n  {text}");
        for counts in [&report.new, &report.keep_alive] {
            assert!(counts.requests > 0 && counts.failed == 0, "{label}: {text}");
        }
        self.calm();
    }

    /// Checks that the rollout is complete, and that both versions served during it.
    pub(crate) fn is_complete(&mut self, rollout: &Rollout) {
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

    /// Returns how many replicas are ready.
    fn ready(&self) -> usize {
        let service = self.api.service(self.service);
        let replicas = service.instances.iter();
        replicas
            .filter(|replica| {
                replica.state == InstanceStateV1::Ready && !replica.endpoints.is_empty()
            })
            .count()
    }

    /// Returns the smallest number of replicas that were ready at the same time since an event, according
    /// to the events. At that event, all replicas are ready.
    fn least_ready_since(&self, cursor: u64) -> usize {
        let mut down = BTreeSet::new();
        let mut least = self.replicas;
        for event in self.api.events(cursor) {
            let Subject::Instance(id) = event.event.subject else {
                continue;
            };
            match event.event.kind {
                _ if id.service.as_str() != self.service => {}
                EventKind::Ready => {
                    down.remove(&id);
                }
                EventKind::NotReady => {
                    down.insert(id);
                    least = least.min(self.replicas - down.len());
                }
                _ => {}
            }
        }
        assert!(down.is_empty(), "not ready again: {down:?}");
        least
    }
}

/// Creates a project with the program and these nodes.
pub(crate) fn project(nodes: &str) -> Project {
    let project = Project::new();
    project.write("platform.toml", nodes);
    project.write("load/Dockerfile", DOCKERFILE);
    project.put_program(PROGRAM, &format!("load/{PROGRAM}"));
    project
}

/// Returns what the clients counted since the last report. Waits until all requests that have begun
/// until now have ended.
fn report(clients: SocketAddr) -> (String, Report) {
    let mut stream = TcpStream::connect(clients).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"GET /report HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    (body.to_owned(), serde_json::from_str(body).unwrap())
}

/// Repeats a case for as long as the environment requests. Runs it at least once.
pub(crate) fn repeat(mut case: impl FnMut()) {
    let began = Instant::now();
    let is_whole = std::env::var_os("LIFECYCLE_TEST_WHOLE").is_some();
    loop {
        case();
        if !is_whole || began.elapsed() >= WHOLE {
            return;
        }
    }
}
