//! One container kept alive: started if it never was, started again if it ended and its policy
//! says so.

use chrono::{DateTime, Utc};

use super::order::Dependencies;
use super::replacement::replaced;
use super::{Gate, Planning, Up, status};
use crate::model::{InstanceId, InstanceState, NodeName, RestartPolicy, Subject};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::observe::Readiness;
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};
use crate::runtime::{ContainerState, ObservedContainer};

impl<'a> Planning<'a> {
    /// Keeps one container alive: started if it never was, started again if it ended and its
    /// policy says so, or if it had made room for another one that is to go.
    #[expect(
        clippy::too_many_arguments,
        reason = "one replica as it is declared and as it stands"
    )]
    pub(super) fn alive(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        container: &ObservedContainer,
        others: &[(&NodeName, &'a ObservedContainer)],
        dependencies: &Dependencies,
        restoring: Option<Reason>,
    ) -> (InstanceStatus, Up) {
        let subject = Subject::Instance(id.clone());
        let up = self.up_of(container);
        let stands = |state, settled| {
            (
                status(Some(node.clone()), Some(container), state, settled),
                up,
            )
        };
        match &container.state {
            ContainerState::Running { .. } => {
                let since = match self.observed.readiness.get(&container.id) {
                    Some(Readiness::Ready { .. }) => return stands(InstanceState::Ready, true),
                    Some(Readiness::Waiting { since }) => *since,
                    None => container.started_at.unwrap_or(self.now),
                };
                if self.is_over(since, service.spec.ready_within) {
                    let why = format!(
                        "not ready within {}",
                        humantime::format_duration(service.spec.ready_within)
                    );
                    self.hold(subject, HeldBy::Failed { why: why.clone() });
                    return stands(InstanceState::Failed { why }, true);
                }
                self.hold(
                    subject,
                    HeldBy::NotReadyYet {
                        since: container.started_at,
                    },
                );
                match self.endings(container) {
                    Some((times, _)) if times >= self.policy.endings_before_failed => {
                        let why = format!("its container ended {times}× in a row");
                        stands(InstanceState::Failed { why }, true)
                    }
                    _ => stands(InstanceState::Starting, false),
                }
            }
            ContainerState::Paused => {
                let why = "its container is paused".to_owned();
                self.hold(subject, HeldBy::Failed { why: why.clone() });
                stands(InstanceState::Failed { why }, true)
            }
            ContainerState::Created => {
                let reason = restoring.unwrap_or(Reason::NeverStarted);
                self.start_again(id, node, container, others, dependencies, reason, None)
            }
            ContainerState::Exited { code, .. } => {
                let successor = others.iter().find(|(_, o)| self.made_room(container, o));
                if let Some((at, successor)) = successor
                    && (*code != 0 || !service.runs_once)
                {
                    let reason = restoring
                        .unwrap_or_else(|| replaced(at, successor, node, &container.digest));
                    return self.start_again(
                        id,
                        node,
                        container,
                        others,
                        dependencies,
                        reason,
                        None,
                    );
                }
                let (times, again_at) = self.endings(container).unwrap_or((1, self.now));
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
                    self.hold(subject, HeldBy::Failed { why: why.clone() });
                    return stands(InstanceState::Failed { why }, true);
                }
                if again_at > self.now {
                    self.changes_at(again_at);
                    self.hold(
                        subject,
                        HeldBy::Backoff {
                            step: StepId(format!("node/{node}/start/{}", container.name)),
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
                self.start_again(id, node, container, others, dependencies, reason, failed)
            }
        }
    }

    /// Whether a container was stopped for another one, rather than ended by itself.
    fn made_room(&self, container: &ObservedContainer, other: &ObservedContainer) -> bool {
        if other.state == ContainerState::Created {
            // That it was made tells nothing about what happened since.
            return self.endings(container).is_none_or(|(times, _)| times <= 1);
        }
        other.started_at > container.started_at
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one replica as it is declared and as it stands"
    )]
    fn start_again(
        &mut self,
        id: &InstanceId,
        node: &NodeName,
        container: &ObservedContainer,
        others: &[(&NodeName, &'a ObservedContainer)],
        dependencies: &Dependencies,
        reason: Reason,
        failed: Option<String>,
    ) -> (InstanceStatus, Up) {
        let other = others.iter().find(|(_, o)| o.state.is_running());
        let up = other.map_or(Up::default(), |(_, other)| self.up_of(other));
        let stands = |state, settled| {
            (
                status(Some(node.clone()), Some(container), state, settled),
                up,
            )
        };
        let needs = match dependencies {
            Dependencies::Met(steps) => steps.clone(),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(id.clone()), by.clone());
                return stands(InstanceState::Stopped, *settled);
            }
        };
        let declared = self.declared.services.get(&id.service);
        let freed = match declared.filter(|s| s.digest == container.digest) {
            Some(service) => self.free_ports(id, service, node, needs),
            // What ports a former specification wants is not known any more.
            None => Ok(needs),
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
                self.starts.insert(id.clone(), step);
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

    /// How often the container ended by itself, and when it may start again.
    fn endings(&self, container: &ObservedContainer) -> Option<(u32, DateTime<Utc>)> {
        let endings = self.observed.endings.get(&container.id)?;
        Some((endings.times, endings.again_at))
    }

    pub(super) fn up_of(&self, container: &ObservedContainer) -> Up {
        match container.state {
            ContainerState::Running { .. } => Up {
                started: true,
                ready: matches!(
                    self.observed.readiness.get(&container.id),
                    Some(Readiness::Ready { .. })
                ),
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
