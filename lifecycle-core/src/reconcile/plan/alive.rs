//! One container kept alive: started if it never was, started again if it ended and its policy
//! says so.

use chrono::{DateTime, Utc};

use super::order::Dependencies;
use super::replacement::replaced;
use super::{Gate, Planning, Spot, Up, status};
use crate::model::{InstanceState, RestartPolicy, Subject};
use crate::reconcile::index::Seen;
use crate::reconcile::observe::Readiness;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};
use crate::runtime::ContainerState;

impl<'a> Planning<'a> {
    /// Keeps one container alive: started if it never was, started again if it ended and its
    /// policy says so, or if it had made room for another one that is to go.
    pub(super) fn alive(
        &mut self,
        spot: Spot<'a>,
        seen: Seen<'a>,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
        restoring: Option<Reason>,
    ) -> (InstanceStatus, Up) {
        let Spot { service, node, .. } = spot;
        let container = seen.container;
        let subject = || Subject::Instance(spot.id.clone());
        let up = Self::up_of(&seen);
        let stands = |state, settled| {
            let node = Some(node.clone());
            (status(node, Some(container), state, settled), up)
        };
        if self.is_to_restart(spot.id, container) {
            let up = if container.state.is_running() {
                up
            } else {
                Up::default()
            };
            return (self.restart(spot, seen, up, others, dependencies), up);
        }
        match &container.state {
            ContainerState::Running { .. } => {
                let since = match seen.readiness() {
                    Some(Readiness::Ready { .. }) => return stands(InstanceState::Ready, true),
                    Some(Readiness::Waiting { since }) => since,
                    None => container.started_at.unwrap_or(self.now),
                };
                if self.is_over(since, service.spec.ready_within) {
                    let why = format!(
                        "not ready within {}",
                        humantime::format_duration(service.spec.ready_within)
                    );
                    self.hold(subject(), HeldBy::Failed { why: why.clone() });
                    return stands(InstanceState::Failed { why }, true);
                }
                self.hold(subject(), HeldBy::NotReadyYet { since: Some(since) });
                match endings(&seen) {
                    Some((times, _)) if times >= self.policy.endings_before_failed => {
                        let why = format!("its container ended {times}× in a row");
                        stands(InstanceState::Failed { why }, true)
                    }
                    _ => stands(InstanceState::Starting, false),
                }
            }
            ContainerState::Paused => {
                let why = "its container is paused".to_owned();
                self.hold(subject(), HeldBy::Failed { why: why.clone() });
                stands(InstanceState::Failed { why }, true)
            }
            ContainerState::Created => {
                let reason = restoring.unwrap_or(Reason::NeverStarted);
                self.start_again(spot, seen, others, dependencies, reason, None)
            }
            ContainerState::Exited { code, .. } => {
                let successor = others.iter().find(|other| made_room(&seen, other));
                if let Some(successor) = successor
                    && (*code != 0 || !service.runs_once)
                {
                    let reason =
                        restoring.unwrap_or_else(|| replaced(successor, node, &container.digest));
                    return self.start_again(spot, seen, others, dependencies, reason, None);
                }
                let (times, again_at) = endings(&seen).unwrap_or((1, self.now));
                let stays = match service.restart {
                    RestartPolicy::Always | RestartPolicy::UnlessStopped => false,
                    RestartPolicy::No => true,
                    RestartPolicy::OnFailure { max_retries } => {
                        *code == 0 || max_retries.is_some_and(|max| times > max)
                    }
                };
                if stays && *code == 0 {
                    return stands(InstanceState::Completed, true);
                }
                let failed = (stays || times >= self.policy.endings_before_failed).then(|| {
                    format!(
                        "its container ended {times}× in a row, the last time with exit code {code}"
                    )
                });
                if stays {
                    let why = format!("its container ended with exit code {code}");
                    self.hold(subject(), HeldBy::Failed { why: why.clone() });
                    return stands(InstanceState::Failed { why }, true);
                }
                if again_at > self.now {
                    self.changes_at(again_at);
                    self.hold(
                        subject(),
                        HeldBy::Backoff {
                            step: StepId(format!("node/{node}/start/{}", container.name).into()),
                            until: again_at,
                            failures: times,
                            why: format!("its container ended with exit code {code}"),
                        },
                    );
                    return match failed {
                        Some(why) => stands(InstanceState::Failed { why }, true),
                        None => stands(InstanceState::Stopped, false),
                    };
                }
                let reason = Reason::Ended { code: *code, times };
                self.start_again(spot, seen, others, dependencies, reason, failed)
            }
        }
    }

    pub(super) fn start_again(
        &mut self,
        spot: Spot<'a>,
        seen: Seen<'a>,
        others: &[Seen<'a>],
        dependencies: &Dependencies,
        reason: Reason,
        failed: Option<String>,
    ) -> (InstanceStatus, Up) {
        let Spot { id, node, .. } = spot;
        let container = seen.container;
        let other = others.iter().find(|other| other.is_running());
        let up = other.map_or(Up::default(), Self::up_of);
        let stands = |state, settled| {
            let node = Some(node.clone());
            (status(node, Some(container), state, settled), up)
        };
        let needs = match dependencies {
            Dependencies::Met(steps) => steps.clone(),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(id.clone()), by.clone());
                return stands(InstanceState::Stopped, *settled);
            }
        };
        let freed = if container.digest == spot.service.digest {
            self.free_ports(spot, needs)
        } else {
            // What ports a former specification wants is not known any more.
            Ok(needs)
        };
        let stopped = freed.and_then(|needs| self.stop_running(id, others, &reason, needs));
        let needs = match stopped {
            Ok(needs) => needs,
            Err((by, true)) => {
                let why = by.to_string();
                return stands(InstanceState::Failed { why }, true);
            }
            Err((_, false)) => return stands(InstanceState::Stopped, false),
        };
        let start = self.propose(
            Action::StartInstance {
                instance: id.clone(),
                container: container.name.clone(),
                node: node.clone(),
            },
            needs,
            reason,
        );
        match (start, failed) {
            (Gate::After(step), failed) => {
                self.starts[spot.at] = Some(step);
                match failed {
                    Some(why) => stands(InstanceState::Failed { why }, true),
                    None => stands(InstanceState::Stopped, false),
                }
            }
            (Gate::Shut { by, settled: true }, _) => stands(
                InstanceState::Failed {
                    why: by.to_string(),
                },
                true,
            ),
            (Gate::Open | Gate::Shut { .. }, _) => stands(InstanceState::Stopped, false),
        }
    }

    pub(super) fn up_of(seen: &Seen<'_>) -> Up {
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

/// Whether a container was stopped for another one, rather than ended by itself.
fn made_room(seen: &Seen<'_>, other: &Seen<'_>) -> bool {
    if other.container.state == ContainerState::Created {
        // That it was made tells nothing about what happened since.
        return endings(seen).is_none_or(|(times, _)| times <= 1);
    }
    other.container.started_at > seen.container.started_at
}

/// How often a container ended by itself, and when it may start again.
fn endings(seen: &Seen<'_>) -> Option<(u32, DateTime<Utc>)> {
    let endings = seen.endings?;
    Some((endings.times, endings.again_at))
}
