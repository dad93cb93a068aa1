//! The example platform as its user brings it up.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Programs;
use crate::timeline::{Phase, Timeline};

/// A copy of the example, with a name and an identity of its own. Taken down when it is dropped.
#[derive(Debug)]
pub(crate) struct Project<'a> {
    programs: &'a Programs,
    name: String,
    directory: TempDir,
    configuration: TempDir,
}

impl<'a> Project<'a> {
    pub(crate) fn new(programs: &'a Programs) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the project");
        let copy = |from: &Path, to: &str| {
            let to = directory.path().join(to);
            let parent = to.parent().expect("a path below the project");
            std::fs::create_dir_all(parent).expect("a directory of the project");
            std::fs::copy(from, to).expect("a file of the project");
        };
        for file in ["compose.yaml", "platform.toml", "code/iot/Dockerfile"] {
            copy(&programs.example.join(file), file);
        }
        copy(&programs.path("iot-platform"), "code/iot/iot-platform");
        Self {
            programs,
            name: format!("bench-{}", std::process::id()),
            directory,
            configuration: tempfile::tempdir().expect("a directory for the configuration"),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.path("bootstrapper"));
        command
            .arg("--project-dir")
            .arg(self.directory.path())
            .args(["--project-name", &self.name])
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.configuration.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command; each line that it tells comes with its moment.
    fn run(
        &self,
        arguments: &[&str],
        mut told: impl FnMut(Duration, &str),
    ) -> Result<Duration, String> {
        let since = Instant::now();
        let mut child = self
            .command(arguments)
            .spawn()
            .map_err(|error| format!("bootstrapper: {error}"))?;
        let mut last = String::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                told(since.elapsed(), &line);
                last = line;
            }
        }
        let status = child
            .wait()
            .map_err(|error| format!("bootstrapper: {error}"))?;
        if status.success() {
            Ok(since.elapsed())
        } else {
            Err(format!("bootstrapper {}: {last}", arguments.join(" ")))
        }
    }

    pub(crate) fn up(&self) -> Result<Timeline, String> {
        let mut timeline = Timeline::default();
        let mut started = Vec::new();
        timeline.total = self.run(&["up"], |now, line| {
            // "[   2.1 s]   ✓ provision node hub (2.1 s)"
            let Some((_, what)) = line.split_once("] ") else {
                return;
            };
            let what = what.trim_start();
            if let Some(done) = what.strip_prefix("✓ ") {
                let took = done
                    .rsplit_once('(')
                    .and_then(|(_, took)| took.strip_suffix(" s)")?.parse().ok())
                    .map_or(Duration::ZERO, Duration::from_secs_f64);
                let from = now.saturating_sub(took);
                started.push((phase(done), from, now));
            } else if what.contains(" is ready on ") {
                started.push((Phase::Services, now, now));
            }
        })?;
        // A service is in the making from its container's start until it is ready.
        let mut services: Vec<_> = Vec::new();
        for (phase, from, to) in started {
            match phase {
                Phase::Services => services.push((from, to)),
                other => timeline.add(other, from, to),
            }
        }
        if let (Some(from), Some(to)) = (
            services.iter().map(|span| span.0).min(),
            services.iter().map(|span| span.1).max(),
        ) {
            timeline.add(Phase::Services, from, to);
        }
        Ok(timeline)
    }

    pub(crate) fn down(&self) -> Result<(), String> {
        self.run(&["down", "--yes"], |_, _| {}).map(drop)
    }

    /// The authority and the token that services of the platform are given.
    pub(crate) fn credential(&self) -> TempDir {
        let credential = tempfile::tempdir().expect("a directory for the credential");
        let kept = std::fs::read_dir(self.configuration.path().join("lifecycle"))
            .expect("what the bootstrapper keeps")
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.is_dir())
            .expect("what the bootstrapper keeps of the platform");
        for (from, to) in [("ca.pem", "ca.pem"), ("read.token", "token")] {
            std::fs::copy(kept.join(from), credential.path().join(to)).expect("a credential");
        }
        credential
    }
}

fn phase(what: &str) -> Phase {
    if what.starts_with("send ") {
        Phase::Sending
    } else if what.contains("lifecycle-manager") || what.contains("lifecycle manager") {
        Phase::Manager
    } else if ["build ", "copy ", "pull "]
        .iter()
        .any(|w| what.starts_with(w))
    {
        Phase::Images
    } else if what.starts_with("start ") && !what.starts_with("start node") {
        Phase::Services
    } else {
        Phase::Nodes
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // Down already, unless something failed.
        drop(self.down());
    }
}
