//! Converts the engine's descriptions of containers and images to the core's types.

use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, HealthConfig, HealthStatusEnum,
    ImageInspect, PortBinding, PortMap,
};
use chrono::{DateTime, SubsecRound as _, Utc};
use lifecycle_core::model::{ContainerId, InstanceId, Protocol, Replica, ServiceName, SpecDigest};
use lifecycle_core::runtime::{
    ContainerState, Health, ImageInfo, ObservedContainer, OutOfMemory, Role,
};
use lifecycle_core::{Error, Result};

use crate::engine::JOINED;
use crate::labels;

/// Returns whether the container is being removed. Such a container cannot be started, but still
/// uses its name.
pub(crate) fn is_being_removed(found: &ContainerInspectResponse) -> bool {
    let status = found.state.as_ref().and_then(|state| state.status);
    matches!(
        status,
        Some(ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD)
    )
}

/// Returns whether the container was created, but never started.
pub(crate) fn was_never_started(found: &ContainerInspectResponse) -> bool {
    let status = found.state.as_ref().and_then(|state| state.status);
    status == Some(ContainerStateStatusEnum::CREATED)
}

/// Returns the address at which the container's chosen host ports are bound; `None` if they are bound
/// at all addresses.
pub(crate) fn address(found: &ContainerInspectResponse) -> Option<IpAddr> {
    let labels = found.config.as_ref()?.labels.as_ref()?;
    labels.get(labels::ADDRESS)?.parse().ok()
}

/// Returns whether the engine may still report that a container exceeded its memory limit. The engine
/// learns this apart from the container's end, and sometimes a moment later.
pub(crate) fn may_have_exceeded_its_memory(
    found: &ContainerInspectResponse,
    now: DateTime<Utc>,
) -> bool {
    const SIGKILL: i64 = 137;
    let Some(state) = &found.state else {
        return false;
    };
    let was_killed = state.exit_code == Some(SIGKILL) && state.oom_killed != Some(true);
    let limit = found.host_config.as_ref().and_then(|config| config.memory);
    let ended_at = time(state.finished_at.as_deref());
    let is_new = |at: DateTime<Utc>| (now - at).abs() < chrono::TimeDelta::seconds(2);
    was_killed && limit.is_some_and(|bytes| bytes > 0) && ended_at.is_some_and(is_new)
}

/// Converts a container of the platform. Returns `None` for a role that the core does not manage,
/// and for a container that is being removed. Returns a container whose removal has failed, so that
/// it is removed again. The container's ports are those that other nodes reach: those bound at
/// `address` or at all addresses.
pub(crate) fn container(
    found: ContainerInspectResponse,
    address: Option<IpAddr>,
) -> Result<Option<ObservedContainer>> {
    let name = found.name.unwrap_or_default();
    let name = name.trim_start_matches('/').to_owned();
    let damaged = |why: &str| Error::corrupt(format!("container {name}"), why);
    let config = found.config.unwrap_or_default();
    let label = |key: &str| config.labels.as_ref()?.get(key).cloned();
    let role = match label(labels::ROLE).as_deref() {
        Some(labels::ROLE_MANAGER) => Role::Manager,
        Some(labels::ROLE_AGENT) => Role::Agent,
        Some(labels::ROLE_INSTANCE) => Role::Instance(
            instance(label(labels::SERVICE), label(labels::REPLICA))
                .ok_or_else(|| damaged("its labels contain no valid service and replica"))?,
        ),
        _ => return Ok(None),
    };
    let state = found.state.unwrap_or_default();
    let has_healthcheck = has_healthcheck(config.healthcheck.as_ref());
    let running = || ContainerState::Running {
        health: state.health.as_ref().and_then(|h| health(h.status)),
    };
    let observed = match state.status {
        Some(ContainerStateStatusEnum::REMOVING) => return Ok(None),
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::STOPPING
            | ContainerStateStatusEnum::RESTARTING,
        ) => running(),
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => {
            ContainerState::Exited {
                code: state.exit_code.unwrap_or_default(),
                at: time(state.finished_at.as_deref()),
            }
        }
        Some(ContainerStateStatusEnum::EMPTY) | None => {
            return Err(damaged("the engine does not report its state"));
        }
    };
    let bound = found.network_settings.and_then(|n| n.ports);
    let host_config = found.host_config.unwrap_or_default();
    let on_the_nodes_network = host_config.network_mode.as_deref() == Some("host");
    let has_ended = matches!(observed, ContainerState::Exited { .. });
    let out_of_memory = (has_ended && state.oom_killed == Some(true)).then(|| {
        let limit = host_config
            .memory
            .and_then(|bytes| u64::try_from(bytes).ok());
        OutOfMemory {
            limit: limit.filter(|bytes| *bytes > 0),
        }
    });
    let declared = host_config.port_bindings;
    let mode = host_config.network_mode.as_deref().unwrap_or_default();
    let joins = mode.strip_prefix(JOINED);
    let mut exposed = exposed(config.exposed_ports.as_deref());
    let declared_here = label(labels::EXPOSED).unwrap_or_default();
    exposed.extend(declared_here.split(',').filter_map(port));
    exposed.sort_unstable();
    exposed.dedup();
    // A stopped container has no bound ports, so use the ports with which it was created.
    let host_ports = |map: &PortMap| host_ports(map, address);
    let ports = match bound.as_ref().map(host_ports) {
        // On the node's own network, every exposed port is open on the node without a binding.
        _ if on_the_nodes_network => exposed.iter().map(|(port, p)| (*port, *p, *port)).collect(),
        Some(ports) if !ports.is_empty() => ports,
        _ => declared.as_ref().map(host_ports).unwrap_or_default(),
    };
    Ok(Some(ObservedContainer {
        id: ContainerId(found.id.unwrap_or_default().into()),
        role,
        digest: SpecDigest::from_hex(label(labels::SPEC_DIGEST).unwrap_or_default()),
        digest_version: label(labels::SPEC_VERSION).unwrap_or_default(),
        template_digest: label(labels::TEMPLATE_DIGEST).map(SpecDigest::from_hex),
        image: found.image.unwrap_or_default(),
        started_at: time(state.started_at.as_deref()),
        state: observed,
        joins: joins.map(|id| ContainerId(id.into())),
        ports,
        exposed,
        has_healthcheck,
        failed_check: state.health.as_ref().and_then(failed_check),
        out_of_memory,
        name,
    }))
}

fn instance(service: Option<String>, replica: Option<String>) -> Option<InstanceId> {
    Some(InstanceId {
        service: ServiceName::try_from(service?).ok()?,
        replica: Replica(replica?.parse().ok()?),
    })
}

pub(crate) fn image(found: ImageInspect) -> ImageInfo {
    let config = found.config.unwrap_or_default();
    ImageInfo {
        id: found.id.unwrap_or_default(),
        exposed: exposed(config.exposed_ports.as_deref()),
        has_healthcheck: has_healthcheck(config.healthcheck.as_ref()),
    }
}

/// Returns whether two images behave the same: they have the same layers and the same
/// configuration. Their ids may differ, because an id also covers the time of the build.
pub(crate) fn is_same_image(one: &ImageInspect, other: &ImageInspect) -> bool {
    let layers = |image: &ImageInspect| {
        let root = image.root_fs.as_ref();
        root.and_then(|root| root.layers.clone())
            .filter(|layers| !layers.is_empty())
    };
    // The client reads these two from maps, in random order.
    let config = |image: &ImageInspect| {
        let mut config = image.config.clone().unwrap_or_default();
        let lists = [&mut config.exposed_ports, &mut config.volumes];
        for list in lists.into_iter().flatten() {
            list.sort_unstable();
        }
        config
    };
    layers(one).is_some()
        && layers(one) == layers(other)
        && config(one) == config(other)
        && (&one.os, &one.architecture) == (&other.os, &other.architecture)
}

/// Parses a port and its protocol, for example `80/tcp`; `None` for an unsupported protocol.
pub(crate) fn port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok()?, protocol))
}

fn exposed(ports: Option<&[String]>) -> Vec<(u16, Protocol)> {
    let mut ports: Vec<_> = ports
        .unwrap_or_default()
        .iter()
        .filter_map(|p| port(p))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Returns each binding that other nodes reach once. Engines list a port's IPv4 binding and IPv6
/// binding separately.
fn host_ports(map: &PortMap, address: Option<IpAddr>) -> Vec<(u16, Protocol, u16)> {
    let mut ports: Vec<_> = map
        .iter()
        .filter_map(|(container, bindings)| Some((port(container)?, bindings.as_ref()?)))
        .flat_map(|((container, protocol), bindings)| {
            bindings
                .iter()
                .filter(|binding| is_reached(binding, address))
                .filter_map(|b| b.host_port.as_ref()?.parse().ok())
                .map(move |host: u16| (container, protocol, host))
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Returns whether other nodes, which use `address`, reach the binding.
fn is_reached(binding: &PortBinding, address: Option<IpAddr>) -> bool {
    match binding.host_ip.as_deref() {
        None | Some("" | "0.0.0.0" | "::") => true,
        Some(bound) => address.is_some() && bound.parse().ok() == address,
    }
}

fn has_healthcheck(check: Option<&HealthConfig>) -> bool {
    check.and_then(|c| c.test.as_ref()).is_some_and(|test| {
        test.first()
            .is_some_and(|word| !matches!(word.as_str(), "" | "NONE"))
    })
}

fn health(status: Option<HealthStatusEnum>) -> Option<Health> {
    match status? {
        HealthStatusEnum::STARTING => Some(Health::Starting),
        HealthStatusEnum::HEALTHY => Some(Health::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
    }
}

/// The maximum length of a health check's output in a message, in characters.
const LONGEST_OUTPUT: usize = 200;

/// Describes the last health check, unless it passed.
fn failed_check(health: &bollard::models::Health) -> Option<String> {
    let last = health.log.as_ref()?.last()?;
    let code = last.exit_code.filter(|code| *code != 0)?;
    let output = last.output.as_deref().unwrap_or_default().trim();
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    let output = lines.join(" / ");
    // The engine reports a negative code for a check that it has ended and for one that it could not
    // start (<https://github.com/moby/moby/blob/v20.10.24/daemon/health.go>).
    let what = if code >= 0 {
        format!("its health check failed with exit code {code}")
    } else if output.starts_with("Health check exceeded timeout") {
        "its health check timed out".to_owned()
    } else {
        "its health check cannot be run".to_owned()
    };
    let skipped = output.chars().count().saturating_sub(LONGEST_OUTPUT);
    let output: String = output.chars().skip(skipped).collect();
    Some(if output.is_empty() {
        what
    } else {
        format!("{what}: {output}")
    })
}

/// Parses the engine's timestamp, and truncates it to microseconds, as the registry does. Returns
/// `None` for the year 1, which the engine uses for "never".
fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?)
        .ok()?
        .to_utc()
        .trunc_subsecs(6);
    (time.timestamp() > 0).then_some(time)
}

#[cfg(test)]
mod tests {
    use bollard::models::{ImageConfig, ImageInspectRootFs};
    use serde_json::{Value, json};

    use super::*;

    fn inspected(labels: &Value) -> ContainerInspectResponse {
        serde_json::from_value(json!({
            "Id": "abc",
            "Name": "/demo-123456-db-1-0123456789ab",
            "State": {
                "Status": "running",
                "StartedAt": "2026-01-02T03:04:05.678901234Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
                "Health": { "Status": "healthy" }
            },
            "Config": {
                "Labels": labels,
                "ExposedPorts": { "5432/tcp": {}, "53/udp": {}, "9/sctp": {} },
                "Healthcheck": { "Test": ["CMD", "true"] }
            },
            "NetworkSettings": { "Ports": {
                "5432/tcp": [
                    { "HostIp": "0.0.0.0", "HostPort": "20001" },
                    { "HostIp": "::", "HostPort": "20001" }
                ],
                "53/udp": null
            } }
        }))
        .unwrap()
    }

    #[test]
    fn converts_a_container_by_its_labels() {
        let labels = json!({
            "lifecycle.role": "instance",
            "lifecycle.service": "db",
            "lifecycle.replica": "1",
            "lifecycle.spec-digest": "0123456789abcdef",
            "lifecycle.spec-version": "1"
        });
        let read = container(inspected(&labels), None).unwrap().unwrap();
        assert_eq!(read.name, "demo-123456-db-1-0123456789ab");
        assert!(matches!(&read.role, Role::Instance(id) if id.to_string() == "db-1"));
        assert_eq!(read.digest.as_str(), "0123456789abcdef");
        assert_eq!(read.digest_version, "1");
        assert_eq!(
            read.state,
            ContainerState::Running {
                health: Some(Health::Healthy)
            }
        );
        assert_eq!(read.ports, [(5432, Protocol::Tcp, 20_001)]);
        assert_eq!(read.exposed, [(53, Protocol::Udp), (5432, Protocol::Tcp)]);
        assert!(read.has_healthcheck);
        assert!(read.started_at.is_some());
    }

    #[test]
    fn other_nodes_reach_ports_at_all_addresses_and_at_their_address_of_the_node() {
        let bindings = json!({ "80/tcp": [
            { "HostIp": "", "HostPort": "8080" },
            { "HostIp": "127.0.0.1", "HostPort": "8081" },
            { "HostIp": "10.0.0.7", "HostPort": "20001" }
        ] });
        let bindings: PortMap = serde_json::from_value(bindings).unwrap();
        let hosts = |address: Option<[u8; 4]>| {
            let ports = host_ports(&bindings, address.map(IpAddr::from));
            ports.iter().map(|port| port.2).collect::<Vec<_>>()
        };
        assert_eq!(hosts(Some([10, 0, 0, 7])), [8080, 20_001]);
        assert_eq!(hosts(Some([10, 0, 0, 8])), [8080]);
        assert_eq!(hosts(None), [8080]);
    }

    #[test]
    fn a_container_that_exceeded_its_memory_limit_shows_the_limit() {
        let labels = json!({
            "lifecycle.role": "instance",
            "lifecycle.service": "db",
            "lifecycle.replica": "1"
        });
        let mut found = inspected(&labels);
        found.host_config = serde_json::from_value(json!({ "Memory": 64 << 20 })).unwrap();
        let state = found.state.as_mut().unwrap();
        state.oom_killed = Some(true);
        // A process of the container was killed, but not the container.
        let running = container(found.clone(), None).unwrap().unwrap();
        assert_eq!(running.out_of_memory, None);
        let state = found.state.as_mut().unwrap();
        state.status = Some(ContainerStateStatusEnum::EXITED);
        state.exit_code = Some(137);
        let ended = container(found, None).unwrap().unwrap();
        let limit = Some(64 << 20);
        assert_eq!(ended.out_of_memory, Some(OutOfMemory { limit }));
    }

    #[test]
    fn skips_other_roles_and_rejects_damaged_labels() {
        let node = json!({ "lifecycle.role": "node" });
        assert_eq!(container(inspected(&node), None).unwrap(), None);
        let damaged = json!({ "lifecycle.role": "instance", "lifecycle.service": "db" });
        assert!(matches!(
            container(inspected(&damaged), None),
            Err(Error::Corrupt { .. })
        ));
    }

    #[test]
    fn skips_a_container_that_is_being_removed() {
        let labels = json!({
            "lifecycle.role": "instance",
            "lifecycle.service": "db",
            "lifecycle.replica": "1"
        });
        let with = |status: ContainerStateStatusEnum| {
            let mut found = inspected(&labels);
            found.state.as_mut().unwrap().status = Some(status);
            found
        };
        let removing = with(ContainerStateStatusEnum::REMOVING);
        assert!(is_being_removed(&removing));
        assert_eq!(container(removing, None).unwrap(), None);
        let dead = with(ContainerStateStatusEnum::DEAD);
        assert!(is_being_removed(&dead));
        assert!(container(dead, None).unwrap().is_some());
        assert!(!is_being_removed(&with(ContainerStateStatusEnum::EXITED)));
    }

    #[test]
    fn images_with_the_same_layers_and_configuration_are_the_same() {
        let image = |layer: &str, command: &str, ports: [&str; 2]| ImageInspect {
            id: Some(format!("sha256:{layer}{command}{}", ports[0])),
            root_fs: Some(ImageInspectRootFs {
                typ: "layers".to_owned(),
                layers: Some(vec![layer.to_owned()]),
            }),
            config: Some(ImageConfig {
                cmd: Some(vec![command.to_owned()]),
                exposed_ports: Some(ports.map(str::to_owned).to_vec()),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        };
        let one = image("a", "run", ["1/tcp", "2/tcp"]);
        assert!(is_same_image(&one, &image("a", "run", ["2/tcp", "1/tcp"])));
        assert!(!is_same_image(&one, &image("b", "run", ["1/tcp", "2/tcp"])));
        assert!(!is_same_image(
            &one,
            &image("a", "stop", ["1/tcp", "2/tcp"])
        ));
        let empty = ImageInspect::default();
        assert!(!is_same_image(&empty, &empty), "an image without layers");
    }

    #[test]
    fn a_failed_health_check_is_described() {
        let described = |code: i64, output: &str| {
            let health = json!({ "Status": "unhealthy", "Log": [
                { "ExitCode": 0, "Output": "fine" },
                { "ExitCode": code, "Output": output }
            ] });
            failed_check(&serde_json::from_value(health).unwrap())
        };
        assert_eq!(described(0, "fine"), None);
        assert_eq!(
            described(7, "cannot connect\nto the database\n").unwrap(),
            "its health check failed with exit code 7: cannot connect / to the database"
        );
        assert_eq!(
            described(-1, "Health check exceeded timeout (1s)").unwrap(),
            "its health check timed out: Health check exceeded timeout (1s)"
        );
        let missing = "OCI runtime exec failed: exec: \"curl\": executable file not found in $PATH";
        assert_eq!(
            described(-1, missing).unwrap(),
            format!("its health check cannot be run: {missing}")
        );
        assert_eq!(
            described(1, "").unwrap(),
            "its health check failed with exit code 1"
        );
        assert!(described(1, &"x".repeat(5_000)).unwrap().len() < 300);
    }

    #[test]
    fn the_year_1_means_never() {
        assert_eq!(time(Some("0001-01-01T00:00:00Z")), None);
        assert!(time(Some("2026-01-02T03:04:05Z")).is_some());
    }
}
