//! The conformance suite for [`ContainerRuntime`]. Each check creates its own containers with the
//! fixture's prefix, and removes them.
#![expect(
    clippy::missing_panics_doc,
    reason = "each check panics if the engine fails it"
)]

mod commands;
mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

pub use commands::commands_run_in_containers;
pub use images::{
    images_are_built_and_removed, images_are_copied, images_are_found_by_name,
    images_have_several_names, unchanged_images_keep_their_id,
};

use crate::error::{Error, Result};
use crate::model::{
    ContainerTemplate, InstanceId, PortChoice, Protocol, PublishedPort, Replica, ServiceName,
    SpecDigest, VolumeMount, VolumeName,
};
use crate::runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, LogLine, LogOptions, ObservedContainer, Owner,
    Role,
};

/// The time limit of each operation.
const DEADLINE: Duration = Duration::from_mins(2);
/// The polling interval.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// The port that the suite's containers expose.
const PORT: (u16, Protocol) = (8080, Protocol::Tcp);

/// An engine for the checks.
#[derive(Debug, Clone)]
pub struct RuntimeFixture {
    /// The engine, as the owner sees it.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The owner of the containers.
    pub owner: Owner,
    /// The same engine, as another platform sees it.
    pub stranger: (Arc<dyn ContainerRuntime>, Owner),
    /// Another engine, for copying images, if there is one.
    pub other_engine: Option<Arc<dyn ContainerRuntime>>,
    /// The prefix of all names of containers and images.
    pub prefix: String,
    /// An image on the engine that exposes no port and has no health check.
    pub image: String,
    /// A command in this image that runs for minutes.
    pub runs_long: Vec<String>,
    /// A command in this image that soon exits with code 0.
    pub exits_0: Vec<String>,
    /// A command in this image that soon exits with code 3.
    pub exits_3: Vec<String>,
    /// A command in this image that writes `out` to standard output and `err` to standard error,
    /// and exits.
    pub prints: Vec<String>,
    /// The first of three consecutive free host ports from 20000 to 29999.
    pub free_port: u16,
}

impl RuntimeFixture {
    /// Returns the specification of a container that belongs to the owner and runs `command`.
    pub fn container(&self, service: &str, command: &[String]) -> ContainerSpec {
        let service = done("the service's name", ServiceName::try_from(service));
        ContainerSpec {
            name: format!("{}-{service}-1", self.prefix),
            owner: self.owner.clone(),
            role: Role::Instance(InstanceId {
                service,
                replica: Replica(1),
            }),
            digest: SpecDigest::from_hex("0a".repeat(32)),
            template_digest: Some(SpecDigest::from_hex("0b".repeat(32))),
            image: self.image.clone(),
            template: ContainerTemplate {
                command: Some(command.to_vec()),
                stop_grace: Some(Duration::from_secs(1)),
                ..ContainerTemplate::default()
            },
            used_volumes: BTreeSet::new(),
            ports: BTreeMap::new(),
            binds: Vec::new(),
            host_network: false,
            joins: None,
            starts_with_engine: false,
        }
    }

    async fn find(&self, name: &str) -> Option<ObservedContainer> {
        let state = done("state", self.runtime.state().await);
        state.containers.into_iter().find(|c| c.name == name)
    }

    async fn get(&self, name: &str) -> ObservedContainer {
        match self.find(name).await {
            Some(container) => container,
            None => panic!("the state does not contain {name}"),
        }
    }

    async fn ensure(&self, spec: &ContainerSpec) -> ObservedContainer {
        let what = format!("ensuring {}", spec.name);
        done(&what, self.runtime.ensure_container(spec).await)
    }

    async fn stop(&self, name: &str) {
        let grace = Some(Duration::from_secs(1));
        done("stop", self.runtime.stop_container(name, grace).await);
    }

    async fn remove(&self, name: &str) {
        done("remove", self.runtime.remove_container(name).await);
        assert_eq!(
            self.find(name).await,
            None,
            "{name} exists after its removal"
        );
    }

    /// Waits until a container has exited; returns its exit code.
    async fn ended(&self, name: &str) -> i64 {
        let polls = async {
            loop {
                if let ContainerState::Exited { code, at } = self.get(name).await.state {
                    assert!(at.is_some(), "the engine must report when {name} exited");
                    return code;
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        };
        in_time(&format!("the exit of {name}"), polls).await
    }

    async fn logs(&self, name: &str, options: LogOptions) -> Vec<LogLine> {
        let lines = async {
            let mut stream = done("logs", self.runtime.logs(name, options).await);
            let mut lines = Vec::new();
            while let Some(line) = stream.next().await {
                lines.push(done("a line", line));
            }
            lines
        };
        in_time(&format!("the logs of {name}"), lines).await
    }

    fn tag(&self, name: &str) -> String {
        format!("{}/{name}:1", self.prefix)
    }
}

/// Runs all checks in sequence.
pub async fn all(fixture: &RuntimeFixture) {
    missing_objects_are_no_error(fixture).await;
    images_are_found_by_name(fixture).await;
    ensure_twice_is_the_same_container(fixture).await;
    ensure_restarts_a_stopped_container(fixture).await;
    another_digest_is_a_conflict(fixture).await;
    a_missing_image_creates_no_container(fixture).await;
    exit_codes_are_reported(fixture).await;
    a_used_published_port_is_a_conflict(fixture).await;
    a_used_preferred_port_is_replaced(fixture).await;
    a_joined_network_belongs_to_its_container(fixture).await;
    a_port_of_several_is_chosen(fixture).await;
    containers_of_other_platforms_are_not_changed(fixture).await;
    volumes_belong_to_the_platform(fixture).await;
    a_vanished_volume_is_not_created(fixture).await;
    logs_separate_the_streams(fixture).await;
    commands_run_in_containers(fixture).await;
    the_end_of_a_container_is_an_event(fixture).await;
    images_are_built_and_removed(fixture).await;
    unchanged_images_keep_their_id(fixture).await;
    images_have_several_names(fixture).await;
    images_are_copied(fixture).await;
}

/// Checks that stopping or removing a missing object succeeds, and that starting a missing
/// container or reading its output fails.
pub async fn missing_objects_are_no_error(fixture: &RuntimeFixture) {
    let runtime = &fixture.runtime;
    let info = done("info", runtime.info().await);
    assert!(!info.version.is_empty(), "{info:?}");
    let name = format!("{}-absent-1", fixture.prefix);
    fixture.stop(&name).await;
    fixture.remove(&name).await;
    let volume = done("name", VolumeName::try_from("absent"));
    done("no volume", runtime.remove_volume(&volume).await);
    done(
        "no image",
        runtime.remove_image(&fixture.tag("absent")).await,
    );
    is_not_found("start", &runtime.start_container(&name).await);
    let logs = runtime.logs(&name, LogOptions::default()).await;
    is_not_found("logs", &logs.map(|_| ()));
}

/// Checks that ensuring a running container changes nothing.
pub async fn ensure_twice_is_the_same_container(fixture: &RuntimeFixture) {
    let spec = fixture.container("twice", &fixture.runs_long);
    let first = fixture.ensure(&spec).await;
    assert_eq!(first.state, ContainerState::Running { health: None });
    assert!(first.started_at.is_some(), "{first:?}");
    assert_eq!(
        (&first.name, &first.role, &first.digest),
        (&spec.name, &spec.role, &spec.digest)
    );
    assert_eq!(first.digest_version, SpecDigest::VERSION);
    assert_eq!(fixture.ensure(&spec).await, first, "ensured twice");
    assert_eq!(fixture.get(&spec.name).await, first, "in the state");
    let (left, right) = tokio::join!(
        fixture.runtime.ensure_container(&spec),
        fixture.runtime.ensure_container(&spec)
    );
    assert_eq!(done("ensured concurrently", left), first);
    assert_eq!(done("ensured concurrently", right), first);
    fixture.remove(&spec.name).await;
    let (left, right) = tokio::join!(
        fixture.runtime.ensure_container(&spec),
        fixture.runtime.ensure_container(&spec)
    );
    // A concurrent second call may fail, but must not create another container.
    let created = fixture.ensure(&spec).await;
    for outcome in [left, right] {
        match outcome {
            Ok(container) => assert_eq!(container.id, created.id, "created concurrently"),
            Err(_) => is_conflict("creating concurrently", &outcome),
        }
    }
    assert_ne!(
        created.id, first.id,
        "a re-created container must have another id"
    );
    fixture.remove(&spec.name).await;
}

/// Checks that a stopped container is started again, not re-created.
pub async fn ensure_restarts_a_stopped_container(fixture: &RuntimeFixture) {
    let spec = fixture.container("again", &fixture.runs_long);
    let first = fixture.ensure(&spec).await;
    for _ in 0..2 {
        fixture.stop(&spec.name).await;
        let stopped = fixture.get(&spec.name).await;
        assert!(
            matches!(stopped.state, ContainerState::Exited { .. }),
            "{stopped:?}"
        );
        assert_eq!(stopped.id, first.id);
    }
    let second = fixture.ensure(&spec).await;
    assert_eq!(second.id, first.id, "the same container");
    assert_eq!(second.state, ContainerState::Running { health: None });
    assert!(second.started_at > first.started_at, "{second:?}");

    fixture.stop(&spec.name).await;
    for _ in 0..2 {
        done("start", fixture.runtime.start_container(&spec.name).await);
    }
    let third = fixture.get(&spec.name).await;
    assert_eq!(third.state, ContainerState::Running { health: None });
    assert!(third.started_at > second.started_at, "{third:?}");
    fixture.remove(&spec.name).await;
}

/// Checks that an existing container's name cannot be used for another specification.
pub async fn another_digest_is_a_conflict(fixture: &RuntimeFixture) {
    let spec = fixture.container("digest", &fixture.runs_long);
    let first = fixture.ensure(&spec).await;
    let other = ContainerSpec {
        digest: SpecDigest::from_hex("0b".repeat(32)),
        ..spec.clone()
    };
    is_conflict(
        "another digest",
        &fixture.runtime.ensure_container(&other).await,
    );
    assert_eq!(
        fixture.get(&spec.name).await,
        first,
        "the container was changed"
    );
    fixture.remove(&spec.name).await;
}

/// Checks that no container is created if its image is missing.
pub async fn a_missing_image_creates_no_container(fixture: &RuntimeFixture) {
    let spec = ContainerSpec {
        image: fixture.tag("absent"),
        ..fixture.container("imageless", &fixture.runs_long)
    };
    let outcome = fixture.runtime.ensure_container(&spec).await;
    is_not_found("creating a container without its image", &outcome);
    assert_eq!(fixture.find(&spec.name).await, None);
}

/// Checks that the exit and the exit code of a command are reported, and that the container is not
/// restarted.
pub async fn exit_codes_are_reported(fixture: &RuntimeFixture) {
    for (service, command, code) in [
        ("zero", &fixture.exits_0, 0),
        ("three", &fixture.exits_3, 3),
    ] {
        let spec = fixture.container(service, command);
        let first = fixture.ensure(&spec).await;
        assert_eq!(fixture.ended(&spec.name).await, code, "{command:?}");
        let ended = fixture.get(&spec.name).await;
        assert_eq!(
            ended.started_at, first.started_at,
            "the container was restarted"
        );
        let again = fixture.ensure(&spec).await;
        assert_eq!(again.id, first.id);
        assert!(again.started_at > first.started_at, "{again:?}");
        assert_eq!(fixture.ended(&spec.name).await, code, "{command:?}");
        fixture.remove(&spec.name).await;
    }
}

/// Checks that a container whose template publishes a host port gets this port and a chosen one, and
/// that it cannot start while another container uses the published port.
pub async fn a_used_published_port_is_a_conflict(fixture: &RuntimeFixture) {
    let port = fixture.free_port;
    let published = |service| {
        let mut spec = fixture.container(service, &fixture.runs_long);
        spec.ports.insert(PORT, port);
        spec.template.ports = vec![PublishedPort {
            host_port: Some(port),
            container_port: PORT.0,
            protocol: PORT.1,
            host_ip: None,
        }];
        spec
    };
    let has_both = |ports: &[(u16, Protocol, u16)]| {
        let is_same = |bound: &&(u16, Protocol, u16)| (bound.0, bound.1) == PORT;
        let hosts: BTreeSet<u16> = ports.iter().filter(is_same).map(|bound| bound.2).collect();
        hosts.len() == 2 && hosts.contains(&port)
    };
    let (one, two) = (published("published"), published("published-too"));
    let first = fixture.ensure(&one).await;
    assert!(has_both(&first.ports), "{first:?}");
    is_conflict("a used port", &fixture.runtime.ensure_container(&two).await);
    let runs = fixture.find(&two.name).await.map(|c| c.state);
    assert!(
        !matches!(runs, Some(ContainerState::Running { .. })),
        "{runs:?}"
    );
    fixture.remove(&one.name).await;
    let second = fixture.ensure(&two).await;
    assert!(has_both(&second.ports), "once the port is free: {second:?}");
    fixture.remove(&two.name).await;
}

/// Checks that a preferred host port that is in use is replaced by the next free one.
pub async fn a_used_preferred_port_is_replaced(fixture: &RuntimeFixture) {
    let port = fixture.free_port;
    let preferred = |service| ContainerSpec {
        ports: BTreeMap::from([(PORT, port)]),
        ..fixture.container(service, &fixture.runs_long)
    };
    let (one, two) = (preferred("preferred"), preferred("preferred-too"));
    let first = fixture.ensure(&one).await;
    assert_eq!(first.ports, [(PORT.0, PORT.1, port)]);
    let second = fixture.ensure(&two).await;
    let host = second.ports.first().map(|(_, _, host)| *host);
    assert!(
        host.is_some_and(|host| host != port && (20_000..=29_999).contains(&host)),
        "{second:?}"
    );
    assert_eq!(
        fixture.ensure(&two).await,
        second,
        "the port must not change"
    );
    fixture.remove(&one.name).await;
    fixture.remove(&two.name).await;
}

/// Checks that a container that joins the network of another one reports that container and no ports
/// of its own, that it can be restarted after that container, and that it cannot start without it.
pub async fn a_joined_network_belongs_to_its_container(fixture: &RuntimeFixture) {
    let runtime = &fixture.runtime;
    let joined = ContainerSpec {
        ports: BTreeMap::from([(PORT, fixture.free_port)]),
        ..fixture.container("joined", &fixture.runs_long)
    };
    let mut joining = ContainerSpec {
        joins: Some(joined.name.clone()),
        ..fixture.container("joining", &fixture.runs_long)
    };
    joining.template.expose = vec![PORT];
    let missing = runtime.ensure_container(&joining).await;
    is_not_found("joining a missing container", &missing);
    let first = fixture.ensure(&joined).await;
    assert_eq!(first.joins, None);
    let second = fixture.ensure(&joining).await;
    assert_eq!(second.joins.as_ref(), Some(&first.id));
    assert_eq!(
        (&second.ports[..], &second.exposed[..]),
        (&[][..], &[PORT][..])
    );
    assert!(!second.has_lost_network(&first), "{first:?} {second:?}");
    let one = done("container", runtime.container(&joining.name).await);
    assert_eq!(
        one.as_ref(),
        Some(&second),
        "`state` and `container` differ"
    );

    fixture.stop(&joined.name).await;
    let again = fixture.ensure(&joined).await;
    assert_eq!(again.id, first.id);
    let lost = fixture.get(&joining.name).await;
    assert!(lost.has_lost_network(&again), "{again:?} {lost:?}");
    fixture.stop(&joining.name).await;
    let restarted = fixture.ensure(&joining).await;
    assert_eq!(
        (&restarted.id, &restarted.joins),
        (&second.id, &second.joins)
    );
    assert!(
        !restarted.has_lost_network(&again),
        "{again:?} {restarted:?}"
    );

    fixture.stop(&joining.name).await;
    fixture.stop(&joined.name).await;
    let start = runtime.start_container(&joining.name).await;
    assert!(start.is_err(), "the container started without a network");
    fixture.remove(&joined.name).await;
    let start = runtime.start_container(&joining.name).await;
    assert!(start.is_err(), "the container started without a network");
    fixture.remove(&joining.name).await;
}

/// Checks that each container gets another one of several host ports and keeps it, and that none
/// starts if all are in use.
pub async fn a_port_of_several_is_chosen(fixture: &RuntimeFixture) {
    let candidates = vec![fixture.free_port, fixture.free_port + 1];
    let choosing = |service| {
        let mut spec = fixture.container(service, &fixture.runs_long);
        spec.template.expose = vec![PORT];
        spec.template.port_choices = vec![PortChoice {
            candidates: candidates.clone(),
            container_port: PORT.0,
            protocol: PORT.1,
            host_ip: None,
        }];
        spec
    };
    let [one, two, three] = ["choice", "choice-too", "choice-more"].map(choosing);
    let bound = |port| vec![(PORT.0, PORT.1, port)];
    let first = fixture.ensure(&one).await;
    assert_eq!(first.ports, bound(candidates[0]));
    let second = fixture.ensure(&two).await;
    assert_eq!(second.ports, bound(candidates[1]));
    assert!(
        fixture.runtime.ensure_container(&three).await.is_err(),
        "all ports are in use"
    );
    assert_eq!(fixture.ensure(&two).await, second);
    fixture.remove(&one.name).await;
    assert_eq!(fixture.ensure(&two).await, second);
    let third = fixture.ensure(&three).await;
    assert_eq!(third.ports, bound(candidates[0]));
    fixture.remove(&two.name).await;
    fixture.remove(&three.name).await;
}

/// Checks that containers of other platforms are neither shown nor changed.
pub async fn containers_of_other_platforms_are_not_changed(fixture: &RuntimeFixture) {
    let (stranger, other) = &fixture.stranger;
    let spec = fixture.container("foreign", &fixture.runs_long);
    let ours = fixture.ensure(&spec).await;
    let theirs = ContainerSpec {
        owner: other.clone(),
        ..spec.clone()
    };
    is_conflict("a used name", &stranger.ensure_container(&theirs).await);
    let state = done("their state", stranger.state().await);
    let names: Vec<_> = state.containers.iter().map(|c| &c.name).collect();
    assert!(
        !names.contains(&&spec.name),
        "another platform sees this platform's container"
    );
    // Both calls may fail or do nothing, as long as the container is not changed.
    let _ = stranger.stop_container(&spec.name, None).await;
    let _ = stranger.remove_container(&spec.name).await;
    assert_eq!(
        fixture.get(&spec.name).await,
        ours,
        "another platform changed the container"
    );
    fixture.remove(&spec.name).await;
    let own = ContainerSpec {
        name: format!("{}-own", spec.name),
        ..theirs
    };
    done("their own", stranger.ensure_container(&own).await);
    assert_eq!(
        fixture.find(&own.name).await,
        None,
        "the container of another platform is shown"
    );
    done("their own", stranger.remove_container(&own.name).await);
}

/// Checks that neither a container nor a volume is created if a volume that was used before is missing.
pub async fn a_vanished_volume_is_not_created(fixture: &RuntimeFixture) {
    let volume = done("name", VolumeName::try_from("conformance-vanished"));
    let mut new = fixture.container("vanished", &fixture.runs_long);
    new.template.volumes.push(VolumeMount {
        volume: volume.clone(),
        target: "/data".into(),
        read_only: false,
        options: crate::model::VolumeOptions::default(),
    });
    let again = ContainerSpec {
        used_volumes: BTreeSet::from([volume.clone()]),
        ..new.clone()
    };
    let outcome = fixture.runtime.ensure_container(&again).await;
    is_conflict("creating a container without its data", &outcome);
    assert_eq!(fixture.find(&new.name).await, None);
    let state = done("state", fixture.runtime.state().await);
    assert!(!state.volumes.contains(&volume), "the volume was created");
    for spec in [&new, &again] {
        fixture.ensure(spec).await;
        fixture.remove(&spec.name).await;
    }
    let removed = fixture.runtime.remove_volume(&volume).await;
    done("removing the volume", removed);
}

/// Checks that volumes are created with their container, listed, kept when the container is
/// removed, and removed on request. Two platforms may each have a volume with the same name.
pub async fn volumes_belong_to_the_platform(fixture: &RuntimeFixture) {
    let volume = done("name", VolumeName::try_from("conformance-data"));
    let mut spec = fixture.container("volume", &fixture.runs_long);
    spec.template.volumes.push(VolumeMount {
        volume: volume.clone(),
        target: "/data".into(),
        read_only: false,
        options: crate::model::VolumeOptions::default(),
    });
    let listed = |runtime: Arc<dyn ContainerRuntime>| {
        let volume = volume.clone();
        async move {
            done("state", runtime.state().await)
                .volumes
                .contains(&volume)
        }
    };
    fixture.ensure(&spec).await;
    let (stranger, _) = &fixture.stranger;
    assert!(
        listed(fixture.runtime.clone()).await,
        "the volume is not listed"
    );
    assert!(
        !listed(stranger.clone()).await,
        "another platform sees the volume"
    );
    done(
        "removing a missing volume",
        stranger.remove_volume(&volume).await,
    );
    let outcome = fixture.runtime.remove_volume(&volume).await;
    is_conflict("removing a volume in use", &outcome);
    fixture.remove(&spec.name).await;
    assert!(
        listed(fixture.runtime.clone()).await,
        "the volume was removed with its container"
    );
    for _ in 0..2 {
        done(
            "removing the volume",
            fixture.runtime.remove_volume(&volume).await,
        );
    }
    assert!(
        !listed(fixture.runtime.clone()).await,
        "the volume is listed after its removal"
    );
}

/// Checks that log lines are complete and have the right stream. A tail returns the last lines. A
/// followed log ends when its container exits.
pub async fn logs_separate_the_streams(fixture: &RuntimeFixture) {
    let spec = fixture.container("prints", &fixture.prints);
    fixture.ensure(&spec).await;
    let follow = LogOptions {
        tail: None,
        follow: true,
        ..LogOptions::default()
    };
    let mut followed = fixture.logs(&spec.name, follow).await;
    fixture.ended(&spec.name).await;
    let mut lines = fixture.logs(&spec.name, LogOptions::default()).await;
    // The order between the two streams is not defined.
    followed.sort_by_key(|line| line.stderr);
    lines.sort_by_key(|line| line.stderr);
    let line = |stderr, text: &str| LogLine {
        stderr,
        text: text.to_owned(),
        ..LogLine::default()
    };
    let expected = [line(false, "out"), line(true, "err")];
    assert_eq!(lines, expected);
    assert_eq!(followed, expected, "followed");
    let tail = LogOptions {
        tail: Some(1),
        follow: false,
        ..LogOptions::default()
    };
    assert_eq!(fixture.logs(&spec.name, tail).await.len(), 1, "tail 1");
    fixture.remove(&spec.name).await;
}

/// Checks that the engine reports the exit of a container as an event with the container's id. For
/// this id, `container` must then return the same state as `state`.
pub async fn the_end_of_a_container_is_an_event(fixture: &RuntimeFixture) {
    let mut events = done("events", fixture.runtime.events().await);
    let spec = fixture.container("event", &fixture.exits_0);
    let id = fixture.ensure(&spec).await.id;
    let exit_event = async {
        while let Some(event) = events.next().await {
            let event = done("an event", event);
            if event.action == "die" {
                return event.container;
            }
        }
        panic!("the events ended before the container's exit was reported");
    };
    let ended = in_time("the event for a container's exit", exit_event).await;
    assert_eq!(ended, id, "the event names another container");
    let observe = async |name: &str| {
        let seen = fixture.runtime.container(name).await;
        done("observing one container", seen)
    };
    let by_id = observe(&id.0).await;
    let state = done("state", fixture.runtime.state().await);
    let listed = state.containers.into_iter().find(|c| c.id == id);
    assert!(listed.is_some(), "`state` does not contain the container");
    assert_eq!(by_id, listed, "`container` and `state` differ");
    assert_eq!(observe(&spec.name).await, by_id, "by its name");
    fixture.remove(&spec.name).await;
    assert_eq!(observe(&id.0).await, None, "after its removal");
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    done(what, tokio::time::timeout(DEADLINE, work).await)
}

fn is_conflict<T: Debug>(what: &str, outcome: &Result<T>) {
    assert!(
        matches!(outcome, Err(Error::Conflict { .. })),
        "{what} must return Conflict, but returned {outcome:?}"
    );
}

fn is_not_found<T: Debug>(what: &str, outcome: &Result<T>) {
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "{what} must return NotFound, but returned {outcome:?}"
    );
}

fn done<T, E: Debug>(what: &str, outcome: Result<T, E>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}
