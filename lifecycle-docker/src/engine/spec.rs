//! Converts the core's container specification to the engine's API types.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HealthConfig};
use lifecycle_core::model::{
    Healthcheck, HealthcheckTest, Protocol, SpecDigest, VolumeMount, VolumeName,
};
use lifecycle_core::runtime::{ContainerSpec, Owner, Role};

use super::host_config::host_config;
use crate::labels;

/// Returns the labels that all resources of a platform have.
pub(super) fn owner_labels(owner: &Owner) -> HashMap<String, String> {
    HashMap::from([
        (labels::PLATFORM.to_owned(), owner.name.to_string()),
        (labels::PLATFORM_ID.to_owned(), owner.id.to_string()),
    ])
}

/// Returns a volume's name in the engine.
pub(super) fn volume_name(owner: &Owner, mount: &VolumeMount) -> String {
    let default_name = || format!("{}-{}-{}", owner.name, owner.id.short(), mount.volume);
    mount
        .options
        .engine_name
        .clone()
        .unwrap_or_else(default_name)
}

/// Returns the filter for the label that identifies a platform's volume.
pub(super) fn volume_label(volume: &VolumeName) -> String {
    format!("{}={volume}", labels::VOLUME)
}

/// Returns the labels of a platform's volume. User labels cannot override them.
pub(super) fn volume_labels(owner: &Owner, mount: &VolumeMount) -> HashMap<String, String> {
    let own = mount.options.labels.iter();
    let mut labels: HashMap<String, String> = own.map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.extend(owner_labels(owner));
    labels.insert(labels::VOLUME.to_owned(), mount.volume.to_string());
    labels
}

/// Returns the labels of a container. User labels cannot override the platform's labels.
pub(super) fn container_labels(spec: &ContainerSpec) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = spec
        .template
        .labels
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    labels.extend(owner_labels(&spec.owner));
    let mut set = |key: &str, value: String| labels.insert(key.to_owned(), value);
    set(labels::SPEC_DIGEST, spec.digest.to_string());
    set(labels::SPEC_VERSION, SpecDigest::VERSION.to_owned());
    if let Some(digest) = &spec.template_digest {
        set(labels::TEMPLATE_DIGEST, digest.to_string());
    }
    if spec.joins.is_some() {
        let exposed: Vec<String> = spec.template.expose.iter().copied().map(port_key).collect();
        set(labels::EXPOSED, exposed.join(","));
    }
    match &spec.role {
        Role::Manager => {
            set(labels::ROLE, labels::ROLE_MANAGER.to_owned());
        }
        Role::Agent => {
            set(labels::ROLE, labels::ROLE_AGENT.to_owned());
        }
        Role::Instance(id) => {
            set(labels::ROLE, labels::ROLE_INSTANCE.to_owned());
            set(labels::INSTANCE, id.to_string());
            set(labels::SERVICE, id.service.to_string());
            set(labels::REPLICA, id.replica.to_string());
        }
    }
    labels
}

/// Returns the body of a create request. `ports` maps container ports to host ports, which are bound
/// at `address`, or else at all addresses; `joined` is the id of the container whose network the
/// container joins.
pub(super) fn create_body(
    spec: &ContainerSpec,
    ports: &BTreeMap<(u16, Protocol), u16>,
    address: Option<IpAddr>,
    joined: Option<&str>,
) -> ContainerCreateBody {
    let template = &spec.template;
    let exposed = template.expose.iter().chain(spec.ports.keys());
    let exposed: BTreeSet<String> = exposed.copied().map(port_key).collect();
    // The engine rejects ports and host names of containers that join a network.
    let connection = Some(&template.connection).filter(|_| joined.is_none());
    let unset = template.unset.iter();
    let unset = unset.filter(|name| !template.environment.contains_key(*name));
    let mut labels = container_labels(spec);
    if let Some(address) = address.filter(|_| !ports.is_empty()) {
        labels.insert(labels::ADDRESS.to_owned(), address.to_string());
    }
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        labels: Some(labels),
        env: Some(
            template
                .environment
                .iter()
                .map(|(key, value)| format!("{key}={}", value.expose()))
                // A name without `=` removes the image's variable.
                .chain(unset.cloned())
                .collect(),
        ),
        cmd: template.command.clone(),
        entrypoint: template.entrypoint.clone().map(|words| {
            // In the engine's API, an empty list keeps the image's entrypoint, and a single empty
            // string removes the entrypoint.
            if words.is_empty() {
                vec![String::new()]
            } else {
                words
            }
        }),
        user: template.user.clone(),
        working_dir: template.working_dir.clone(),
        exposed_ports: joined.is_none().then(|| exposed.into_iter().collect()),
        healthcheck: template.healthcheck.as_ref().map(health_config),
        stop_timeout: template.stop_grace.map(whole_seconds),
        volumes: Some(template.anonymous_volumes.clone()).filter(|v| !v.is_empty()),
        hostname: connection.and_then(|connection| connection.hostname.clone()),
        domainname: connection.and_then(|connection| connection.domainname.clone()),
        stop_signal: template.terminal.stop_signal.clone(),
        open_stdin: template.terminal.stdin_open.then_some(true),
        tty: template.terminal.tty.then_some(true),
        host_config: Some(host_config(spec, ports, address, joined)),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn port_key((port, protocol): (u16, Protocol)) -> String {
    format!("{port}/{protocol}")
}

fn health_config(check: &Healthcheck) -> HealthConfig {
    let test = match &check.test {
        HealthcheckTest::None => vec!["NONE".to_owned()],
        HealthcheckTest::Exec(words) => std::iter::once("CMD".to_owned())
            .chain(words.iter().cloned())
            .collect(),
        HealthcheckTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
    };
    HealthConfig {
        test: Some(test),
        interval: check.interval.map(nanos),
        timeout: check.timeout.map(nanos),
        retries: check.retries.map(i64::from),
        start_period: check.start_period.map(nanos),
        start_interval: None,
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Converts a duration to seconds, rounded up, so that a grace period of half a second does not
/// become zero.
pub(super) fn whole_seconds(duration: Duration) -> i64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, ContainerInspectResponse, ContainerState, HostConfig};
    use bollard::models::{ContainerStateStatusEnum, RestartPolicyNameEnum};
    use lifecycle_core::model::{
        ContainerId, ContainerTemplate, InstanceId, PlatformId, PlatformName, Replica, ServiceName,
    };

    use super::*;
    use crate::inspect;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            template_digest: None,
            name: "demo-123456-db-1-0123456789ab".into(),
            owner: Owner {
                id: "12345678-1234-4234-8234-123456789abc"
                    .parse::<PlatformId>()
                    .unwrap(),
                name: PlatformName::try_from("demo").unwrap(),
            },
            role: Role::Instance(InstanceId {
                service: ServiceName::try_from("db").unwrap(),
                replica: Replica(2),
            }),
            digest: SpecDigest::from_hex("0123456789abcdef"),
            image: "demo/db:1".into(),
            template: ContainerTemplate {
                labels: BTreeMap::from([
                    ("mine".into(), "yes".into()),
                    (labels::PLATFORM_ID.into(), "forged".into()),
                ]),
                expose: vec![(5432, Protocol::Tcp)],
                ..ContainerTemplate::default()
            },
            used_volumes: std::collections::BTreeSet::new(),
            ports: BTreeMap::new(),
            binds: Vec::new(),
            host_network: false,
            joins: None,
            starts_with_engine: false,
        }
    }

    #[test]
    fn labels_round_trip() {
        let spec = spec();
        let labels = container_labels(&spec);
        assert_eq!(labels["mine"], "yes");
        assert_eq!(labels[labels::PLATFORM_ID], spec.owner.id.to_string());
        let found = ContainerInspectResponse {
            name: Some(format!("/{}", spec.name)),
            config: Some(ContainerConfig {
                labels: Some(labels),
                ..ContainerConfig::default()
            }),
            state: Some(ContainerState {
                status: Some(ContainerStateStatusEnum::CREATED),
                ..ContainerState::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let read = inspect::container(found, None);
        let read = read.unwrap().unwrap();
        assert_eq!(read.name, spec.name);
        assert_eq!(read.role, spec.role);
        assert_eq!(read.digest, spec.digest);
        assert_eq!(read.digest_version, SpecDigest::VERSION);
    }

    #[test]
    fn declares_all_ports_and_no_restart_policy() {
        let mut spec = spec();
        spec.ports.insert((80, Protocol::Tcp), 8080);
        let body = create_body(
            &spec,
            &BTreeMap::from([((80, Protocol::Tcp), 8080)]),
            None,
            None,
        );
        assert_eq!(body.exposed_ports.unwrap(), ["5432/tcp", "80/tcp"]);
        let host = body.host_config.unwrap();
        assert_eq!(
            host.restart_policy.unwrap().name,
            Some(RestartPolicyNameEnum::NO)
        );
        assert_eq!(host.memory, None);
        let bindings = host.port_bindings.unwrap();
        let bound = bindings["80/tcp"].as_ref().unwrap();
        assert_eq!(bound[0].host_port.as_deref(), Some("8080"));
    }

    #[test]
    fn a_container_that_joins_a_network_has_no_network_settings_of_its_own() {
        let mut spec = spec();
        spec.joins = Some("demo-123456-vpn-1-0123456789ab".into());
        spec.template.connection.hostname = Some("db".into());
        spec.template.connection.dns = vec!["192.0.2.1".into()];
        let body = create_body(&spec, &BTreeMap::new(), None, Some("0abc"));
        assert_eq!((body.hostname, body.exposed_ports), (None, None));
        let host = body.host_config.unwrap();
        assert_eq!((host.dns, host.port_bindings), (None, Some(HashMap::new())));
        assert_eq!(host.network_mode.as_deref(), Some("container:0abc"));
        let found = ContainerInspectResponse {
            name: Some(format!("/{}", spec.name)),
            config: Some(ContainerConfig {
                labels: body.labels,
                ..ContainerConfig::default()
            }),
            host_config: Some(HostConfig {
                network_mode: host.network_mode,
                ..HostConfig::default()
            }),
            state: Some(ContainerState {
                status: Some(ContainerStateStatusEnum::CREATED),
                ..ContainerState::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let read = inspect::container(found, None);
        let read = read.unwrap().unwrap();
        assert_eq!(read.joins, Some(ContainerId("0abc".into())));
        assert_eq!(read.exposed, [(5432, Protocol::Tcp)]);
    }

    #[test]
    fn variables_of_the_image_are_removed() {
        let mut spec = spec();
        let value = lifecycle_core::secret::Sensitive::new("1");
        let variable = ("A".to_owned(), value);
        spec.template.environment = [variable].into();
        spec.template.unset = ["A", "B"].map(str::to_owned).into();
        let body = create_body(&spec, &BTreeMap::new(), None, None);
        assert_eq!(body.env.unwrap(), ["A=1", "B"]);
    }

    #[test]
    fn grace_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(500)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(3)), 3);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
    }
}
