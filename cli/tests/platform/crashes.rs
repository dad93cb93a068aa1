//! Kills `up` or the manager at random moments of a bring-up. The next `up` or manager must reach
//! the same final state as without a crash.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::docker::{Belongings, Node};
use crate::document::{endpoints, instances};
use crate::project::{Project, STATIC_SERVER};
use crate::subprocess::until;

const NODES: &str = "[nodes.a]\n[nodes.b]\n[manager]\nnode = \"a\"\n";
const WEB: &str = r#"
    ports: ["8080:8000"]
    volumes: ["data:/data"]
    deploy: {placement: {constraints: ["node.hostname == b"]}}
"#;
const DOOR: &str = r#"
    ports: ["8081:8000"]
    depends_on: [web]
    deploy: {placement: {constraints: ["node.hostname == a"]}}
volumes:
  data: {}
"#;

/// The default seed for the random moments. The test prints its seed, so that a failure can be
/// reproduced.
const SEED: u64 = 20_261_123;
const SEED_VARIABLE: &str = "LIFECYCLE_TEST_SEED";

/// The number of kills in each test.
const KILLS: u32 = 5;

/// Time limit for each wait.
const TIMEOUT: Duration = Duration::from_mins(4);

/// Generates pseudo-random moments within a duration (`SplitMix64`).
pub(crate) struct Moments(u64);

impl Moments {
    pub(crate) fn seeded() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok();
        let seed = given.map_or(SEED, |text| text.parse().unwrap());
        print(&format!("seed {seed} ({SEED_VARIABLE} sets another)"));
        Self(seed)
    }

    fn within(&mut self, whole: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let thousandth = u32::try_from(mixed % 1000).unwrap();
        whole * thousandth / 1000
    }

    /// Returns one random moment in each of `KILLS` equal parts of `whole`.
    pub(crate) fn spread(&mut self, whole: Duration) -> Vec<Duration> {
        let part = whole / KILLS;
        (0..KILLS).map(|n| part * n + self.within(part)).collect()
    }
}

#[expect(
    clippy::print_stdout,
    reason = "prints the random moments, so that a failure can be reproduced"
)]
fn print(text: &str) {
    println!("{text}");
}

fn project() -> Project {
    let project = Project::new();
    project.compose(&format!(
        "  web:{STATIC_SERVER}{WEB}  door:{STATIC_SERVER}{DOOR}"
    ));
    project.write("platform.toml", NODES);
    project.static_server("server");
    project
}

/// Describes the state after a bring-up: one line for each object, without values that differ
/// between runs.
fn end(project: &Project) -> Vec<String> {
    let status = project.status();
    assert_eq!(status["platform"]["state"], "running");
    assert_eq!(status["platform"]["generation"], 1);
    let mut all: Vec<String> = instances(&status).into_iter().map(instance).collect();
    let host = Belongings::of(&project.id());
    all.push(format!(
        "here: {} containers, {} networks, {} volumes",
        host.containers.len(),
        host.networks.len(),
        host.volumes.len()
    ));
    for (name, node) in Node::all(&project.id()) {
        let lines = on(&node, &project.name).into_iter();
        all.extend(lines.map(|line| format!("{name}: {line}")));
    }
    all
}

fn is_the_same(now: &[String], before: &[String], label: &str) {
    let only = |these: &[String], those: &[String]| {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.cloned().collect::<Vec<_>>()
    };
    assert!(
        now == before,
        "{label}: unexpected: {:#?}, missing: {:#?} in {now:#?}",
        only(now, before),
        only(before, now)
    );
}

fn instance(instance: &Value) -> String {
    let ports: Vec<u64> = endpoints(instance)
        .into_iter()
        .map(|(_, port)| port)
        .collect();
    format!(
        "{} {} on {} at {ports:?}",
        instance["id"], instance["state"], instance["node"]
    )
}

fn on(node: &Node, platform: &str) -> Vec<String> {
    let mut all: Vec<String> = node.inspect_all().iter().map(container).collect();
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let images = node.docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    all.extend(images.lines().map(|image| match image.rsplit_once(':') {
        Some((name, _digest)) if name.starts_with(platform) => format!("image {name}"),
        _ => format!("image {image}"),
    }));
    all.extend(lines(node.docker(&[
        "volume",
        "ls",
        "--format",
        "volume {{.Name}}",
    ])));
    // Leave out the registry's write-ahead log, which does not always exist.
    let files = "mkdir -p /var/lib/lifecycle; find /var/lib/lifecycle -type f \
                 -not -name 'registry.db-*' -printf 'file %P %m\\n'";
    all.extend(lines(node.exec(&["sh", "-c", files])));
    all.sort();
    all
}

fn container(container: &Value) -> String {
    let without_last = |text: &Value, separator: char| {
        let text = text.as_str().unwrap();
        text.rsplit_once(separator).unwrap().0.to_owned()
    };
    let (config, host) = (&container["Config"], &container["HostConfig"]);
    let full = container["Name"].as_str().unwrap().trim_start_matches('/');
    let name = without_last(&container["Name"], '-');
    format!(
        "container {} of {} runs {}: {} {} {:?} {} {} {}",
        name,
        without_last(&config["Image"], ':'),
        container["State"]["Running"],
        // The agent's command contains the name of its container.
        config["Cmd"].to_string().replace(full, &name),
        config["Env"],
        published(&host["PortBindings"]),
        host["Binds"],
        host["Mounts"],
        host["RestartPolicy"]
    )
}

/// Returns the declared host ports. The other ones depend on the container's name, which differs
/// between runs.
fn published(bindings: &Value) -> Vec<String> {
    let bindings = bindings.as_object().into_iter().flatten();
    let host_ports = bindings.flat_map(|(port, hosts)| {
        let hosts = hosts.as_array().into_iter().flatten();
        hosts.map(move |host| format!("{}->{port}", host["HostPort"].as_str().unwrap()))
    });
    host_ports.filter(|line| line.starts_with("80")).collect()
}

#[test]
fn killed_up_continues() {
    let mut moments = Moments::seeded();
    let project = project();
    let began = Instant::now();
    project.ends(0, &["up"]);
    let whole = began.elapsed();
    print(&format!("an undisturbed up takes {whole:?}"));
    let undisturbed = end(&project);
    project.ends(0, &["down", "--yes"]);

    for moment in moments.spread(whole) {
        let killed = project.start(&["up"]).kill_after(moment);
        project.keep(&killed);
        let last = killed.stderr.lines().last().unwrap_or_default().to_owned();
        print(&format!(
            "up was killed after {moment:?}; its last output: {last}"
        ));
        project.ends(0, &["up"]);
        let label = format!("killed after {moment:?}");
        is_the_same(&end(&project), &undisturbed, &label);
        project.ends(0, &["down", "--yes"]);
        let left = Belongings::of(&project.id());
        assert!(left.is_empty(), "killed after {moment:?}: {left:?}");
    }
}

/// Returns the manager's node and process id, if the manager is running.
pub(crate) fn managers_process(project: &Project) -> Option<(Node, String)> {
    let node = Node::find(&project.identity()?, "a")?;
    let pid = "docker inspect --format '{{.State.Pid}}' \
               $(docker ps --quiet --filter label=lifecycle.role=manager)";
    // This call fails until the new node's engine responds.
    let pid = node.call(&["sh", "-c", pid]).stdout.trim().to_owned();
    pid.parse::<u32>()
        .is_ok_and(|pid| pid > 0)
        .then_some((node, pid))
}

#[test]
fn killed_manager_continues() {
    let mut moments = Moments::seeded();
    let project = project();
    let bring_up = || {
        let mut up = project.start(&["up"]);
        let process = until("the manager is running", TIMEOUT, || {
            assert!(up.runs(), "`up` ended before its manager ran");
            managers_process(&project)
        });
        (up, process)
    };
    let (up, _) = bring_up();
    let began = Instant::now();
    assert_eq!(up.finish(TIMEOUT).status.code(), Some(0));
    let whole = began.elapsed();
    print(&format!("an undisturbed first round takes {whole:?}"));
    let undisturbed = end(&project);

    for moment in moments.spread(whole) {
        project.ends(0, &["down", "--yes"]);
        let (up, (node, pid)) = bring_up();
        let manager = node.manager();
        std::thread::sleep(moment);
        print(&format!("the manager is killed after {moment:?}"));
        node.exec(&["kill", "-KILL", &pid]);
        let up = up.finish(TIMEOUT);
        project.keep(&up);
        assert_eq!(up.status.code(), Some(0), "{}", up.stderr);
        // If `up` was almost finished, it may have succeeded without noticing the kill. Wait until
        // the manager runs again.
        let again = until("the manager is running again", TIMEOUT, || {
            let now = node.manager();
            (now.started_at != manager.started_at).then_some(now)
        });
        assert_eq!(
            again.id, manager.id,
            "the engine has not restarted the container"
        );
        let api = project.api();
        until("everything is ready", Duration::from_mins(1), || {
            api.is_ready().then_some(())
        });
        let label = format!("killed after {moment:?}");
        is_the_same(&end(&project), &undisturbed, &label);
    }
    running_services_are_not_changed(&project);
    a_missing_manager_is_named(&project);
    let id = project.id();
    project.ends(0, &["down", "--yes"]);
    assert!(Belongings::of(&id).is_empty());
}

fn a_missing_manager_is_named(project: &Project) {
    let (node, _) = managers_process(project).unwrap();
    let managers = "$(docker ps --all --quiet --filter label=lifecycle.role=manager)";
    for (change, expected) in [
        ("stop", "its container on a ended with exit code 0"),
        ("rm", "its container is missing on a"),
    ] {
        node.exec(&["sh", "-c", &format!("docker {change} {managers}")]);
        let status = project.ends(1, &["status"]);
        assert!(status.stderr.contains(expected), "{}", status.stderr);
        assert!(
            status.stderr.contains("run `bootstrapper up`"),
            "{}",
            status.stderr
        );
    }
    project.ends(0, &["up"]);
}

fn running_services_are_not_changed(project: &Project) {
    let (api, before) = (project.api(), end(project));
    let (node, pid) = managers_process(project).unwrap();
    let manager = node.manager();
    let services = || {
        [("a", "door"), ("b", "web")]
            .map(|(node, service)| Node::find(&project.id(), node).unwrap().service(service))
    };
    let runs = services();
    node.exec(&["kill", "-KILL", &pid]);
    until(
        "another manager is running",
        Duration::from_secs(30),
        || (node.manager().started_at != manager.started_at).then_some(()),
    );
    until("everything is ready", Duration::from_mins(1), || {
        api.is_ready().then_some(())
    });
    assert_eq!(services(), runs);
    is_the_same(&end(project), &before, "killed after everything was ready");
}
