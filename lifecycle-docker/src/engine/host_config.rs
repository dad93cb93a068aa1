//! Builds a container's host configuration for the engine's API: ports, mounts, privileges,
//! devices, limits.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bollard::models::{
    DeviceMapping as EngineDevice, DeviceRequest as EngineRequest, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, MountVolumeOptions, PortBinding as EngineBinding,
    PortMap, ResourcesBlkioWeightDevice, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
    ThrottleDevice,
};
use lifecycle_core::model::{
    BlockIo, CgroupNamespace, Connection, ContainerTemplate, Devices, Isolation, KernelLimits,
    Logging, NetworkMode, NodeMount, Protocol,
};
use lifecycle_core::runtime::{ContainerSpec, Role};

use super::metadata;
use super::spec::{port_key, volume_name};
use crate::labels;

/// The prefix of the network mode of a container that joins the network of another one; the id of
/// that container follows.
pub(crate) const JOINED: &str = "container:";
/// The size at which a container's log file is rotated.
const LOG_SIZE: &str = "10m";
/// The number of log files that are kept for each container.
const LOG_FILES: &str = "3";
/// The default log driver. The limits above apply only to this driver.
const LOG_DRIVER: &str = "json-file";

/// Returns the complete host configuration. `ports` maps container ports to host ports, which are
/// bound at `address`, or else at all addresses; `joined` is the id of the container whose network the
/// container joins.
pub(super) fn host_config(
    spec: &ContainerSpec,
    ports: &BTreeMap<(u16, Protocol), u16>,
    address: Option<IpAddr>,
    joined: Option<&str>,
) -> HostConfig {
    let template = &spec.template;
    let network_mode = match (joined, &template.connection.mode) {
        (Some(joined), _) => Some(format!("{JOINED}{joined}")),
        _ if spec.host_network => Some("host".to_owned()),
        (None, NetworkMode::Host) => Some("host".to_owned()),
        (None, NetworkMode::None) => Some("none".to_owned()),
        (None, NetworkMode::Platform) if template.metadata_service => {
            Some(metadata::network_name(&spec.owner))
        }
        (None, NetworkMode::Platform | NetworkMode::Service(_)) => None,
    };
    let is_bridged = network_mode.is_none() || template.metadata_service;
    let mut config = HostConfig {
        mounts: Some(mounts(spec)),
        binds: some(template.node_paths.iter().filter_map(bind_line).collect()),
        tmpfs: some(
            template
                .memory
                .iter()
                .map(|mount| (mount.target.clone(), mount.options.clone()))
                .collect(),
        ),
        port_bindings: Some(if is_bridged {
            bindings(template, ports, address)
        } else {
            PortMap::new()
        }),
        memory: limit(template.limits.memory_bytes),
        nano_cpus: limit(template.limits.cpu_millis.saturating_mul(1_000_000)),
        restart_policy: Some(RestartPolicy {
            name: Some(if spec.starts_with_engine {
                RestartPolicyNameEnum::UNLESS_STOPPED
            } else {
                RestartPolicyNameEnum::NO
            }),
            maximum_retry_count: None,
        }),
        network_mode,
        log_config: Some(log_config(&template.logging)),
        init: template.terminal.init,
        ..HostConfig::default()
    };
    if joined.is_none() {
        connect(&mut config, &template.connection);
    }
    set_apart(&mut config, &template.isolation);
    if spec.role == Role::Agent {
        // The agent creates a network namespace and a route on the node for the service addresses.
        let capabilities = config.cap_add.get_or_insert_default();
        capabilities.extend(["NET_ADMIN".to_owned(), "SYS_ADMIN".to_owned()]);
    }
    give_devices(&mut config, &template.devices);
    set_limits(&mut config, &template.kernel);
    share_devices(&mut config, &template.kernel.block_io);
    config
}

/// Returns `None` if the value is empty, so that the engine's default applies.
fn some<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn hash(map: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    let map: HashMap<String, String> = map.clone().into_iter().collect();
    some(map)
}

/// Converts a limit for the engine; 0 means unlimited.
fn limit(value: u64) -> Option<i64> {
    (value > 0).then(|| signed(value))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Returns the bindings of all container ports, at `address`, and of the published ports.
fn bindings(
    template: &ContainerTemplate,
    ports: &BTreeMap<(u16, Protocol), u16>,
    address: Option<IpAddr>,
) -> PortMap {
    let mut map: BTreeMap<(u16, Protocol), Vec<EngineBinding>> = BTreeMap::new();
    let binding = |host_ip: Option<IpAddr>, host: u16| EngineBinding {
        host_ip: host_ip.map(|ip| ip.to_string()),
        host_port: Some(host.to_string()),
    };
    for (container, host) in ports {
        map.entry(*container)
            .or_default()
            .push(binding(address, *host));
    }
    for port in &template.ports {
        let key = (port.container_port, port.protocol);
        let Some(host) = port.host_port else { continue };
        map.entry(key)
            .or_default()
            .push(binding(port.host_ip, host));
    }
    map.into_iter()
        .map(|(container, bindings)| (port_key(container), Some(bindings)))
        .collect()
}

/// Formats a bind mount as text if its source directory must be created: the engine creates it only
/// for this format.
fn bind_line(mount: &NodeMount) -> Option<String> {
    if !is_line(mount) {
        return None;
    }
    let mut options = vec![if mount.read_only { "ro" } else { "rw" }];
    options.extend(mount.propagation.as_deref());
    Some(format!(
        "{}:{}:{}",
        mount.source,
        mount.target,
        options.join(",")
    ))
}

fn is_line(mount: &NodeMount) -> bool {
    mount.create && !mount.source.contains(':') && !mount.target.contains(':')
}

fn mounts(spec: &ContainerSpec) -> Vec<Mount> {
    let volumes = spec.template.volumes.iter().map(|volume| Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume_name(&spec.owner, volume)),
        target: Some(volume.target.clone()),
        read_only: Some(volume.read_only),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(volume.options.no_copy),
            // An existing volume keeps its labels.
            labels: Some(HashMap::from([(
                labels::SUBSTITUTE.to_owned(),
                String::new(),
            )])),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    });
    let paths = spec.template.node_paths.iter();
    let paths = paths.filter(|mount| !is_line(mount)).map(|mount| Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.clone()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        bind_options: mount.propagation.as_ref().map(|words| MountBindOptions {
            propagation: words.parse::<MountBindOptionsPropagationEnum>().ok(),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    });
    let binds = spec.binds.iter().map(|bind| Mount {
        typ: Some(MountType::BIND),
        source: Some(bind.source.clone()),
        target: Some(bind.target.clone()),
        read_only: Some(bind.read_only),
        ..Mount::default()
    });
    volumes.chain(paths).chain(binds).collect()
}

fn log_config(logging: &Logging) -> HostConfigLogConfig {
    let driver = logging.driver.as_deref().unwrap_or(LOG_DRIVER);
    let mut options = BTreeMap::new();
    if driver == LOG_DRIVER {
        options.insert("max-size".to_owned(), LOG_SIZE.to_owned());
        options.insert("max-file".to_owned(), LOG_FILES.to_owned());
    }
    options.extend(logging.options.clone());
    HostConfigLogConfig {
        typ: Some(driver.to_owned()),
        config: Some(options.into_iter().collect()),
    }
}

fn connect(config: &mut HostConfig, connection: &Connection) {
    config.extra_hosts = some(connection.extra_hosts.clone());
    config.dns = some(connection.dns.clone());
    config.dns_search = some(connection.dns_search.clone());
    config.dns_options = some(connection.dns_options.clone());
}

fn set_apart(config: &mut HostConfig, isolation: &Isolation) {
    config.privileged = some(isolation.privileged);
    config.cap_add = some(isolation.cap_add.clone());
    config.cap_drop = some(isolation.cap_drop.clone());
    config.security_opt = some(isolation.security_opt.clone());
    config.group_add = some(isolation.group_add.clone());
    config.readonly_rootfs = some(isolation.read_only);
    config.userns_mode.clone_from(&isolation.userns_mode);
    config.ipc_mode.clone_from(&isolation.ipc);
    config.pid_mode.clone_from(&isolation.pid);
    config.uts_mode.clone_from(&isolation.uts);
    config.cgroupns_mode = isolation.cgroup.map(|namespace| match namespace {
        CgroupNamespace::Host => HostConfigCgroupnsModeEnum::HOST,
        CgroupNamespace::Private => HostConfigCgroupnsModeEnum::PRIVATE,
    });
    config.cgroup_parent.clone_from(&isolation.cgroup_parent);
    config.runtime.clone_from(&isolation.runtime);
}

fn give_devices(config: &mut HostConfig, devices: &Devices) {
    let mappings = devices.mappings.iter().map(|device| EngineDevice {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    });
    config.devices = some(mappings.collect());
    config.device_cgroup_rules = some(devices.cgroup_rules.clone());
    let requests = devices.requests.iter().map(|request| EngineRequest {
        driver: request.driver.clone(),
        count: request.count,
        device_ids: some(request.ids.clone()),
        capabilities: some(request.capabilities.clone()).map(|all| vec![all]),
        options: hash(&request.options),
    });
    config.device_requests = some(requests.collect());
}

fn set_limits(config: &mut HostConfig, kernel: &KernelLimits) {
    let ulimits = kernel.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    config.ulimits = some(ulimits.collect());
    config.sysctls = hash(&kernel.sysctls);
    config.shm_size = kernel.shm_bytes.map(signed);
    config.pids_limit = kernel.pids;
    config.oom_score_adj = kernel.oom_score_adj;
    config.oom_kill_disable = some(kernel.oom_kill_disable);
    config.memory_swap = kernel.memory_swap;
    config.memory_swappiness = kernel.memory_swappiness;
    config.cpu_shares = kernel.cpu_shares;
    config.cpu_period = kernel.cpu_period;
    config.cpu_quota = kernel.cpu_quota;
    config.cpu_realtime_period = kernel.cpu_rt_period;
    config.cpu_realtime_runtime = kernel.cpu_rt_runtime;
    config.cpuset_cpus.clone_from(&kernel.cpuset);
    config.storage_opt = hash(&kernel.storage_opt);
}

fn share_devices(config: &mut HostConfig, block_io: &BlockIo) {
    config.blkio_weight = block_io.weight;
    let weights = block_io.device_weights.iter();
    let weights = weights.map(|(path, weight)| ResourcesBlkioWeightDevice {
        path: Some(path.clone()),
        weight: Some(usize::from(*weight)),
    });
    config.blkio_weight_device = some(weights.collect());
    config.blkio_device_read_bps = throttles(&block_io.read_bps);
    config.blkio_device_write_bps = throttles(&block_io.write_bps);
    config.blkio_device_read_iops = throttles(&block_io.read_iops);
    config.blkio_device_write_iops = throttles(&block_io.write_iops);
}

fn throttles(rates: &BTreeMap<String, u64>) -> Option<Vec<ThrottleDevice>> {
    let throttles = rates.iter().map(|(path, rate)| ThrottleDevice {
        path: Some(path.clone()),
        rate: Some(signed(*rate)),
    });
    some(throttles.collect())
}
