//! Replaces the containers of a changed service a few replicas at a time, as the service's update
//! and rollback settings declare. The progress of a rollout is derived from the observation, so a
//! new manager continues a rollout where the previous manager stopped.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::dependencies::Dependencies;
use super::keep_running::{ended_alone, was_stopped_for};
use super::replacement::Containers;
use super::{Blocked, PlacedReplica, Planning, Up, status};
use crate::model::{
    InstanceId, OnFailure, Replacement, ReplacementOrder, RestartPolicy, RolloutRequest,
    ServiceName, Starts, Subject,
};
use crate::reconcile::declared::DeclaredService;
use crate::reconcile::index::{IndexedService, Seen};
use crate::reconcile::observe::Readiness;
use crate::reconcile::state::Verdict;
use crate::reconcile::step::{HeldBy, InstanceStatus, RolloutProgress, RolloutState};
use crate::registry::RejectedSpec;
use crate::runtime::ContainerState;

const ROLLBACK_REQUESTED: &str = "a rollback was requested";

/// A ratio of 1 in the units of [`Replacement::max_failure_millionths`].
const WHOLE: u64 = 1_000_000;

/// The rollout of the service that is being planned.
#[derive(Debug)]
pub(super) struct Rollout {
    course: Course,
    settings: Replacement,
    /// The position of the service's first replica.
    first: usize,
    stages: Vec<Stage>,
    /// The positions of the replicas that are being replaced.
    in_progress: Vec<usize>,
    /// The positions of the replicas that are not ready, or that this plan stops.
    unavailable: Vec<usize>,
    /// Whether a replica was last seen on a node that cannot be observed now. It may run a container of
    /// an earlier specification.
    has_unseen: bool,
    /// The earliest time at which the next replica may be replaced.
    next_at: Option<DateTime<Utc>>,
}

/// The direction of a rollout.
#[derive(Debug, Clone)]
enum Course {
    Forward,
    Paused { why: String },
    Back(Rejection),
}

/// Why the declared specification of a replica was rejected.
#[derive(Debug, Clone)]
pub(super) struct Rejection {
    pub(super) since: DateTime<Utc>,
    pub(super) why: String,
}

/// How far the replacement of a replica has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is nothing to replace.
    Unaffected,
    /// The declared specification was rejected, and the previous container is restored.
    Failed,
    Waiting {
        /// Whether a container of the replica is ready.
        serving: bool,
    },
    /// The new container was started.
    Replacing,
    /// The new container has been ready for long enough, since this time.
    Replaced { at: DateTime<Utc> },
}

impl Rollout {
    pub(super) fn none() -> Self {
        Self {
            course: Course::Forward,
            settings: Replacement::default(),
            first: 0,
            stages: Vec::new(),
            in_progress: Vec::new(),
            unavailable: Vec::new(),
            has_unseen: false,
            next_at: None,
        }
    }

    fn stage(&self, position: usize) -> Stage {
        let offset = position.checked_sub(self.first);
        let stage = offset.and_then(|offset| self.stages.get(offset));
        stage.copied().unwrap_or(Stage::Unaffected)
    }

    /// Returns whether no replica of the service is left to replace.
    pub(super) fn is_complete(&self) -> bool {
        self.stages.iter().all(|stage| match stage {
            Stage::Unaffected | Stage::Replaced { .. } => true,
            Stage::Failed => matches!(self.course, Course::Forward),
            Stage::Waiting { .. } | Stage::Replacing => false,
        })
    }

    /// Returns whether a rollback can no longer need the containers that were replaced.
    pub(super) fn is_final(&self) -> bool {
        self.is_complete() && !self.has_unseen
    }

    /// Returns the declared order.
    pub(super) fn order(&self) -> Option<ReplacementOrder> {
        self.settings.order
    }

    pub(super) fn monitor(&self) -> Duration {
        self.settings.monitor.unwrap_or_default()
    }

    pub(super) fn is_replaced(&self, position: usize) -> bool {
        matches!(self.stage(position), Stage::Replaced { .. })
    }

    /// Returns how many replicas may be replaced at a time.
    fn parallelism(&self) -> usize {
        match self.settings.parallelism {
            Some(0) => usize::MAX,
            Some(parallelism) => usize::try_from(parallelism).unwrap_or(usize::MAX),
            None => 1,
        }
    }
}

impl<'a> Planning<'a> {
    /// Determines the course and the stages of a service's rollout. Returns the positions of its
    /// replicas in the order in which they are planned: replicas that wait for their turn come last,
    /// those that are ready at the very end, so that what they wait for has been planned before.
    pub(super) fn begin_rollout(&mut self, service: &IndexedService<'a>) -> Vec<usize> {
        self.reject_on_request(service);
        let course = self.course(service);
        let policy = &service.service.spec.update;
        let settings = match course {
            Course::Forward | Course::Paused { .. } => &policy.update,
            Course::Back(_) => &policy.rollback,
        };
        let mut rollout = Rollout {
            course,
            settings: settings.clone().unwrap_or_default(),
            first: service.first,
            has_unseen: service.positions().any(|position| self.is_unseen(position)),
            ..Rollout::none()
        };
        for position in service.positions() {
            let stage = self.stage(service, position, &rollout);
            if stage == Stage::Replacing {
                rollout.in_progress.push(position);
            }
            // Replicas that join the network of a waiting replica may wait for its replacement.
            let waits = matches!(stage, Stage::Waiting { .. });
            if !self.is_available(position, service.service)
                || !waits && !self.joiners_are_available(position)
            {
                rollout.unavailable.push(position);
            }
            rollout.stages.push(stage);
        }
        let ends = rollout.stages.iter().filter_map(|stage| match stage {
            Stage::Replaced { at } => Some(*at),
            _ => None,
        });
        let delay = rollout.settings.delay.unwrap_or_default();
        rollout.next_at = ends.max().and_then(|last| later(last, delay));
        let mut positions: Vec<usize> = service.positions().collect();
        positions.sort_by_key(|position| match rollout.stage(*position) {
            Stage::Waiting { serving } => (true, serving),
            _ => (false, false),
        });
        self.rollout = rollout;
        positions
    }

    /// Returns whether a replica was last seen on a node that cannot be observed now.
    fn is_unseen(&self, position: usize) -> bool {
        let last = self.index.last_seen[position].filter(|_| self.index.seen[position].is_empty());
        let view = last.and_then(|node| self.observed.nodes.get(node));
        view.is_some_and(|view| view.engine_state().is_none())
    }

    /// Records the progress of the service whose replicas have just been planned.
    pub(super) fn end_rollout(&mut self, service: &IndexedService<'a>) {
        let rollout = &self.rollout;
        let (state, why) = match &rollout.course {
            Course::Forward | Course::Paused { .. }
                if rollout.is_complete() && !rollout.stages.contains(&Stage::Failed) =>
            {
                return;
            }
            Course::Forward if rollout.is_complete() => {
                let rejected = self.rejected_replicas(service);
                let why = rejected.first().map(|first| failure_of(first));
                (RolloutState::Failed, why)
            }
            Course::Forward => (RolloutState::Progressing, None),
            Course::Paused { why } => (RolloutState::Paused, Some(why.clone())),
            Course::Back(rejection) => {
                // A restored replica's rejected container has stopped, too.
                let is_alone = |position: usize| {
                    let seen = self.index.seen[position].iter();
                    let mut current = seen.filter(|seen| seen.is_current(service.service));
                    rollout.stage(position) == Stage::Unaffected || !current.any(Seen::is_running)
                };
                let state = if rollout.is_complete() && service.positions().all(is_alone) {
                    RolloutState::RolledBack
                } else {
                    RolloutState::RollingBack
                };
                (state, Some(rejection.why.clone()))
            }
        };
        let unfinished = service.positions().any(|position| {
            let settled = self.statuses[position].as_ref().is_none_or(|s| s.settled);
            let left = matches!(
                rollout.stage(position),
                Stage::Waiting { .. } | Stage::Replacing
            );
            left && !settled
        });
        if unfinished {
            self.rolling_out.insert(service.name);
        }
        let is_compared = |position: usize| self.compared.contains(&position);
        let is_open =
            |position: usize| rollout.stage(position) == Stage::Unaffected || is_compared(position);
        if service.positions().any(is_compared) && service.positions().all(is_open) {
            // It is not known yet whether anything changed.
            return;
        }
        let is_replaced = |position: &usize| {
            let seen = self.index.seen[*position].iter();
            let mut current = seen.filter(|seen| seen.is_current(service.service));
            current.any(|seen| self.up_of(seen).ready)
        };
        let progress = RolloutProgress {
            state,
            replaced: service.positions().filter(is_replaced).count(),
            replicas: service.service.spec.replicas.into(),
            why,
        };
        self.plan.rollouts.insert(service.name.clone(), progress);
    }

    fn course(&self, service: &IndexedService<'a>) -> Course {
        let replicas = &self.index.replicas[service.positions()];
        let rejected = self.rejected_replicas(service);
        let request = self.request(service);
        if request == Some(RolloutRequest::Rollback) && rejected.len() < replicas.len() {
            return Course::Back(Rejection {
                since: self.now,
                why: ROLLBACK_REQUESTED.to_owned(),
            });
        }
        let goes_on = || match request {
            Some(RolloutRequest::Pause) => Course::Paused {
                why: "a pause was requested".to_owned(),
            },
            Some(RolloutRequest::Resume | RolloutRequest::Rollback) | None => Course::Forward,
        };
        let Some(first) = rejected.first() else {
            return goes_on();
        };
        if rejected.len() == replicas.len() {
            return Course::Back(Rejection {
                since: first.at,
                why: first.why.clone(),
            });
        }
        let settings = service.service.spec.update.update.as_ref();
        let tolerated = settings.and_then(|settings| settings.max_failure_millionths);
        if !exceeds(rejected.len(), replicas.len(), tolerated) {
            return goes_on();
        }
        let why = failure_of(first);
        match settings.and_then(|settings| settings.on_failure) {
            Some(OnFailure::Continue) => goes_on(),
            Some(OnFailure::Rollback) => Course::Back(Rejection {
                since: first.at,
                why,
            }),
            Some(OnFailure::Pause) | None => Course::Paused { why },
        }
    }

    /// Returns the rejected specifications of the service's replicas, earliest first.
    fn rejected_replicas(&self, service: &IndexedService<'a>) -> Vec<&'a RejectedSpec> {
        let replicas = self.index.replicas[service.positions()].iter();
        let rejected = replicas.filter_map(|id| self.rejected(id, service.service));
        let mut rejected: Vec<&RejectedSpec> = rejected.collect();
        rejected.sort_by_key(|rejected| (rejected.at, &rejected.id));
        rejected
    }

    /// Returns the user's request about the rollout of the declared specification.
    fn request(&self, service: &IndexedService<'a>) -> Option<RolloutRequest> {
        let control = self.history.rollouts.get(service.name)?;
        (control.digest == service.service.digest).then_some(control.request)
    }

    /// Records that a requested rollback rejects the declared specification for every replica.
    fn reject_on_request(&mut self, service: &IndexedService<'a>) {
        if self.request(service) != Some(RolloutRequest::Rollback) {
            return;
        }
        for position in service.positions() {
            let id = &self.index.replicas[position];
            if self.rejected(id, service.service).is_none() {
                self.plan.rejects.push(RejectedSpec {
                    id: id.clone(),
                    digest: service.service.digest.clone(),
                    at: self.now,
                    why: ROLLBACK_REQUESTED.to_owned(),
                });
            }
        }
    }

    /// Returns the record that rejects the replica's declared specification, or that of a replica
    /// that is replaced together with it.
    fn rejected(&self, id: &InstanceId, service: &DeclaredService) -> Option<&'a RejectedSpec> {
        let own = self.rejected_alone(id, service);
        own.or_else(|| self.rejected_together(id))
    }

    pub(super) fn rejected_alone(
        &self,
        id: &InstanceId,
        service: &DeclaredService,
    ) -> Option<&'a RejectedSpec> {
        let rejected = self.history.rejected.get(id)?;
        let is_obsolete = self
            .history
            .rollouts
            .get(&id.service)
            .is_some_and(|control| {
                control.digest == rejected.digest && control.supersedes(rejected.at)
            });
        (rejected.digest == service.digest && !is_obsolete).then_some(rejected)
    }

    /// Returns why a replica must not run the declared specification: it failed with this
    /// specification, or the whole service is rolled back.
    pub(super) fn rejection(
        &self,
        service: &IndexedService<'a>,
        position: usize,
    ) -> Option<Rejection> {
        if let Some(own) = self.rejected(&self.index.replicas[position], service.service) {
            return Some(Rejection {
                since: own.at,
                why: own.why.clone(),
            });
        }
        let course = if self.rollout.first == service.first && !self.rollout.stages.is_empty() {
            self.rollout.course.clone()
        } else {
            self.course(service)
        };
        match course {
            Course::Back(rejection) => Some(rejection),
            Course::Forward | Course::Paused { .. } => None,
        }
    }

    fn stage(&self, service: &IndexedService<'a>, position: usize, rollout: &Rollout) -> Stage {
        match self.stage_alone(service, position, rollout) {
            Stage::Replaced { .. } if !self.joiners_are_available(position) => Stage::Replacing,
            stage => stage,
        }
    }

    /// Determines the stage of a replica apart from those that join its network.
    fn stage_alone(
        &self,
        service: &IndexedService<'a>,
        position: usize,
        rollout: &Rollout,
    ) -> Stage {
        let all = &self.index.seen[position];
        let Some(node) = self.placement.nodes[position] else {
            return Stage::Unaffected;
        };
        // A service that runs once does not serve, so its replicas need not wait for each other.
        if service.service.runs_once
            || all.is_empty()
            || all.len() == 1 && all[0].node == node && all[0].is_current(service.service)
        {
            return Stage::Unaffected;
        }
        let replica = PlacedReplica {
            position,
            id: &self.index.replicas[position],
            service: service.service,
            node,
        };
        let containers = self.containers_of(replica);
        let own = self.rejected(replica.id, service.service);
        let is_back = matches!(rollout.course, Course::Back(_));
        let previous = containers.previous(replica);
        let previous = previous.filter(|_| own.is_some() || is_back);
        if previous.is_some() && !is_back {
            return Stage::Failed;
        }
        let target = previous.or(containers.current);
        let is_other = |seen: &&Seen<'a>| target.is_none_or(|target| target.id() != seen.id());
        let others: Vec<Seen<'a>> = all.iter().filter(is_other).copied().collect();
        if others.is_empty() {
            return Stage::Unaffected;
        }
        let waiting = Stage::Waiting {
            serving: all.iter().any(|seen| self.up_of(seen).ready),
        };
        let Some(target) = target else {
            return waiting;
        };
        match target.container.state {
            ContainerState::Running { .. } => match target.readiness() {
                Some(Readiness::Ready { at }) => match later(*at, rollout.monitor()) {
                    Some(at) if at <= self.now => Stage::Replaced { at },
                    _ => Stage::Replacing,
                },
                _ => Stage::Replacing,
            },
            ContainerState::Created => waiting,
            ContainerState::Exited { code, at } => {
                let stopped = others.iter().any(|other| was_stopped_for(&target, other));
                let alone = ended_alone(&target, &others);
                if code == 0 && completes(service.service) && !stopped && alone {
                    let at = at.unwrap_or(self.now);
                    Stage::Replaced { at }
                } else if stopped || self.is_to_restart(replica.id, &target) {
                    waiting
                } else {
                    Stage::Replacing
                }
            }
            ContainerState::Paused => Stage::Replacing,
        }
    }

    /// Returns whether a container of the replica is ready, or completed as declared, and no
    /// restart of it was requested.
    pub(super) fn is_available(&self, position: usize, service: &DeclaredService) -> bool {
        let id = &self.index.replicas[position];
        self.index.seen[position].iter().any(|seen| {
            let up = self.up_of(seen);
            let completed = up.completed
                && completes(service)
                && self.placement.nodes[position] == Some(seen.node)
                && seen.is_current(service);
            (up.ready || completed) && !self.is_to_restart(id, seen)
        })
    }

    /// Decides whether a replica may be replaced now. If not, returns what it waits for.
    pub(super) fn turn(
        &mut self,
        replica: PlacedReplica<'a>,
        order: ReplacementOrder,
    ) -> Result<(), Blocked> {
        let rollout = &self.rollout;
        let Stage::Waiting { serving } = rollout.stage(replica.position) else {
            return Ok(());
        };
        if self.follows_joined(replica)? {
            return Ok(());
        }
        let rollout = &self.rollout;
        if let Course::Paused { why } = &rollout.course {
            let by = HeldBy::RolloutPaused { why: why.clone() };
            return Err(Blocked::new(by, true));
        }
        if let Some(service) = self.dependency_in_rollout(replica.service) {
            let by = HeldBy::ReplacedAfterService {
                service: service.clone(),
            };
            return Err(Blocked::new(by, false));
        }
        let parallelism = rollout.parallelism();
        let is_settled = |position: &usize| self.is_settled(*position);
        let failed = rollout.in_progress.iter().filter(|p| is_settled(p)).count();
        let tolerated = rollout.settings.max_failure_millionths;
        let goes_on = matches!(rollout.course, Course::Back(_))
            && (rollout.settings.on_failure == Some(OnFailure::Continue)
                || !exceeds(failed, rollout.stages.len(), tolerated));
        let in_progress = rollout.in_progress.iter();
        let ahead: Vec<usize> = in_progress
            .filter(|position| !(goes_on && is_settled(position)))
            .copied()
            .collect();
        if let Some(first) = ahead.first()
            && ahead.len() >= parallelism
        {
            let by = HeldBy::ReplacedAfter {
                replica: self.index.replicas[*first].clone(),
            };
            return Err(Blocked::new(by, ahead.iter().all(is_settled)));
        }
        let next_at = rollout.next_at.filter(|at| serving && *at > self.now);
        if let Some(until) = next_at {
            self.changes_at(until);
            return Err(Blocked::new(HeldBy::RolloutDelay { until }, false));
        }
        let stops = serving && order == ReplacementOrder::StopFirst;
        // A ready replica is unavailable while one that joins its network is.
        let others = rollout.unavailable.iter();
        let unavailable: Vec<usize> = others
            .filter(|position| **position != replica.position)
            .copied()
            .collect();
        if stops && unavailable.len() >= parallelism {
            let by = HeldBy::TooFewReady {
                ready: rollout.stages.len().saturating_sub(unavailable.len()),
                replicas: rollout.stages.len(),
            };
            return Err(Blocked::new(by, unavailable.iter().all(is_settled)));
        }
        Ok(())
    }

    /// Returns whether a replica has been planned, and its status is final for this round.
    fn is_settled(&self, position: usize) -> bool {
        let status = self.statuses[position].as_ref();
        status.is_some_and(|status| status.settled)
    }

    /// Records that this plan replaces a replica.
    pub(super) fn takes_turn(&mut self, position: usize, order: ReplacementOrder) {
        let rollout = &mut self.rollout;
        let Stage::Waiting { serving } = rollout.stage(position) else {
            return;
        };
        rollout.in_progress.push(position);
        match order {
            ReplacementOrder::StopFirst if serving => rollout.unavailable.push(position),
            ReplacementOrder::StopFirst => {}
            ReplacementOrder::StartFirst => {
                self.serving.insert(position);
            }
        }
    }

    /// Returns another replica of the service that is being replaced and does not serve meanwhile.
    pub(super) fn replaced_meanwhile(&self, position: usize) -> Option<InstanceId> {
        let rollout = &self.rollout;
        let mut down = rollout
            .in_progress
            .iter()
            .filter(|p| rollout.unavailable.contains(p) && !self.is_settled(**p));
        let other = down.find(|other| **other != position)?;
        Some(self.index.replicas[*other].clone())
    }

    /// Returns a service whose rollout must end before replicas of `service` are replaced.
    fn dependency_in_rollout(&self, service: &DeclaredService) -> Option<&'a ServiceName> {
        let is_before = |name: &ServiceName| {
            let other = self.index.service(name).map(|other| other.service);
            let is_last = |s: &DeclaredService| s.spec.starts == Starts::Last;
            // Replicas that join a network are replaced together with the replica that has it.
            let joins = service.spec.container.connection.joins() == Some(name);
            service.spec.depends_on.contains_key(name) && !joins
                || is_last(service) && other.is_some_and(|other| !is_last(other))
        };
        self.rolling_out
            .iter()
            .find(|name| is_before(name))
            .copied()
    }

    /// Holds a replica that must not run the declared specification, and whose previous container
    /// cannot be restored, because its node is no longer declared.
    pub(super) fn without_previous(
        &mut self,
        replica: PlacedReplica<'a>,
        containers: &Containers<'a>,
        rejection: &Rejection,
    ) -> (InstanceStatus, Up) {
        let serving = containers.others.iter().find(|seen| seen.is_running());
        let up = serving.map_or(Up::default(), |seen| self.up_of(seen));
        let why = rejection.why.clone();
        let by = HeldBy::Failed { why: why.clone() };
        self.hold(Subject::Instance(replica.id.clone()), by);
        self.serving.insert(replica.position);
        (status(replica, serving, Verdict::Failed { why }, true), up)
    }

    /// Keeps the previous container of a replica running while the replica waits to be replaced.
    pub(super) fn wait_for_turn(
        &mut self,
        replica: PlacedReplica<'a>,
        containers: &Containers<'a>,
        dependencies: &Dependencies,
        blocked: &Blocked,
    ) -> (InstanceStatus, Up) {
        let serving = containers.others.iter().find(|seen| seen.is_running());
        // While the rollout goes on, a container that has ended is replaced first. It is not started
        // again: its host port may belong to another replica now. A container that joins a network
        // has no host ports.
        let may_run = |previous: &Seen<'a>| {
            let has_ports = previous.container.joins.is_none();
            previous.is_running()
                || serving.is_none() && (blocked.settled || !has_ports)
                || self.is_to_restart(replica.id, previous)
        };
        let previous = containers.previous(replica).filter(may_run);
        let (mut status, up) = if let Some(previous) = previous {
            let replica = PlacedReplica {
                node: previous.node,
                ..replica
            };
            let (status, up) = self.keep_running(replica, previous, &[], dependencies, None);
            // A container of an earlier specification that completed starts no dependent services.
            let up = if previous.is_running() {
                up
            } else {
                Up::default()
            };
            (status, up)
        } else {
            let up = serving.map_or(Up::default(), |seen| self.up_of(seen));
            (status(replica, serving, Verdict::Open, true), up)
        };
        self.hold(Subject::Instance(replica.id.clone()), blocked.by.clone());
        self.serving.insert(replica.position);
        let restarts = previous.is_some_and(|p| self.is_to_restart(replica.id, &p));
        let settled = blocked.settled && !restarts;
        if settled {
            status = InstanceStatus {
                state: super::state::without_container(None, Verdict::NotStarted),
                ..status
            };
        }
        status.settled = settled;
        (status, up)
    }

    /// Returns why a container that ended by itself makes the replica fail, although its restart
    /// policy would start it again: the container was still monitored.
    pub(super) fn ended_early(
        &self,
        replica: PlacedReplica<'a>,
        current: Seen<'a>,
        others: &[Seen<'a>],
    ) -> Option<String> {
        let ContainerState::Exited { code, at: Some(at) } = current.container.state else {
            return None;
        };
        let is_to_restart = self.is_to_restart(replica.id, &current);
        let alone = !others.iter().any(Seen::is_running);
        if is_to_restart || code == 0 && completes(replica.service) && alone {
            return None;
        }
        let monitor = self.rollout.monitor();
        let started_at = current.container.started_at?;
        let stopped = others.iter().any(|other| was_stopped_for(&current, other));
        (!monitor.is_zero() && !stopped && later(started_at, monitor)? >= at).then(|| {
            let monitor = humantime::format_duration(monitor);
            let exit = current.container.exit().unwrap_or_default();
            format!("its container ended with {exit} within {monitor}")
        })
    }

    /// If a ready replica is still being monitored, records this. Returns whether it is.
    pub(super) fn is_monitored(&mut self, replica: PlacedReplica<'a>, current: Seen<'a>) -> bool {
        let Some(&Readiness::Ready { at }) = current.readiness() else {
            return false;
        };
        if self.rollout.is_replaced(replica.position) {
            return false;
        }
        let Some(until) = later(at, self.rollout.monitor()).filter(|until| *until > self.now)
        else {
            return false;
        };
        self.changes_at(until);
        let by = HeldBy::Monitored { until };
        self.hold(Subject::Instance(replica.id.clone()), by);
        true
    }
}

/// Returns whether a replica has done its work when its container ends with exit code 0.
fn completes(service: &DeclaredService) -> bool {
    match service.restart {
        RestartPolicy::No | RestartPolicy::OnFailure { .. } => true,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => false,
    }
}

fn failure_of(rejected: &RejectedSpec) -> String {
    format!("{} failed: {}", rejected.id, rejected.why)
}

/// Returns whether more than the tolerated share of replicas failed.
fn exceeds(failed: usize, replicas: usize, tolerated: Option<u32>) -> bool {
    let failed = u64::try_from(failed).unwrap_or(u64::MAX);
    let replicas = u64::try_from(replicas).unwrap_or(u64::MAX);
    let tolerated = u64::from(tolerated.unwrap_or_default());
    failed.saturating_mul(WHOLE) > replicas.saturating_mul(tolerated)
}

fn later(at: DateTime<Utc>, by: Duration) -> Option<DateTime<Utc>> {
    at.checked_add_signed(chrono::Duration::from_std(by).ok()?)
}
