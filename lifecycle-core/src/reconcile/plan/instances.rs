//! Instances: started in order, kept alive, replaced stop-first.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{Gate, Planning, Up};
use crate::model::{
    DependencyCondition, InstanceId, InstanceState, NodeName, Replica, RestartPolicy, ServiceName,
    Starts, Subject,
};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::observe::{EngineView, Readiness};
use crate::reconcile::step::{Action, HeldBy, InstanceStatus, Reason, StepId};
use crate::runtime::{ContainerState, ObservedContainer};

/// The containers of a replica, as one declaration sees them.
struct Containers<'a> {
    /// The one that should run.
    current: Option<&'a ObservedContainer>,
    /// All others, with their nodes.
    others: Vec<(&'a NodeName, &'a ObservedContainer)>,
}

impl Planning<'_> {
    pub(super) fn instances(&mut self) {
        let declared = self.declared;
        for name in self.in_start_order() {
            let Some(service) = declared.services.get(name) else {
                continue;
            };
            let gate = self.dependencies(service);
            for n in 1..=service.spec.replicas {
                let id = InstanceId {
                    service: name.clone(),
                    replica: Replica(n),
                };
                let (status, up) = self.instance(&id, service, &gate);
                self.up.insert(id.clone(), up);
                self.plan.instances.insert(id, status);
            }
        }
    }

    fn instance(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let Some(node) = self.placement.nodes.get(id).cloned() else {
            let why = self.placement.misfits.get(id).cloned().unwrap_or_default();
            self.hold(
                Subject::Instance(id.clone()),
                HeldBy::NoNodeFits { why: why.clone() },
            );
            let state = InstanceState::Failed {
                why: format!("fits no node: {why}"),
            };
            return (status(None, None, state, true), Up::default());
        };
        let gate = self.node_gates.get(&node).cloned().unwrap_or(Gate::Open);
        if let Gate::Shut { by, settled } = gate {
            return self.on_a_shut_node(id, node, &by, settled);
        }
        let all = self.containers.get(id).cloned().unwrap_or_default();
        let name = self.declared.container_name(id, &service.digest);
        let current = all
            .iter()
            .find(|(n, c)| **n == node && c.name == name)
            .map(|(_, c)| *c);
        let containers = Containers {
            current,
            others: all
                .into_iter()
                .filter(|(_, c)| current.is_none_or(|current| current.id != c.id))
                .collect(),
        };
        let rejected = self
            .observed
            .rejected
            .get(id)
            .filter(|r| r.digest == service.digest);
        let former = containers.others.iter().find(|(n, _)| **n == node);
        if let (Some(rejected), Some((_, former))) = (rejected, former) {
            let why = rejected.why.clone();
            return self.roll_back(id, service, &node, &containers, former, &why);
        }
        match containers.current {
            Some(current) => self.keep(id, service, &node, current, &containers, dependencies),
            None => self.create(id, service, node, name, &containers, dependencies),
        }
    }

    /// A replica whose node cannot be worked with now: nothing is done and nothing started
    /// elsewhere, since it may still run there.
    fn on_a_shut_node(
        &mut self,
        id: &InstanceId,
        node: NodeName,
        by: &HeldBy,
        settled: bool,
    ) -> (InstanceStatus, Up) {
        let was_here = self.observed.last_seen.get(id) == Some(&node);
        let unknown = self
            .observed
            .nodes
            .get(&node)
            .and_then(|v| match &v.engine {
                EngineView::Unknown(unknown) => Some(unknown.clone()),
                _ => None,
            });
        let state = match unknown {
            Some(u) if was_here => InstanceState::Unknown {
                since: u.since,
                why: u.why,
            },
            _ if settled => InstanceState::Failed {
                why: by.to_string(),
            },
            _ => InstanceState::Stopped,
        };
        self.hold(
            Subject::Instance(id.clone()),
            HeldBy::Node { node: node.clone() },
        );
        (status(Some(node), None, state, settled), Up::default())
    }

    /// No container of the declared specification exists on the replica's node.
    fn create(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: NodeName,
        name: String,
        containers: &Containers<'_>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        // What runs under a former specification goes on serving until its successor may start.
        let former = containers.others.iter().find(|(_, c)| is_running(c));
        let up = former.map_or(Up::default(), |(_, c)| self.up_of(c));
        let standing = |state| {
            (
                status(Some(node.clone()), former_id(former), state, false),
                up,
            )
        };
        let mut needs = BTreeSet::new();
        for gate in [
            self.node_gates.get(&node).cloned().unwrap_or(Gate::Open),
            self.service_image(&node, service),
            self.vacated(id),
        ] {
            match gate {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => {
                    self.hold(Subject::Instance(id.clone()), by.clone());
                    let state = if settled {
                        InstanceState::Failed {
                            why: by.to_string(),
                        }
                    } else if up.ready {
                        InstanceState::Ready
                    } else {
                        InstanceState::Stopped
                    };
                    return (status(Some(node), former_id(former), state, settled), up);
                }
            }
        }
        match dependencies {
            Dependencies::Met(steps) => needs.extend(steps.iter().cloned()),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(id.clone()), by.clone());
                return (
                    status(
                        Some(node),
                        former_id(former),
                        InstanceState::Stopped,
                        *settled,
                    ),
                    up,
                );
            }
        }
        let reason = match containers.others.first() {
            None => Reason::InstanceAbsent,
            Some((from, old)) if **from == node => Reason::SpecChanged {
                from: old.digest.short().to_owned(),
                to: service.digest.short().to_owned(),
            },
            Some((from, _)) => Reason::Moved {
                from: (*from).clone(),
            },
        };
        for (at, old) in &containers.others {
            if !is_running(old) {
                continue;
            }
            let stopped = self.propose(
                Action::StopInstance {
                    instance: id.clone(),
                    container: old.name.clone(),
                    id: old.id.clone(),
                    node: (*at).clone(),
                },
                needs.clone(),
                reason.clone(),
            );
            match stopped {
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Open => {}
                Gate::Shut { by, settled } => {
                    let state = InstanceState::Failed {
                        why: by.to_string(),
                    };
                    return (status(Some(node), former_id(former), state, settled), up);
                }
            }
        }
        let start = self.propose(
            Action::StartInstance {
                instance: id.clone(),
                container: name,
                node: node.clone(),
            },
            needs,
            reason,
        );
        match start {
            Gate::After(step) => {
                self.starts.insert(id.clone(), step);
                standing(if up.ready {
                    InstanceState::Ready
                } else {
                    InstanceState::Stopped
                })
            }
            Gate::Open => standing(InstanceState::Stopped),
            Gate::Shut { by, settled } => {
                let state = if settled {
                    InstanceState::Failed {
                        why: by.to_string(),
                    }
                } else {
                    InstanceState::Stopped
                };
                (status(Some(node), former_id(former), state, settled), up)
            }
        }
    }

    /// Opens when no node that left the declaration can still run the replica unseen.
    fn vacated(&mut self, id: &InstanceId) -> Gate {
        let Some(last) = self.observed.last_seen.get(id) else {
            return Gate::Open;
        };
        if self.declared.nodes.contains_key(last) {
            return Gate::Open;
        }
        let Some(view) = self.observed.nodes.get(last) else {
            return Gate::Open;
        };
        match &view.engine {
            // Deleting it fences it: only then may the replica run elsewhere.
            EngineView::Unknown(_) if view.machine.created => {
                Gate::After(Action::DeleteNode { node: last.clone() }.id())
            }
            EngineView::Unknown(unknown) => Gate::Shut {
                by: HeldBy::NodeUnknown {
                    node: last.clone(),
                    since: unknown.since,
                    why: unknown.why.clone(),
                },
                settled: false,
            },
            EngineView::NotAsked => Gate::Shut {
                by: HeldBy::Node { node: last.clone() },
                settled: false,
            },
            EngineView::Missing | EngineView::Known { .. } => Gate::Open,
        }
    }

    /// The declared specification has its container: it is kept alive, and once it is ready,
    /// what it replaces goes.
    fn keep(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        current: &ObservedContainer,
        containers: &Containers<'_>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let (status, up) = self.alive(id, service, node, current, dependencies);
        match &status.state {
            InstanceState::Ready | InstanceState::Completed => {
                self.supersede(id, &containers.others);
            }
            InstanceState::Failed { why } if containers.others.iter().any(|(n, _)| *n == node) => {
                // The way back; the driver records it, and the next plan goes it.
                self.plan.rejects.push(crate::registry::RejectedSpec {
                    id: id.clone(),
                    digest: current.digest.clone(),
                    at: self.now,
                    why: why.clone(),
                });
            }
            _ => {}
        }
        (status, up)
    }

    /// The declared specification did not become ready and its predecessor is there: the
    /// predecessor comes back.
    fn roll_back(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        containers: &Containers<'_>,
        former: &ObservedContainer,
        why: &str,
    ) -> (InstanceStatus, Up) {
        let mut needs = BTreeSet::new();
        if let Some(current) = containers.current {
            let reason = Reason::RolledBack {
                why: why.to_owned(),
            };
            let removed = self.stop_and_remove(id, node, current, &reason, BTreeSet::new());
            if let Gate::After(step) = removed {
                needs.insert(step);
            }
        }
        if !needs.is_empty() && !is_running(former) {
            let start = self.propose(
                Action::StartInstance {
                    instance: id.clone(),
                    container: former.name.clone(),
                    node: node.clone(),
                },
                needs,
                Reason::RolledBack {
                    why: why.to_owned(),
                },
            );
            if let Gate::After(step) = start {
                self.starts.insert(id.clone(), step);
            }
            let state = InstanceState::Failed {
                why: why.to_owned(),
            };
            return (
                status(Some(node.clone()), Some(former), state, false),
                Up::default(),
            );
        }
        let met = Dependencies::Met(BTreeSet::new());
        let (mut standing, up) = self.alive(id, service, node, former, &met);
        standing.state = InstanceState::Failed {
            why: format!("{why}; the former specification runs again"),
        };
        (standing, up)
    }

    /// Keeps one container alive: started if it never was, started again if it ended and its
    /// policy says so.
    fn alive(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        container: &ObservedContainer,
        dependencies: &Dependencies,
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
            ContainerState::Created => self.start_again(
                id,
                node,
                container,
                dependencies,
                Reason::NeverStarted,
                None,
            ),
            ContainerState::Exited { code, .. } => {
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
                self.start_again(id, node, container, dependencies, reason, failed)
            }
        }
    }

    fn start_again(
        &mut self,
        id: &InstanceId,
        node: &NodeName,
        container: &ObservedContainer,
        dependencies: &Dependencies,
        reason: Reason,
        failed: Option<String>,
    ) -> (InstanceStatus, Up) {
        let stands = |state, settled| {
            (
                status(Some(node.clone()), Some(container), state, settled),
                Up::default(),
            )
        };
        let needs = match dependencies {
            Dependencies::Met(steps) => steps.clone(),
            Dependencies::Unmet { by, settled } => {
                self.hold(Subject::Instance(id.clone()), by.clone());
                return stands(InstanceState::Stopped, *settled);
            }
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

    fn up_of(&self, container: &ObservedContainer) -> Up {
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

    /// What a service waits for before its replicas may start.
    fn dependencies(&self, service: &DeclaredService) -> Dependencies {
        let mut steps = BTreeSet::new();
        for (name, condition) in &service.spec.depends_on {
            let up = |up: &Up| match condition {
                DependencyCondition::ServiceStarted => up.started,
                DependencyCondition::ServiceHealthy => up.ready,
                DependencyCondition::ServiceCompletedSuccessfully => up.completed,
            };
            let by = || HeldBy::Dependency {
                service: name.clone(),
                condition: *condition,
            };
            if let Some(unmet) = self.await_service(name, &up, &by, &mut steps) {
                return unmet;
            }
        }
        if service.spec.starts == Starts::Last {
            for (name, other) in &self.declared.services {
                if other.spec.starts == Starts::Last {
                    continue;
                }
                let up = |up: &Up| up.ready || up.completed;
                let by = || HeldBy::StartsLast {
                    service: name.clone(),
                };
                if let Some(unmet) = self.await_service(name, &up, &by, &mut steps) {
                    return unmet;
                }
            }
        }
        Dependencies::Met(steps)
    }

    /// Collects the steps after which `service` is up, or says what keeps it down.
    fn await_service(
        &self,
        name: &ServiceName,
        is_up: &dyn Fn(&Up) -> bool,
        by: &dyn Fn() -> HeldBy,
        steps: &mut BTreeSet<StepId>,
    ) -> Option<Dependencies> {
        let Some(service) = self.declared.services.get(name) else {
            return Some(Dependencies::Unmet {
                by: by(),
                settled: true,
            });
        };
        for n in 1..=service.spec.replicas {
            let id = InstanceId {
                service: name.clone(),
                replica: Replica(n),
            };
            if self.up.get(&id).is_some_and(is_up) {
                continue;
            }
            if let Some(step) = self.starts.get(&id) {
                steps.insert(step.clone());
                continue;
            }
            let settled = self.plan.instances.get(&id).is_some_and(|s| s.settled);
            return Some(Dependencies::Unmet { by: by(), settled });
        }
        None
    }
}

/// What a service's dependencies say.
enum Dependencies {
    /// All are up once these steps are done.
    Met(BTreeSet<StepId>),
    /// One is not.
    Unmet { by: HeldBy, settled: bool },
}

fn is_running(container: &ObservedContainer) -> bool {
    matches!(
        container.state,
        ContainerState::Running { .. } | ContainerState::Paused
    )
}

fn former_id<'a>(
    former: Option<&(&'a NodeName, &'a ObservedContainer)>,
) -> Option<&'a ObservedContainer> {
    former.map(|(_, c)| *c)
}

fn status(
    node: Option<NodeName>,
    container: Option<&ObservedContainer>,
    state: InstanceState,
    settled: bool,
) -> InstanceStatus {
    InstanceStatus {
        node,
        container: container.map(|c| c.id.clone()),
        state,
        settled,
    }
}
