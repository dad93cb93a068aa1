//! Machines that exist already: containers with a stock SSH server, and an account whose password sudo
//! requires.

use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::docker::{self, docker};
use crate::project::Project;
use crate::subprocess::{Finished, run, until};

/// The bare machine of the tests of `lifecycle-docker`.
const MACHINE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../lifecycle-docker/tests/fixture/bare"
);
const IMAGE: &str = "lifecycle-docker-test:bare";

/// The password of the machines' account. It occurs nowhere else.
pub(crate) const PASSWORD: &str = "ops-pw";

/// Time limit for building the machines' image.
const BUILT: Duration = Duration::from_mins(5);

fn build_image() {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let mut build = Command::new("docker");
        let build = build.args(["build", "--quiet", "--tag", IMAGE, MACHINE]);
        let image = run(build, BUILT);
        assert!(image.status.success(), "{}", image.stderr);
    });
}

/// A machine with an SSH server and an account. It is removed when dropped.
pub(crate) struct Machine {
    pub(crate) name: String,
}

impl Machine {
    pub(crate) fn start(name: String, network: &str) -> Self {
        let container = [
            "run",
            "--detach",
            "--name",
            &name,
            "--network",
            network,
            "--cap-add=SYS_ADMIN",
            "--cap-add=NET_ADMIN",
            "--cap-add=SYS_PTRACE",
            "--security-opt=seccomp=unconfined",
            "--cgroupns=private",
            IMAGE,
        ];
        build_image();
        docker(&container);
        let machine = Self { name };
        machine.exec("rm /etc/sudoers.d/lifecycle-test");
        machine.await_ssh();
        machine
    }

    pub(crate) fn await_ssh(&self) {
        until("the SSH server runs", Duration::from_mins(1), || {
            let server = docker::call(&["exec", &self.name, "test", "-e", "/run/sshd.pid"]);
            server.status.success().then_some(())
        });
    }

    pub(crate) fn exec(&self, script: &str) -> String {
        docker(&["exec", &self.name, "sh", "-c", script])
    }

    pub(crate) fn address(&self) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "--format", format, &self.name])
    }

    pub(crate) fn node(&self, name: &str, more: &str) -> String {
        format!(
            "[nodes.{name}]\naddress = \"{}\"\nuser = \"ops\"\n\
             password = {{ env = \"OPS_PASSWORD\" }}\n{more}\n",
            self.address()
        )
    }

    /// Returns everything that the platform could leave on the machine, except Docker itself.
    pub(crate) fn traces(&self) -> String {
        self.exec(
            "ls -A /home /etc/sudoers.d; ls -A /var/lib/lifecycle 2>/dev/null; \
             cut -d: -f1 /etc/passwd; docker ps --all --quiet; docker images --quiet; \
             docker network ls --quiet --filter type=custom; docker volume ls --quiet; \
             ip -4 route | grep -v docker0; pgrep -l lifecycle || true",
        )
    }

    /// Returns whether an HTTP server answers at a port of the machine.
    pub(crate) fn answers(&self, port: u16) -> bool {
        let url = format!("http://{}:{port}/", self.address());
        let mut curl = Command::new("curl");
        let curl = curl.args(["--silent", "--max-time", "2", "--output", "/dev/null", &url]);
        run(curl, Duration::from_secs(5)).status.success()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        docker::call(&["rm", "--force", "--volumes", &self.name]);
    }
}

/// A network in which machines keep their addresses when they restart. It is removed when dropped.
pub(crate) struct Network(pub(crate) String);

impl Drop for Network {
    fn drop(&mut self) {
        docker::call(&["network", "rm", &self.0]);
    }
}

/// Returns whether the command line of a process of this machine or of a container contains `text`.
pub(crate) fn is_in_a_command_line(text: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(text))
}

/// Runs `up` with the password in the environment. Asserts that the password is in no command line at
/// any time, and neither in the output nor in the stored state.
pub(crate) fn up_without_traces(project: &Project, password: &str) -> Finished {
    let is_done = AtomicBool::new(false);
    let up = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut rounds = 0_u32;
            while !is_done.load(Ordering::Relaxed) {
                assert!(
                    !is_in_a_command_line(password),
                    "a command line has the password"
                );
                rounds += 1;
            }
            rounds
        });
        let mut up = project.command(&["up"]);
        let up = run(up.env("OPS_PASSWORD", password), Duration::from_mins(8));
        is_done.store(true, Ordering::Relaxed);
        assert!(watch.join().unwrap() > 10);
        up
    });
    assert_eq!(up.status.code(), Some(0), "{}\n{}", up.stdout, up.stderr);
    let events = project.ends(0, &["events", "--json"]);
    for text in [&up.stdout, &up.stderr, &events.stdout] {
        assert!(!text.contains(password), "{text}");
    }
    let kept = std::fs::read_dir(project.state()).unwrap().flatten();
    for file in kept.filter_map(|file| std::fs::read(file.path()).ok()) {
        assert!(!String::from_utf8_lossy(&file).contains(password));
    }
    up
}
