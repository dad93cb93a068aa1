//! Lists every key of the Compose Specification and its effect on a platform. `docs/compose.md` is
//! generated from these tables, and a test checks that the page is up to date.

#[cfg(test)]
mod page;

use super::super::diagnostic::Report;
use super::super::tree::Field;

/// A key and its effect.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
}

#[derive(Debug)]
pub(super) enum Effect {
    /// The key has the effect that the specification defines; the note describes differences.
    Supported(
        #[cfg_attr(
            not(test),
            expect(dead_code, reason = "used by the test that generates docs/compose.md")
        )]
        &'static str,
    ),
    /// The key has no effect, so the service behaves differently than declared.
    Changes(&'static str),
    /// The key has no effect, but the service still behaves as declared.
    Harmless(&'static str),
}

const fn supported(name: &'static str, note: &'static str) -> Key {
    Key {
        name,
        effect: Effect::Supported(note),
    }
}

const fn changes(name: &'static str, consequence: &'static str) -> Key {
    Key {
        name,
        effect: Effect::Changes(consequence),
    }
}

const fn harmless(name: &'static str, consequence: &'static str) -> Key {
    Key {
        name,
        effect: Effect::Harmless(consequence),
    }
}

const WINDOWS: &str = "only for Windows containers";

pub(super) const TOP: &[Key] = &[
    supported(
        "name",
        "the name of the platform, unless `-p` or `platform.toml` sets it",
    ),
    supported("services", ""),
    supported(
        "volumes",
        "a volume is local to a node, so a service with a volume stays on its node",
    ),
    harmless("version", "the specification ignores it, too"),
    supported("include", "see *Several files*"),
    supported(
        "networks",
        "only the names are used; a platform has one network, in which all services can reach each \
         other",
    ),
    supported("configs", "see below"),
    supported("secrets", "see below"),
    changes(
        "models",
        "no model is started; declare a service with `x-lifecycle.class: model`",
    ),
];

pub(super) const SERVICE: &[Key] = &[
    harmless(
        "annotations",
        "the engine API in Debian does not support annotations",
    ),
    harmless("attach", "output is available with `logs`"),
    supported(
        "blkio_config",
        "`weight`, `weight_device`, `device_read_bps`, `device_write_bps`, `device_read_iops`, `device_write_iops`",
    ),
    supported("build", "see below"),
    supported("cap_add", ""),
    supported("cap_drop", ""),
    supported("cgroup", ""),
    supported("cgroup_parent", ""),
    supported("command", ""),
    supported(
        "configs",
        "by name, or with `source`, `target`, `uid`, `gid`, `mode`; default target `/<name>`",
    ),
    supported(
        "container_name",
        "an additional name for the service; the platform chooses the names of containers",
    ),
    harmless("cpu_count", WINDOWS),
    harmless("cpu_percent", WINDOWS),
    supported("cpu_period", ""),
    supported("cpu_quota", ""),
    supported("cpu_rt_period", ""),
    supported("cpu_rt_runtime", ""),
    supported("cpu_shares", ""),
    supported("cpus", "same as `deploy.resources.limits.cpus`"),
    supported("cpuset", ""),
    harmless("credential_spec", WINDOWS),
    supported("depends_on", "see below"),
    supported("deploy", "see below"),
    harmless("develop", "only for `docker compose watch`"),
    supported("device_cgroup_rules", ""),
    supported(
        "devices",
        "devices of the node that the container runs on, also by the name of a CDI device \
         (`vendor.com/class=name`), if CDI is enabled in the node's engine (version 25 or later); \
         placement does not consider them",
    ),
    supported(
        "dns",
        "a container with its own resolvers cannot resolve the names of other services",
    ),
    supported("dns_opt", "only together with `dns`"),
    supported("dns_search", "only together with `dns`"),
    supported("domainname", ""),
    supported("entrypoint", ""),
    supported(
        "env_file",
        "with `required` and `format: raw`; the files are read on the machine where the command \
         runs",
    ),
    supported(
        "environment",
        "a key without a value gets its value from the environment of the command; if it has none \
         there, the container does not have the variable, even if an `env_file` or the image sets it",
    ),
    supported(
        "expose",
        "other services can reach these ports; each port is mapped to a host port from 20000 to \
         29999",
    ),
    supported("extends", "see *Several files*"),
    changes(
        "external_links",
        "containers outside the platform cannot be reached by name",
    ),
    supported("extra_hosts", "`host-gateway` is supported, too"),
    supported("gpus", "`all`, or a list; placement does not consider them"),
    supported("group_add", ""),
    supported("healthcheck", "see below"),
    supported("hostname", ""),
    supported(
        "image",
        "see *Private images*; ignored if `build` is set, because the platform chooses the names of \
         built images",
    ),
    supported("init", ""),
    supported(
        "ipc",
        "`host`, `none`, `private`, `shareable`; the namespace of another container cannot be \
         used, because that container may be on another node",
    ),
    harmless("isolation", WINDOWS),
    supported("label_file", ""),
    supported("labels", ""),
    supported(
        "links",
        "an alias becomes an additional name for the service in the whole platform; the linked \
         service starts first",
    ),
    supported(
        "logging",
        "`logs` shows output only if the engine can read the driver's output; default: JSON files \
         with rotation",
    ),
    changes("mac_address", "the engine chooses the address"),
    supported("mem_limit", "same as `deploy.resources.limits.memory`"),
    supported(
        "mem_reservation",
        "same as `deploy.resources.reservations.memory`",
    ),
    supported("mem_swappiness", "if the node's kernel supports it"),
    supported("memswap_limit", ""),
    changes(
        "models",
        "no model is started; declare a service with `x-lifecycle.class: model`",
    ),
    supported(
        "network_mode",
        "`host`, `none`, `bridge`, and `service:<name>` (see *Shared networks*); the network of a \
         container that is not a service cannot be used. With `host`, the process opens its ports directly on \
         the node; list these ports in `ports` or `expose`",
    ),
    supported(
        "networks",
        "names and `aliases`; all services of a platform can reach each other, whatever networks \
         they list",
    ),
    supported("oom_kill_disable", "if the node's kernel supports it"),
    supported("oom_score_adj", ""),
    supported(
        "pid",
        "`host`; the namespace of another container cannot be used, because that container may be \
         on another node",
    ),
    supported("pids_limit", "same as `deploy.resources.limits.pids`"),
    changes(
        "platform",
        "images are pulled and built for the architecture of the node",
    ),
    supported("ports", "see below"),
    changes("post_start", "the command is not run"),
    changes("pre_stop", "the command is not run"),
    supported("privileged", ""),
    supported("profiles", "see *Several files*"),
    changes("provider", "external providers are not supported"),
    supported(
        "pull_policy",
        "`missing` and `build`; other values have no effect, and `up` reports them",
    ),
    changes(
        "pull_refresh_after",
        "an image is pulled only if the node does not have it",
    ),
    supported("read_only", ""),
    supported(
        "restart",
        "the manager restarts containers that end or whose health check fails; default `always`",
    ),
    supported("runtime", ""),
    supported("scale", "same as `deploy.replicas`"),
    supported(
        "secrets",
        "by name, or with `source`, `target`, `uid`, `gid`, `mode`; default target \
         `/run/secrets/<name>`",
    ),
    supported(
        "security_opt",
        "a file of `seccomp` rules is read relative to the Compose file",
    ),
    supported("shm_size", ""),
    supported("stdin_open", ""),
    supported(
        "stop_grace_period",
        "default 10 s. Before a container is stopped, its open connections from other services get \
         this time to end, unless the service is being removed; then the process gets it to exit",
    ),
    supported("stop_signal", ""),
    supported("storage_opt", "if the node's storage driver supports it"),
    supported("sysctls", ""),
    supported("tmpfs", ""),
    supported("tty", ""),
    supported("ulimits", ""),
    changes("use_api_socket", "containers cannot reach the engine"),
    supported("user", ""),
    supported("userns_mode", "`host`"),
    supported("uts", "`host`"),
    supported(
        "volumes",
        "see below; the data in a `VOLUME` of the image is deleted when the container is \
         replaced, unless a named volume is mounted there",
    ),
    changes(
        "volumes_from",
        "nothing is mounted; list the volumes in `volumes`",
    ),
    supported("working_dir", ""),
];

pub(super) const BUILD: &[Key] = &[
    changes(
        "additional_contexts",
        "the Dockerfile can use only its own context",
    ),
    supported(
        "args",
        "a key without a value gets its value from the environment of the command",
    ),
    supported(
        "cache_from",
        "images that the engine already has; nothing is pulled",
    ),
    harmless("cache_to", "the engine's own cache is used"),
    supported(
        "context",
        "a directory, relative to the Compose file; not a URL",
    ),
    supported("dockerfile", ""),
    supported("dockerfile_inline", ""),
    changes("entitlements", "the build gets no additional privileges"),
    supported("extra_hosts", ""),
    harmless("isolation", WINDOWS),
    supported("labels", ""),
    supported("network", "`host`, `none`, or the engine's default"),
    harmless(
        "no_cache",
        "an image is built once per version of its code base",
    ),
    changes(
        "platforms",
        "images are built for the architecture of the nodes",
    ),
    changes("privileged", "the build gets no additional privileges"),
    harmless("provenance", "no attestation is created"),
    harmless(
        "pull",
        "base images are pulled only if the node does not have them",
    ),
    harmless("sbom", "no bill of materials is created"),
    changes(
        "secrets",
        "no secret is mounted during the build, so a step that needs one fails",
    ),
    supported("shm_size", ""),
    changes("ssh", "the build cannot use an SSH agent"),
    harmless("tags", "the platform chooses the names of images"),
    supported("target", ""),
    changes("ulimits", "the build uses the engine's defaults"),
];

pub(super) const DEPENDENCY: &[Key] = &[
    supported("condition", "all three values"),
    supported(
        "required",
        "with `false`, the dependency is ignored if no active profile enables it; otherwise, the \
         service waits for it as usual",
    ),
    changes(
        "restart",
        "restarting a service does not restart the services that depend on it",
    ),
];

pub(super) const DEPLOY: &[Key] = &[
    supported(
        "endpoint_mode",
        "`vip`; with `dnsrr`, a service still has a single address",
    ),
    harmless("labels", "use the service's own `labels`"),
    supported(
        "mode",
        "`replicated`, and `global`: one replica on each declared node that satisfies the \
         constraints",
    ),
    supported("placement", "see below"),
    supported(
        "replicas",
        "default 1; with 0, the service is declared but not running",
    ),
    supported("resources", "see below"),
    supported(
        "restart_policy",
        "same as `restart`, which it overrides; see below",
    ),
    supported(
        "rollback_config",
        "how replicas are restored after a failed update; see below",
    ),
    supported(
        "update_config",
        "how changed replicas are replaced; see below",
    ),
];

pub(super) const PLACEMENT: &[Key] = &[
    supported(
        "constraints",
        "`node.hostname` and `node.labels.*` with `==` and `!=`; `node.platform.os` is `linux`",
    ),
    supported("max_replicas_per_node", ""),
    changes(
        "preferences",
        "replicas are spread over nodes, not over labels",
    ),
];

pub(super) const RESOURCES: &[Key] = &[
    supported("limits", "`cpus`, `memory`, `pids`"),
    supported("reservations", "`cpus`, `memory`, `devices`"),
];

pub(super) const LIMITS: &[Key] = &[
    supported("cpus", ""),
    supported("memory", ""),
    supported("pids", ""),
];

pub(super) const RESERVATIONS: &[Key] = &[
    supported("cpus", ""),
    supported("memory", ""),
    supported(
        "devices",
        "requested from the engine's drivers; placement does not consider them",
    ),
    changes(
        "generic_resources",
        "only `cpus` and `memory` can be reserved",
    ),
];

pub(super) const HEALTHCHECK: &[Key] = &[
    supported("disable", ""),
    supported("interval", ""),
    supported("retries", ""),
    harmless(
        "start_interval",
        "`interval` is also used during the start period",
    ),
    supported("start_period", ""),
    supported(
        "test",
        "required if other keys are set, unless `disable` is set",
    ),
    supported("timeout", ""),
];

pub(super) const PORT: &[Key] = &[
    harmless(
        "app_protocol",
        "a hint for gateways only, and the platform has no gateways",
    ),
    supported(
        "host_ip",
        "other services still reach the port, through an automatically chosen host port",
    ),
    harmless(
        "mode",
        "a port is published only on the nodes where replicas run",
    ),
    harmless("name", "a name for readers only"),
    supported("protocol", "`tcp` and `udp`"),
    supported(
        "published",
        "a port, or a range: of the same size as `target`, or of several host ports for one port",
    ),
    supported("target", ""),
];

pub(super) const MOUNT: &[Key] = &[
    supported("bind", "see below"),
    harmless("consistency", "only for desktop engines"),
    changes("image", "images cannot be mounted"),
    supported("read_only", ""),
    supported(
        "source",
        "a volume declared in the top-level `volumes`, a path of the node (`/…`), or your own \
         files (`./…`)",
    ),
    supported("target", ""),
    supported("tmpfs", "see below"),
    supported("type", "`volume`, `bind`, `tmpfs`"),
    supported("volume", "see below"),
];

pub(super) const VOLUME: &[Key] = &[
    supported("driver", "the engine on each node must have the driver"),
    supported("driver_opts", ""),
    supported(
        "external",
        "the volume must exist on the node, and is never removed",
    ),
    supported("labels", ""),
    supported("name", "the name in the engine"),
];

pub(super) const NETWORK: &[Key] = &[
    harmless("attachable", "only services are attached"),
    changes("driver", "the platform's own network is used"),
    changes("driver_opts", "the platform's own network is used"),
    changes("enable_ipv4", "the platform's own network is used"),
    changes("enable_ipv6", "services have IPv4 addresses"),
    changes(
        "external",
        "the platform's own network is used; containers on the external network cannot be reached \
         by name",
    ),
    changes(
        "internal",
        "containers can reach everything that their node can reach, including the Internet",
    ),
    changes("ipam", "the platform chooses addresses"),
    harmless("labels", "no separate network is created"),
    harmless("name", "no separate network is created"),
];

pub(super) const SERVICE_NETWORK: &[Key] = &[
    supported(
        "aliases",
        "additional names for the service in the whole platform",
    ),
    changes("driver_opts", "the platform's own network is used"),
    harmless("gw_priority", "a platform has one network"),
    changes("interface_name", "the engine names the interface"),
    changes(
        "ipv4_address",
        "the platform chooses the address of a service",
    ),
    changes("ipv6_address", "services have IPv4 addresses"),
    changes("link_local_ips", "the engine chooses addresses"),
    changes("mac_address", "the engine chooses the address"),
    harmless("priority", "a platform has one network"),
];

pub(super) const CONFIG: &[Key] = &[
    supported("content", ""),
    supported(
        "environment",
        "an environment variable of the command, or a variable in `.env`",
    ),
    supported(
        "external",
        "only `false`. `true` is an error if a service uses the config, because there is no config \
         store; set `file`, `content` or `environment` instead",
    ),
    supported("file", "relative to the Compose file; at most 500 KiB"),
    harmless("labels", "files have no labels"),
    harmless("name", "a config is identified by its key in `configs`"),
    harmless("template_driver", "contents are used unchanged"),
];

pub(super) const SECRET: &[Key] = &[
    supported("content", ""),
    changes(
        "driver",
        "drivers are not supported; set `file` or `environment`",
    ),
    changes(
        "driver_opts",
        "drivers are not supported; set `file` or `environment`",
    ),
    supported(
        "environment",
        "an environment variable of the command, or a variable in `.env`",
    ),
    supported(
        "external",
        "only `false`. `true` is an error if a service uses the secret, because there is no secret \
         store; set `file`, `content` or `environment` instead",
    ),
    supported("file", "relative to the Compose file; at most 500 KiB"),
    harmless("labels", "files have no labels"),
    harmless("name", "a secret is identified by its key in `secrets`"),
    harmless("template_driver", "contents are used unchanged"),
];

pub(super) const MATERIAL: &[Key] = &[
    supported("gid", ""),
    supported("mode", "default `0444`"),
    supported("source", ""),
    supported("target", ""),
    supported("uid", ""),
];

pub(super) const BIND: &[Key] = &[
    supported(
        "create_host_path",
        "a missing directory of the node is created, unless this is `false`",
    ),
    supported("propagation", ""),
    changes(
        "recursive",
        "mounts below the directory are always included",
    ),
    harmless("selinux", "nodes do not use SELinux"),
];

pub(super) const TMPFS: &[Key] = &[supported("mode", ""), supported("size", "")];

pub(super) const VOLUME_MOUNT: &[Key] = &[
    changes(
        "labels",
        "set labels of the volume in the top-level `volumes`",
    ),
    supported("nocopy", ""),
    changes(
        "subpath",
        "the whole volume is mounted, because the engine API in Debian does not support subpaths",
    ),
];

pub(super) const LOGGING: &[Key] = &[supported("driver", ""), supported("options", "")];

pub(super) const ULIMIT: &[Key] = &[supported("hard", ""), supported("soft", "")];

pub(super) const BLOCK_IO: &[Key] = &[
    supported("device_read_bps", ""),
    supported("device_read_iops", ""),
    supported("device_write_bps", ""),
    supported("device_write_iops", ""),
    supported("weight", ""),
    supported("weight_device", ""),
];

pub(super) const DEVICE: &[Key] = &[
    supported("permissions", "default `rwm`"),
    supported("source", ""),
    supported("target", ""),
];

pub(super) const DEVICE_REQUEST: &[Key] = &[
    supported("capabilities", ""),
    supported("count", "all by default"),
    supported("device_ids", ""),
    supported("driver", ""),
    supported("options", ""),
];

pub(super) const RESTART_POLICY: &[Key] = &[
    supported("condition", "`none`, `on-failure`, `any`"),
    changes(
        "delay",
        "the manager increases the delay after each failure",
    ),
    supported("max_attempts", ""),
    changes(
        "window",
        "attempts are counted from 0 again after a replica was ready for ten minutes",
    ),
];

pub(super) const REPLACEMENT: &[Key] = &[
    supported(
        "delay",
        "how long to wait after a replica has been replaced before the next one is replaced; default 0 s",
    ),
    supported(
        "failure_action",
        "`pause` (default), `continue`, and in `update_config` `rollback`; the failed replica itself is restored",
    ),
    supported(
        "max_failure_ratio",
        "the share of replicas that may fail before `failure_action` applies; default 0",
    ),
    supported(
        "monitor",
        "how long a new replica must stay ready before it counts as replaced; default 0 s",
    ),
    supported(
        "order",
        "default `start-first`, unless the service mounts a writable volume or path of the node, or the replica needs a host port of its predecessor; a replica that shares the node's network or needs a UDP port or a port at a single address of its predecessor, a service that runs once, and services that share a network are always replaced `stop-first`",
    ),
    supported(
        "parallelism",
        "how many replicas are replaced at a time; default 1; 0 means all",
    ),
];

pub(super) const ENV_FILE: &[Key] = &[
    supported("format", "`raw`"),
    supported("path", ""),
    supported("required", ""),
];

/// Returns the supported entries of a mapping. Skips extension fields (`x-…`), reports keys without
/// effect as unsupported, and reports unknown keys as problems.
pub(super) fn supported_entries<'a>(
    field: &Field<'a>,
    table: &'static [Key],
    report: &mut Report,
) -> Vec<(&'a str, Field<'a>)> {
    let entries = field.entries(report);
    entries
        .into_iter()
        .filter(|(name, entry)| is_supported(name, entry, table, report))
        .collect()
}

/// Returns whether the value of an entry must be read. Reports the entry in the same way as
/// [`supported_entries`].
pub(super) fn is_supported(
    name: &str,
    entry: &Field<'_>,
    table: &'static [Key],
    report: &mut Report,
) -> bool {
    if name.starts_with("x-") {
        return false;
    }
    match table
        .iter()
        .find(|key| key.name == name)
        .map(|key| &key.effect)
    {
        Some(Effect::Supported(_)) => return true,
        Some(Effect::Changes(consequence)) => {
            report.unsupported(entry.at, &entry.path, consequence, true);
        }
        Some(Effect::Harmless(consequence)) => {
            report.unsupported(entry.at, &entry.path, consequence, false);
        }
        None => {
            let known = table.iter().map(|key| key.name);
            report.unknown_key(entry.at, &entry.path, name, known);
        }
    }
    false
}
