//! Instances: started in order, kept alive, replaced stop-first.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{Gate, Planning, Up};
use crate::model::{
    DependencyCondition, InstanceId, InstanceState, NodeName, Replica, RestartPolicy, ServiceName,
    SpecDigest, Starts, Subject,
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

impl<'a> Containers<'a> {
    /// What comes back when the declared specification is given up: what runs on the node
    /// beside it, else what was started first there, since whatever gets ready removes all that
    /// was before it. What runs once and failed has no predecessor that would do its work.
    fn predecessor(
        &self,
        service: &DeclaredService,
        node: &NodeName,
    ) -> Option<&'a ObservedContainer> {
        if service.runs_once {
            return None;
        }
        self.others
            .iter()
            .filter(|(at, _)| *at == node)
            .map(|(_, c)| *c)
            .min_by_key(|c| (!c.state.is_running(), c.started_at.is_none(), c.started_at))
    }
}

/// The way back from a specification that is given up.
struct WayBack<'a> {
    former: &'a ObservedContainer,
    why: String,
}

impl<'a> Planning<'a> {
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
        if let (Some(rejected), Some(former)) = (rejected, containers.predecessor(service, &node)) {
            let way_back = WayBack {
                former,
                why: rejected.why.clone(),
            };
            return self.roll_back(id, service, &node, &containers, &way_back, dependencies);
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
        let former = containers.others.iter().find(|(_, c)| c.state.is_running());
        let up = former.map_or(Up::default(), |(_, c)| self.up_of(c));
        let standing = |state| {
            (
                status(Some(node.clone()), former_id(former), state, false),
                up,
            )
        };
        let mut needs = BTreeSet::new();
        let ways = [
            Self::node_gate,
            Self::vacated,
            Self::service_image,
            Self::ports_left,
        ];
        for way in ways {
            match way(self, id, &node, service) {
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
            Some((from, old)) => replaced(from, old, &node, &service.digest),
        };
        let stopped = self.stop_running(id, &containers.others, &reason, needs);
        let needs = match stopped {
            Ok(needs) => needs,
            Err((by, settled)) => {
                let state = InstanceState::Failed {
                    why: by.to_string(),
                };
                return (status(Some(node), former_id(former), state, settled), up);
            }
        };
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

    fn node_gate(&mut self, _: &InstanceId, node: &NodeName, _: &DeclaredService) -> Gate {
        self.node_gates.get(node).cloned().unwrap_or(Gate::Open)
    }

    /// Opens when no container that has to go has a host port that the replica needs.
    fn ports_left(&mut self, _: &InstanceId, node: &NodeName, service: &DeclaredService) -> Gate {
        if self.leaving.is_empty() {
            return Gate::Open;
        }
        let ports = service.spec.container.ports.iter();
        let mut gates = ports.filter_map(|port| {
            let key = (node, port.host_port?, port.protocol);
            self.leaving.get(&key).cloned()
        });
        // One that is left holds it as well as all: the plan is made anew after each step.
        gates.next().unwrap_or(Gate::Open)
    }

    /// Opens when the replica cannot run unseen on another node than the one it is placed on.
    fn vacated(&mut self, id: &InstanceId, node: &NodeName, _: &DeclaredService) -> Gate {
        let observed = self.observed;
        let Some(last) = observed.last_seen.get(id).filter(|last| *last != node) else {
            return Gate::Open;
        };
        let Some(view) = observed.nodes.get(last) else {
            // Gone, if the cloud can say so.
            let Some(unknown) = &observed.cloud_unknown else {
                return Gate::Open;
            };
            return Gate::Shut {
                by: HeldBy::CloudUnknown {
                    since: unknown.since,
                    why: unknown.why.clone(),
                },
                settled: self.is_over(unknown.since, self.policy.unknown_before_failed),
            };
        };
        if !view.may_run_unseen() {
            return Gate::Open;
        }
        if let Some(fence) = self.fences.get(last) {
            return fence.clone();
        }
        match &view.engine {
            EngineView::Unknown(unknown) => Gate::Shut {
                by: HeldBy::NodeUnknown {
                    node: last.clone(),
                    since: unknown.since,
                    why: unknown.why.clone(),
                },
                settled: self.is_over(unknown.since, self.policy.unknown_before_failed),
            },
            _ => Gate::Shut {
                by: HeldBy::Node { node: last.clone() },
                settled: false,
            },
        }
    }

    /// Stops all of these that run, stop-first. Gives what must be done before a successor may
    /// start, or what holds a stop up.
    fn stop_running(
        &mut self,
        id: &InstanceId,
        others: &[(&NodeName, &ObservedContainer)],
        reason: &Reason,
        mut needs: BTreeSet<StepId>,
    ) -> Result<BTreeSet<StepId>, (HeldBy, bool)> {
        let before = needs.clone();
        for (at, other) in others {
            if !other.state.is_running() {
                continue;
            }
            let stopped = self.propose(
                Action::StopInstance {
                    instance: id.clone(),
                    container: other.name.clone(),
                    id: other.id.clone(),
                    node: (*at).clone(),
                },
                before.clone(),
                reason.clone(),
            );
            match stopped {
                Gate::Open => {}
                Gate::After(step) => {
                    needs.insert(step);
                }
                Gate::Shut { by, settled } => return Err((by, settled)),
            }
        }
        Ok(needs)
    }

    /// The declared specification has its container: it is kept alive, and once it is ready,
    /// what it replaces goes. If it fails, what it replaces comes back.
    fn keep(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        current: &'a ObservedContainer,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let (steps, held) = (self.plan.steps.len(), self.plan.held.len());
        let others = &containers.others;
        let (status, up) = self.alive(id, service, node, current, others, dependencies, None);
        match (&status.state, containers.predecessor(service, node)) {
            (InstanceState::Ready | InstanceState::Completed, _) => {
                self.supersede(id, others, &Reason::Superseded);
            }
            (InstanceState::Failed { why }, Some(former))
                if current.state != ContainerState::Paused =>
            {
                self.plan.steps.truncate(steps);
                self.plan.held.truncate(held);
                self.starts.remove(id);
                self.plan.rejects.push(crate::registry::RejectedSpec {
                    id: id.clone(),
                    digest: current.digest.clone(),
                    at: self.now,
                    why: why.clone(),
                });
                let way_back = WayBack {
                    former,
                    why: why.clone(),
                };
                return self.roll_back(id, service, node, containers, &way_back, dependencies);
            }
            _ if current.state.is_running() => {
                for (at, other) in others {
                    let reason = replaced(at, other, node, &current.digest);
                    // What holds a stop up is said by itself.
                    let _ = self.stop_running(id, &[(*at, *other)], &reason, BTreeSet::new());
                }
            }
            _ => {}
        }
        (status, up)
    }

    /// The declared specification was given up and its predecessor is there: it comes back, and
    /// once it runs, what it replaced goes.
    fn roll_back(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        containers: &Containers<'a>,
        way_back: &WayBack<'a>,
        dependencies: &Dependencies,
    ) -> (InstanceStatus, Up) {
        let WayBack { former, why } = way_back;
        let reason = Reason::RolledBack { why: why.clone() };
        let mut others: Vec<_> = containers
            .others
            .iter()
            .filter(|(_, c)| c.id != former.id)
            .copied()
            .collect();
        let current = containers.current.and_then(|current| {
            let all = self.containers.get(id)?;
            all.iter().find(|(_, c)| c.id == current.id).copied()
        });
        others.extend(current);
        let restoring = (!others.is_empty()).then_some(reason.clone());
        let (mut standing, up) =
            self.alive(id, service, node, former, &others, dependencies, restoring);
        let why = if former.state.is_running() {
            self.supersede(id, &others, &reason);
            format!("{why}; the former specification runs again")
        } else {
            why.clone()
        };
        standing.state = InstanceState::Failed { why };
        (standing, up)
    }

    /// Keeps one container alive: started if it never was, started again if it ended and its
    /// policy says so, or if it had made room for another one that is to go.
    #[expect(
        clippy::too_many_arguments,
        reason = "one replica as it is declared and as it stands"
    )]
    fn alive(
        &mut self,
        id: &InstanceId,
        service: &DeclaredService,
        node: &NodeName,
        container: &ObservedContainer,
        others: &[(&NodeName, &ObservedContainer)],
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
        others: &[(&NodeName, &ObservedContainer)],
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
        let needs = match self.stop_running(id, others, &reason, needs) {
            Ok(needs) => needs,
            Err((_, settled)) => return stands(InstanceState::Stopped, settled),
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
        let mut awaited: Vec<&StepId> = Vec::new();
        for n in 1..=service.spec.replicas {
            let id = InstanceId {
                service: name.clone(),
                replica: Replica(n),
            };
            // What is replaced by this plan is awaited in its new form.
            if let Some(step) = self.starts.get(&id) {
                awaited.push(step);
                continue;
            }
            if self.up.get(&id).is_some_and(is_up) {
                continue;
            }
            let settled = self.plan.instances.get(&id).is_some_and(|s| s.settled);
            return Some(Dependencies::Unmet { by: by(), settled });
        }
        if awaited.len() > MANY_REPLICAS {
            awaited.drain(..awaited.len() - 1);
        }
        steps.extend(awaited.into_iter().cloned());
        None
    }
}

/// From how many replicas on the last one stands for the others that a dependent awaits: the
/// plan is made anew after each step, so one that is left holds the dependent as well as all,
/// and a plan for thousands of replicas stays as small as they are many.
const MANY_REPLICAS: usize = 16;

/// What a service's dependencies say.
enum Dependencies {
    /// All are up once these steps are done.
    Met(BTreeSet<StepId>),
    /// One is not.
    Unmet { by: HeldBy, settled: bool },
}

/// Why `other` on `from` gives way to a container of `digest` on `node`.
fn replaced(
    from: &NodeName,
    other: &ObservedContainer,
    node: &NodeName,
    digest: &SpecDigest,
) -> Reason {
    if from == node {
        Reason::SpecChanged {
            from: other.digest.short().to_owned(),
            to: digest.short().to_owned(),
        }
    } else {
        Reason::Moved { from: from.clone() }
    }
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
