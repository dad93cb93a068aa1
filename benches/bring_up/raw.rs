//! Brings up the example platform with raw engine calls, without a manager. Calls run in parallel
//! as far as possible: each call waits only for the calls whose results it needs.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use benches::docker::{docker, docker_pipe, docker_with};
use benches::example::Programs;
use tempfile::TempDir;

use crate::timeline::{Phase, Timeline};
use crate::until;

const NODES: [&str; 3] = ["hub", "edge-1", "edge-2"];

/// The services of `compose.yaml` in start order. The services in a row start together when all
/// services in the previous row are ready. Each tuple contains the service, the index of its node,
/// and whether the engine checks the service's health.
const ROWS: [&[(&str, usize, bool)]; 5] = [
    &[("authentication", 1, false), ("authentication", 2, false)],
    &[("sensor-manager", 0, true)],
    &[("sensor-controller", 2, false), ("sensor-binder", 1, false)],
    &[
        ("deployment-manager", 2, false),
        ("request-manager", 1, false),
    ],
    &[("monitoring", 0, false)],
];

/// The example's Dockerfile.
const DOCKERFILE: &str = "FROM scratch\nCOPY iot-platform /iot-platform\n\
                          ENTRYPOINT [\"/iot-platform\"]\n";
/// An image with the health check that the example's `compose.yaml` declares.
const CHECK: &str = "FROM raw\nHEALTHCHECK --interval=1s --timeout=2s --retries=5 \
                     CMD [\"/iot-platform\", \"check\"]\n";

/// The engine's resources for one run. Dropping this value removes them.
#[derive(Debug)]
struct Created(String);

impl Created {
    fn node(&self, index: usize) -> String {
        format!("{}-{}", self.0, NODES[index])
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let nodes: Vec<String> = (0..NODES.len()).map(|index| self.node(index)).collect();
        let mut remove = vec!["rm", "--force", "--volumes"];
        remove.extend(nodes.iter().map(String::as_str));
        drop(docker(&remove));
        drop(docker(&["network", "rm", &self.0]));
    }
}

/// Brings the platform up, measures the times, and removes the platform.
pub(crate) fn bring_up(programs: &Programs, credential: &TempDir) -> Result<Timeline, String> {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let created = Created(format!("bench-raw-{}-{run}", std::process::id()));
    let image = node_image()?;
    let rights = rights(&image);
    // Create the build context before the measurement starts: the files that `up` reads also exist
    // before `up` starts.
    let context = context(&programs.path("iot-platform"))?;

    let since = Instant::now();
    let mut timeline = Timeline::default();
    docker(&["network", "create", &created.0])?;
    in_parallel(&[0, 1, 2], |&index| {
        node(&created, index, &image, &rights, credential.path())
    })?;
    let engines = since.elapsed();
    timeline.add(Phase::Nodes, Duration::ZERO, engines);

    // As with `up`, one node builds the code base, and the others receive the image.
    let hub = created.node(0);
    let build = ["exec", "-i", &hub, "docker", "build", "-q", "-t"];
    docker_with(&[&build[..], &["raw", "-"]].concat(), Some(&context))?;
    in_parallel(&[0, 1, 2], |&index| {
        if index == 0 {
            let checked = [&build[..], &["raw-checked", "-"]].concat();
            return docker_with(&checked, Some(CHECK.as_bytes())).map(drop);
        }
        let node = created.node(index);
        docker_pipe(
            &["exec", &hub, "docker", "save", "raw"],
            &["exec", "-i", &node, "docker", "load"],
        )
    })?;
    let images = since.elapsed();
    timeline.add(Phase::Images, engines, images);

    let mut port = 20_000;
    for row in ROWS {
        let mut services = Vec::new();
        for (service, node, is_checked) in row {
            port += 1;
            services.push((*service, created.node(*node), *is_checked, port));
        }
        in_parallel(&services, |(service, node, is_checked, port)| {
            instance(service, node, *is_checked, *port)
        })?;
    }
    timeline.total = since.elapsed();
    timeline.add(Phase::Services, images, timeline.total);
    Ok(timeline)
}

fn in_parallel<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), String> + Sync,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || work(item)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a thread that does not panic"))
    })
}

/// Returns the latest image that the bootstrapper built for its nodes.
fn node_image() -> Result<String, String> {
    let images = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    images
        .lines()
        .find(|image| image.starts_with("lifecycle-node-ready:"))
        .map(str::to_owned)
        .ok_or_else(|| "the nodes' image does not exist".into())
}

/// Returns the options of `docker run` for the privileges of nodes: full privileges or, if the
/// engine rejects them, only the required ones.
fn rights(image: &str) -> Vec<&'static str> {
    let all = [
        "run",
        "--rm",
        "--privileged",
        "--entrypoint",
        "/bin/true",
        image,
    ];
    if docker(&all).is_ok() {
        vec!["--privileged"]
    } else {
        vec![
            "--cap-add=NET_ADMIN",
            "--cap-add=SYS_ADMIN",
            "--cap-add=SYS_PTRACE",
            "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined",
        ]
    }
}

fn node(
    created: &Created,
    index: usize,
    image: &str,
    rights: &[&str],
    credential: &Path,
) -> Result<(), String> {
    let name = created.node(index);
    let mount = format!("{}:/run/credential:ro", credential.display());
    let mut run = vec!["run", "--detach", "--init", "--cgroupns=private"];
    run.extend(rights);
    run.extend(["--volume=/var/lib/docker", "--volume", &mount]);
    run.extend(["--network", &created.0, "--name", &name, image]);
    docker(&run)?;
    until("the engine of a node responds", || {
        docker(&["exec", &name, "docker", "version"]).is_ok()
    })
}

fn instance(service: &str, node: &str, is_checked: bool, port: u16) -> Result<(), String> {
    let publish = format!("{port}:8000");
    let image = if is_checked { "raw-checked" } else { "raw" };
    let container = format!("{service}-{port}");
    docker(&[
        "exec",
        node,
        "docker",
        "run",
        "--detach",
        "--name",
        &container,
        "--publish",
        &publish,
        "--volume=/run/credential:/run/lifecycle:ro",
        "--volume=readings:/data",
        "--env=LIFECYCLE_URL=https://127.0.0.1:1",
        "--env=SIGNING_KEY=a-key-for-a-bench-that-signs-nothing",
        "--env=DEVICE_SECRET=a-secret-for-a-bench",
        "--env=SENSORS=kitchen.temperature",
        "--env=READING_EVERY=1s",
        "--env=APPLICATIONS=thermostat=temperature",
        image,
        service,
    ])?;
    let ip = docker(&[
        "inspect",
        "--format",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        node,
    ])?;
    let ip: IpAddr = ip.parse().map_err(|_| format!("{node} has no address"))?;
    let address = SocketAddr::new(ip, port);
    until(service, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    })?;
    let health = "{{.State.Health.Status}}";
    let inspect = [
        "exec", node, "docker", "inspect", "--format", health, &container,
    ];
    if is_checked {
        until(service, || {
            docker(&inspect).is_ok_and(|health| health == "healthy")
        })?;
    }
    Ok(())
}

/// Returns the build context as a tar archive.
fn context(program: &Path) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().expect("a directory for a build context");
    std::fs::write(directory.path().join("Dockerfile"), DOCKERFILE).expect("a Dockerfile");
    std::fs::copy(program, directory.path().join("iot-platform")).expect("the program");
    let output = std::process::Command::new("tar")
        .args(["--create", "--directory"])
        .arg(directory.path())
        .args(["Dockerfile", "iot-platform"])
        .output()
        .map_err(|error| format!("tar: {error}"))?;
    Ok(output.stdout)
}
