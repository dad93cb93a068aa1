//! Tests the examples in the Compose Specification that use several files.
//!
//! The name of a case is the document and section of the example. In the cases, broken indentation
//! is corrected, and the parts that the document only describes are written out.

use std::fs;

use super::*;

/// A project with files by name. The first `main` files are the main files; other files are only
/// referenced.
struct Project<'a> {
    files: &'a [(&'a str, &'a str)],
    main: usize,
    variables: &'a [(&'a str, &'a str)],
    profiles: &'a [&'a str],
}

impl Project<'_> {
    fn tree(&self) -> Result<Node, String> {
        let directory = tempfile::TempDir::new().unwrap();
        for (name, text) in self.files {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let main: Vec<PathBuf> = self.files[..self.main]
            .iter()
            .map(|(name, _)| directory.path().join(name))
            .collect();
        let lookup = |name: &str| {
            let variable = self.variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| (*value).to_owned())
        };
        let profiles: Vec<String> = self.profiles.iter().map(|one| (*one).to_owned()).collect();
        let mut report = Report::new(self.files[0].0);
        let edited = Edited::default();
        let mut assembly = Assembly::new(directory.path(), &edited, &mut report);
        let documents = assembly.read_all(&main);
        let merged = assembly.assemble(documents, &lookup);
        let mut root = merged.map(|merged| merged.root);
        if let Some(root) = &mut root {
            remove_disabled(root, &profiles, &mut report);
        }
        match Report::problems_of(vec![report]) {
            Some(problems) => Err(problems.to_string()),
            None => Ok(root.unwrap()),
        }
    }
}

fn merged(files: &[&str]) -> Result<Node, String> {
    let names = ["compose.yaml", "b.yaml", "c.yaml"];
    let files: Vec<(&str, &str)> = names.into_iter().zip(files.iter().copied()).collect();
    Project {
        files: &files,
        main: files.len(),
        variables: &[],
        profiles: &[],
    }
    .tree()
}

fn tree(text: &str) -> Node {
    let mut report = Report::new("expected");
    yaml::parse(text, &mut report).unwrap()
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|entry| format!("{}: {}", entry.key, shown(&entry.node)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn assert_same(case: &str, found: Result<Node, String>, expected: &str) {
    let found = found.unwrap_or_else(|problems| panic!("{case}: {problems}"));
    assert!(
        found.is_same_value(&tree(expected)),
        "{case}:\n{}\n{}",
        shown(&found),
        shown(&tree(expected))
    );
}

#[test]
fn merges_files_as_in_13_merge() {
    for (case, earlier, later, expected) in [
        (
            "13-merge.md, Mapping",
            "services:\n  foo:\n    key1: value1\n    key2: value2\n",
            "services:\n  foo:\n    key2: VALUE\n    key3: value3\n",
            "services:\n  foo:\n    key1: value1\n    key2: VALUE\n    key3: value3\n",
        ),
        (
            "13-merge.md, Sequence",
            "services:\n  foo:\n    DNS:\n      - 1.1.1.1\n",
            "services:\n  foo:\n    DNS: \n      - 8.8.8.8\n",
            "services:\n  foo:\n    DNS:\n      - 1.1.1.1\n      - 8.8.8.8\n",
        ),
        (
            "13-merge.md, Shell commands",
            "services:\n  foo:\n    command: [\"echo\", \"foo\"]\n",
            "services:\n  foo:\n    command: [\"echo\", \"bar\"]\n",
            "services:\n  foo:\n    command: [\"echo\", \"bar\"]\n",
        ),
        (
            "13-merge.md, Shell commands: entrypoint and healthcheck's test",
            "services: {foo: {entrypoint: [a, b], healthcheck: {test: [CMD, a], retries: 3}}}",
            "services: {foo: {entrypoint: c d, healthcheck: {test: [CMD, b]}}}",
            "services: {foo: {entrypoint: c d, healthcheck: {test: [CMD, b], retries: 3}}}",
        ),
        (
            "13-merge.md, Unique resources",
            "services:\n  foo:\n    volumes:\n      - foo:/work\n",
            "services:\n  foo:\n    volumes:\n      - bar:/work\n",
            "services:\n  foo:\n    volumes:\n      - bar:/work\n",
        ),
        (
            "13-merge.md, Unique resources: secrets and configs by target",
            "services: {foo: {secrets: [a, b], configs: [{source: c, target: /etc/c}]}}",
            "services: {foo: {secrets: [{source: x, target: a}], configs: [{source: d, target: /etc/c}, e]}}",
            "services: {foo: {secrets: [{source: x, target: a}, b], configs: [{source: d, target: /etc/c}, e]}}",
        ),
        (
            "13-merge.md, Unique resources: ports by {ip, target, published, protocol}",
            "services: {foo: {ports: ['8080:80', '53:53/udp']}}",
            "services: {foo: {ports: [{target: 80, published: 8080, name: web}, '53:53', '127.0.0.1:8080:80']}}",
            "services: {foo: {ports: [{target: 80, published: 8080, name: web}, '53:53/udp', '53:53', '127.0.0.1:8080:80']}}",
        ),
        (
            "13-merge.md, Reset value",
            "services:\n  app:\n    image: myapp\n    ports:\n      - \"8080:80\"\n    environment:\n      FOO: BAR\n",
            "services:\n  app:\n    image: myapp\n    ports: !reset []\n    environment:\n      FOO: !reset null\n",
            "services:\n  app:\n    image: myapp\n    environment: {}\n",
        ),
        (
            "13-merge.md, Replace value",
            "services:\n  app:\n    image: myapp\n    ports:\n      - \"8080:80\"\n",
            "services:\n  app:\n    ports: !override\n      - \"8443:443\" \n",
            "services:\n  app:\n    image: myapp\n    ports:\n      - \"8443:443\" \n",
        ),
        (
            "13-merge.md, Replace value: without the tag both are exposed",
            "services:\n  app:\n    ports:\n      - \"8080:80\"\n",
            "services:\n  app:\n    ports:\n      - \"8443:443\" \n",
            "services:\n  app:\n    ports: ['8080:80', '8443:443']\n",
        ),
    ] {
        assert_same(case, merged(&[earlier, later]), expected);
    }
}

/// Checks the rules that the specification states in tables or text, for all notations of a key.
#[test]
fn merges_all_notations_of_a_key() {
    for (case, earlier, later, expected) in [
        (
            "a list and a mapping of variables",
            "services: {a: {environment: [A=1, B=2, C]}}",
            "services: {a: {environment: {B: 3, D: }}}",
            "services: {a: {environment: {A: 1, B: 3, C: , D: }}}",
        ),
        (
            "two lists of variables, and of labels",
            "services: {a: {environment: [A=1, B=2], labels: [x=1]}}",
            "services: {a: {environment: [B=x=y], labels: {x: 2}}}",
            "services: {a: {environment: {A: 1, B: x=y}, labels: {x: 2}}}",
        ),
        (
            "dependencies by name, and with conditions",
            "services: {a: {depends_on: [b, c]}}",
            "services: {a: {depends_on: {b: {condition: service_healthy}}}}",
            "services: {a: {depends_on: {b: {condition: service_healthy, required: true}, c: {condition: service_started, required: true}}}}",
        ),
        (
            "a build as a single value",
            "services: {a: {build: ./app}}",
            "services: {a: {build: {target: dev}}}",
            "services: {a: {build: {context: ./app, target: dev}}}",
        ),
        (
            "networks by name, and with aliases",
            "services: {a: {networks: [front, back]}}",
            "services: {a: {networks: {back: {aliases: [x]}}}}",
            "services: {a: {networks: {front: , back: {aliases: [x]}}}}",
        ),
        (
            "one file of variables, and a list",
            "services: {a: {env_file: a.env}}",
            "services: {a: {env_file: [b.env, a.env]}}",
            "services: {a: {env_file: [a.env, b.env, a.env]}}",
        ),
        (
            "hosts in both forms",
            "services: {a: {extra_hosts: ['x:1.1.1.1', 'y:2.2.2.2', 'x:::1']}}",
            "services: {a: {extra_hosts: {x: 3.3.3.3}}}",
            "services: {a: {extra_hosts: ['y:2.2.2.2', 'x=3.3.3.3']}}",
        ),
        (
            "logging with the same driver, and with another driver",
            "services: {a: {logging: {driver: x, options: {m: 1}}}, b: {logging: {driver: x, options: {m: 1}}}}",
            "services: {a: {logging: {options: {n: 2}}}, b: {logging: {driver: y}}}",
            "services: {a: {logging: {driver: x, options: {m: 1, n: 2}}}, b: {logging: {driver: y}}}",
        ),
        (
            "lists without duplicates",
            "services: {a: {cap_add: [X, Y], expose: ['80']}}",
            "services: {a: {cap_add: [Y, Z], expose: ['80/tcp', '81']}}",
            "services: {a: {cap_add: [X, Y, Z], expose: ['80/tcp', '81']}}",
        ),
        (
            "a single value or a list, without duplicates",
            "services: {a: {dns: 1.1.1.1, tmpfs: /run}}",
            "services: {a: {dns: [1.1.1.1, 8.8.8.8], tmpfs: ['/run:size=1m', /tmp]}}",
            "services: {a: {dns: [1.1.1.1, 8.8.8.8], tmpfs: ['/run:size=1m', /tmp]}}",
        ),
        (
            "a null value keeps the earlier value, except for a command",
            "services: {a: {ports: ['80'], command: x}}",
            "services: {a: {ports: , command: }}",
            "services: {a: {ports: ['80'], command: }}",
        ),
        (
            "a whole service is removed",
            "services: {a: {image: x}, b: {image: y}}",
            "services: {b: !reset null}",
            "services: {a: {image: x}}",
        ),
    ] {
        assert_same(case, merged(&[earlier, later]), expected);
    }
    assert_same(
        "three files, and a tag that applies through the second to the first",
        merged(&[
            "services: {a: {image: x, ports: ['1'], labels: {k: v}}}",
            "services: {a: {ports: !reset [], user: u}}",
            "services: {a: {ports: ['2'], labels: !override {l: w}}}",
        ]),
        "services: {a: {image: x, labels: {l: w}, user: u, ports: ['2']}}",
    );
}

#[test]
fn extends_services_as_in_05_services() {
    for (case, text, service, expected) in [
        (
            "05-services.md, extends, Mappings",
            "services:\n  common:\n    image: busybox\n    environment:\n      TZ: utc\n      PORT: 80\n  \
             cli:\n    extends:\n      service: common\n    environment:\n      PORT: 8080\n",
            "cli",
            "environment:\n  PORT: 8080\n  TZ: utc\nimage: busybox\n",
        ),
        (
            "05-services.md, extends, Mappings: the same output if array syntax is used",
            "services:\n  common:\n    image: busybox\n    environment: [TZ=utc, PORT=80]\n  \
             cli:\n    extends:\n      service: common\n    environment: [PORT=8080]\n",
            "cli",
            "environment:\n  PORT: 8080\n  TZ: utc\nimage: busybox\n",
        ),
        (
            "05-services.md, extends, Mappings: volumes by their target",
            "services:\n  common:\n    image: busybox\n    volumes:\n      - common-volume:/var/lib/backup/data:rw\n  \
             cli:\n    extends:\n      service: common\n    volumes:\n      - cli-volume:/var/lib/backup/data:ro\n",
            "cli",
            "image: busybox\nvolumes:\n- cli-volume:/var/lib/backup/data:ro\n",
        ),
        (
            "05-services.md, extends, Mappings: until no `extends` keys are remaining",
            "services:\n  base:\n    image: busybox\n    user: root\n  common:\n    image: busybox\n    \
             extends:\n      service: base\n  cli:\n    extends:\n      service: common\n",
            "cli",
            "image: busybox\nuser: root\n",
        ),
        (
            "05-services.md, extends, Sequences",
            "services:\n  common:\n    image: busybox\n    security_opt:\n      - label:role:ROLE\n  \
             cli:\n    extends:\n      service: common\n    security_opt:\n      - label:user:USER\n",
            "cli",
            "image: busybox\nsecurity_opt:\n- label:role:ROLE\n- label:user:USER\n",
        ),
    ] {
        let found = merged(&[text]).map(|root| {
            let services = root.child("services").unwrap();
            services.child(service).unwrap().clone()
        });
        assert_same(case, found, expected);
    }
}

#[test]
fn a_service_extended_from_another_file_keeps_its_paths_and_its_own_extends() {
    let project = Project {
        files: &[
            (
                "compose.yaml",
                "services:\n  web:\n    extends: {file: common/base.yaml, service: app}\n    \
                 ports: !override ['81:80']\n",
            ),
            (
                "common/base.yaml",
                "services:\n  app:\n    extends: {file: deep/x.yaml, service: x}\n    build: ./app\n    \
                 env_file: app.env\n    ports: ['80:80']\n  other: {image: y}\n",
            ),
            (
                "common/deep/x.yaml",
                "services:\n  x: {image: '${TAG}', volumes: ['./c:/c']}\n",
            ),
        ],
        main: 1,
        variables: &[("TAG", "x:1")],
        profiles: &[],
    };
    assert_same(
        "05-services.md, extends, Finding referenced service",
        project.tree(),
        "services:\n  web: {image: 'x:1', volumes: ['./common/deep/c:/c'], build: './common/app', \
         env_file: ./common/app.env, ports: ['81:80']}\n",
    );
}

#[test]
fn a_tag_applies_to_the_extended_service_and_to_earlier_files() {
    assert_same(
        "both are reset",
        merged(&[
            "services: {web: {image: x, ports: ['80'], user: u}}",
            "services:\n  base: {image: y, ports: ['81'], user: v}\n  \
             web: {extends: {service: base}, ports: !reset []}\n",
        ]),
        "services: {web: {image: y, user: v}, base: {image: y, ports: ['81'], user: v}}",
    );
}

#[test]
fn includes_projects_as_in_14_include() {
    let common = "services:\n  included-service:\n    image: '${IMAGE:-none}'\n    \
                  build: .\n    environment: [TOKEN, OTHER=x]\nvolumes: {data: }\n";
    let project = Project {
        files: &[
            (
                "compose.yaml",
                "include:\n  - commons/compose.yaml\n  - another_domain/compose.yaml\nservices:\n  \
                 webapp:\n    depends_on:\n      - included-service # defined by another_domain\n",
            ),
            (
                "commons/compose.yaml",
                "name: other\nx-note: passed over\nnetworks: {n: }\n",
            ),
            ("another_domain/compose.yaml", common),
            (
                "another_domain/.env",
                "IMAGE=of-the-domain\nTOKEN=of-the-domain\n",
            ),
        ],
        main: 1,
        variables: &[("TOKEN", "of the project")],
        profiles: &[],
    };
    assert_same(
        "14-include.md, Short syntax",
        project.tree(),
        "services:\n  webapp: {depends_on: [included-service]}\n  included-service: {image: \
         of-the-domain, build: ./another_domain, environment: [TOKEN=of the project, OTHER=x]}\n\
         networks: {n: }\nvolumes: {data: }\n",
    );
    let project = Project {
        files: &[
            (
                "compose.yaml",
                "include:\n  - path:\n      - commons/compose.yaml\n      - commons-override.yaml\n    \
                 project_directory: .\n    env_file: [another/.env, another/dev.env]\n",
            ),
            ("commons/compose.yaml", common),
            (
                "commons-override.yaml",
                "services:\n  included-service: {user: u, env_file: x.env}\n",
            ),
            ("another/.env", "IMAGE=one\nTOKEN=$IMAGE-1\n"),
            ("another/dev.env", "IMAGE=two\n"),
        ],
        main: 1,
        variables: &[],
        profiles: &[],
    };
    assert_same(
        "14-include.md, Long syntax",
        project.tree(),
        "services:\n  included-service: {image: two, build: ., environment: [TOKEN=one-1, OTHER=x], \
         user: u, env_file: x.env}\nvolumes: {data: }\n",
    );
}

#[test]
fn an_included_project_uses_its_own_directory_and_variables() {
    let included = "services:\n  a: {build: {dockerfile: Containerfile}}\n  b: {build: {context: , args: \
                    [TOKEN]}}\n  c: {build: {target: t}, x-lifecycle: {code: c}}\n\
                    secrets:\n  mine: {environment: TOKEN}\n  other: {environment: NONE}\n\
                    configs:\n  mine: {environment: TOKEN}\n";
    let project = |compose| {
        Project {
            files: &[
                ("compose.yaml", compose),
                ("more/compose.yaml", included),
                ("more/.env", "TOKEN=t\n"),
            ],
            main: 1,
            variables: &[],
            profiles: &[],
        }
        .tree()
    };
    let expected = |context: &str| {
        format!(
            "services:\n  a: {{build: {{dockerfile: Containerfile{context}}}}}\n  b: {{build: {{args: \
             [TOKEN=t]{context}}}}}\n  c: {{build: {{target: t}}, x-lifecycle: {{code: c}}}}\n\
             secrets:\n  mine: {{content: t}}\n  other: {{environment: NONE}}\n\
             configs:\n  mine: {{content: t}}\n"
        )
    };
    assert_same(
        "14-include.md: relative paths and variables are those of the included project",
        project("include: [more/compose.yaml]\n"),
        &expected(", context: ./more"),
    );
    assert_same(
        "the default context of the project directory needs no path",
        project(
            "include: [{path: more/compose.yaml, project_directory: ., env_file: more/.env}]\n",
        ),
        &expected("").replace("build: {args", "build: {context: , args"),
    );
}

#[test]
fn a_resource_may_be_included_twice_if_both_declarations_are_identical() {
    let shared = ("shared.yaml", "services: {db: {image: x}}\n");
    let files = |own: &'static str| {
        [
            ("compose.yaml", own),
            ("a.yaml", "include: [shared.yaml]\n"),
            ("b.yaml", "include: [shared.yaml]\n"),
            shared,
            ("over.yaml", "services: {db: {user: u}}\n"),
        ]
    };
    let tree = |files: &[(&str, &str)], main: usize| {
        Project {
            files,
            main,
            variables: &[],
            profiles: &[],
        }
        .tree()
    };
    let twice = files("include: [a.yaml, b.yaml]\n");
    assert_same("twice", tree(&twice, 1), "services: {db: {image: x}}");
    let changed = files("include: [a.yaml]\nservices: {db: {image: y}}\n");
    assert_eq!(
        tree(&changed, 1).err().as_deref(),
        Some(
            "compose.yaml:1:11: include[0]: the service `db` of shared.yaml:1 is also declared \
             at compose.yaml:2; rename one of the two; to change the included service, list a \
             second file after the included file in `path`, or declare `services` in an override \
             file"
        )
    );
    let overridden = [
        ("compose.yaml", "include: [shared.yaml]\n"),
        ("over.yaml", "services: {db: {user: u}}\n"),
        shared,
    ];
    let found = tree(&overridden, 2);
    assert_same("an override", found, "services: {db: {image: x, user: u}}");
}

#[test]
fn replaces_variables_as_in_12_interpolation() {
    for (text, expected) in [
        // Variables that are set, empty, and unset.
        ("$SET ${SET}", "set set"),
        (
            "${SET:-default} ${EMPTY:-default} ${NONE:-default}",
            "set default default",
        ),
        (
            "${SET-default} ${EMPTY-default} ${NONE-default}",
            "set  default",
        ),
        ("${SET:?err} ${SET?err}", "set set"),
        ("${NONE:-${SET}}", "set"),
        ("${SET?$FOO}", "set"),
        ("${NONE:-${FOO:-default}}", "default"),
        (
            "$$VAR_NOT_INTERPOLATED_BY_COMPOSE",
            "$VAR_NOT_INTERPOLATED_BY_COMPOSE",
        ),
        // A `$` that does not begin an interpolation is kept.
        ("$(date) $1 5$", "$(date) $1 5$"),
    ] {
        let file = format!(
            "web:\n  command: \"{text}\"\n  labels: {{\"$SET\": \"BAR\"}}\n  list: [\"$SET=BAR\"]\n"
        );
        let found = Project {
            files: &[("compose.yaml", &file)],
            main: 1,
            variables: &[("SET", "set"), ("EMPTY", "")],
            profiles: &[],
        };
        let expected = format!(
            "web:\n  command: \"{expected}\"\n  labels: {{\"$SET\": \"BAR\"}}\n  list: [set=BAR]\n"
        );
        assert_same(text, found.tree(), &expected);
    }
    for (text, expected) in [
        ("${EMPTY:?err}", "the variable `EMPTY` must be set: err"),
        ("${NONE?err}", "the variable `NONE` must be set: err"),
        ("${NONE?$SET}", "the variable `NONE` must be set: set"),
        ("${SET/foo/bar}", "`${SET` must be followed by"),
    ] {
        let file = format!("web: \"{text}\"\n");
        let found = Project {
            files: &[("compose.yaml", &file)],
            main: 1,
            variables: &[("SET", "set"), ("EMPTY", "")],
            profiles: &[],
        };
        let problems = found.tree().err().unwrap();
        assert!(problems.contains(expected), "{problems}");
    }
}

#[test]
fn enables_services_as_in_15_profiles() {
    let example = "services:\n  foo:\n    image: foo\n  bar:\n    image: bar\n    profiles:\n      \
                   - test\n  baz:\n    image: baz\n    depends_on:\n      - bar\n    profiles:\n      \
                   - test\n  zot:\n    image: zot\n    depends_on:\n      - bar\n    profiles:\n      \
                   - debug\n";
    for (profiles, expected) in [
        (vec![], Ok(vec!["foo"])),
        (vec!["test"], Ok(vec!["foo", "bar", "baz"])),
        (
            vec!["debug"],
            Err(
                "compose.yaml:17:9: services.zot.depends_on: `bar` is not enabled: none of its \
                 profiles is active (`test`); activate the service with `--profile test`, or \
                 set `required: false` here",
            ),
        ),
        (vec!["debug", "test"], Ok(vec!["foo", "bar", "baz", "zot"])),
        (vec!["*"], Ok(vec!["foo", "bar", "baz", "zot"])),
    ] {
        let found = Project {
            files: &[("compose.yaml", example)],
            main: 1,
            variables: &[],
            profiles: &profiles,
        }
        .tree();
        let names = found.map(|root| {
            let services = root.child("services").unwrap().clone();
            let Value::Map(services) = services.value else {
                panic!("not a mapping");
            };
            services
                .into_iter()
                .map(|service| service.key)
                .collect::<Vec<_>>()
        });
        let expected = expected
            .map(|names| names.into_iter().map(str::to_owned).collect())
            .map_err(str::to_owned);
        assert_eq!(names, expected, "{profiles:?}");
    }
    let optional = "services:\n  a:\n    image: x\n    depends_on:\n      b: {condition: \
                    service_started, required: false}\n      c: {condition: service_started}\n  \
                    b: {image: y, profiles: [p]}\n  c: {image: z}\n";
    assert_same(
        "05-services.md, depends_on: `required`",
        merged(&[optional]),
        "services:\n  a: {image: x, depends_on: {c: {condition: service_started}}}\n  c: {image: z}\n",
    );
}
