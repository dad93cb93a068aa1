//! `docs/compose.md`: made from the tables and the words that stand here, and the tests that hold page, tables
//! and reader together.

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
            Fate::Checked(consequence) => format!("no effect yet, only checked: {consequence}"),
            Fate::PartOfChecked => "no effect yet, only checked".to_owned(),
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
`networks` they name: separate networks keep no services apart, on one node or between nodes, and
`up` warns where a file has such. Who asks for more by `internal: true`, that nothing gets out, must
accept that it has no effect (`--accept-unsupported`).

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
  forms they have; of `ports`, `volumes`, `tmpfs`, `devices`, `secrets`, `configs`, `expose`, `dns`
  and lists of words, an entry takes the place of one that is the same thing (the same port, the
  same path in the container). `!reset` takes away what an earlier file has at a key, `!override` puts its value
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

/// A key that is honoured or checked is read: nonsense in its place is a problem. Every key without
/// effect is reported as such, by itself or with the mapping that contains it.
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
            let is_read = matches!(
                key.fate,
                Fate::Honoured(_) | Fate::Checked(_) | Fate::PartOfChecked
            );
            let is_reported = matches!(
                key.fate,
                Fate::Checked(_) | Fate::Changes(_) | Fate::Harmless(_)
            );
            if is_read {
                assert!(told(&problems), "{before}{}: {problems:?}", key.name);
            }
            if is_reported {
                assert!(told(&unsupported), "{before}{}: {unsupported:?}", key.name);
            }
            if matches!(key.fate, Fate::PartOfChecked) {
                assert!(!unsupported.is_empty(), "{before}{}", key.name);
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
