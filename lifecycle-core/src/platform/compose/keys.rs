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
const NO_KERNEL_RIGHTS: &str = "containers run with the engine's default rights";
const ENGINE_LIMITS: &str = "only `cpus` and `memory` are limited";
const OWN_NETWORK: &str = "no network is made: services reach each other at their nodes, through the ports that they look up in the manager's API";

pub(super) const TOP: &[Key] = &[
    honoured(
        "name",
        "the platform's name, unless `-p` or `platform.toml` gives one",
    ),
    honoured("services", ""),
    honoured(
        "volumes",
        "names only; each node that needs one makes its own",
    ),
    harmless("version", "the specification ignores it as well"),
    honoured("include", "see *Files*"),
    changes("networks", OWN_NETWORK),
    changes(
        "configs",
        "no config is mounted; put the file into the image",
    ),
    changes(
        "secrets",
        "no secret is mounted; pass it through `environment` or `env_file`",
    ),
    changes(
        "models",
        "no model is started; declare it as a service with `x-lifecycle.class: model`",
    ),
];

pub(super) const SERVICE: &[Key] = &[
    harmless("annotations", "containers carry no annotations"),
    harmless("attach", "output is read with `logs`"),
    changes("blkio_config", ENGINE_LIMITS),
    honoured("build", "see below"),
    changes("cap_add", NO_KERNEL_RIGHTS),
    changes("cap_drop", NO_KERNEL_RIGHTS),
    changes(
        "cgroup",
        "containers get the engine's default cgroup namespace",
    ),
    changes(
        "cgroup_parent",
        "containers get the engine's default parent cgroup",
    ),
    honoured("command", ""),
    changes(
        "configs",
        "no config is mounted; put the file into the image",
    ),
    harmless("container_name", "containers get names of the platform"),
    harmless("cpu_count", WINDOWS),
    harmless("cpu_percent", WINDOWS),
    changes("cpu_period", ENGINE_LIMITS),
    changes("cpu_quota", ENGINE_LIMITS),
    changes("cpu_rt_period", ENGINE_LIMITS),
    changes("cpu_rt_runtime", ENGINE_LIMITS),
    changes("cpu_shares", ENGINE_LIMITS),
    honoured("cpus", "the same as `deploy.resources.limits.cpus`"),
    changes("cpuset", "containers may run on every processor"),
    harmless("credential_spec", WINDOWS),
    honoured("depends_on", "see below"),
    honoured("deploy", "see below"),
    harmless("develop", "it is for `docker compose watch`"),
    changes(
        "device_cgroup_rules",
        "containers reach no devices of the node",
    ),
    changes("devices", "containers reach no devices of the node"),
    changes("dns", "names are resolved by the node's resolvers"),
    changes("dns_opt", "names are resolved by the node's resolvers"),
    changes("dns_search", "names are resolved by the node's resolvers"),
    changes("domainname", "containers have no domain name"),
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
    honoured("extends", "see *Files*"),
    changes("external_links", "no other container is reached by name"),
    changes("extra_hosts", "these names are not known in the containers"),
    changes("gpus", "containers reach no devices of the node"),
    changes("group_add", "the process runs with the image's groups"),
    honoured("healthcheck", "see below"),
    changes("hostname", "a container's host name is its id"),
    honoured(
        "image",
        "beside `build` it has no effect: the built image gets a name of the platform",
    ),
    changes("init", "the image's own process is number 1"),
    changes("ipc", "each container has shared memory of its own"),
    harmless("isolation", WINDOWS),
    changes("label_file", "the labels in it are not set; use `labels`"),
    honoured("labels", ""),
    changes(
        "links",
        "no service is reached by such a name; use `depends_on` for the order",
    ),
    harmless(
        "logging",
        "output is read with `logs`, from the engine's default driver",
    ),
    changes("mac_address", "the engine picks the address"),
    honoured("mem_limit", "the same as `deploy.resources.limits.memory`"),
    honoured(
        "mem_reservation",
        "the same as `deploy.resources.reservations.memory`",
    ),
    changes("mem_swappiness", ENGINE_LIMITS),
    changes("memswap_limit", ENGINE_LIMITS),
    changes(
        "models",
        "no model is started; declare it as a service with `x-lifecycle.class: model`",
    ),
    changes("network_mode", OWN_NETWORK),
    changes("networks", OWN_NETWORK),
    changes("oom_kill_disable", ENGINE_LIMITS),
    changes("oom_score_adj", ENGINE_LIMITS),
    changes("pid", "each container sees its own processes only"),
    changes("pids_limit", ENGINE_LIMITS),
    changes(
        "platform",
        "images are taken for the node's own architecture",
    ),
    honoured("ports", "see below"),
    changes("post_start", "nothing is run after the start"),
    changes("pre_stop", "nothing is run before the stop"),
    changes("privileged", NO_KERNEL_RIGHTS),
    honoured("profiles", "see *Files*"),
    changes(
        "provider",
        "the service is not handed to an external provider",
    ),
    changes("pull_policy", "an image is pulled where a node lacks it"),
    changes(
        "pull_refresh_after",
        "an image is pulled where a node lacks it",
    ),
    changes("read_only", "the container's file system can be written"),
    honoured("restart", "carried out by the manager; `always` without it"),
    changes("runtime", "the engine's default runtime is used"),
    honoured("scale", "the same as `deploy.replicas`"),
    changes(
        "secrets",
        "no secret is mounted; pass it through `environment` or `env_file`",
    ),
    changes("security_opt", NO_KERNEL_RIGHTS),
    changes("shm_size", "`/dev/shm` has the engine's default size"),
    changes("stdin_open", "the process reads an empty input"),
    honoured("stop_grace_period", ""),
    changes("stop_signal", "the image's own stop signal is sent"),
    changes("storage_opt", "the engine's defaults hold"),
    changes("sysctls", "the engine's defaults hold"),
    changes(
        "tmpfs",
        "nothing is mounted there; what is written there lives in the container's layer",
    ),
    changes("tty", "the process has no terminal"),
    changes("ulimits", "the engine's defaults hold"),
    changes("use_api_socket", "containers do not reach the engine"),
    honoured("user", ""),
    changes("userns_mode", NO_KERNEL_RIGHTS),
    changes("uts", NO_KERNEL_RIGHTS),
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
    harmless("cache_from", "the engine's own cache is used"),
    harmless("cache_to", "the engine's own cache is used"),
    honoured(
        "context",
        "a directory, relative to the Compose file; no URL",
    ),
    honoured("dockerfile", ""),
    changes("dockerfile_inline", "the Dockerfile of the context is used"),
    changes("entitlements", "the build gets no further rights"),
    changes("extra_hosts", "these names are not known in the build"),
    harmless("isolation", WINDOWS),
    harmless("labels", "images carry the Dockerfile's labels"),
    changes("network", "the build uses the engine's default network"),
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
    changes("secrets", "no secret is mounted in the build"),
    changes("shm_size", "the build has the engine's default"),
    changes("ssh", "the build reaches no SSH agent"),
    harmless("tags", "images get names of the platform"),
    changes("target", "the last stage of the Dockerfile is built"),
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
    changes(
        "endpoint_mode",
        "each replica is reached at its own endpoint",
    ),
    harmless("labels", "use the service's own `labels`"),
    honoured("mode", "`replicated`; `global` is not supported"),
    honoured("placement", "see below"),
    honoured(
        "replicas",
        "1 without it; 0 keeps the service declared and stopped",
    ),
    honoured("resources", "see below"),
    changes("restart_policy", "use the service's `restart`"),
    changes(
        "rollback_config",
        "where a changed replica never gets ready, the former one is started again",
    ),
    changes(
        "update_config",
        "the manager decides in which order replicas are replaced",
    ),
];

pub(super) const PLACEMENT: &[Key] = &[
    honoured(
        "constraints",
        "`node.hostname` and `node.labels.*` with `==` and `!=`",
    ),
    changes(
        "max_replicas_per_node",
        "the manager decides how replicas are spread",
    ),
    changes("preferences", "the manager decides how replicas are spread"),
];

pub(super) const RESOURCES: &[Key] = &[
    honoured("limits", "`cpus` and `memory`"),
    honoured("reservations", "`cpus` and `memory`"),
];

pub(super) const LIMITS: &[Key] = &[
    honoured("cpus", ""),
    honoured("memory", ""),
    changes("pids", ENGINE_LIMITS),
];

pub(super) const RESERVATIONS: &[Key] = &[
    honoured("cpus", ""),
    honoured("memory", ""),
    changes("devices", "containers reach no devices of the node"),
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
    changes("host_ip", "the port is open on every address of the node"),
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
    changes("bind", "only named volumes are mounted"),
    harmless("consistency", "it concerns desktop engines only"),
    changes("image", "only named volumes are mounted"),
    honoured("read_only", ""),
    honoured("source", "a volume that the top-level `volumes` declare"),
    honoured("target", ""),
    changes("tmpfs", "only named volumes are mounted"),
    honoured("type", "`volume`"),
    changes(
        "volume",
        "the volume is mounted whole, with the engine's defaults",
    ),
];

pub(super) const VOLUME: &[Key] = &[
    changes("driver", "the engine's local driver is used"),
    changes(
        "driver_opts",
        "the engine's local driver is used without options",
    ),
    changes("external", "the platform makes a volume of its own"),
    harmless("labels", "volumes carry the platform's labels"),
    changes("name", "volumes get names of the platform"),
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

**Names.** A service's name does not resolve in other services' containers yet. A service finds the
others by asking the manager's API for their endpoints (`x-lifecycle.api: read`, as
`examples/iot-platform` does), or at a host port that `ports` fixes.

**Files.** The files are those of `-f`, in their order; else those that `COMPOSE_FILE` lists
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
`configs` of an included project take `environment` from the project's own variables.

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
            ("`volumes.<name>` at the top level", VOLUME),
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
        ] {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        }
    }
}
