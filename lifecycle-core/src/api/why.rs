//! Explains the state of a service, replica or node. An explanation contains the declaration, the
//! observations, the decisions of the latest plan, and the latest events. It is computed from the
//! registry's snapshot and the control loop's latest round, without I/O.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use super::last_output::LastOutputV1;

use super::wire::OverrideV1;
use crate::model::{
    DependencyCondition, Event, Generation, HealthcheckTest, ImageSource, InstanceId,
    InstanceState, NodeName, Replica, ServiceName, ServiceSpec, Subject,
};
use crate::platform::{Declaration, Override, OverrideKind};
use crate::reconcile::{
    Endings, EngineView, Held, HeldBy, History, InstanceStatus, Observed, Readiness,
    RolloutProgress, Round, Step,
};
use crate::registry::Snapshot;
use crate::runtime::{ContainerState, Health, ObservedContainer, Role};

/// The maximum length of a chain of causes.
const DEEPEST: usize = 8;

/// How many events are shown as evidence.
const EVIDENCE: usize = 12;

/// The response to `GET /v1/why/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WhyV1 {
    /// The service, replica, node or platform whose state is explained.
    pub subject: Subject,
    /// The answer in a sentence.
    pub answer: String,
    /// Facts from the subject's declaration.
    pub declared: Vec<FactV1>,
    /// Facts from the latest observation of the subject.
    pub observed: Vec<FactV1>,
    /// The latest plan's decisions about the subject, and about the causes of its delay.
    pub decided: Vec<DecisionV1>,
    /// The latest events about the subject and about the causes of its delay, oldest first.
    pub evidence: Vec<Event>,
    /// The last lines of the output of replicas that failed: of the subject, or of those because of
    /// which it waits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<LastOutputV1>,
}

/// A declared or observed fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FactV1 {
    /// The subject of the fact.
    pub about: Subject,
    /// The fact as text.
    pub text: String,
}

/// A decision of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DecisionV1 {
    /// The subject of the decision.
    pub about: Subject,
    /// The decision and its reason as text.
    pub text: String,
    /// The decision as data.
    #[serde(flatten)]
    pub data: DecisionData,
}

/// A decision as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DecisionData {
    /// The plan contains this step for the subject; the step may already be running.
    Step(Box<Step>),
    /// The subject has to wait for this.
    Held(HeldBy),
    /// The service is being rolled out.
    Rollout(RolloutProgress),
    /// There is nothing to do for the subject. This is its status.
    Status(InstanceStatus),
}

/// Explains the state of `subject`. `events` are the latest events, oldest first.
pub fn why(subject: Subject, snapshot: &Snapshot, round: &Round, events: &[Event]) -> WhyV1 {
    let (observed, history) = match &round.input {
        Some(input) => (&*input.observed, &input.history),
        None => (&Observed::default(), &History::default()),
    };
    let known = Known {
        snapshot,
        round,
        observed,
        history,
    };
    let own = known.parts(&subject);
    let decided = known.decisions(&own);
    let about: BTreeSet<&Subject> = decided.iter().map(|d| &d.about).chain(&own).collect();
    let mut evidence: Vec<Event> = events
        .iter()
        .rev()
        .filter(|event| about.contains(&event.event.subject))
        .take(EVIDENCE)
        .cloned()
        .collect();
    evidence.reverse();
    WhyV1 {
        answer: known.answer(&subject, &decided),
        declared: known.declared(&subject),
        observed: own.iter().flat_map(|part| known.observed(part)).collect(),
        decided,
        evidence,
        output: Vec::new(),
        subject,
    }
}

struct Known<'a> {
    snapshot: &'a Snapshot,
    round: &'a Round,
    observed: &'a Observed,
    history: &'a History,
}

impl Known<'_> {
    fn declaration(&self) -> Option<(Generation, &Declaration)> {
        self.snapshot.declaration.as_ref().map(|(g, d)| (*g, d))
    }

    /// Returns the overrides of a service or a node.
    fn overrides(&self, subject: &Subject) -> Vec<Override> {
        let overrides = self.declaration().map(|(_, d)| d.overrides.iter());
        let overrides = overrides.into_iter().flatten();
        overrides.filter(|one| one.subject == *subject).collect()
    }

    fn is_stopped(&self, name: &ServiceName) -> bool {
        let overrides = self.overrides(&Subject::Service(name.clone()));
        overrides
            .iter()
            .any(|one| one.kind == OverrideKind::Stopped)
    }

    fn service(&self, name: &ServiceName) -> Option<&ServiceSpec> {
        self.declaration()?.1.services.get(name)
    }

    /// Returns the subject; for a service, also its replicas.
    fn parts(&self, subject: &Subject) -> Vec<Subject> {
        let mut parts = vec![subject.clone()];
        if let Subject::Service(name) = subject {
            let replicas = self.service(name).map_or(0, |spec| spec.replicas);
            parts.extend((1..=replicas).map(|n| {
                Subject::Instance(InstanceId {
                    service: name.clone(),
                    replica: Replica(n),
                })
            }));
        }
        parts
    }

    fn declared(&self, subject: &Subject) -> Vec<FactV1> {
        let Some((generation, declaration)) = self.declaration() else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        match subject {
            Subject::Service(name) => lines.extend(
                self.service(name)
                    .map(|spec| service_facts(generation, spec))
                    .unwrap_or_default(),
            ),
            Subject::Instance(id) => lines.extend(
                self.service(&id.service)
                    .map(|spec| service_facts(generation, spec))
                    .unwrap_or_default(),
            ),
            Subject::Node(name) => match declaration.nodes.get(name) {
                Some(node) => {
                    let manager = if declaration.manager.node == *name {
                        "; the manager runs on this node"
                    } else {
                        ""
                    };
                    lines.push(format!("declared in generation {generation}{manager}"));
                    if let Some(size) = &node.size {
                        lines.push(format!("size {size}"));
                    }
                    for (label, value) in &node.labels {
                        lines.push(format!("label {label}={value}"));
                    }
                }
                None => lines.push(format!("not declared in generation {generation}")),
            },
            Subject::Platform => lines.push(format!("generation {generation}")),
        }
        let changed = match subject {
            Subject::Instance(id) => &Subject::Service(id.service.clone()),
            subject => subject,
        };
        let overrides = self.overrides(changed).into_iter();
        lines.extend(overrides.map(|one| OverrideV1::from(one).to_string()));
        facts(subject, lines)
    }

    fn observed(&self, subject: &Subject) -> Vec<FactV1> {
        let lines = match subject {
            Subject::Instance(id) => self.containers(id),
            Subject::Node(name) => self.node(name),
            Subject::Service(_) | Subject::Platform => Vec::new(),
        };
        facts(subject, lines)
    }

    fn containers(&self, id: &InstanceId) -> Vec<String> {
        let mut lines = Vec::new();
        for (node, view) in &self.observed.nodes {
            let containers = view.engine_state().into_iter().flat_map(|s| &s.containers);
            for container in containers {
                if container.role == Role::Instance(id.clone()) {
                    let readiness = view.readiness.get(&container.id);
                    let endings = self.history.endings.get(&container.id);
                    lines.push(container_text(node, container, readiness, endings));
                }
            }
        }
        if !lines.is_empty() {
            return lines;
        }
        // A standby manager observes nothing; use the leader's records.
        let records = self.snapshot.instances.values();
        lines.extend(records.filter(|r| r.id == *id).map(|record| {
            format!(
                "last recorded: {} on {}, container {}",
                record.state.word(),
                record.node,
                short(&record.container.0)
            )
        }));
        if lines.is_empty() {
            lines.push("the replica has no container".into());
        }
        lines
    }

    fn node(&self, name: &NodeName) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(unknown) = &self.observed.cloud_unknown {
            lines.push(format!(
                "the cloud's list of nodes has been unavailable since {}: {}",
                unknown.since.format("%H:%M:%S"),
                unknown.why
            ));
        }
        let Some(view) = self.observed.nodes.get(name) else {
            let record = self.snapshot.nodes.get(name);
            lines.push(match record.and_then(|r| r.unknown.as_ref()) {
                Some(unknown) => format!("last recorded: unknown state: {}", unknown.why),
                None if record.is_some_and(|r| r.observed.is_some()) => {
                    "last recorded: the machine exists".into()
                }
                None => "the cloud has no such node".into(),
            });
            return lines;
        };
        lines.push(format!(
            "the cloud reports: {}",
            format!("{:?}", view.machine.power).to_lowercase()
        ));
        lines.push(match &view.engine {
            EngineView::NotAsked => "the node's engine has not been polled yet".into(),
            EngineView::Missing => "the node responds, but its Docker engine does not".into(),
            EngineView::Known { info, state } => format!(
                "Docker {} responds; {} of this platform",
                info.version,
                counted(state.containers.len(), "container")
            ),
            EngineView::Unknown(unknown) => format!(
                "the node has been unreachable since {}: {}",
                unknown.since.format("%H:%M:%S"),
                unknown.why
            ),
        });
        if let Some(unknown) = &view.not_responding {
            lines.push(format!(
                "the node has not responded since {}: {}",
                unknown.since.format("%H:%M:%S"),
                unknown.why
            ));
        }
        lines
    }

    /// Returns the plan's decisions about the subjects in `own`, followed by those about the causes
    /// of their delay.
    fn decisions(&self, own: &[Subject]) -> Vec<DecisionV1> {
        let plan = &self.round.plan;
        let mut decided: Vec<DecisionV1> = own
            .first()
            .and_then(|s| self.rollout(s))
            .into_iter()
            .collect();
        let mut seen: BTreeSet<Subject> = own.iter().cloned().collect();
        let mut waiting: VecDeque<(Subject, usize)> = own.iter().map(|s| (s.clone(), 0)).collect();
        let mut listed = BTreeSet::new();
        while let Some((subject, depth)) = waiting.pop_front() {
            let before = decided.len();
            for step in plan.steps.iter().filter(|step| is_for(step, &subject)) {
                if listed.insert(&step.id) {
                    decided.push(self.step(step, &subject));
                }
            }
            let mut next = Vec::new();
            for held in plan.held.iter().filter(|held| held.subject == subject) {
                let decision = DecisionV1 {
                    about: subject.clone(),
                    text: format!("held: {}", held.by),
                    data: DecisionData::Held(held.by.clone()),
                };
                if !decided.contains(&decision) {
                    decided.push(decision);
                }
                next.extend(self.causes(held));
            }
            if let Subject::Instance(id) = &subject
                && decided.len() == before
                && let Some(status) = plan.instances.get(id)
            {
                decided.push(status_of(id, status));
            }
            if depth < DEEPEST {
                for part in next.iter().flat_map(|subject| self.parts(subject)) {
                    if seen.insert(part.clone()) {
                        waiting.push_back((part, depth + 1));
                    }
                }
            }
        }
        decided
    }

    /// Returns the progress of the rollout of a service, or of a replica's service.
    fn rollout(&self, subject: &Subject) -> Option<DecisionV1> {
        let service = match subject {
            Subject::Service(service) => service,
            Subject::Instance(id) => &id.service,
            Subject::Node(_) | Subject::Platform => return None,
        };
        let progress = self.round.plan.rollouts.get(service)?;
        Some(DecisionV1 {
            about: Subject::Service(service.clone()),
            text: progress.to_string(),
            data: DecisionData::Rollout(progress.clone()),
        })
    }

    fn step(&self, step: &Step, subject: &Subject) -> DecisionV1 {
        let running = self.round.running.iter().find(|r| r.id == step.id);
        let text = match running {
            Some(running) => format!(
                "running since {}: {}: {}{}",
                running.since.format("%H:%M:%S"),
                step.action,
                step.reason,
                match &running.last_line {
                    Some(line) => format!(" (last output: {line})"),
                    None => String::new(),
                }
            ),
            None if step.needs.is_empty() => format!("next: {}: {}", step.action, step.reason),
            None => format!(
                "planned, after {}: {}: {}",
                counted(step.needs.len(), "other step"),
                step.action,
                step.reason
            ),
        };
        DecisionV1 {
            about: subject.clone(),
            text,
            data: DecisionData::Step(Box::new(step.clone())),
        }
    }

    /// Returns the subjects that `held` waits for.
    fn causes(&self, held: &Held) -> Vec<Subject> {
        match &held.by {
            HeldBy::Dependency { service, .. }
            | HeldBy::StartsLast { service, .. }
            | HeldBy::StopsAfter { service }
            | HeldBy::ReplacedAfterService { service } => vec![Subject::Service(service.clone())],
            HeldBy::Node { node }
            | HeldBy::Agent { node, .. }
            | HeldBy::AgentReplacedAfter { node }
            | HeldBy::NodeUnknown { node, .. }
            | HeldBy::NodeNotResponding { node, .. }
            | HeldBy::StaysOnDrained { node, .. }
            | HeldBy::NodeChanging { node, .. } => vec![Subject::Node(node.clone())],
            HeldBy::Port { holder: id, .. }
            | HeldBy::RestartsAfter { replica: id }
            | HeldBy::NodeRestartsAfter { replica: id }
            | HeldBy::NodeStopsAfter { replica: id }
            | HeldBy::ReplacedAfter { replica: id } => vec![Subject::Instance(id.clone())],
            // The cause is the subject whose step provides the image and waits for its next retry.
            HeldBy::Image { image } | HeldBy::Comparison { image } => {
                let plan = &self.round.plan;
                let names = |by: &HeldBy| matches!(by, HeldBy::Backoff { step, .. } if step.image() == Some(image));
                let other = plan.held.iter().filter(|h| h.subject != held.subject);
                other
                    .filter(|h| names(&h.by))
                    .map(|h| h.subject.clone())
                    .collect()
            }
            HeldBy::CloudUnknown { .. }
            | HeldBy::NodeIsStopped { .. }
            | HeldBy::NotReadyYet { .. }
            | HeldBy::Running { .. }
            | HeldBy::VolumeVanished { .. }
            | HeldBy::Backoff { .. }
            | HeldBy::StillUsed
            | HeldBy::NoNodeFits { .. }
            | HeldBy::RolloutDelay { .. }
            | HeldBy::TooFewReady { .. }
            | HeldBy::RolloutPaused { .. }
            | HeldBy::Monitored { .. }
            | HeldBy::Failed { .. } => Vec::new(),
        }
    }

    fn answer(&self, subject: &Subject, decided: &[DecisionV1]) -> String {
        if self.round.input.is_none() {
            return format!("{subject}: this manager has no plan yet; the recorded state follows");
        }
        let first_of = |is: fn(&DecisionData) -> bool| decided.iter().find(|d| is(&d.data));
        let instances: Vec<&InstanceStatus> = self
            .parts(subject)
            .iter()
            .filter_map(|part| match part {
                Subject::Instance(id) => self.round.plan.instances.get(id),
                _ => None,
            })
            .collect();
        let up = instances.iter().filter(|i| is_up(&i.state)).count();
        let held = first_of(|data| matches!(data, DecisionData::Held(_)));
        let step = first_of(|data| matches!(data, DecisionData::Step(_)));
        let failed = instances.iter().find_map(|i| match &i.state {
            InstanceState::Failed { why } => Some(why),
            _ => None,
        });
        let first = match (failed, step, held) {
            (Some(why), _, _) => format!("failed: {why}"),
            (None, Some(step), _) => step.text.clone(),
            (None, None, Some(held)) if held.about == *subject => held.text.clone(),
            (None, None, Some(held)) => format!("{}: {}", held.about, held.text),
            (None, None, None) => match subject {
                Subject::Service(name) if self.is_stopped(name) => {
                    format!("stopped on request; `bootstrapper start {name}` starts it")
                }
                _ => "as declared; there is nothing to do".into(),
            },
        };
        match (subject, instances.len()) {
            (Subject::Service(name), all) => {
                let replicas = match all {
                    1 => "replica is",
                    _ => "replicas are",
                };
                format!("{name}: {up} of {all} {replicas} up; {first}")
            }
            (subject, _) => format!("{subject}: {first}"),
        }
    }
}

fn facts(about: &Subject, lines: Vec<String>) -> Vec<FactV1> {
    let fact = |text| FactV1 {
        about: about.clone(),
        text,
    };
    lines.into_iter().map(fact).collect()
}

fn is_up(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Ready | InstanceState::Completed)
}

/// Returns whether a step is about the subject, or provides an image that the subject needs.
fn is_for(step: &Step, subject: &Subject) -> bool {
    use crate::reconcile::Reason;
    step.action.subject() == *subject
        || matches!(&step.reason, Reason::ImageAbsent { needed_by, .. } if needed_by == subject)
}

fn status_of(id: &InstanceId, status: &InstanceStatus) -> DecisionV1 {
    let place = status
        .node
        .as_ref()
        .map_or_else(String::new, |node| format!(" on {node}"));
    let why = match &status.state {
        InstanceState::Failed { why }
        | InstanceState::Unhealthy { why }
        | InstanceState::Unknown { why, .. } => format!(": {why}"),
        _ => String::new(),
    };
    DecisionV1 {
        about: Subject::Instance(id.clone()),
        text: format!("stays {}{place}{why}", status.state.word()),
        data: DecisionData::Status(status.clone()),
    }
}

fn service_facts(generation: Generation, spec: &ServiceSpec) -> Vec<String> {
    let source = match &spec.source {
        ImageSource::Build(build) => format!("built from the code base {}", build.code.name),
        ImageSource::Image(image) => format!("image {image}"),
    };
    let replicas = counted(spec.replicas.into(), "replica");
    let mut lines = vec![format!("generation {generation}: {replicas}, {source}")];
    for (service, condition) in &spec.depends_on {
        lines.push(match condition {
            DependencyCondition::ServiceStarted => format!("starts after {service} has started"),
            DependencyCondition::ServiceHealthy => format!("starts after {service} is ready"),
            DependencyCondition::ServiceCompletedSuccessfully => {
                format!("starts after {service} has completed")
            }
        });
    }
    for constraint in &spec.constraints {
        lines.push(format!("placed only where {constraint}"));
    }
    let check = match &spec.ready {
        Some(ready) => format!("GET :{}{} succeeds", ready.port, ready.path),
        None => match spec.container.healthcheck.as_ref().map(|check| &check.test) {
            Some(HealthcheckTest::None) => PORTS_ACCEPT.to_owned(),
            Some(_) => "its health check passes".to_owned(),
            None => format!("its image's health check passes; if there is none: {PORTS_ACCEPT}"),
        },
    };
    lines.push(format!(
        "ready when {check}, within {}",
        humantime::format_duration(spec.ready_within)
    ));
    lines
}

fn container_text(
    node: &NodeName,
    container: &ObservedContainer,
    readiness: Option<&Readiness>,
    endings: Option<&Endings>,
) -> String {
    let state = match &container.state {
        ContainerState::Created => "was created but never started".to_owned(),
        ContainerState::Running { health } => {
            let since = container
                .started_at
                .map(|at| format!(" since {}", at.format("%H:%M:%S")))
                .unwrap_or_default();
            let health = match health {
                None => "",
                Some(Health::Starting) => ", health check: starting",
                Some(Health::Healthy) => ", health check: healthy",
                Some(Health::Unhealthy) => ", health check: unhealthy",
            };
            let ready = match readiness {
                Some(Readiness::Ready { at }) => format!(", ready since {}", at.format("%H:%M:%S")),
                Some(Readiness::Waiting {
                    since,
                    was_ready,
                    why,
                }) => {
                    let since = if *was_ready {
                        format!(" since {}", since.format("%H:%M:%S"))
                    } else {
                        String::new()
                    };
                    let why = why.as_ref().map(|why| format!(" ({why})"));
                    format!(", not ready{since}{}", why.unwrap_or_default())
                }
                None => ", not ready (not checked yet)".to_owned(),
            };
            format!("runs{since}{health}{ready}")
        }
        ContainerState::Paused => "is paused".into(),
        ContainerState::Exited { at, .. } => {
            let at = at.map(|at| format!(" at {}", at.format("%H:%M:%S")));
            let exit = container.exit().unwrap_or_default();
            format!("ended{} with {exit}", at.unwrap_or_default())
        }
    };
    let endings = match endings {
        Some(endings) if endings.recent > 0 => {
            let last = endings.last.as_ref();
            let last = last.map(|last| format!(", the last time with {last}"));
            format!(
                "; the container has ended {}×{}",
                endings.recent,
                last.unwrap_or_default()
            )
        }
        Some(_) | None => String::new(),
    };
    format!("container {} on {node} {state}{endings}", container.name)
}

/// The readiness rule of a container without a health check.
const PORTS_ACCEPT: &str =
    "its ports accept connections (if it has no ports: when its container runs)";

/// Returns a number with its noun in the right form.
fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Plan;

    #[test]
    fn the_chain_of_causes_is_followed_to_its_end() {
        let replica = |name: &str, replica| InstanceId {
            service: name.try_into().unwrap(),
            replica: Replica(replica),
        };
        let node: NodeName = "a".try_into().unwrap();
        let since = chrono::DateTime::UNIX_EPOCH;
        let held = |subject: Subject, by: HeldBy| Held::new(subject, by);
        let held = vec![
            held(
                Subject::Instance(replica("web", 2)),
                HeldBy::RestartsAfter {
                    replica: replica("web", 1),
                },
            ),
            held(
                Subject::Instance(replica("web", 1)),
                HeldBy::Agent {
                    node: node.clone(),
                    since,
                    why: "it is about to start".into(),
                },
            ),
            held(
                Subject::Node(node.clone()),
                HeldBy::CloudUnknown {
                    since,
                    why: "no answer".into(),
                },
            ),
        ];
        let plan = Plan {
            held,
            ..Plan::default()
        };
        let round = Round {
            plan: std::sync::Arc::new(plan),
            ..Round::default()
        };
        let why = why(
            Subject::Instance(replica("web", 2)),
            &Snapshot::default(),
            &round,
            &[],
        );
        let about: Vec<&Subject> = why.decided.iter().map(|decision| &decision.about).collect();
        assert_eq!(
            about,
            [
                &Subject::Instance(replica("web", 2)),
                &Subject::Instance(replica("web", 1)),
                &Subject::Node(node)
            ]
        );
    }

    #[test]
    fn a_number_has_its_noun_in_the_right_form() {
        assert_eq!(counted(0, "container"), "0 containers");
        assert_eq!(counted(1, "container"), "1 container");
        assert_eq!(counted(2, "container"), "2 containers");
    }
}
