//! Tracks what engines do not report about containers: whether they are ready, and how often they
//! ended by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::declared::Declared;
use super::endpoints::{has_no_network, internal, reachable};
use super::input::Endings;
use super::observe::Readiness;
use super::watch::WatchPolicy;
use crate::cloud::ObservedNode;
use crate::model::{ContainerId, InstanceRecord, InstanceState, NodeName, Protocol};
use crate::runtime::{
    ContainerState, EngineState, Health, ObservedContainer, ReadinessProbe, Role,
};

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How many checks in a row must fail before a ready container is no longer ready.
const FAILURES_BEFORE_NOT_READY: u32 = 3;

/// A run of at least this length resets the count of endings in a row, as in Docker.
const RUN_THAT_RESETS: chrono::TimeDelta = chrono::TimeDelta::seconds(10);

/// A run that was ready for at least this time resets the pauses before restarts.
const READY_THAT_RESETS: chrono::TimeDelta = chrono::TimeDelta::minutes(10);

/// The longest pause before an ended container is started again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The pause before a failed check of a ready container is repeated.
const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// A starting container is checked less and less often: the pause is its waiting time divided by
/// this number.
const PART_OF_START: u32 = 20;

/// How long a container without any check must be observed running before it is ready. A command
/// that fails immediately is thus never ready.
const RUN_WITHOUT_CHECK: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

/// The result of one readiness check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Ready,
    /// The container is running, and there is nothing to check.
    Runs,
    NotReady {
        why: String,
    },
    /// The engine reports that the container's health check failed too many times.
    Unhealthy {
        why: String,
    },
    /// The container has no readiness: it is not running, or it is an agent or the manager.
    NotAsked,
}

/// Checks readiness by the service's declared check, or else by the container's health check, or
/// else by connecting to all TCP endpoints. A container that joins a network is not ready without
/// it.
pub(super) async fn answers(
    declared: &Declared,
    node: &ObservedNode,
    state: &EngineState,
    container: &ObservedContainer,
    probe: &dyn ReadinessProbe,
) -> Answer {
    let (Role::Instance(id), ContainerState::Running { health }) =
        (&container.role, &container.state)
    else {
        return Answer::NotAsked;
    };
    let not_ready = |why: &str| Answer::NotReady {
        why: why.to_owned(),
    };
    let service = declared.services.get(&id.service);
    if node.addresses.private.is_none() {
        return not_ready("its node has no private address");
    }
    if has_no_network(state, container) {
        return Answer::Unhealthy {
            why: "it has lost the network that it joins".to_owned(),
        };
    }
    // The declared host ports may be redirected to the agent, which accepts connections.
    let endpoints = internal(
        node.addresses.private,
        &reachable(state, container),
        declared.template(&id.service),
    )
    .into_iter();
    let mut tcp = endpoints.filter(|endpoint| endpoint.protocol == Protocol::Tcp);
    if let Some(http) = service.and_then(|service| service.spec.ready.as_ref()) {
        let Some(at) = tcp.find(|endpoint| endpoint.container_port == http.port) else {
            return not_ready(&format!("the node does not publish its port {}", http.port));
        };
        let answer = probe.http(at.ip, at.port, &http.path, CHECK_TIMEOUT).await;
        return match answer {
            Ok(()) => Answer::Ready,
            Err(why) => not_ready(&format!("GET :{}{}: {why}", http.port, http.path)),
        };
    }
    if container.has_healthcheck {
        let failed = container.failed_check.as_deref();
        return match health {
            Some(Health::Healthy) => Answer::Ready,
            Some(Health::Unhealthy) => Answer::Unhealthy {
                why: failed.unwrap_or("its health check failed").to_owned(),
            },
            Some(Health::Starting) | None => {
                not_ready(failed.unwrap_or("its health check has not passed yet"))
            }
        };
    }
    if declared.is_joined(&id.service) {
        // Other services may listen at these ports, which are checked for those services.
        return Answer::Runs;
    }
    let checks: Vec<_> = tcp
        .map(|at| async move {
            let answer = probe.tcp(at.ip, at.port, CHECK_TIMEOUT).await;
            answer.map_err(|why| format!("port {}: {why}", at.container_port))
        })
        .collect();
    if checks.is_empty() {
        return Answer::Runs;
    }
    let all = futures_util::future::join_all(checks).await;
    match all.into_iter().find_map(Result::err) {
        None => Answer::Ready,
        Some(why) => Answer::NotReady { why },
    }
}

/// Tracks the readiness and the endings of all containers.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    runs: BTreeMap<ContainerId, Run>,
    endings: BTreeMap<ContainerId, (Endings, Ending)>,
    on_node: BTreeMap<NodeName, BTreeSet<ContainerId>>,
    /// The containers that the manager stops, and why.
    stopping: BTreeMap<ContainerId, Stop>,
}

/// Why the manager stops a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is replaced, removed, or restarted on request. The end is not counted.
    Planned,
    /// It is unhealthy. The end is counted, as if the container had ended by itself.
    Unhealthy,
}

/// One run of a container, from its start.
#[derive(Debug)]
struct Run {
    started_at: Option<DateTime<Utc>>,
    /// When the run was first observed, by the manager's clock.
    observed_at: DateTime<Utc>,
    readiness: Readiness,
    failures: u32,
    /// Whether the run was ready for so long that the pauses before restarts start again.
    is_steady: bool,
    /// Whether an earlier manager recorded this run as unhealthy, and may have stopped it.
    may_be_stopped: bool,
}

impl Run {
    fn update_steady(&mut self, now: DateTime<Utc>) {
        self.is_steady |=
            matches!(self.readiness, Readiness::Ready { at } if now - at >= READY_THAT_RESETS);
    }
}

/// The start time of the last run whose ending was counted.
type Ending = Option<DateTime<Utc>>;

impl Liveness {
    /// Restores the readiness of containers from the registry's records, so that a restart of the
    /// manager changes neither `ready_at` nor the state of unhealthy containers. `now` is the
    /// current time.
    pub(super) fn recall<'a>(
        records: impl Iterator<Item = &'a InstanceRecord>,
        now: DateTime<Utc>,
    ) -> Self {
        let runs = records
            .filter_map(|record| {
                let readiness = match (&record.state, record.ready_at) {
                    (InstanceState::Unhealthy { why }, _) => no_longer_ready(now, why.clone()),
                    (_, Some(at)) => Readiness::Ready { at },
                    (_, None) => return None,
                };
                let run = Run {
                    started_at: record.started_at,
                    observed_at: record.ready_at.unwrap_or(now),
                    readiness,
                    failures: 0,
                    is_steady: false,
                    may_be_stopped: matches!(record.state, InstanceState::Unhealthy { .. }),
                };
                Some((record.container.clone(), run))
            })
            .collect();
        Self {
            runs,
            ..Self::default()
        }
    }

    /// Returns the readiness of those containers that were checked.
    pub(super) fn readiness_of(
        &self,
        containers: &[ObservedContainer],
    ) -> BTreeMap<ContainerId, Readiness> {
        let readiness = |c: &ObservedContainer| {
            let run = self.runs.get(&c.id)?;
            Some((c.id.clone(), run.readiness.clone()))
        };
        containers.iter().filter_map(readiness).collect()
    }

    /// Returns how often containers ended by themselves.
    pub(super) fn endings(&self) -> BTreeMap<ContainerId, Endings> {
        let endings = self.endings.iter();
        endings
            .map(|(id, (endings, _))| (id.clone(), endings.clone()))
            .collect()
    }

    /// Returns how long to wait before the next check of these containers.
    pub(super) fn next_check(
        &self,
        containers: &[ObservedContainer],
        policy: &WatchPolicy,
        now: DateTime<Utc>,
    ) -> Duration {
        let running = containers
            .iter()
            .filter(|c| matches!(c.state, ContainerState::Running { .. }));
        let waits = running.filter_map(|container| {
            let run = self.runs.get(&container.id)?;
            Some(match &run.readiness {
                Readiness::Waiting { since, .. } => {
                    let waited = (now - *since).to_std().unwrap_or_default();
                    (waited / PART_OF_START).max(policy.eager_interval)
                }
                Readiness::Ready { .. } if run.failures > 0 => CHECK_AGAIN,
                Readiness::Ready { .. } => policy.check_interval,
            })
        });
        let soonest = waits.min().unwrap_or(policy.check_interval);
        soonest.min(policy.check_interval)
    }

    /// Forgets how often a container ended. If the container is not ready, restarts its time limit.
    pub(super) fn forgive(&mut self, container: &ContainerId, now: DateTime<Utc>) {
        self.endings.remove(container);
        if let Some(run) = self.runs.get_mut(container)
            && let Readiness::Waiting { since, .. } = &mut run.readiness
        {
            *since = now;
        }
    }

    /// Records that the manager is about to stop a container.
    pub(super) fn expect_end(&mut self, container: &ContainerId, stop: Stop) {
        self.stopping.insert(container.clone(), stop);
    }

    /// Processes one observation of a container.
    pub(super) fn note(
        &mut self,
        container: &ObservedContainer,
        answer: Answer,
        now: DateTime<Utc>,
    ) {
        match &container.state {
            ContainerState::Running { .. } if answer == Answer::NotAsked => {}
            ContainerState::Running { .. } => self.note_running(container, answer, now),
            // This also counts the end of a container that was never observed running.
            ContainerState::Exited { at, .. } => self.note_ending(container, *at, now),
            ContainerState::Created | ContainerState::Paused => {}
        }
    }

    fn note_running(&mut self, container: &ObservedContainer, answer: Answer, now: DateTime<Utc>) {
        let run = self.runs.entry(container.id.clone()).or_insert(Run {
            started_at: container.started_at,
            observed_at: now,
            readiness: Readiness::starting(container.started_at.unwrap_or(now)),
            failures: 0,
            is_steady: false,
            may_be_stopped: false,
        });
        run.update_steady(now);
        if run.started_at != container.started_at {
            self.stopping.remove(&container.id);
            // A restart does not reset the time limit of a container that has not been ready.
            let since = match &run.readiness {
                Readiness::Waiting {
                    since,
                    was_ready: false,
                    ..
                } => *since,
                Readiness::Waiting { .. } | Readiness::Ready { .. } => {
                    container.started_at.unwrap_or(now)
                }
            };
            *run = Run {
                started_at: container.started_at,
                observed_at: now,
                readiness: Readiness::starting(since),
                failures: 0,
                is_steady: false,
                may_be_stopped: false,
            };
        }
        let answer = match answer {
            Answer::Runs if now - run.observed_at >= RUN_WITHOUT_CHECK => Answer::Ready,
            Answer::Runs => Answer::NotReady {
                why: "it has just been started".to_owned(),
            },
            answer => answer,
        };
        match (answer, &mut run.readiness) {
            (Answer::Ready, Readiness::Waiting { .. }) => {
                run.readiness = Readiness::Ready { at: now };
                run.failures = 0;
                run.may_be_stopped = false;
            }
            (Answer::Ready, Readiness::Ready { .. }) => run.failures = 0,
            (Answer::NotReady { why }, Readiness::Ready { .. }) => {
                run.failures += 1;
                if run.failures >= FAILURES_BEFORE_NOT_READY {
                    run.readiness = no_longer_ready(now, why);
                }
            }
            (Answer::Unhealthy { why }, Readiness::Ready { .. }) => {
                run.readiness = no_longer_ready(now, why);
            }
            (Answer::NotReady { why: new } | Answer::Unhealthy { why: new }, waiting) => {
                if let Readiness::Waiting { why, .. } = waiting {
                    *why = Some(new);
                }
            }
            (Answer::Runs | Answer::NotAsked, _) => {}
        }
    }

    fn note_ending(
        &mut self,
        container: &ObservedContainer,
        at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) {
        let ending = container.started_at;
        if let Some((endings, counted)) = self.endings.get_mut(&container.id)
            && *counted == ending
        {
            // The engine may report only after the end that memory was exhausted.
            if container.was_killed_for_memory() && !endings.was_unhealthy {
                endings.last = container.exit();
            }
            return;
        }
        let previous = self.endings.get(&container.id);
        let ran_long = matches!((container.started_at, at), (Some(from), Some(to)) if to - from >= RUN_THAT_RESETS);
        let before = previous
            .filter(|_| !ran_long)
            .map_or(0, |(endings, _)| endings.times);
        let run = self.runs.get_mut(&container.id);
        let run = run.filter(|run| run.started_at == container.started_at);
        let may_be_stopped = run.as_ref().is_some_and(|run| run.may_be_stopped);
        let was_steady = run.is_some_and(|run| {
            run.update_steady(now);
            run.is_steady
        });
        let recent_before = previous
            .filter(|_| !was_steady)
            .map_or(0, |(endings, _)| endings.recent);
        let stop = self.stopping.remove(&container.id);
        let stop = stop.or(may_be_stopped.then_some(Stop::Unhealthy));
        let is_requested = stop == Some(Stop::Planned);
        let recent = recent_before.saturating_add(u32::from(!is_requested));
        // The first restart is immediate; the next ones wait 1 s, 2 s, 4 s and so on, up to a
        // minute.
        let pause = match recent {
            0 | 1 => Duration::ZERO,
            _ if is_requested => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 2).min(6)).min(LONGEST_PAUSE),
        };
        let again_at = chrono::TimeDelta::from_std(pause)
            .ok()
            .and_then(|pause| now.checked_add_signed(pause))
            .unwrap_or(now);
        let exit = container.exit();
        let last = match stop {
            Some(Stop::Planned) => None,
            Some(Stop::Unhealthy) => {
                exit.map(|exit| format!("{exit}, stopped because it was unhealthy"))
            }
            None => exit,
        };
        // A planned stop does not replace the cause of an earlier ending.
        let last = last.or_else(|| previous.and_then(|(endings, _)| endings.last.clone()));
        let endings = Endings {
            times: before + u32::from(!is_requested),
            again_at,
            recent,
            was_unhealthy: stop == Some(Stop::Unhealthy),
            last,
        };
        self.endings.insert(container.id.clone(), (endings, ending));
    }

    /// Records which containers are on a node. Forgets containers that are no longer there.
    pub(super) fn keep_on(&mut self, node: &NodeName, containers: &[ObservedContainer]) {
        let now: BTreeSet<ContainerId> = containers.iter().map(|c| c.id.clone()).collect();
        let before = self
            .on_node
            .insert(node.clone(), now.clone())
            .unwrap_or_default();
        for gone in before.difference(&now) {
            self.runs.remove(gone);
            self.endings.remove(gone);
            self.stopping.remove(gone);
        }
    }
}

fn no_longer_ready(since: DateTime<Utc>, why: String) -> Readiness {
    Readiness::Waiting {
        since,
        was_ready: true,
        why: Some(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Replica, ServiceName, SpecDigest};
    use crate::runtime::OutOfMemory;

    const EAGER: Duration = Duration::from_millis(300);
    const CHECK: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn running(role: Role) -> ObservedContainer {
        ObservedContainer {
            id: ContainerId("c".into()),
            name: "c".into(),
            role,
            digest: SpecDigest::from_hex("00"),
            digest_version: SpecDigest::VERSION.to_owned(),
            template_digest: None,
            image: String::new(),
            state: ContainerState::Running { health: None },
            started_at: Some(at(0)),
            ports: Vec::new(),
            exposed: Vec::new(),
            has_healthcheck: false,
            failed_check: None,
            out_of_memory: None,
            joins: None,
        }
    }

    fn instance() -> ObservedContainer {
        running(Role::Instance(InstanceId {
            service: ServiceName::try_from("web").unwrap(),
            replica: Replica(1),
        }))
    }

    fn not_ready() -> Answer {
        Answer::NotReady {
            why: "port 80: connection refused".to_owned(),
        }
    }

    fn next_check(liveness: &Liveness, container: &ObservedContainer, now: i64) -> Duration {
        let containers = std::slice::from_ref(container);
        liveness.next_check(containers, &WatchPolicy::default(), at(now))
    }

    #[test]
    fn agents_and_the_manager_have_no_readiness() {
        for role in [Role::Agent, Role::Manager] {
            let container = running(role);
            let mut liveness = Liveness::default();
            liveness.note(&container, Answer::NotAsked, at(0));
            assert_eq!(next_check(&liveness, &container, 1), CHECK);
            assert!(liveness.readiness_of(&[container]).is_empty());
        }
    }

    #[test]
    fn a_starting_container_is_checked_often_at_first_and_a_ready_one_seldom() {
        let container = instance();
        let mut liveness = Liveness::default();
        liveness.note(&container, not_ready(), at(0));
        assert_eq!(next_check(&liveness, &container, 1), EAGER);
        let later = next_check(&liveness, &container, 60);
        assert_eq!(later, Duration::from_secs(3));
        assert_eq!(next_check(&liveness, &container, 3600), CHECK);
        liveness.note(&container, Answer::Ready, at(3600));
        assert_eq!(next_check(&liveness, &container, 3600), CHECK);
    }

    #[test]
    fn a_container_without_any_check_is_ready_after_it_was_observed_running_for_a_second() {
        let mut container = instance();
        let is_ready = |liveness: &Liveness, container: &ObservedContainer| {
            let readiness = liveness.readiness_of(std::slice::from_ref(container));
            matches!(readiness[&container.id], Readiness::Ready { .. })
        };
        let mut liveness = Liveness::default();
        liveness.note(&container, Answer::Runs, at(0));
        assert!(!is_ready(&liveness, &container));
        assert_eq!(next_check(&liveness, &container, 0), EAGER);
        // The container ended and was started again, so that this is another run.
        container.started_at = Some(at(5));
        liveness.note(&container, Answer::Runs, at(5));
        assert!(!is_ready(&liveness, &container));
        liveness.note(&container, Answer::Runs, at(6));
        assert!(is_ready(&liveness, &container));
    }

    #[test]
    fn three_failed_checks_or_one_unhealthy_report_end_readiness() {
        let container = instance();
        let is_ready = |liveness: &Liveness| {
            let readiness = liveness.readiness_of(std::slice::from_ref(&container));
            matches!(readiness[&container.id], Readiness::Ready { .. })
        };
        let mut liveness = Liveness::default();
        liveness.note(&container, Answer::Ready, at(1));
        for _ in 0..2 {
            liveness.note(&container, not_ready(), at(2));
            assert!(is_ready(&liveness));
            assert_eq!(next_check(&liveness, &container, 2), CHECK_AGAIN);
        }
        liveness.note(&container, not_ready(), at(4));
        assert!(!is_ready(&liveness));
        liveness.note(&container, Answer::Ready, at(5));
        let why = "its health check failed with exit code 1".to_owned();
        liveness.note(&container, Answer::Unhealthy { why: why.clone() }, at(6));
        let readiness = liveness.readiness_of(std::slice::from_ref(&container));
        let unhealthy = Readiness::Waiting {
            since: at(6),
            was_ready: true,
            why: Some(why),
        };
        assert_eq!(readiness[&container.id], unhealthy);
        // The latest reason is shown, and another run is a new start.
        liveness.note(&container, not_ready(), at(7));
        let readiness = liveness.readiness_of(std::slice::from_ref(&container));
        assert!(
            matches!(&readiness[&container.id], Readiness::Waiting { why: Some(why), .. }
            if why == "port 80: connection refused")
        );
        let mut again = container.clone();
        again.started_at = Some(at(8));
        liveness.note(&again, Answer::NotAsked, at(8));
        liveness.note(&again, Answer::Runs, at(8));
        let readiness = liveness.readiness_of(std::slice::from_ref(&again));
        assert!(matches!(
            &readiness[&again.id],
            Readiness::Waiting {
                was_ready: false,
                ..
            }
        ));
    }

    /// Runs a container once: it is ready after a second, and ends `ready` seconds later, by itself
    /// or because the manager stops it. Returns the pause before the next run.
    fn run_once(liveness: &mut Liveness, start: i64, ready: i64, is_stopped: bool) -> i64 {
        let mut container = instance();
        container.started_at = Some(at(start));
        liveness.note(&container, Answer::Ready, at(start + 1));
        let end = start + 1 + ready;
        if is_stopped {
            liveness.expect_end(&container.id, Stop::Planned);
        }
        container.state = ContainerState::Exited {
            code: 137,
            at: Some(at(end)),
        };
        // The engine reports the end more than once.
        for _ in 0..2 {
            liveness.note(&container, Answer::NotAsked, at(end));
        }
        let endings = &liveness.endings()[&container.id];
        assert_eq!(endings.last.as_deref(), Some("exit code 137 (SIGKILL)"));
        (endings.again_at - at(end)).num_seconds()
    }

    #[test]
    fn exhausted_memory_may_be_reported_after_the_end() {
        let mut container = instance();
        let mut liveness = Liveness::default();
        liveness.note(&container, Answer::Ready, at(1));
        container.state = ContainerState::Exited {
            code: 137,
            at: Some(at(2)),
        };
        liveness.note(&container, Answer::NotAsked, at(2));
        let last = |liveness: &Liveness| {
            let endings = &liveness.endings()[&container.id];
            (endings.times, endings.last.clone().unwrap())
        };
        assert_eq!(last(&liveness), (1, "exit code 137 (SIGKILL)".to_owned()));
        container.out_of_memory = Some(OutOfMemory { limit: None });
        liveness.note(&container, Answer::NotAsked, at(3));
        let expected = "exit code 137 (SIGKILL), killed because memory was exhausted";
        assert_eq!(last(&liveness), (1, expected.to_owned()));
    }

    #[test]
    fn an_unhealthy_container_that_an_earlier_manager_stopped_has_not_completed() {
        let mut container = instance();
        let record = InstanceRecord {
            id: InstanceId {
                service: ServiceName::try_from("web").unwrap(),
                replica: Replica(1),
            },
            node: NodeName::try_from("n1").unwrap(),
            container: container.id.clone(),
            digest: container.digest.clone(),
            started_at: container.started_at,
            ready_at: None,
            state: InstanceState::Unhealthy {
                why: "its health check failed".to_owned(),
            },
            endpoints: Vec::new(),
        };
        let mut was_unhealthy = |is_ready_again: bool| {
            let mut liveness = Liveness::recall([&record].into_iter(), at(5));
            container.state = ContainerState::Running { health: None };
            if is_ready_again {
                liveness.note(&container, Answer::Ready, at(6));
            }
            let code = 0;
            container.state = ContainerState::Exited {
                code,
                at: Some(at(7)),
            };
            liveness.note(&container, Answer::NotAsked, at(8));
            liveness.endings()[&container.id].was_unhealthy
        };
        assert!(was_unhealthy(false));
        assert!(!was_unhealthy(true));
    }

    #[test]
    fn pauses_before_restarts_grow_until_a_run_was_ready_for_ten_minutes() {
        let mut liveness = Liveness::default();
        let pauses = [0, 1, 2, 4, 8];
        for (n, pause) in (0..).zip(pauses) {
            // A run of almost ten minutes does not reset the pauses.
            assert_eq!(run_once(&mut liveness, n * 1_000, 599, false), pause);
        }
        // A stop by the manager is not counted, and does not delay the next start.
        assert_eq!(run_once(&mut liveness, 10_000, 60, true), 0);
        assert_eq!(run_once(&mut liveness, 11_000, 60, false), 16);
        assert_eq!(run_once(&mut liveness, 12_000, 600, false), 0);
        assert_eq!(run_once(&mut liveness, 13_000, 60, false), 1);
    }
}
