//! Generates `docs/compose.md` from the key tables and the introduction below. Tests check that the
//! page is up to date, and that each key has the effect that its table states.

use std::fmt::Write as _;
use std::path::Path;

use super::*;

fn table(out: &mut String, title: &str, keys: &[Key]) {
    writeln!(out, "\n## {title}\n\n| key | effect |\n|---|---|").unwrap();
    for key in keys {
        let effect = match key.effect {
            Effect::Supported("") => "supported".to_owned(),
            Effect::Supported(note) => format!("supported: {note}"),
            Effect::Changes(consequence) => format!("**no effect**: {consequence}"),
            Effect::Harmless(consequence) => format!("no effect: {consequence}"),
        };
        writeln!(out, "| `{}` | {effect} |", key.name).unwrap();
    }
}

const INTRODUCTION: &str = "# Supported parts of the Compose Specification

Services are declared in `compose.yaml`, in the format of the [Compose Specification](https://compose-spec.io). This
page lists every key of the specification and its effect here. If **no effect** is in bold, the service behaves
differently from what the key requests; `up` reports such keys before it changes anything. An unknown key is an error.

**Service names.** The name of a service resolves in every container of the platform, on every node, even before the
service is ready. A connection to `db:5432` reaches a ready replica on any node, and several replicas share the
connections. `db.<platform>.internal` and the aliases of the service resolve, too; names are not case-sensitive. A name
has one address, which is the same everywhere. If no replica is ready, a new connection waits for the time in `[network]
wait` of `platform.toml` (default 30 s); then the connection is reset, and an event is recorded. Only known ports are
reachable: those of `ports`, `expose`, `x-lifecycle.ready`, and the `EXPOSE` lines of the Dockerfile or image. If a
process opens another port that other services need, add the port to `expose`. All other names are resolved by the
resolvers of the node. Only IPv4, TCP and UDP are supported. A service sees the address of the client's node as the
client address.

**Published ports.** The engine of a node publishes the `ports` of the replicas on this node, so the service sees the
addresses of its clients. While no ready replica on the node has the port (the replica starts, is replaced, or is not
ready), the agent of the node forwards new TCP connections to a ready replica on any node, or holds them until there is
one, as for service names. The service then sees the address of the node. With `order: start-first`, the old replica
keeps the port until the new one is ready; then the agent forwards the port until the next update. Ports at a single
address (`host_ip`) and UDP ports are not forwarded. A firewall on the node must allow connections to the agent, which
listens on a port that the kernel chooses.

A range of host ports for one container port (`8000-8010:80`) publishes the port at one of them. The first replica uses
the first port of the range, the second replica the second one, and so on; if that port is in use on the node, the next
free one. Ports that a service publishes alone, or that SSH or the manager uses, are left out, and so are all ports of
the range after the first 1000. An instance keeps its port until it is replaced, and `status` shows it. The agent does
not forward these ports.

**Public ports.** On a cloud with a firewall, such as Azure, published ports are reachable only inside the nodes' network.
With `x-lifecycle: {public: true}`, the `ports` of the service are opened in the firewall, each on the nodes that run a
replica, and closed again when the service is removed, moves to another node, or is no longer public. `status` and `up`
show the public addresses. A public port needs a fixed host port (`8080:80`). Ports at a loopback address
(`127.0.0.1:8080:80`) stay closed. Adding or removing `public` replaces no container. Local nodes have no firewall.

**The metadata service.** Clouds serve the credentials of a VM's identity at 169.254.169.254. Containers and builds cannot
reach this address, nor 168.63.129.16 except for DNS. With `x-lifecycle: {metadata: true}`, the containers of a service
can; they never run on the manager's node, whose identity controls the platform. Containers with `network_mode: host`
and builds with `network: host` can always reach these addresses; on Azure, services with `network_mode: host` therefore
never run on the manager's node either.

**Files next to the Compose file.** Nodes have no copy of your directory. Therefore, the contents of a relative path
(`./nginx.conf:/etc/nginx/nginx.conf`), a config or a secret are read where the command runs and sent to the manager,
which stores them encrypted in the registry. Before the container is created, the contents are written to a root-owned
directory on the node. They are mounted **read-only**. The contents are part of the container's specification: if a file
changes, the containers that mount the file are replaced. The limits are 64 MiB for all mounts together, where a path
that several services mount counts once, 500 KiB for a config or secret, and 16 MiB for the configs, the secrets and the
mounts up to 64 KiB of all services. Of larger mounts, `up` sends only the parts that the manager does not have. A
`.dockerignore` in a mounted directory applies. A `<Dockerfile>.dockerignore` next to a Dockerfile is not used, and `up`
warns about it. Files keep
the executable bit and are owned by root. If another mount is below a mounted directory (`./web:/app` with
`/app/node_modules`), the directory gets an empty entry as its mount point. A config or secret that no service mounts
need not exist. In these paths, and in `env_file`, `build.context`, `extends.file` and `include`, `~` is your home
directory.

A relative path that does not exist, or that is an empty directory (`./data:/var/lib/postgresql/data`), is a data
directory: a volume of the platform on the node is mounted instead, and the service stays on that node; if it is
mounted read-only, an empty directory is mounted. `up` decides this by the current contents of the path, so do not put
your own files into a data directory. An absolute path (`/var/run/docker.sock`, `/etc/localtime`, `/data`) is a path of
the node, unless it is inside the directory of the Compose file; data written to such a path of a node stays on that node
when the service moves. `up` reports the interpretation of a mount if it may be unexpected.

**Built images.** Services with the same code base, Dockerfile, target, arguments and build options share one image, which
is built once and copied to the other nodes. A changed code base is built again, but a container is replaced only if
the new image differs from the one that it runs: a change of a file that is not copied into the image replaces nothing.
Images that no service needs any more are removed from the nodes.

**Private images.** `up` reads the logins that `docker login` stored on your computer (`config.json` in `$DOCKER_CONFIG`
or `~/.docker`, and credential helpers), but only for the registries of the declared images and of the base images in
`FROM`. The manager stores them encrypted, in its registry and on its node, and uses them for pulls and builds; other
nodes do not store them. Each `up` replaces the logins in the registry, so after `docker login` or `docker logout`, or
when a token has expired, run `up` again: no container is replaced. `plan` and `doctor` list the logins that are used.
An image that the manager's node can get from the engine on your computer is sent from there and not pulled.

**Volumes keep a service on its node.** A replica with a named volume on a node runs only on that node. If the replica
cannot run there, the plan reports that the replica waits, and for which volume. If a volume that a replica has used no
longer exists on its node, an event reports this, and the replica is not started with an empty volume: run `bootstrapper
retry SERVICE --recreate-volume` to allow an empty one, then restore its data from a backup.

**Networks.** A platform has one network. All services can reach each other by name, whatever `networks` they list:
separate networks do not isolate services, whether on one node or between nodes, and `up` warns about this. `internal:
true` requests the isolation of a network from outside, but has no effect here; you must accept this with
`--accept-unsupported`.

**Shared networks.** With `network_mode: service:vpn`, replica *n* of a service joins the network of replica *n* of
`vpn`. Both run on the same node, with the same number of replicas (declare it only for `vpn`). The service starts after
`vpn` and stops before it; if `vpn` is restarted, ends or is replaced, so is the service. Both are replaced
`stop-first`, whatever `order` they declare. As in Docker, ports, networks, host name, resolvers, host entries and links
belong to `vpn`: publish the ports of both services there. Other services reach all ports at `vpn:<port>`, and those
under `expose` of the service also at its own name. Both use the resolvers of `vpn`, which the platform does not
configure: they are those of the node, unless `vpn` declares `dns` or writes its own `/etc/resolv.conf`, as VPN clients
do. Therefore **the names of other services do not resolve in a shared network**, unless these resolvers know them; `up`
reports this. Without a health check or `x-lifecycle.ready`, `vpn` is ready after it has run for a second. Connections that arrive
while the pair restarts may be refused.

**Privileges.** `privileged`, `cap_add`, `devices`, `pid: host`, paths of the node and similar keys are granted as
requested. Anyone who may declare services has root access to the nodes.

**Numbers.** Numbers have the forms that `docker compose` reads; in some of them, they differ from what the
specification describes:

- A number without quotes may be decimal, hexadecimal (`0x1F`), octal (`0o17`, but also `017`), or binary (`0b11`), with
  underscores (`1_000`), a fraction, or an exponent (`1e3`). In quotes, and as the value of a variable, a whole number is
  decimal.
- The `mode` of a config, a secret or a `tmpfs` is a number, too: `0440` and `0o440` are octal, but `440` is decimal, which
  is `0670`, although the specification describes octal digits; `up` warns about this. In quotes, `'440'` consists of
  octal digits.
- In `environment`, `labels`, `args` and other keys that accept text, a number or boolean without quotes is passed in its
  canonical form: `010` is `8`, `1.10` is `1.1`, `1e6` is `1e+06`, `True` is `true`. `up` warns about this; write the value
  in quotes to pass exactly this text. `22:22`, `yes` and `2024-01-01` are always text.
- A boolean may also be `yes`, `no`, `on`, `off`, `y` or `n`, with or without quotes.
- An amount of bytes has an optional unit `b`, `k`, `m`, `g`, `t` or `p`, also as `kb` or `kib`, in any case; units are
  powers of 1024. A duration has the units `w`, `d`, `h`, `m`, `s`, `ms`, `us` and `ns`: `1m30s`.

**Several files.** The files are those given with `-f`, in that order; without `-f`, those in `COMPOSE_FILE` (separated
by `:`, or by the value of `COMPOSE_PATH_SEPARATOR`); without either, `compose.yaml`, `compose.yml`,
`docker-compose.yml` or `docker-compose.yaml`, in the project directory or the nearest parent directory that contains
one of these. If neither `-f` nor `COMPOSE_FILE` is set, an override file next to the found file is also read, if there is one:
`compose.override.yml`, `compose.override.yaml`, `docker-compose.override.yml` or `docker-compose.override.yaml`.
Relative paths refer to the directory of the first file.

- *Merge*: each file is merged over the previous ones. Mappings are merged key by key, lists are concatenated, and
  single values are replaced. `command`, `entrypoint` and `healthcheck.test` are replaced as a whole; `environment`,
  `labels`, `args` and similar keys are merged by name, whether they are written as a mapping or as a list; in `ports`,
  `volumes`, `tmpfs`, `devices`, `secrets`, `configs`, `expose`, `dns` and lists of plain values, an entry replaces an
  earlier one for the same thing (the same port, the same path in the container). `!reset` removes the value of an
  earlier file, and `!override` replaces that value. Two values whose types cannot be merged are an error.
- *`include`*: the short syntax, and the long syntax with `path`, `project_directory` and `env_file`. Each entry is a
  separate project, with its own directory for relative paths and its own `.env`. The variables of the main project
  override those in this `.env`. A resource that both projects declare is an error, unless the two declarations are
  identical; an override file may change included resources. Includes can be nested up to 24 levels deep.
- *`extends`*: a service in the same file or in another file (`file`), in chains of up to 64 services; a cycle is an
  error. Paths in the other file are relative to its directory. Other resources that the extended service needs
  (volumes, networks, other services) are not copied.
- *`profiles`*: a service with profiles is disabled unless one of them is activated with `--profile` or
  `COMPOSE_PROFILES` (`*` for all). A dependency on a disabled service is ignored if the dependency has `required:
  false`; otherwise it is an error.
- *Variables*: `$VAR`, `${VAR:-default}`, `${VAR:?message}`, `${VAR:+instead}`, the variants without the colon, nested
  variables, and `$$` for a dollar sign. They are expanded in every value but not in keys, before files are merged. The
  environment overrides the `.env` file next to the first Compose file (or the files in `COMPOSE_ENV_FILES`).
  In an `env_file`, also the variables of earlier files are expanded.
  `COMPOSE_PROJECT_NAME` sets the platform's name if `-p` does not; `${COMPOSE_PROJECT_NAME}` expands to the platform's
  final name in every file, including included files.
- YAML anchors, aliases and merge keys are supported, and extension fields (`x-…`) are ignored.

Differences from Compose:

- Only local files can be included or extended, not URLs.
- A file must contain a single YAML document.
- A service that is disabled by its profiles is not checked.
- Two different entries for the same thing in one list of *one* file are an error; equal ones count once.
- A Dockerfile outside the code base (`dockerfile: ../Dockerfile`) is sent in the declaration.
- In every file, `x-lifecycle.code` is the name of a code base in the platform's code store.

Limits, which protect the command from files that would use too much memory or time:

| what | limit |
|---|---|
| a file | a regular file of at most 8 MiB in UTF-8, without NUL characters |
| a Compose file | 100,000 values, including those of aliases and anchors; 64 levels; 1024 bytes for a key |
| all Compose files together | 256 files, 300,000 values, 32 MiB of text, 16 MiB of expanded variables |
| a value with variables | 1 MiB, and 32 levels of nested defaults |
| an environment file | 100,000 variables, 4 MiB of values |
| all environment files of services together | 200,000 variables, 16 MiB |
| a Dockerfile | 1 MiB, 1000 stages |
| a `.dockerignore` | 1 MiB, 2000 patterns, 4000 wildcards; for a pattern 4095 bytes and 64 wildcards |
| a service | 1000 published and 1000 exposed ports, 10,000 replicas, 256 KiB for a command line |
| a platform | 10,000 services, 200,000 ports, 100,000 replicas |
| messages | 50 problems, 50 warnings and 50 keys without effect, then the number of the others |

Settings that Compose does not have are under `x-lifecycle` of a service:

| key | meaning |
|---|---|
| `class` | `microservice` (the default), `application` or `model` |
| `code` | the name of a code base in the code store, instead of `build.context`; `build` may still set `dockerfile` and `args` |
| `starts` | `last`: the service starts after all services without `starts: last` |
| `api` | the containers of the service get access to the manager's API with a token of their own: `read` (the role `viewer`), `operate` (the role `operator`), or `{role: admin, classes: [application], services: [web]}`, where `classes` and `services` limit the token and may be omitted |
| `public` | `true`: the published ports of the service are reachable from outside, see above |
| `metadata` | `true`: the containers can use the cloud's metadata service; the service does not run on the manager's node, see above |
| `ready` | when the service is ready: `{port: 8080, path: /health}` or `http://:8080/health`; the port must be in `ports` or `expose` |
| `ready_within` | how long an instance may take to become ready; default 5 minutes |
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
        ("`env_file[]`, long syntax", ENV_FILE),
        ("`healthcheck`", HEALTHCHECK),
        ("`ports[]`, long syntax", PORT),
        ("`volumes[]` of a service, long syntax", MOUNT),
        ("`volumes[].bind`", BIND),
        ("`volumes[].tmpfs`", TMPFS),
        ("`volumes[].volume`", VOLUME_MOUNT),
        (
            "`configs[]` and `secrets[]` of a service, long syntax",
            MATERIAL,
        ),
        ("`networks.<name>` of a service", SERVICE_NETWORK),
        ("`logging`", LOGGING),
        ("`ulimits.<name>`", ULIMIT),
        ("`blkio_config`", BLOCK_IO),
        ("`devices[]`, long syntax", DEVICE),
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

/// To rewrite the page, run `UPDATE_DOCS=1 cargo test -p lifecycle-core compose_page`.
#[test]
fn the_compose_page_is_up_to_date() {
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

/// Reads `{before}{key}: {value}{after}` and returns the paths of all problems and of all
/// unsupported keys.
fn read(before: &str, key: &str, value: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let text = format!("{before}{key}: {value}{after}");
    let mut report = Report::new("f");
    let root = super::super::super::files::of_text(&text, &mut report);
    let (lookup, nodes) = (|_: &str| None, std::collections::BTreeMap::new());
    let project = super::super::ProjectContext {
        directory: Some(Path::new("/nonexistent")),
        code_store: "code",
        lookup: &lookup,
        with_variables: &std::collections::HashSet::new(),
        nodes: &nodes,
        left: super::super::Left::default(),
        files: super::super::MountedFiles::default(),
    };
    if let Some(root) = root {
        super::super::read(&root, &project, &mut report);
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

/// Sets each key to an invalid value. A key that is read must cause a problem. A key without
/// effect, or the mapping that contains it, must be reported as unsupported.
#[test]
fn every_key_has_the_effect_in_its_table() {
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
            let contains = |paths: &[String]| {
                let parts = paths.iter().flat_map(|path| path.split(['.', '[']));
                parts.into_iter().any(|part| part == key.name)
            };
            // Remove the example's `image` before testing `image` itself.
            let before = before.replace(&format!("{}: x, ", key.name), "");
            let (problems, unsupported) = read(&before, key.name, NONSENSE, after);
            let is_reported = matches!(key.effect, Effect::Changes(_) | Effect::Harmless(_));
            if matches!(key.effect, Effect::Supported(_)) {
                assert!(contains(&problems), "{before}{}: {problems:?}", key.name);
            }
            if is_reported {
                assert!(
                    contains(&unsupported),
                    "{before}{}: {unsupported:?}",
                    key.name
                );
            }
        }
    }
}

#[test]
fn tables_are_sorted_and_without_duplicates() {
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
