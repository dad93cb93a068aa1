//! Every key of the Compose Specification at the levels that are read here: honoured, or what
//! happens instead. `docs/compose.md` is made from these tables and a test keeps it so.

#[cfg(test)]
mod page;

use super::super::diagnostic::Report;
use super::super::tree::Field;

/// A key and what becomes of it.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) fate: Fate,
}

#[derive(Debug)]
pub(super) enum Fate {
    /// It has the effect that the specification gives it; the note says where it differs.
    Honoured(
        #[cfg_attr(
            not(test),
            expect(dead_code, reason = "read by the test that keeps docs/compose.md")
        )]
        &'static str,
    ),
    /// It has no effect, and a service runs otherwise than its author meant.
    Changes(&'static str),
    /// It has no effect yet, which is reported as a warning, since the service runs as declared
    /// but for its updates; its value is checked and kept.
    Checked(&'static str),
    /// A key within a mapping that is [`Fate::Checked`], which is reported once for all of them.
    PartOfChecked,
    /// It has no effect, and nothing depends on it here.
    Harmless(&'static str),
}

const fn honoured(name: &'static str, note: &'static str) -> Key {
    Key {
        name,
        fate: Fate::Honoured(note),
    }
}

const fn changes(name: &'static str, consequence: &'static str) -> Key {
    Key {
        name,
        fate: Fate::Changes(consequence),
    }
}

const fn checked(name: &'static str, consequence: &'static str) -> Key {
    Key {
        name,
        fate: Fate::Checked(consequence),
    }
}

const fn part_of_checked(name: &'static str) -> Key {
    Key {
        name,
        fate: Fate::PartOfChecked,
    }
}

const fn harmless(name: &'static str, consequence: &'static str) -> Key {
    Key {
        name,
        fate: Fate::Harmless(consequence),
    }
}

const WINDOWS: &str = "it concerns Windows containers only";

pub(super) const TOP: &[Key] = &[
    honoured(
        "name",
        "the platform's name, unless `-p` or `platform.toml` gives one",
    ),
    honoured("services", ""),
    honoured(
        "volumes",
        "each node that needs one makes its own, and a service that has one stays on that node",
    ),
    harmless("version", "the specification ignores it as well"),
    honoured("include", "see *Several files*"),
    honoured(
        "networks",
        "names only; a platform has one network, in which all services reach each other",
    ),
    honoured("configs", "see below"),
    honoured("secrets", "see below"),
    changes(
        "models",
        "no model is started; declare it as a service with `x-lifecycle.class: model`",
    ),
];

pub(super) const SERVICE: &[Key] = &[
    harmless(
        "annotations",
        "containers carry no annotations: the API of Debian's engine has none",
    ),
    harmless("attach", "output is read with `logs`"),
    honoured(
        "blkio_config",
        "`weight`, `weight_device`, `device_read_bps`, `device_write_bps`, `device_read_iops`, `device_write_iops`",
    ),
    honoured("build", "see below"),
    honoured("cap_add", ""),
    honoured("cap_drop", ""),
    honoured("cgroup", ""),
    honoured("cgroup_parent", ""),
    honoured("command", ""),
    honoured(
        "configs",
        "by name, or with `source`, `target`, `uid`, `gid`, `mode`; `/<name>` without a target",
    ),
    honoured(
        "container_name",
        "as a further name of the service; containers themselves get names of the platform",
    ),
    harmless("cpu_count", WINDOWS),
    harmless("cpu_percent", WINDOWS),
    honoured("cpu_period", ""),
    honoured("cpu_quota", ""),
    honoured("cpu_rt_period", ""),
    honoured("cpu_rt_runtime", ""),
    honoured("cpu_shares", ""),
    honoured("cpus", "the same as `deploy.resources.limits.cpus`"),
    honoured("cpuset", ""),
    harmless("credential_spec", WINDOWS),
    honoured("depends_on", "see below"),
    honoured("deploy", "see below"),
    harmless("develop", "it is for `docker compose watch`"),
    honoured("device_cgroup_rules", ""),
    honoured(
        "devices",
        "of the node that the container runs on; placement does not look for them",
    ),
    honoured(
        "dns",
        "with resolvers of its own a container does not know the other services' names",
    ),
    honoured(
        "dns_opt",
        "beside `dns`; without it the platform's resolver is asked as it is",
    ),
    honoured(
        "dns_search",
        "beside `dns`; without it the platform's resolver is asked as it is",
    ),
    honoured("domainname", ""),
    honoured("entrypoint", ""),
    honoured(
        "env_file",
        "with `required` and `format: raw`; read where the command runs",
    ),
    honoured(
        "environment",
        "a key without a value is taken from the environment of the command",
    ),
    honoured(
        "expose",
        "other services reach these ports: each gets one of its node's from 20000 to 29999",
    ),
    honoured("extends", "see *Several files*"),
    changes(
        "external_links",
        "no container outside the platform is reached by name",
    ),
    honoured("extra_hosts", "with `host-gateway`"),
    honoured("gpus", "`all`, or a list; placement does not look for them"),
    honoured("group_add", ""),
    honoured("healthcheck", "see below"),
    honoured("hostname", ""),
    honoured(
        "image",
        "beside `build` it has no effect: the built image gets a name of the platform",
    ),
    honoured("init", ""),
    honoured(
        "ipc",
        "`host`, `none`, `private`, `shareable`; no other container's, which may be elsewhere",
    ),
    harmless("isolation", WINDOWS),
    honoured("label_file", ""),
    honoured("labels", ""),
    honoured(
        "links",
        "an alias becomes a further name of the service, for all of the platform; the linked service starts first",
    ),
    honoured(
        "logging",
        "the driver must be one whose output the engine can read, or `logs` shows nothing; without it files of JSON, rotated",
    ),
    changes("mac_address", "the engine picks the address"),
    honoured("mem_limit", "the same as `deploy.resources.limits.memory`"),
    honoured(
        "mem_reservation",
        "the same as `deploy.resources.reservations.memory`",
    ),
    honoured("mem_swappiness", "where the node's kernel has it"),
    honoured("memswap_limit", ""),
    changes(
        "models",
        "no model is started; declare it as a service with `x-lifecycle.class: model`",
    ),
    honoured(
        "network_mode",
        "`host`, `none`, `bridge`; no other container's network, which may be elsewhere. With `host` each port is open on the node as the process opens it, and `ports` and `expose` say which those are",
    ),
    honoured(
        "networks",
        "names and `aliases`; all services of a platform reach each other, whatever networks they name",
    ),
    honoured("oom_kill_disable", "where the node's kernel has it"),
    honoured("oom_score_adj", ""),
    honoured(
        "pid",
        "`host`; no other container's, which may be elsewhere",
    ),
    honoured("pids_limit", "the same as `deploy.resources.limits.pids`"),
    changes(
        "platform",
        "images are taken for the node's own architecture",
    ),
    honoured("ports", "see below"),
    changes("post_start", "nothing is run after the start"),
    changes("pre_stop", "nothing is run before the stop"),
    honoured("privileged", ""),
    honoured("profiles", "see *Several files*"),
    changes(
        "provider",
        "the service is not handed to an external provider",
    ),
    honoured(
        "pull_policy",
        "`missing` and `build`; the others are told as without effect",
    ),
    changes(
        "pull_refresh_after",
        "an image is pulled where a node lacks it",
    ),
    honoured("read_only", ""),
    honoured("restart", "carried out by the manager; `always` without it"),
    honoured("runtime", ""),
    honoured("scale", "the same as `deploy.replicas`"),
    honoured(
        "secrets",
        "by name, or with `source`, `target`, `uid`, `gid`, `mode`; `/run/secrets/<name>` without a target",
    ),
    honoured(
        "security_opt",
        "a file of `seccomp` rules is read beside the Compose file",
    ),
    honoured("shm_size", ""),
    honoured("stdin_open", ""),
    honoured("stop_grace_period", ""),
    honoured("stop_signal", ""),
    honoured("storage_opt", "where the node's storage driver has it"),
    honoured("sysctls", ""),
    honoured("tmpfs", ""),
    honoured("tty", ""),
    honoured("ulimits", ""),
    changes("use_api_socket", "containers do not reach the engine"),
    honoured("user", ""),
    honoured("userns_mode", "`host`"),
    honoured("uts", "`host`"),
    honoured(
        "volumes",
        "see below; what an image keeps in a `VOLUME` of its own goes with the container when it \
         is replaced, unless a volume is named for it",
    ),
    changes("volumes_from", "nothing is mounted; name the volumes"),
    honoured("working_dir", ""),
];

pub(super) const BUILD: &[Key] = &[
    changes(
        "additional_contexts",
        "the Dockerfile sees its own context only",
    ),
    honoured(
        "args",
        "a key without a value is taken from the environment of the command",
    ),
    honoured(
        "cache_from",
        "images that the engine has; nothing is fetched for it",
    ),
    harmless("cache_to", "the engine's own cache is used"),
    honoured(
        "context",
        "a directory, relative to the Compose file; no URL",
    ),
    honoured("dockerfile", ""),
    honoured("dockerfile_inline", ""),
    changes("entitlements", "the build gets no further rights"),
    honoured("extra_hosts", ""),
    harmless("isolation", WINDOWS),
    honoured("labels", ""),
    honoured("network", "`host`, `none`, or the engine's default"),
    harmless(
        "no_cache",
        "an image is built once for each content of its code base",
    ),
    changes(
        "platforms",
        "images are built for the nodes' own architecture",
    ),
    changes("privileged", "the build gets no further rights"),
    harmless("provenance", "no attestation is made"),
    harmless("pull", "base images are pulled where a node lacks them"),
    harmless("sbom", "no bill of materials is made"),
    changes(
        "secrets",
        "no secret is mounted in the build, so a step that needs one fails",
    ),
    honoured("shm_size", ""),
    changes("ssh", "the build reaches no SSH agent"),
    harmless("tags", "images get names of the platform"),
    honoured("target", ""),
    changes("ulimits", "the build has the engine's defaults"),
];

pub(super) const DEPENDENCY: &[Key] = &[
    honoured("condition", "all three"),
    honoured(
        "required",
        "`false` drops a dependency that no active profile enables; one that is enabled is waited \
         for like any other",
    ),
    changes("restart", "a restarted service restarts no other"),
];

pub(super) const DEPLOY: &[Key] = &[
    honoured(
        "endpoint_mode",
        "`vip`; with `dnsrr` a service has one address all the same",
    ),
    harmless("labels", "use the service's own `labels`"),
    honoured(
        "mode",
        "`replicated`, and `global`: one replica on each declared node that meets the constraints",
    ),
    honoured("placement", "see below"),
    honoured(
        "replicas",
        "1 without it; 0 keeps the service declared and stopped",
    ),
    honoured("resources", "see below"),
    honoured(
        "restart_policy",
        "the same as `restart`, and wins over it; see below",
    ),
    checked(
        "rollback_config",
        "a changed replica that does not become ready in time is always replaced by the previous one",
    ),
    checked(
        "update_config",
        "all replicas of a changed service are stopped at once, then the new ones start",
    ),
];

pub(super) const PLACEMENT: &[Key] = &[
    honoured(
        "constraints",
        "`node.hostname` and `node.labels.*` with `==` and `!=`; `node.platform.os` is `linux`",
    ),
    honoured("max_replicas_per_node", ""),
    changes(
        "preferences",
        "replicas are spread over nodes, not over their labels",
    ),
];

pub(super) const RESOURCES: &[Key] = &[
    honoured("limits", "`cpus`, `memory`, `pids`"),
    honoured("reservations", "`cpus`, `memory`, `devices`"),
];

pub(super) const LIMITS: &[Key] = &[
    honoured("cpus", ""),
    honoured("memory", ""),
    honoured("pids", ""),
];

pub(super) const RESERVATIONS: &[Key] = &[
    honoured("cpus", ""),
    honoured("memory", ""),
    honoured(
        "devices",
        "the engine's drivers are asked for them; placement does not look for them",
    ),
    changes("generic_resources", "only `cpus` and `memory` are reserved"),
];

pub(super) const HEALTHCHECK: &[Key] = &[
    honoured("disable", ""),
    honoured("interval", ""),
    honoured("retries", ""),
    harmless("start_interval", "`interval` holds from the start"),
    honoured("start_period", ""),
    honoured(
        "test",
        "required beside the others, unless `disable` is set",
    ),
    honoured("timeout", ""),
];

pub(super) const PORT: &[Key] = &[
    harmless(
        "app_protocol",
        "it is a hint to gateways that are not used here",
    ),
    honoured(
        "host_ip",
        "other services reach the port all the same, at one that is picked",
    ),
    harmless(
        "mode",
        "a port is published on the nodes where replicas run",
    ),
    harmless("name", "it is for people"),
    honoured("protocol", "`tcp` and `udp`"),
    honoured(
        "published",
        "a port, or a range as long as that of `target`",
    ),
    honoured("target", ""),
];

pub(super) const MOUNT: &[Key] = &[
    honoured("bind", "see below"),
    harmless("consistency", "it concerns desktop engines only"),
    changes("image", "nothing of an image is mounted"),
    honoured("read_only", ""),
    honoured(
        "source",
        "a volume that the top-level `volumes` declare, a path of the node (`/…`), or the user's own files (`./…`)",
    ),
    honoured("target", ""),
    honoured("tmpfs", "see below"),
    honoured("type", "`volume`, `bind`, `tmpfs`"),
    honoured("volume", "see below"),
];

pub(super) const VOLUME: &[Key] = &[
    honoured("driver", "a driver that each node's engine has"),
    honoured("driver_opts", ""),
    honoured(
        "external",
        "the node's engine must have it; it is never removed",
    ),
    honoured("labels", ""),
    honoured("name", "the engine's name of it"),
];

pub(super) const NETWORK: &[Key] = &[
    harmless("attachable", "nothing but services is attached"),
    changes("driver", "the platform's own network is used"),
    changes("driver_opts", "the platform's own network is used"),
    changes("enable_ipv4", "the platform's own network is used"),
    changes("enable_ipv6", "services have IPv4 addresses"),
    changes(
        "external",
        "the platform's own network is used; what is on that one is not reached by name",
    ),
    changes(
        "internal",
        "containers reach what their node reaches, the outside too",
    ),
    changes("ipam", "the platform picks addresses"),
    harmless("labels", "there is no network of its own to carry them"),
    harmless("name", "there is no network of its own to name"),
];

pub(super) const SERVICE_NETWORK: &[Key] = &[
    honoured(
        "aliases",
        "further names of the service, for all of the platform",
    ),
    changes("driver_opts", "the platform's own network is used"),
    harmless("gw_priority", "there is one network"),
    changes("interface_name", "the engine names the interface"),
    changes("ipv4_address", "the platform picks a service's address"),
    changes("ipv6_address", "services have IPv4 addresses"),
    changes("link_local_ips", "the engine picks addresses"),
    changes("mac_address", "the engine picks the address"),
    harmless("priority", "there is one network"),
];

pub(super) const CONFIG: &[Key] = &[
    honoured("content", ""),
    honoured(
        "environment",
        "a variable of the environment of the command, or of `.env`",
    ),
    honoured(
        "external",
        "an error: there is no store of configs; give its contents",
    ),
    honoured("file", "relative to the Compose file; at most 500 KiB"),
    harmless("labels", "it is a file, which carries no labels"),
    honoured("name", "of no use here: a config goes by its key"),
    harmless("template_driver", "contents are taken as they are"),
];

pub(super) const SECRET: &[Key] = &[
    honoured("content", ""),
    changes(
        "driver",
        "no driver is asked; give it `file` or `environment`",
    ),
    changes(
        "driver_opts",
        "no driver is asked; give it `file` or `environment`",
    ),
    honoured(
        "environment",
        "a variable of the environment of the command, or of `.env`",
    ),
    honoured(
        "external",
        "an error: there is no store of secrets; give its contents",
    ),
    honoured("file", "relative to the Compose file; at most 500 KiB"),
    harmless("labels", "it is a file, which carries no labels"),
    honoured("name", "of no use here: a secret goes by its key"),
    harmless("template_driver", "contents are taken as they are"),
];

pub(super) const MATERIAL: &[Key] = &[
    honoured("gid", ""),
    honoured("mode", "`0444` without it"),
    honoured("source", ""),
    honoured("target", ""),
    honoured("uid", ""),
];

pub(super) const BIND: &[Key] = &[
    honoured(
        "create_host_path",
        "a missing directory of the node is made, unless this is `false`",
    ),
    honoured("propagation", ""),
    changes("recursive", "what is mounted below it is mounted too"),
    harmless("selinux", "nodes have no such security module"),
];

pub(super) const TMPFS: &[Key] = &[honoured("mode", ""), honoured("size", "")];

pub(super) const VOLUME_MOUNT: &[Key] = &[
    changes("labels", "labels stand under the volume at the top level"),
    honoured("nocopy", ""),
    changes(
        "subpath",
        "the volume is mounted whole: the API of Debian's engine has no part of one",
    ),
];

pub(super) const LOGGING: &[Key] = &[honoured("driver", ""), honoured("options", "")];

pub(super) const ULIMIT: &[Key] = &[honoured("hard", ""), honoured("soft", "")];

pub(super) const BLOCK_IO: &[Key] = &[
    honoured("device_read_bps", ""),
    honoured("device_read_iops", ""),
    honoured("device_write_bps", ""),
    honoured("device_write_iops", ""),
    honoured("weight", ""),
    honoured("weight_device", ""),
];

pub(super) const DEVICE: &[Key] = &[
    honoured("permissions", "`rwm` without it"),
    honoured("source", ""),
    honoured("target", ""),
];

pub(super) const DEVICE_REQUEST: &[Key] = &[
    honoured("capabilities", ""),
    honoured("count", "all of them without it"),
    honoured("device_ids", ""),
    honoured("driver", ""),
    honoured("options", ""),
];

pub(super) const RESTART_POLICY: &[Key] = &[
    honoured("condition", "`none`, `on-failure`, `any`"),
    changes("delay", "the manager waits longer after each failure"),
    honoured("max_attempts", ""),
    changes("window", "a replica that was ready once is counted anew"),
];

pub(super) const REPLACEMENT: &[Key] = &[
    part_of_checked("delay"),
    part_of_checked("failure_action"),
    changes("max_failure_ratio", "failed replicas are not counted"),
    part_of_checked("monitor"),
    part_of_checked("order"),
    part_of_checked("parallelism"),
];

pub(super) const ENV_FILE: &[Key] = &[
    honoured("format", "`raw`"),
    honoured("path", ""),
    honoured("required", ""),
];

/// The entries of a mapping whose values are read. Extension fields (`x-…`) are skipped, a key
/// without effect is reported as unsupported, an unknown key as a problem.
pub(super) fn honoured_entries<'a>(
    field: &Field<'a>,
    table: &'static [Key],
    report: &mut Report,
) -> Vec<(&'a str, Field<'a>)> {
    let entries = field.entries(report);
    entries
        .into_iter()
        .filter(|(name, entry)| is_honoured(name, entry, table, report))
        .collect()
}

/// The same for one entry.
pub(super) fn is_honoured(
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
        .map(|key| &key.fate)
    {
        Some(Fate::Honoured(_) | Fate::PartOfChecked) => return true,
        Some(Fate::Checked(consequence)) => {
            report.unsupported(entry.at, &entry.path, consequence, false);
            return true;
        }
        Some(Fate::Changes(consequence)) => {
            report.unsupported(entry.at, &entry.path, consequence, true);
        }
        Some(Fate::Harmless(consequence)) => {
            report.unsupported(entry.at, &entry.path, consequence, false);
        }
        None => {
            let known = table.iter().map(|key| key.name);
            report.unknown_key(entry.at, &entry.path, name, known);
        }
    }
    false
}
