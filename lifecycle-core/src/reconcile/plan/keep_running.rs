//! Keeps containers running: starts containers that were never started, and starts ended containers
//! again if their restart policy requires this.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::dependencies::Dependencies;
use super::replacement::replaced;
use super::{Gate, PlacedReplica, Planning, Up, status};
use crate::model::{ReplacementOrder, RestartPolicy, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::observe::Readiness;
use crate::reconcile::state::Verdict;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason};
use crate::runtime::{ContainerState, Health};

impl<'a> Planning<'a> {
    /// Keeps the container `seen` running. If a rollback restores the container, `restoring` is the
    /// reason.
    pub(super) fn keep_running(
        &mut self,
        replica: PlacedReplica<'a>,
        seen: Seen<'a>,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
        restoring: Option<Reason>,
    ) -> (InstanceStatus, Up) {
        let service = replica.service;
        let container = seen.container;
        let up = self.up_of(&seen);
        let planned = |verdict, settled| (status(replica, Some(&seen), verdict, settled), up);
        if self.is_to_restart(replica.id, &seen) {
            let up = if seen.is_running() { up } else { Up::default() };
            let status = self.restart(replica, seen, others, dependencies);
            return (status, up);
        }
        match &container.state {
            ContainerState::Running { .. } => {
                // While the replica is being replaced, the rollout decides what happens to it.
                if let Some(why) = unhealthy(replica, &seen).filter(|_| others.is_empty()) {
                    let reason = Reason::Unhealthy { why };
                    let stop = self.stop(replica.id, seen, &reason, BTreeSet::new());
                    let settled = matches!(stop, Gate::Blocked(blocked) if blocked.settled);
                    return planned(Verdict::Open, settled);
                }
                let (since, was_ready, why) = match seen.readiness() {
                    Some(Readiness::Ready { .. }) => {
                        let settled = !self.awaits_completion(replica, &seen);
                        return planned(Verdict::Open, settled);
                    }
                    Some(Readiness::Waiting {
                        since,
                        was_ready,
                        why,
                    }) => (*since, *was_ready, why.clone()),
                    None => (container.started_at.unwrap_or(self.now), false, None),
                };
                if self.has_passed(since, service.spec.ready_within) {
                    let limit = humantime::format_duration(service.spec.ready_within);
                    let ended = endings(&seen).filter(|(times, _)| !was_ready && *times > 0);
                    let ended = ended.map(|(times, _)| has_ended(&seen, times));
                    let because: Vec<String> = why.into_iter().chain(ended).collect();
                    let because = match because.join("; ") {
                        none if none.is_empty() => none,
                        because => format!(": {because}"),
                    };
                    let what = if was_ready {
                        format!("no longer ready for {limit}{because}")
                    } else {
                        format!("not ready within {limit}{because}")
                    };
                    let failed = self.fail(replica, what);
                    return planned(failed, true);
                }
                let by = HeldBy::NotReadyYet {
                    since: Some(since),
                    was_ready,
                    why,
                };
                self.hold(Subject::Instance(replica.id.clone()), by);
                match endings(&seen) {
                    Some((times, _)) if times >= self.policy.endings_before_failed => {
                        let why = has_ended(&seen, times);
                        planned(Verdict::Failed { why }, true)
                    }
                    _ => planned(Verdict::Open, false),
                }
            }
            ContainerState::Paused => {
                let failed = self.fail(replica, "its container is paused".to_owned());
                planned(failed, true)
            }
            ContainerState::Created => {
                let reason = restoring.unwrap_or(Reason::NeverStarted);
                self.start_again(replica, seen, others, dependencies, reason, None)
            }
            ContainerState::Exited { code, .. } => {
                let successor = others.iter().find(|other| was_stopped_for(&seen, other));
                if let Some(successor) = successor
                    && (*code != 0 || !service.runs_once)
                {
                    let reason = restoring.unwrap_or_else(|| replaced(successor, replica));
                    return self.start_again(replica, seen, others, dependencies, reason, None);
                }
                if let Some(reason) = restoring.filter(|_| container.joins.is_some()) {
                    // It was stopped because the container whose network it joins was replaced.
                    return self.start_again(replica, seen, others, dependencies, reason, None);
                }
                self.ended(replica, seen, others, dependencies, *code)
            }
        }
    }

    /// Returns whether the round waits until a running job has completed.
    fn awaits_completion(&mut self, replica: PlacedReplica<'a>, seen: &Seen<'a>) -> bool {
        let started_at = seen.container.started_at;
        let Some(since) = started_at.filter(|_| replica.service.runs_once) else {
            return false;
        };
        if self.has_passed(since, self.policy.completes_within) {
            return false;
        }
        let by = HeldBy::Running { since };
        self.hold(Subject::Instance(replica.id.clone()), by);
        true
    }

    /// Records that the replica failed in this round.
    fn fail(&mut self, replica: PlacedReplica<'a>, why: String) -> Verdict {
        let by = HeldBy::Failed { why: why.clone() };
        self.hold(Subject::Instance(replica.id.clone()), by);
        Verdict::Failed { why }
    }

    /// Plans a container that ended by itself: it completed, failed for good, or is started again.
    fn ended(
        &mut self,
        replica: PlacedReplica<'a>,
        seen: Seen<'a>,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
        code: i64,
    ) -> (InstanceStatus, Up) {
        let container = seen.container;
        let up = self.up_of(&seen);
        let planned = |verdict, settled| (status(replica, Some(&seen), verdict, settled), up);
        let exit = last_exit(&seen).unwrap_or_default();
        let (times, again_at) = endings(&seen).unwrap_or((1, self.now));
        let stays_ended = match replica.service.restart {
            RestartPolicy::Always | RestartPolicy::UnlessStopped => false,
            RestartPolicy::No => true,
            RestartPolicy::OnFailure { max_retries } => {
                let was_unhealthy = seen.endings.is_some_and(|e| e.was_unhealthy);
                code == 0 && !was_unhealthy || max_retries.is_some_and(|max| times > max)
            }
        };
        if stays_ended && code == 0 && ended_alone(&seen, others) {
            return planned(Verdict::Completed, true);
        }
        if stays_ended {
            let why = format!("its container ended with {exit}");
            let failed = self.fail(replica, why);
            return planned(failed, true);
        }
        let failed = (times >= self.policy.endings_before_failed).then(|| has_ended(&seen, times));
        if again_at > self.now {
            self.changes_at(again_at);
            let start = Action::StartInstance {
                instance: replica.id.clone(),
                container: container.name.clone(),
                node: replica.node.clone(),
                joins: None,
            };
            let by = HeldBy::Backoff {
                step: start.id(),
                until: again_at,
                failures: times,
                why: format!("its container ended with {exit}"),
            };
            self.hold(Subject::Instance(replica.id.clone()), by);
            return match failed {
                Some(why) => planned(Verdict::Failed { why }, true),
                None => planned(Verdict::Open, false),
            };
        }
        let out_of_memory = container.was_killed_for_memory();
        let reason = Reason::Ended {
            code,
            times,
            out_of_memory,
            exit: Some(exit),
        };
        self.start_again(replica, seen, others, dependencies, reason, failed)
    }

    /// Starts an existing container. If the replica counts as failed despite the start, `failed` is
    /// the reason.
    pub(super) fn start_again(
        &mut self,
        replica: PlacedReplica<'a>,
        seen: Seen<'a>,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
        reason: Reason,
        failed: Option<String>,
    ) -> (InstanceStatus, Up) {
        let PlacedReplica { id, node, .. } = replica;
        let container = seen.container;
        let other = others.iter().find(|other| other.is_running());
        let up = other.map_or(Up::default(), |other| self.up_of(other));
        let planned = |verdict, settled| (status(replica, Some(&seen), verdict, settled), up);
        let needs = self.needs_of_existing(replica, seen, dependencies);
        let needs = match needs {
            Ok(needs) => needs,
            Err(blocked) => {
                self.hold(Subject::Instance(id.clone()), blocked.by);
                return planned(Verdict::Open, blocked.settled);
            }
        };
        let freed = if seen.is_current(replica.service) {
            self.free_ports(replica, needs)
        } else {
            // The host ports of an earlier specification are unknown, so they cannot be freed.
            Ok(needs)
        };
        let order = self.order(replica, Some(seen), others);
        let stopped = freed.and_then(|needs| match order {
            ReplacementOrder::StartFirst => Ok(needs),
            ReplacementOrder::StopFirst => self.stop_running(id, others, &reason, needs),
        });
        let needs = match stopped {
            Ok(needs) => needs,
            Err(blocked) => return planned(blocked.verdict(), blocked.settled),
        };
        let start = self.propose(
            Action::StartInstance {
                instance: id.clone(),
                container: container.name.clone(),
                node: node.clone(),
                joins: seen.joined().map(|joined| joined.name.clone()),
            },
            needs,
            reason,
        );
        match (start, failed) {
            (Gate::After(step), failed) => {
                self.takes_turn(replica.position, order);
                self.starts[replica.position] = Some(step);
                match failed {
                    Some(why) => planned(Verdict::Failed { why }, true),
                    None => planned(Verdict::Open, false),
                }
            }
            (Gate::Blocked(blocked), _) => {
                self.takes_turn(replica.position, order);
                planned(blocked.verdict(), blocked.settled)
            }
            (Gate::Open, _) => planned(Verdict::Open, false),
        }
    }

    /// Returns which dependency conditions a replica with this container meets. A container that
    /// this plan stops meets none.
    pub(super) fn up_of(&self, seen: &Seen<'_>) -> Up {
        if self.stops.contains_key(seen.id()) {
            return Up::default();
        }
        match seen.container.state {
            ContainerState::Running { .. } => Up {
                started: true,
                ready: matches!(seen.readiness(), Some(Readiness::Ready { .. })),
                completed: false,
            },
            ContainerState::Exited { code: 0, .. } => Up {
                started: true,
                ready: false,
                completed: true,
            },
            ContainerState::Exited { .. } | ContainerState::Created | ContainerState::Paused => {
                Up::default()
            }
        }
    }
}

/// Returns `true` if a container was stopped so that `other` could start, and `false` if the
/// container ended by itself.
pub(super) fn was_stopped_for(seen: &Seen<'_>, other: &Seen<'_>) -> bool {
    if other.container.state == ContainerState::Created {
        // `other` has no start time. A container that was stopped for `other` ended at most once.
        return endings(seen).is_none_or(|(times, _)| times <= 1);
    }
    other.container.started_at > seen.container.started_at
}

/// Returns whether no other container of the replica ran when a container ended. A container that
/// ends while its predecessor still runs has not done its work.
pub(super) fn ended_alone(seen: &Seen<'_>, others: &[Seen<'_>]) -> bool {
    let ContainerState::Exited { at, .. } = seen.container.state else {
        return false;
    };
    let started_later = |other: &Seen<'_>| {
        let both = at.zip(other.container.started_at);
        both.is_some_and(|(ended, started)| started > ended)
    };
    !others
        .iter()
        .any(|other| other.is_running() && !started_later(other))
}

/// Returns how the health check of a container fails, if the container was ready before, and its
/// restart policy starts it again. Other checks depend on the network between the nodes, so their
/// failure stops no container.
fn unhealthy(replica: PlacedReplica<'_>, seen: &Seen<'_>) -> Option<String> {
    let unhealthy = ContainerState::Running {
        health: Some(Health::Unhealthy),
    };
    let has_failed = seen.container.state == unhealthy;
    let own_check = replica.service.spec.ready.is_none();
    match seen.readiness() {
        Some(Readiness::Waiting {
            was_ready: true,
            why,
            ..
        }) if has_failed && own_check && replica.service.restart != RestartPolicy::No => {
            Some(why.clone().unwrap_or_default())
        }
        _ => None,
    }
}

/// Returns how often a container ended by itself, and when it may start again.
fn endings(seen: &Seen<'_>) -> Option<(u32, DateTime<Utc>)> {
    let endings = seen.endings?;
    Some((endings.times, endings.again_at))
}

/// Returns how the last run of a container ended.
fn last_exit(seen: &Seen<'_>) -> Option<String> {
    let last = seen.endings.and_then(|endings| endings.last.clone());
    last.or_else(|| seen.container.exit())
}

/// Describes the ends of a container that ended by itself `times` times.
fn has_ended(seen: &Seen<'_>, times: u32) -> String {
    let exit = last_exit(seen);
    match times {
        0 | 1 => exit.map_or_else(
            || "its container ended".to_owned(),
            |exit| format!("its container ended with {exit}"),
        ),
        _ => {
            let last = exit.map_or_else(String::new, |exit| format!(", the last time with {exit}"));
            format!("its container ended {times}× in a row{last}")
        }
    }
}
