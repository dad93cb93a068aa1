//! Checks for changes of a node while another change is in progress, and for changes whose caller
//! is canceled.

use std::time::Duration;

use super::{Checked, CloudBench, DEADLINE, Failed, Subject, done, ensure, ensure_eq};
use super::{is_conflict, list};
use crate::cloud::{CloudProgress, NodeChange, Power, carry_out};
use crate::error::Error;

/// The times after which [`a_cancelled_change_can_be_repeated`] drops its futures.
const DROPS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(120),
    Duration::from_millis(300),
    Duration::from_millis(900),
];
/// The number of tries for a pair of changes: the first change may happen to end just before the
/// second starts.
const TRIES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Provision,
    Start,
    Stop,
    Restart,
    Delete,
}

const KINDS: [Kind; 5] = [
    Kind::Provision,
    Kind::Start,
    Kind::Stop,
    Kind::Restart,
    Kind::Delete,
];

/// The final state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Absent,
    Stopped,
    Running,
}

impl Kind {
    fn goal(self) -> Goal {
        match self {
            Self::Provision | Self::Start | Self::Restart => Goal::Running,
            Self::Stop => Goal::Stopped,
            Self::Delete => Goal::Absent,
        }
    }

    /// Returns the final state if this change is executed after `first`.
    fn goal_after(self, first: Self) -> Goal {
        match self {
            Self::Provision if first == Self::Delete => Goal::Running,
            // A provision has no effect on an existing node. The boot that the restart replaces has
            // already ended.
            Self::Provision | Self::Restart => first.goal(),
            Self::Start | Self::Stop | Self::Delete => self.goal(),
        }
    }
}

impl Subject<'_> {
    fn change(&self, kind: Kind, boot_id: Option<&String>) -> NodeChange {
        match kind {
            Kind::Provision => self.provision(),
            Kind::Start => self.start(),
            Kind::Stop => self.stop(),
            Kind::Restart => self.restart(boot_id),
            Kind::Delete => self.delete(),
        }
    }

    /// Brings the node into a state in which the change has an effect. Returns the boot id.
    async fn prepare(&self, kind: Kind) -> Checked<Option<String>> {
        let seen = self.seen().await?;
        match (kind, &seen) {
            (Kind::Provision, Some(_)) => self.remove().await?,
            (Kind::Provision, None) => {}
            (_, None) => self.done(self.provision()).await?,
            (_, Some(seen)) if seen.power != Power::Running && kind != Kind::Start => {
                self.done(self.start()).await?;
            }
            (_, Some(_)) => {}
        }
        if kind == Kind::Start {
            self.done(self.stop()).await?;
        }
        Ok(self.seen().await?.and_then(|seen| seen.boot_id))
    }

    async fn reaches(&self, goal: Goal, boot_id: Option<&String>, after: &str) -> Checked {
        match goal {
            Goal::Absent => return self.is_absent(after).await,
            Goal::Stopped => self.has_power(Power::Stopped, after).await?,
            Goal::Running => {
                let seen = self.has_power(Power::Running, after).await?;
                ensure!(
                    boot_id.is_none() || seen.boot_id.as_ref() != boot_id,
                    "{after}: the boot id has not changed, {seen:?}"
                );
                seen
            }
        };
        Ok(())
    }

    /// Starts a second change while a first one is in progress. Returns false if the second one
    /// appears to have overwritten the first.
    async fn collide(&self, first: Kind, second: Kind) -> Checked<bool> {
        let boot_id = self.prepare(first).await?;
        let boot_id = boot_id.as_ref();
        let earlier = self.begin(self.change(first, boot_id)).await?;
        let polled = done("poll", self.cloud.poll(&earlier).await)?;
        let was_under_way = polled != CloudProgress::Done;
        let later = self.cloud.begin(self.change(second, boot_id)).await;

        if second == Kind::Delete || first == second {
            let later = done("beginning the second change", later)?;
            if first == second {
                done("the first change", self.end(&earlier).await?)?;
                let seen = self.seen().await?;
                done("the second change", self.end(&later).await?)?;
                ensure_eq!(self.seen().await?, seen, "the change happened twice");
            }
            done("the second change", self.end(&later).await?)?;
            self.reaches(second.goal(), boot_id, "both changes are complete")
                .await?;
            // A replaced change has no further effect, however often it is polled.
            let _ = self.cloud.poll(&earlier).await;
            self.reaches(second.goal(), boot_id, "polled again").await?;
            return Ok(true);
        }
        match later {
            Ok(later) => {
                let earlier = self.end(&earlier).await?;
                let later = self.end(&later).await?;
                if first == Kind::Delete && second != Kind::Provision {
                    done("the deletion", earlier)?;
                    ensure!(
                        later.is_err(),
                        "the change succeeded on a node that is being deleted"
                    );
                    self.reaches(Goal::Absent, None, "the node was deleted")
                        .await?;
                    return Ok(true);
                }
                if was_under_way && earlier.is_err() {
                    return Ok(false);
                }
                done("the second change", later)?;
                // Both final states are valid: the restart may have treated the stop as its own
                // first step.
                if (first, second) == (Kind::Stop, Kind::Restart) {
                    return Ok(true);
                }
                let goal = second.goal_after(first);
                self.reaches(goal, boot_id, "both changes are complete")
                    .await?;
            }
            Err(error) => {
                let is_allowed =
                    is_conflict(&error) || (first == Kind::Delete && super::is_not_found(&error));
                ensure!(
                    is_allowed,
                    "the second change must return Conflict, but returned {error:?}"
                );
                done("the first change", self.end(&earlier).await?)?;
                self.reaches(first.goal(), boot_id, "the second change was refused")
                    .await?;
            }
        }
        Ok(true)
    }
}

/// Checks each pair of changes: an identical second change joins the first, a deletion replaces the
/// first, and any other change fails or waits.
pub async fn a_change_in_progress_is_not_overwritten(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    for first in KINDS {
        for second in KINDS {
            let within = |why: &str| {
                Failed::new(format!("{second:?} while {first:?} is in progress: {why}"))
            };
            let mut tries = 0;
            while !node
                .collide(first, second)
                .await
                .map_err(|failed| within(&failed.why))?
            {
                tries += 1;
                if tries == TRIES {
                    return Err(within("the change in progress was overwritten"));
                }
            }
        }
    }
    node.remove().await
}

/// Checks that a fence stops the node whatever change is in progress, and that the change does not
/// start the node again.
pub async fn a_fence_replaces_a_change_in_progress(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    if !cloud.capabilities().fences {
        return Ok(());
    }
    let node = Subject::new(cloud.as_ref(), &spec);
    for kind in [Kind::Provision, Kind::Start, Kind::Restart, Kind::Stop] {
        let boot_id = node.prepare(kind).await?;
        let operation = node.begin(node.change(kind, boot_id.as_ref())).await?;
        node.fenced().await?;
        let after = format!("after a fence while {kind:?} was in progress");
        node.has_power(Power::Stopped, &after).await?;
        let _ = node.end(&operation).await?;
        node.has_power(Power::Stopped, &after).await?;
    }
    node.remove().await
}

/// Checks that another process can poll every operation until the operation ends.
pub async fn another_process_can_poll(bench: &dyn CloudBench) -> Checked {
    let (cloud, other, [spec, _]) = (bench.ours(), bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    let there = Subject::new(other.as_ref(), &spec);
    node.remove().await?;
    for kind in [
        Kind::Provision,
        Kind::Stop,
        Kind::Start,
        Kind::Restart,
        Kind::Delete,
    ] {
        let boot_id = node.seen().await?.and_then(|seen| seen.boot_id);
        let operation = node.begin(node.change(kind, boot_id.as_ref())).await?;
        let stored = done("storing", serde_json::to_string(&operation))?;
        let read = done("reading back", serde_json::from_str(&stored))?;
        ensure_eq!(operation, read, "an operation changed in the store");
        let what = format!("{kind:?}, polled by another process");
        done(&what, there.end(&read).await?)?;
        there.reaches(kind.goal(), boot_id.as_ref(), &what).await?;
    }
    Ok(())
}

/// Checks that a change can be repeated after its caller was canceled, and that the list of nodes
/// agrees with `get` in the meantime.
pub async fn a_cancelled_change_can_be_repeated(bench: &dyn CloudBench) -> Checked {
    let (cloud, [spec, _]) = (bench.ours(), bench.nodes());
    let node = Subject::new(cloud.as_ref(), &spec);
    for after in DROPS {
        node.drop_after(node.provision(), after).await?;
        // A request that the cloud has already received may still create the node: `get` must match
        // the list before or after it.
        let listed = async || {
            let nodes = list(cloud.as_ref()).await?.into_iter();
            let found = nodes.into_iter().find(|seen| seen.name == spec.name);
            Ok(found.map(|seen| seen.provider_id))
        };
        let before = listed().await?;
        let seen = node.seen().await?.map(|seen| seen.provider_id);
        let later = listed().await?;
        ensure!(
            seen == before || seen == later,
            "provision dropped after {after:?}: get returned {seen:?}, but list returned \
             {before:?} before and {later:?} afterwards"
        );
        node.done(node.provision()).await?;
        let what = format!("provision dropped after {after:?}");
        let made = node.has_power(Power::Running, &what).await?;

        let restart = node.restart(made.boot_id.as_ref());
        node.drop_after(restart.clone(), after).await?;
        node.done(restart).await?;
        let what = format!("restart dropped after {after:?}");
        node.reaches(Goal::Running, made.boot_id.as_ref(), &what)
            .await?;

        node.drop_after(node.delete(), after).await?;
        node.remove().await?;
    }
    Ok(())
}

impl Subject<'_> {
    /// Starts a change and cancels it, as if the process were killed.
    async fn drop_after(&self, change: NodeChange, after: Duration) -> Checked {
        let what = format!("{change:?}, to be dropped after {after:?}");
        let work = carry_out(self.cloud, change, DEADLINE);
        let ended = tokio::time::timeout(after, work).await;
        done(what, ended.unwrap_or(Ok::<(), Error>(())))
    }
}
