//! What is wrong with this machine, with each node, with the manager, and what to do about it.
//! Changes nothing.

use std::time::Duration;

use serde::Serialize;

use super::Bootstrapper;
use crate::api::wire::PlatformState;
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeHandle};
use crate::model::PlatformId;

/// How long anything may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A clock that is further off than this confuses leases, certificates and logs.
const CLOCK_OFF: chrono::TimeDelta = chrono::TimeDelta::seconds(5);

/// With less free space than this, in KiB, images and logs soon fill the disk.
const LITTLE_SPACE: u64 = 2 << 20;

/// The oldest engine that this was tested with.
const OLDEST_ENGINE: u32 = 20;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As it should be.
    Fine,
    /// It works, and may not for long.
    Doubtful,
    /// It does not work.
    Wrong,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// What was looked at, for example `node n1: disk`.
    pub what: String,
    /// How well it is.
    pub health: Health,
    /// How it is.
    pub says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn fine(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            health: Health::Fine,
            says: says.into(),
            hint: None,
        }
    }

    /// Something that is not.
    pub fn of(
        health: Health,
        what: impl Into<String>,
        says: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            health,
            says: says.into(),
            hint: Some(hint.into()),
        }
    }

    /// What could not be looked at.
    pub fn failed(what: impl Into<String>, error: &Error, hint: &str) -> Self {
        let hint = error.hint().filter(|hint| !hint.is_empty()).unwrap_or(hint);
        Self::of(Health::Wrong, what, error.chain(), hint)
    }
}

impl Bootstrapper {
    /// Looks at the operator's own engine.
    pub async fn examine_engine(&self) -> Finding {
        const WHAT: &str = "Docker on this machine";
        const HINT: &str = "start Docker, or say where it listens with DOCKER_HOST=unix://<socket>; \
                            your user needs the permission to use it";
        let Some(engine) = &self.operator_engine else {
            return Finding::of(Health::Wrong, WHAT, "there is no socket of it", HINT);
        };
        match self.within(WHAT, engine.info()).await {
            Ok(info) => engine_version(WHAT, &info.version),
            Err(error) => Finding::failed(WHAT, &error, HINT),
        }
    }

    /// Looks at every node that there is, and at the manager.
    pub async fn examine_platform(&self, platform: PlatformId) -> Vec<Finding> {
        let mut findings = Vec::new();
        match self.within("the cloud", self.backends.cloud.list()).await {
            Ok(machines) => {
                let nodes = machines.iter().map(|machine| self.examine_node(machine));
                let nodes = futures_util::future::join_all(nodes).await;
                findings.push(Finding::fine(
                    "cloud",
                    format!("it answers; nodes: {}", machines.len()),
                ));
                findings.extend(self.examine_detour().await);
                findings.extend(nodes.into_iter().flatten());
            }
            Err(error) => {
                let hint = "the provider has to answer before anything else can";
                findings.push(Finding::failed("cloud", &error, hint));
            }
        }
        findings.push(self.examine_manager(platform).await);
        findings
    }

    /// Looks at the host that nodes are reached through, if there is one.
    pub async fn examine_detour(&self) -> Option<Finding> {
        const HINT: &str = "does it run, and is its SSH port open from here?";
        let asked = async { Ok(self.backends.connector.detour().await) };
        match self
            .within("the host that nodes are reached through", asked)
            .await
        {
            Ok(None) => None,
            Ok(Some((name, Ok(())))) => Some(Finding::fine(name, "it answers")),
            Ok(Some((name, Err(error)))) => Some(Finding::failed(name, &error, HINT)),
            Err(error) => Some(Finding::failed("jump host", &error, HINT)),
        }
    }

    async fn within<T>(
        &self,
        what: impl Into<String>,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.wait(what, PATIENCE).until(asked).await
    }

    async fn examine_manager(&self, platform: PlatformId) -> Finding {
        const WHAT: &str = "manager";
        const HINT: &str = "`bootstrapper up` starts it again; its log is on its node \
                            (`docker logs` of the container with the label lifecycle.role=manager)";
        let asked = async { self.client(platform).await?.platform().await };
        match self.within(WHAT, asked).await {
            Ok(platform) => match platform.state {
                PlatformState::Degraded => Finding::of(
                    Health::Doubtful,
                    WHAT,
                    "it answers; the platform is degraded",
                    "`bootstrapper status` says what is not up, `bootstrapper why NAME` why not",
                ),
                PlatformState::Converging => Finding::fine(WHAT, "it answers; it is at work"),
                PlatformState::TakingDown => Finding::fine(WHAT, "it takes the platform down"),
                PlatformState::Running => Finding::fine(WHAT, "it answers; all is up"),
                PlatformState::Unknown => Finding::of(
                    Health::Doubtful,
                    WHAT,
                    "it answers; this version of the bootstrapper does not know its state",
                    "use the bootstrapper of the manager's version",
                ),
            },
            Err(error) => Finding::failed(WHAT, &error, HINT),
        }
    }

    async fn examine_node(&self, machine: &ObservedNode) -> Vec<Finding> {
        let name = &machine.name;
        let about = |what: &str| format!("node {name}: {what}");
        if machine.power != Power::Running {
            return vec![Finding::of(
                Health::Wrong,
                about("power"),
                format!("it does not run: {:?}", machine.power).to_lowercase(),
                "`bootstrapper up` starts what is declared",
            )];
        }
        let connector = &self.backends.connector;
        let handle = match self.within(about("SSH"), connector.connect(machine)).await {
            Ok(handle) => handle,
            Err(error) => {
                let hint = "is the machine up, and port 22 open from here?";
                return vec![Finding::failed(about("SSH"), &error, hint)];
            }
        };
        let before = self.backends.clock.now();
        let asked = self.within(about("SSH"), ask(&handle)).await;
        let after = self.backends.clock.now();
        let mut findings = Vec::new();
        match asked {
            Ok(answer) => {
                findings.push(Finding::fine(about("SSH"), "it answers"));
                // It was asked somewhere in between.
                let ours = before + (after - before) / 2;
                findings.push(clock(about("clock"), answer.clock - ours));
                findings.push(disk(about("disk"), answer.free, answer.size));
            }
            Err(error) => {
                let hint = "the node's shell has to answer; look at it by hand";
                findings.push(Finding::failed(about("SSH"), &error, hint));
            }
        }
        let what = about("Docker");
        findings.push(match self.within(&what, handle.runtime.info()).await {
            Ok(info) => engine_version(&what, &info.version),
            Err(error) => Finding::failed(
                what,
                &error,
                "`bootstrapper up` prepares a node without an engine; else `systemctl status docker`",
            ),
        });
        findings
    }
}

/// What a node says of itself.
struct Answer {
    clock: chrono::DateTime<chrono::Utc>,
    /// In KiB.
    free: u64,
    size: u64,
}

async fn ask(handle: &NodeHandle) -> Result<Answer> {
    const LINE: &str =
        "date +%s%3N && { df -Pk /var/lib/docker 2>/dev/null || df -Pk /; } | tail -n 1";
    let output = handle.host.exec(HostCommand::new(LINE)).await?;
    let text = output.success("asking for clock and disk")?;
    let unreadable = || Error::failed("asking for clock and disk", format!("it said {text:?}"));
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
    if off.abs() <= CLOCK_OFF {
        return Finding::fine(what, format!("{:.1} s off this machine's", seconds.abs()));
    }
    let (by, which) = (
        seconds.abs(),
        if seconds > 0.0 { "ahead" } else { "behind" },
    );
    Finding::of(
        Health::Wrong,
        what,
        format!("{by:.0} s {which}"),
        "let both machines keep their time (systemd-timesyncd, chrony)",
    )
}

fn disk(what: String, free: u64, size: u64) -> Finding {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gib = |kib: u64| format!("{:.1} GiB", kib as f64 / f64::from(1 << 20));
    let says = format!("{} of {} free", gib(free), gib(size));
    if free >= LITTLE_SPACE {
        return Finding::fine(what, says);
    }
    Finding::of(
        Health::Doubtful,
        what,
        says,
        "give it more space, or remove images that nobody uses",
    )
}

fn engine_version(what: &str, version: &str) -> Finding {
    let major = version
        .split('.')
        .next()
        .and_then(|m| m.parse::<u32>().ok());
    if major.is_some_and(|major| major >= OLDEST_ENGINE) {
        return Finding::fine(what, format!("version {version}"));
    }
    Finding::of(
        Health::Doubtful,
        what,
        format!("version {version}, which this was never tested with"),
        format!("version {OLDEST_ENGINE} or later is known to do"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_said_with_what_to_do() {
        let off = clock("c".into(), chrono::TimeDelta::seconds(-90));
        assert_eq!(
            (off.health, off.says.as_str()),
            (Health::Wrong, "90 s behind")
        );
        let near = clock("c".into(), chrono::TimeDelta::milliseconds(-120));
        assert_eq!(
            (near.health, near.says.as_str()),
            (Health::Fine, "0.1 s off this machine's")
        );
        let full = disk("d".into(), 1 << 20, 100 << 20);
        assert_eq!(full.health, Health::Doubtful);
        assert_eq!(full.says, "1.0 GiB of 100.0 GiB free");
        assert_eq!(engine_version("e", "19.3.1").health, Health::Doubtful);
        assert_eq!(engine_version("e", "20.10.24+dfsg1").health, Health::Fine);
    }
}
