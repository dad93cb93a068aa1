//! Checks this machine, each node and the manager, and reports problems with hints. Changes
//! nothing.

use std::time::Duration;

use serde::Serialize;

use super::Bootstrapper;
use crate::api::wire::PlatformState;
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::host::{ForwardTarget, HostCommand, NodeHandle};
use crate::model::PlatformId;

/// How long each check may take.
const CHECKED_WITHIN: Duration = Duration::from_secs(15);

/// The largest clock difference that is not reported as an error. A larger difference disturbs
/// leases, certificates and logs.
const MAX_CLOCK_DIFFERENCE: chrono::TimeDelta = chrono::TimeDelta::seconds(5);

/// The free disk space, in KiB, below which a warning is reported.
const MIN_FREE_SPACE: u64 = 2 << 20;

/// The number of other nodes to which each node's connection is checked.
const MOST_NEIGHBOURS: usize = 8;

/// The oldest engine version that was tested.
const OLDEST_ENGINE: u32 = 20;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The check found no problem.
    Ok,
    /// The checked part works now, but may soon fail.
    Warning,
    /// The checked part does not work.
    Error,
}

/// A check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// What was checked, for example `node n1: disk`.
    pub what: String,
    /// The result.
    pub health: Health,
    /// Details of the result.
    pub detail: String,
    /// How to fix the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// Creates a finding without a problem.
    pub fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            health: Health::Ok,
            detail: detail.into(),
            hint: None,
        }
    }

    /// Creates a finding with a problem.
    pub fn new(
        health: Health,
        what: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            health,
            detail: detail.into(),
            hint: Some(hint.into()),
        }
    }

    /// Creates a finding for a check that failed with an error.
    pub fn failed(what: impl Into<String>, error: &Error, hint: &str) -> Self {
        let hint = error.hint().filter(|hint| !hint.is_empty()).unwrap_or(hint);
        Self::new(Health::Error, what, error.chain(), hint)
    }
}

impl Bootstrapper {
    /// Checks the local engine.
    pub async fn check_engine(&self) -> Finding {
        const WHAT: &str = "Docker on this machine";
        const HINT: &str = "start Docker, or set DOCKER_HOST=unix://<socket>; your user needs permission \
                            to use the socket";
        let Some(engine) = &self.operator_engine else {
            return Finding::new(
                Health::Error,
                WHAT,
                "the engine's socket does not exist",
                HINT,
            );
        };
        match self.within(WHAT, engine.info()).await {
            Ok(info) => engine_version(WHAT, &info.version),
            Err(error) => Finding::failed(WHAT, &error, HINT),
        }
    }

    /// Checks the cloud, every node, and the manager.
    pub async fn check_platform(&self, platform: PlatformId) -> Vec<Finding> {
        let mut findings = Vec::new();
        match self.within("the cloud", self.backends.cloud.list()).await {
            Ok(machines) => {
                let nodes = machines.iter().map(|node| self.check_node(node, &machines));
                let nodes = futures_util::future::join_all(nodes).await;
                findings.push(Finding::ok(
                    "cloud",
                    format!("responds; number of nodes: {}", machines.len()),
                ));
                findings.extend(self.check_jump_host().await);
                findings.extend(nodes.into_iter().flatten());
            }
            Err(error) => {
                let hint = "fix the access to the cloud, then run `bootstrapper doctor` again to \
                            check the nodes";
                findings.push(Finding::failed("cloud", &error, hint));
            }
        }
        findings.push(self.check_manager(platform).await);
        findings
    }

    /// Checks the jump host, if there is one.
    pub async fn check_jump_host(&self) -> Option<Finding> {
        const HINT: &str = "check that the jump host is running and that its SSH port is \
                            reachable from this machine";
        let asked = async { Ok(self.backends.connector.jump_host().await) };
        match self.within("the jump host", asked).await {
            Ok(None) => None,
            Ok(Some((name, Ok(())))) => Some(Finding::ok(name, "responds")),
            Ok(Some((name, Err(error)))) => Some(Finding::failed(name, &error, HINT)),
            Err(error) => Some(Finding::failed("jump host", &error, HINT)),
        }
    }

    async fn within<T>(
        &self,
        what: impl Into<String>,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.wait(what, CHECKED_WITHIN).until(asked).await
    }

    async fn check_manager(&self, platform: PlatformId) -> Finding {
        const WHAT: &str = "manager";
        const HINT: &str = "run `bootstrapper up` to start the manager again; to read the \
                            manager's log, run `docker logs` on its node for the container with \
                            the label lifecycle.role=manager";
        let asked = async { self.client(platform).await?.platform().await };
        match self.within(WHAT, asked).await {
            Ok(platform) => match platform.state {
                PlatformState::Degraded => Finding::new(
                    Health::Warning,
                    WHAT,
                    "responds; the platform is degraded",
                    "run `bootstrapper status` to see what is not ready, and \
                     `bootstrapper why NAME` to see the reason",
                ),
                PlatformState::Converging => {
                    Finding::ok(WHAT, "responds; changes are being applied")
                }
                PlatformState::Deleting => {
                    Finding::ok(WHAT, "responds; the platform is being removed")
                }
                PlatformState::Running => Finding::ok(WHAT, "responds; everything is ready"),
                PlatformState::Unknown => Finding::new(
                    Health::Warning,
                    WHAT,
                    "responds, but this version of the bootstrapper does not know the reported \
                     state",
                    "use a bootstrapper of the same version as the manager",
                ),
            },
            Err(error) => Finding::failed(WHAT, &error, HINT),
        }
    }

    async fn check_node(&self, machine: &ObservedNode, all: &[ObservedNode]) -> Vec<Finding> {
        let name = &machine.name;
        let about = |what: &str| format!("node {name}: {what}");
        if machine.power != Power::Running {
            return vec![Finding::new(
                Health::Error,
                about("power"),
                format!("the node is not running: {:?}", machine.power).to_lowercase(),
                "run `bootstrapper up` to start the declared nodes",
            )];
        }
        let connector = &self.backends.connector;
        let handle = match self.within(about("SSH"), connector.connect(machine)).await {
            Ok(handle) => handle,
            Err(error) => {
                let hint = "check that the machine is running and that port 22 is reachable from \
                            this machine";
                return vec![Finding::failed(about("SSH"), &error, hint)];
            }
        };
        let before = self.backends.clock.now();
        let asked = self.within(about("SSH"), query(&handle)).await;
        let after = self.backends.clock.now();
        let mut findings = Vec::new();
        match asked {
            Ok(answer) => {
                findings.push(Finding::ok(about("SSH"), "responds"));
                // Assume that the node read its clock midway between the two local readings.
                let local = before + (after - before) / 2;
                findings.push(clock(about("clock"), answer.clock - local));
                findings.push(disk(about("disk"), answer.free, answer.size));
            }
            Err(error) => {
                let hint = "log in to the node and check that its shell works";
                findings.push(Finding::failed(about("SSH"), &error, hint));
            }
        }
        let what = about("Docker");
        findings.push(match self.within(&what, handle.runtime.info()).await {
            Ok(info) => engine_version(&what, &info.version),
            Err(error) => Finding::failed(
                what,
                &error,
                "run `bootstrapper up` to install Docker; if Docker is already installed, run \
                 `systemctl status docker` on the node",
            ),
        });
        findings.extend(self.check_network(&handle, machine, all).await);
        findings
    }

    /// Checks that a node reaches the SSH servers of other nodes at their private addresses. On a
    /// large platform, each node checks only the nodes that follow it in the list.
    async fn check_network(
        &self,
        handle: &NodeHandle,
        machine: &ObservedNode,
        all: &[ObservedNode],
    ) -> Option<Finding> {
        let what = format!("node {}: network", machine.name);
        let own = all.iter().position(|other| other.name == machine.name)?;
        let others = all.iter().cycle().skip(own + 1);
        let others = others.take(all.len().saturating_sub(1).min(MOST_NEIGHBOURS));
        let checks = others
            .filter(|other| other.power == Power::Running)
            .map(|other| {
                let (what, name) = (what.as_str(), &other.name);
                async move {
                    let host = other.addresses.private?.to_string();
                    let port = other.ssh.port;
                    let address = format!("{name} ({host}, port {port})");
                    let target = ForwardTarget::Tcp { host, port };
                    let connected = self.within(what, handle.host.connect(target)).await;
                    connected
                        .err()
                        .map(|error| format!("{address}: {}", error.chain()))
                }
            });
        let checked = futures_util::future::join_all(checks).await;
        let count = checked.len();
        let failed: Vec<String> = checked.into_iter().flatten().collect();
        if count == 0 {
            return None;
        }
        if failed.is_empty() {
            return Some(Finding::ok(what, format!("reaches other nodes: {count}")));
        }
        Some(Finding::new(
            Health::Error,
            what,
            format!("cannot connect to {}", failed.join("; ")),
            "let the nodes reach each other at their private addresses: check firewalls, routes, and \
             `private_address` in platform.toml; the SSH servers must allow TCP forwarding",
        ))
    }
}

/// A node's clock and free disk space.
struct Answer {
    clock: chrono::DateTime<chrono::Utc>,
    /// The free disk space in KiB.
    free: u64,
    size: u64,
}

async fn query(handle: &NodeHandle) -> Result<Answer> {
    const LINE: &str =
        "date +%s%3N && { df -Pk /var/lib/docker 2>/dev/null || df -Pk /; } | tail -n 1";
    let output = handle.host.exec(HostCommand::new(LINE)).await?;
    let text = output.success("reading the clock and disk usage")?;
    let unreadable = || {
        Error::failed(
            "reading the clock and disk usage",
            format!("unexpected output {text:?}"),
        )
    };
    let mut lines = text.lines();
    let millis = lines.next().and_then(|line| line.trim().parse().ok());
    let clock = millis.and_then(chrono::DateTime::from_timestamp_millis);
    let mut figures = lines.next().unwrap_or_default().split_whitespace().skip(1);
    let mut figure = |at: usize| figures.nth(at).and_then(|f| f.parse().ok());
    let (size, free) = (figure(0), figure(1));
    Ok(Answer {
        clock: clock.ok_or_else(unreadable)?,
        size: size.ok_or_else(unreadable)?,
        free: free.ok_or_else(unreadable)?,
    })
}

fn clock(what: String, off: chrono::TimeDelta) -> Finding {
    let seconds = off.as_seconds_f64();
    if off.abs() <= MAX_CLOCK_DIFFERENCE {
        return Finding::ok(
            what,
            format!(
                "differs by {:.1} s from the clock of this machine",
                seconds.abs()
            ),
        );
    }
    let (by, which) = (
        seconds.abs(),
        if seconds > 0.0 { "ahead of" } else { "behind" },
    );
    Finding::new(
        Health::Error,
        what,
        format!("{by:.0} s {which} the clock of this machine"),
        "synchronize the clocks of both machines (for example with systemd-timesyncd or chrony)",
    )
}

fn disk(what: String, free: u64, size: u64) -> Finding {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gib = |kib: u64| format!("{:.1} GiB", kib as f64 / f64::from(1 << 20));
    let detail = format!("{} of {} free", gib(free), gib(size));
    if free >= MIN_FREE_SPACE {
        return Finding::ok(what, detail);
    }
    Finding::new(
        Health::Warning,
        what,
        detail,
        "enlarge the disk, or remove unused images",
    )
}

fn engine_version(what: &str, version: &str) -> Finding {
    let major = version
        .split('.')
        .next()
        .and_then(|m| m.parse::<u32>().ok());
    if major.is_some_and(|major| major >= OLDEST_ENGINE) {
        return Finding::ok(what, format!("version {version}"));
    }
    Finding::new(
        Health::Warning,
        what,
        format!("version {version} has not been tested with this program"),
        format!("install version {OLDEST_ENGINE} or later"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_clock_disk_and_version_problems() {
        let off = clock("c".into(), chrono::TimeDelta::seconds(-90));
        assert_eq!(
            (off.health, off.detail.as_str()),
            (Health::Error, "90 s behind the clock of this machine")
        );
        let near = clock("c".into(), chrono::TimeDelta::milliseconds(-120));
        assert_eq!(
            (near.health, near.detail.as_str()),
            (
                Health::Ok,
                "differs by 0.1 s from the clock of this machine"
            )
        );
        let full = disk("d".into(), 1 << 20, 100 << 20);
        assert_eq!(full.health, Health::Warning);
        assert_eq!(full.detail, "1.0 GiB of 100.0 GiB free");
        assert_eq!(engine_version("e", "19.3.1").health, Health::Warning);
        assert_eq!(engine_version("e", "20.10.24+dfsg1").health, Health::Ok);
    }
}
