//! Every key of the Compose Specification at the levels that are read here: honoured, or what
//! happens instead. `docs/compose.md` is made from these tables and a test keeps it so.

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
    honoured(
        "rollback_config",
        "read, checked and kept; so far a changed replica that never gets ready gives way to the former one, whatever this says",
    ),
    honoured(
        "update_config",
        "read, checked and kept; so far replicas are replaced one after the other by the manager's own rules",
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
    honoured("delay", "kept"),
    honoured("failure_action", "kept"),
    changes(
        "max_failure_ratio",
        "replicas are replaced one after the other",
    ),
    honoured("monitor", "kept"),
    honoured("order", "kept"),
    honoured("parallelism", "kept"),
];

pub(super) const ENV_FILE: &[Key] = &[
    honoured("format", "`raw`"),
    honoured("path", ""),
    honoured("required", ""),
];

/// The entries of a mapping that have an effect. Extension fields (`x-…`) are passed over, what
/// has no effect is reported as unsupported, what nobody knows as a problem.
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
        Some(Fate::Honoured(_)) => return true,
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    fn table(out: &mut String, title: &str, keys: &[Key]) {
        writeln!(out, "\n## {title}\n\n| key | effect |\n|---|---|").unwrap();
        for key in keys {
            let effect = match key.fate {
                Fate::Honoured("") => "honoured".to_owned(),
                Fate::Honoured(note) => format!("honoured: {note}"),
                Fate::Changes(consequence) => format!("**no effect**: {consequence}"),
                Fate::Harmless(consequence) => format!("no effect: {consequence}"),
            };
            writeln!(out, "| `{}` | {effect} |", key.name).unwrap();
        }
    }

    const INTRODUCTION: &str = "# What of the Compose Specification is honoured

Services are declared in `compose.yaml`, in the words of the
[Compose Specification](https://compose-spec.io). This page lists every key of it and what
becomes of it here. A key in bold face changes how a service runs when it is left out, and
`up` says so before it touches anything; a key that nobody knows is an error.

**Names.** A service's name leads to it from every container of the platform, on every node, before
it is ready: `db:5432` is answered by a ready replica, wherever that runs, and several share what
comes. So do `db.<platform>.internal` and the service's aliases; upper and lower case are the same.
The name has one address, the same everywhere; a connection to it waits for a ready replica for as
long as `[network] wait` in `platform.toml` says (30 s), then it is reset, and an event tells. Only
ports that are known answer there: those of `ports`, `expose`, `x-lifecycle.ready`, and the `EXPOSE`
lines of the Dockerfile or image. A port that a process opens without any of these is not reached by
others; `expose` it. All other names are asked of the node's own resolvers. IPv4, TCP and UDP; the
address that a service sees its client come from is the client's node.

**Files beside the Compose file.** Nodes have no copy of your directory, so a relative path
(`./nginx.conf:/etc/nginx/nginx.conf`), a config and a secret go to the node by their content: read
where the command runs, carried in the declaration (which the registry keeps sealed), put into a
directory of root's on the node before the container is made, and mounted **read-only**. The content
is part of what a container is made from: a changed file replaces the containers that mount it. One
mount holds at most 1 MiB (a config or secret 500 KiB), all together 16 MiB; a directory's
`.dockerignore` is honoured. Files keep the executable bit and belong to root.

A relative path with nothing behind it, or with an empty directory (`./data:/var/lib/postgresql/data`),
is a place of data: it becomes a volume of the platform on the node, and the service stays there. What
lies there when `up` reads the file decides, so put nothing of your own into a place of data. An
absolute path (`/var/run/docker.sock`, `/etc/localtime`, `/data`) is the node's own, unless it lies in
the Compose file's directory; what is written there stays there when the service moves. `up` says for
each mount which of these it is, where that may surprise.

**Volumes keep a service in its place.** A replica whose named volume is on a node runs there and
nowhere else; if it cannot, the plan says that it waits, and for which volume.

**Networks.** There is one network. All services of a platform reach each other by name, whatever
`networks` they name; `internal` and other means of keeping services apart have no effect, and that is
said where it makes a difference.

**Rights.** `privileged`, `cap_add`, `devices`, `pid: host`, paths of the node and the like are given
as asked. Whoever may declare services is root on the nodes.

**Several files.** The files are those of `-f`, in their order; else those that `COMPOSE_FILE` lists
(separated by `:`, or by what `COMPOSE_PATH_SEPARATOR` says); else `compose.yaml`, `compose.yml`,
`docker-compose.yml` or `docker-compose.yaml`, in the project's directory and then in those above
it, with `compose.override.yml`, `compose.override.yaml`, `docker-compose.override.yml` or
`docker-compose.override.yaml` beside it. Relative paths start from the first file's directory.

- *Merge*: each file is merged over those before it. Mappings are merged key by key, lists are
  joined, single values are replaced. `command`, `entrypoint` and `healthcheck.test` are replaced
  whole; `environment`, `labels`, `args` and their like are merged by name, whichever of their two
  forms they have; of `ports`, `volumes`, `devices`, `secrets`, `configs`, `expose` and lists of
  words, an entry takes the place of one that is the same thing (the same port, the same path in
  the container). `!reset` takes away what an earlier file has at a key, `!override` puts its value
  in place of it. Two kinds of value that cannot be merged are an error.
- *`include`*: the short form, and the long one with `path`, `project_directory` and `env_file`.
  Each entry is a project of its own, with its own directory for relative paths and its own `.env`
  beneath the project's variables. A resource that is declared on both sides is an error, unless it
  is the same to the letter; an override file may change what is included. Up to 24 levels.
- *`extends`*: a service of the same file or of another one (`file`), through any chain of up to 64;
  a circle is an error. Paths of the other file start from its directory. What the other service
  needs beside itself (volumes, networks, other services) is not taken over with it.
- *`profiles`*: a service with profiles is left out unless one of them is active, by `--profile` or
  `COMPOSE_PROFILES` (`*` for all). A dependency on a service that is left out is an error, unless
  it says `required: false`; then it is dropped.
- *Variables*: `$VAR`, `${VAR:-default}`, `${VAR:?message}`, `${VAR:+instead}`, the forms without the
  colon, each within each, and `$$` for a dollar sign, in every value and never in keys, before
  files are merged. The environment wins over the `.env` file beside the first Compose file (or the
  files that `COMPOSE_ENV_FILES` lists). `COMPOSE_PROJECT_NAME` names the platform where `-p` does
  not, and has its name in every file.
- YAML's anchors, aliases and merge keys work, and so do extension fields (`x-…`).

What differs from Compose: only files of this machine are included or extended, no address; one
YAML document is one file; a service that is left out by its profiles is not checked; two entries
of one list in *one* file that are the same thing are an error and not silently one; `secrets` and
`configs` of an included project take `environment` from the project's own variables;
`x-lifecycle.code` names a code base of the platform's code store, wherever it stands.

What Compose has no word for stands under `x-lifecycle` on a service:

| key | meaning |
|---|---|
| `class` | `microservice` (the default), `application` or `model` |
| `code` | the name of a code base in the code store, instead of `build.context`; beside it `build` may give `dockerfile` and `args` |
| `starts` | `last`: after all services that do not start last |
| `api` | `read`: its containers are told how to look things up at the manager |
| `ready` | when it is ready: `{port: 8080, path: /health}` or `http://:8080/health`; the port stands in `ports` or `expose` |
| `ready_within` | how long an instance may take from its start until it is ready; 5 minutes without it |
";

    fn page() -> String {
        let mut page = INTRODUCTION.to_owned();
        for (title, keys) in [
            ("Top level", TOP),
            ("`services.<name>`", SERVICE),
            ("`build`", BUILD),
            ("`depends_on.<name>`", DEPENDENCY),
            ("`deploy`", DEPLOY),
            ("`deploy.placement`", PLACEMENT),
            ("`deploy.resources`", RESOURCES),
            ("`deploy.resources.limits`", LIMITS),
            ("`deploy.resources.reservations`", RESERVATIONS),
            ("`env_file[]`, long form", ENV_FILE),
            ("`healthcheck`", HEALTHCHECK),
            ("`ports[]`, long form", PORT),
            ("`volumes[]` of a service, long form", MOUNT),
            ("`volumes[].bind`", BIND),
            ("`volumes[].tmpfs`", TMPFS),
            ("`volumes[].volume`", VOLUME_MOUNT),
            (
                "`configs[]` and `secrets[]` of a service, long form",
                MATERIAL,
            ),
            ("`networks.<name>` of a service", SERVICE_NETWORK),
            ("`logging`", LOGGING),
            ("`ulimits.<name>`", ULIMIT),
            ("`blkio_config`", BLOCK_IO),
            ("`devices[]`, long form", DEVICE),
            (
                "`gpus[]` and `deploy.resources.reservations.devices[]`",
                DEVICE_REQUEST,
            ),
            ("`deploy.restart_policy`", RESTART_POLICY),
            (
                "`deploy.update_config` and `deploy.rollback_config`",
                REPLACEMENT,
            ),
            ("`volumes.<name>` at the top level", VOLUME),
            ("`networks.<name>` at the top level", NETWORK),
            ("`configs.<name>` at the top level", CONFIG),
            ("`secrets.<name>` at the top level", SECRET),
        ] {
            table(&mut page, title, keys);
        }
        page
    }

    /// `UPDATE_DOCS=1 cargo test -p lifecycle-core compose_page` writes the page anew.
    #[test]
    fn the_compose_page_says_what_the_code_does() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compose.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(
            written == page(),
            "docs/compose.md is out of date: run with UPDATE_DOCS=1"
        );
    }

    /// Reads `{before}{key}: {value}{after}` and gives the paths of
    /// all problems and of all keys without effect.
    fn read(before: &str, key: &str, value: &str, after: &str) -> (Vec<String>, Vec<String>) {
        let text = format!("{before}{key}: {value}{after}");
        let mut report = Report::new("f");
        let root = super::super::super::files::of_text(&text, &mut report);
        let (lookup, nodes) = (|_: &str| None, std::collections::BTreeMap::new());
        let world = super::super::World {
            directory: Path::new("/nonexistent"),
            code_store: "code",
            lookup: &lookup,
            nodes: &nodes,
        };
        if let Some(root) = root {
            super::super::read(&root, &world, &mut report);
        }
        let unsupported = report.unsupported.iter().map(|key| key.path.clone());
        let unsupported = unsupported.collect();
        let problems = Report::problems_of(vec![report]).unwrap_or_default();
        (
            problems
                .iter()
                .map(|problem| problem.path.clone())
                .collect(),
            unsupported,
        )
    }

    /// A key that is called honoured is read: nonsense in its place is a problem. Every other key
    /// is told as having no effect.
    #[test]
    fn every_key_is_treated_as_its_table_says() {
        const NONSENSE: &str = "{'?': [[]]}";
        for (keys, before, after) in [
            (TOP, "{", "}"),
            (SERVICE, "services: {a: {image: x, ", "}}"),
            (BUILD, "services: {a: {build: {", "}}}"),
            (
                DEPENDENCY,
                "services: {b: {image: x}, a: {image: x, depends_on: {b: {",
                "}}}}",
            ),
            (DEPLOY, "services: {a: {image: x, deploy: {", "}}}"),
            (
                PLACEMENT,
                "services: {a: {image: x, deploy: {placement: {",
                "}}}}",
            ),
            (
                RESOURCES,
                "services: {a: {image: x, deploy: {resources: {",
                "}}}}",
            ),
            (
                LIMITS,
                "services: {a: {image: x, deploy: {resources: {limits: {",
                "}}}}}",
            ),
            (
                RESERVATIONS,
                "services: {a: {image: x, deploy: {resources: {reservations: {",
                "}}}}}",
            ),
            (
                HEALTHCHECK,
                "services: {a: {image: x, healthcheck: {",
                "}}}",
            ),
            (PORT, "services: {a: {image: x, ports: [{", "}]}}"),
            (
                MOUNT,
                "volumes: {v: }\nservices: {a: {image: x, volumes: [{",
                "}]}}",
            ),
            (ENV_FILE, "services: {a: {image: x, env_file: [{", "}]}}"),
            (
                BIND,
                "services: {a: {image: x, volumes: [{type: bind, source: /s, target: /t, bind: {",
                "}}]}}",
            ),
            (
                TMPFS,
                "services: {a: {image: x, volumes: [{type: tmpfs, target: /t, tmpfs: {",
                "}}]}}",
            ),
            (
                VOLUME_MOUNT,
                "volumes: {v: }\nservices: {a: {image: x, volumes: [{target: /t, volume: {",
                "}}]}}",
            ),
            (
                MATERIAL,
                "configs: {c: {content: x}}\nservices: {a: {image: x, configs: [{",
                "}]}}",
            ),
            (
                SERVICE_NETWORK,
                "networks: {n: }\nservices: {a: {image: x, networks: {n: {",
                "}}}}",
            ),
            (LOGGING, "services: {a: {image: x, logging: {", "}}}"),
            (
                ULIMIT,
                "services: {a: {image: x, ulimits: {nofile: {",
                "}}}}",
            ),
            (BLOCK_IO, "services: {a: {image: x, blkio_config: {", "}}}"),
            (DEVICE, "services: {a: {image: x, devices: [{", "}]}}"),
            (DEVICE_REQUEST, "services: {a: {image: x, gpus: [{", "}]}}"),
            (
                RESTART_POLICY,
                "services: {a: {image: x, deploy: {restart_policy: {",
                "}}}}",
            ),
            (
                REPLACEMENT,
                "services: {a: {image: x, deploy: {update_config: {",
                "}}}}",
            ),
            (NETWORK, "services: {a: {image: x}}\nnetworks: {n: {", "}}"),
            (CONFIG, "services: {a: {image: x}}\nconfigs: {n: {", "}}"),
            (SECRET, "services: {a: {image: x}}\nsecrets: {n: {", "}}"),
            (VOLUME, "services: {a: {image: x}}\nvolumes: {v: {", "}}"),
        ] {
            for key in keys {
                let told = |paths: &[String]| {
                    let parts = paths.iter().flat_map(|path| path.split(['.', '[']));
                    parts.into_iter().any(|part| part == key.name)
                };
                // Within a mapping that takes one image only.
                let before = before.replace(&format!("{}: x, ", key.name), "");
                let (problems, unsupported) = read(&before, key.name, NONSENSE, after);
                if matches!(key.fate, Fate::Honoured(_)) {
                    assert!(told(&problems), "{before}{}: {problems:?}", key.name);
                } else {
                    assert!(told(&unsupported), "{before}{}: {unsupported:?}", key.name);
                }
            }
        }
    }

    #[test]
    fn tables_are_sorted_and_without_doubles() {
        for keys in [
            SERVICE,
            BUILD,
            DEPENDENCY,
            DEPLOY,
            PLACEMENT,
            HEALTHCHECK,
            PORT,
            MOUNT,
            VOLUME,
            NETWORK,
            SERVICE_NETWORK,
            CONFIG,
            SECRET,
            MATERIAL,
            BIND,
            TMPFS,
            VOLUME_MOUNT,
            LOGGING,
            ULIMIT,
            BLOCK_IO,
            DEVICE,
            DEVICE_REQUEST,
            RESTART_POLICY,
            REPLACEMENT,
        ] {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        }
    }
}
