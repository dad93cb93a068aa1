//! Tests how platforms are read from files: the resulting declarations, and the diagnostics for
//! invalid files.

mod export;
mod project;
mod published;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::{
    DependencyCondition, ImageSource, PlatformId, ServiceName, ServiceSpec,
};
use lifecycle_core::platform::{CloudSpec, Diagnostics, Loaded, Sources, load, survey};
use proptest::prelude::*;

use project::directory_with;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn id() -> PlatformId {
    PlatformId::new(uuid::Uuid::from_u128(
        0x0189_f7a0_0000_4000_8000_0000_0000_0000,
    ))
}

async fn loaded(sources: &Sources) -> Result<Loaded, Diagnostics> {
    let store = DirectoryStore::new(sources.project_dir.clone());
    load(sources, id(), &store).await
}

fn sources(directory: &Path, compose: &str, platform: Option<&str>) -> Sources {
    Sources {
        compose_files: vec![directory.join(compose)],
        platform_toml: platform.map(|file| directory.join(file)),
        nodes: 1,
        project_dir: directory.to_owned(),
        env_files: Vec::new(),
        environment: BTreeMap::new(),
        name: None,
        profiles: Vec::new(),
    }
}

#[tokio::test]
async fn platform_with_all_keys_is_read() {
    let mut sources = sources(
        &tests().join("declared"),
        "compose.yaml",
        Some("platform.toml"),
    );
    sources.environment = [("FROM_ENV", "from the process"), ("TAG", "2.0")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let loaded = loaded(&sources)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    insta::assert_yaml_snapshot!("declaration", loaded.declaration);
    let unsupported: Vec<String> = loaded
        .unsupported
        .iter()
        .map(|key| {
            format!(
                "{key} [{}]",
                if key.changes_behaviour {
                    "changes"
                } else {
                    "harmless"
                }
            )
        })
        .collect();
    insta::assert_snapshot!("unsupported", unsupported.join("\n"));
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, [""; 0]);
}

#[tokio::test]
async fn azure_example_is_read() {
    let examples = tests().join("../../examples");
    let mut sources = sources(&examples.join("iot-platform"), "compose.yaml", None);
    sources.platform_toml = Some(examples.join("azure/platform.toml"));
    let secret = ("AZURE_STORAGE_KEY".to_owned(), "s3cret".to_owned());
    sources.environment = [secret].into();
    let loaded = loaded(&sources)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let CloudSpec::Azure(azure) = &loaded.declaration.cloud else {
        panic!("{:?}", loaded.declaration.cloud);
    };
    assert!(azure.identity.is_some() && azure.sizes.len() > 1);
    assert_eq!(loaded.access.credentials.code().unwrap().expose(), "s3cret");
    let declared = serde_json::to_string(&loaded.declaration).unwrap();
    assert!(!declared.contains("s3cret"));
}

#[tokio::test]
async fn compose_file_alone_is_enough() {
    let directory = tempfile::Builder::new()
        .prefix("My_App-")
        .rand_bytes(0)
        .tempdir_in(std::env::temp_dir());
    let directory = directory.unwrap();
    std::fs::write(
        directory.path().join("compose.yaml"),
        "services: {web: {image: nginx}}\n",
    )
    .unwrap();
    let loaded = loaded(&sources(directory.path(), "compose.yaml", None))
        .await
        .unwrap();
    let declaration = loaded.declaration;
    assert_eq!(declaration.name.as_str(), "my_app-");
    assert_eq!(declaration.nodes.len(), 1);
    assert_eq!(declaration.services.len(), 1);
    assert_eq!(declaration.manager.node.as_str(), "node-1");
}

#[tokio::test]
async fn unset_variable_is_a_warning() {
    let directory = tempfile::TempDir::new().unwrap();
    let text =
        "name: x\nservices:\n  web:\n    image: nginx\n    user: u$NONE\n    working_dir: /$NONE\n";
    std::fs::write(directory.path().join("compose.yaml"), text).unwrap();
    let loaded = loaded(&sources(directory.path(), "compose.yaml", None))
        .await
        .unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "compose.yaml:5:11: services.web.user: `NONE` is not set and is replaced by an empty \
             string"
        ]
    );
}

#[tokio::test]
async fn several_files_are_merged_and_diagnostics_name_their_file() {
    let directory = directory_with(&[
        (
            "compose.yaml",
            "name: shop\nservices:\n  web:\n    image: nginx\n    privileged: true\n    \
             environment: {A: \"1\", B: \"2\"}\n    ports: [\"8080:80\"]\n",
        ),
        (
            "prod/over.yaml",
            "include: [more/db.yaml]\nservices:\n  web:\n    environment: [B=3, NAME=$COMPOSE_PROJECT_NAME]\n    \
             pid: host\n    ports: !override [\"80:80\"]\n",
        ),
        (
            "more/db.yaml",
            "services:\n  db:\n    image: postgres:$TAG\n    env_file: db.env\n    ipc: host\n    \
             user: $NONE\n",
        ),
        ("more/db.env", "PASSWORD=x\n"),
        ("more/.env", "TAG=17\n"),
        (".env", "COMPOSE_PROJECT_NAME=of-the-file\n"),
    ]);
    let mut sources = sources(directory.path(), "compose.yaml", None);
    sources
        .compose_files
        .push(directory.path().join("prod/over.yaml"));
    let loaded = loaded(&sources)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let declaration = loaded.declaration;
    assert_eq!(declaration.name.as_str(), "of-the-file");
    let service = |name: &str| &declaration.services[&name.try_into().unwrap()];
    let web = &service("web").container;
    let variables: Vec<(&str, &str)> = web
        .environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()))
        .collect();
    assert_eq!(variables, [("A", "1"), ("B", "3"), ("NAME", "of-the-file")]);
    assert_eq!(web.ports.len(), 1);
    assert_eq!(web.ports[0].host_port, Some(80));
    let db = service("db");
    assert_eq!(format!("{:?}", db.source), "Image(\"postgres:17\")");
    assert!(db.container.environment.contains_key("PASSWORD"));
    assert_eq!(
        loaded.warnings[0].to_string(),
        "more/db.yaml:6:11: services.db.user: `NONE` is not set and is replaced by an empty string"
    );
}

#[tokio::test]
async fn profiles_come_from_the_command_line_or_the_environment() {
    let directory = directory_with(&[(
        "compose.yaml",
        "services:\n  a: {image: x}\n  b: {image: x, profiles: [one]}\n  c: {image: x, profiles: \
         [two, three]}\n",
    )]);
    let mut sources = sources(directory.path(), "compose.yaml", None);
    let names = async |sources: &Sources| {
        let loaded = loaded(sources).await.unwrap();
        let names: Vec<String> = loaded
            .declaration
            .services
            .keys()
            .map(ToString::to_string)
            .collect();
        let warnings = loaded.warnings.iter().map(ToString::to_string);
        let warnings: Vec<String> = warnings.filter(|line| line.contains("profile")).collect();
        (names.join(" "), warnings)
    };
    assert_eq!(names(&sources).await.0, "a");
    let variable = ("COMPOSE_PROFILES".to_owned(), "one, three".to_owned());
    sources.environment = [variable].into();
    assert_eq!(names(&sources).await.0, "a b c");
    sources.profiles = vec!["one".to_owned(), "fuor".to_owned()];
    let (found, warnings) = names(&sources).await;
    assert_eq!(found, "a b");
    assert_eq!(
        warnings,
        ["compose.yaml: no service has the profile `fuor`"]
    );
}

#[tokio::test]
async fn diagnostics_and_warnings_contain_no_secret() {
    let directory = tempfile::TempDir::new().unwrap();
    let text = "services:\n  web:\n    image: nginx\n    prots: []\n    environment:\n      \
                PASSWORD: ${PASSWORD}\n      OTHER: [hunter2]\n";
    std::fs::write(directory.path().join("compose.yaml"), text).unwrap();
    let mut sources = sources(directory.path(), "compose.yaml", None);
    sources
        .environment
        .insert("PASSWORD".to_owned(), "hunter2".to_owned());
    let problems = loaded(&sources).await.unwrap_err();
    assert!(!format!("{problems} {problems:?} {sources:?}").contains("hunter2"));
}

#[tokio::test]
async fn malformed_files_are_reported_with_position_cause_and_hint() {
    let directory = tests().join("malformed");
    let mut files: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|end| end == "yaml" || end == "toml")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 25, "{}", files.len());
    // Invalid platform files are read together with this valid Compose file.
    let valid = tempfile::TempDir::new().unwrap();
    std::fs::write(valid.path().join("compose.yaml"), "name: x\nservices: {}\n").unwrap();
    for file in files {
        let sources = if Path::new(&file)
            .extension()
            .is_some_and(|end| end == "toml")
        {
            let settings = directory.join(&file);
            std::fs::copy(&settings, valid.path().join(&file)).unwrap();
            sources(valid.path(), "compose.yaml", Some(&file))
        } else {
            sources(&directory, &file, None)
        };
        let problems = match loaded(&sources).await {
            Err(problems) => problems.to_string(),
            Ok(_) => panic!("{file} was accepted"),
        };
        let shown = problems.replace(&directory.display().to_string(), "<directory>");
        insta::assert_snapshot!(file, shown);
    }
}

/// Tests errors in projects with several files. Each case is a directory, with or without an
/// override file.
#[tokio::test]
async fn errors_in_several_files_are_reported_with_their_positions() {
    let directory = tests().join("malformed/several");
    let mut cases: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .collect();
    cases.sort();
    assert!(cases.len() >= 15, "{}", cases.len());
    for case in cases {
        let mut sources = sources(&directory.join(&case), "compose.yaml", None);
        let over = sources.project_dir.join("compose.override.yaml");
        sources.compose_files.extend(over.is_file().then_some(over));
        let problems = match loaded(&sources).await {
            Err(problems) => problems.to_string(),
            Ok(_) => panic!("{case} was accepted"),
        };
        insta::assert_snapshot!(format!("several__{case}"), problems);
    }
}

/// Reads a project with these files, which must be invalid. Returns the diagnostics.
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn problems(files: &[(&str, String)]) -> String {
    let directory = tempfile::TempDir::new().unwrap();
    let mut platform = None;
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
        platform = platform.or((*name == "platform.toml").then_some(*name));
    }
    let sources = sources(directory.path(), "compose.yaml", platform);
    match loaded(&sources).await {
        Err(problems) => problems.to_string(),
        Ok(_) => panic!("the files were accepted"),
    }
}

#[tokio::test]
async fn exponential_growth_is_refused_early() {
    let web = |lines: &str| format!("services:\n  web:\n    image: x\n{lines}");
    let trebling: Vec<String> = (1..40)
        .map(|n| format!("A{n}=$A{0}$A{0}$A{0}\n", n - 1))
        .collect();
    let services: Vec<String> = (0..11)
        .map(|n| format!("  s{n}: {{image: x, scale: 10000}}\n"))
        .collect();
    let ranges: Vec<String> = (1..=1000)
        .map(|n| format!("      - \"{n}-{}\"\n", n + 999))
        .collect();
    let many = |line: &str, times: usize| line.repeat(times);
    for (files, expected) in [
        (
            vec![
                ("compose.yaml", web("")),
                (".env", format!("A0=x\n{}", trebling.concat())),
            ],
            ".env:14:1: in the value of `A13`: variables expand this value to more than 1 MiB",
        ),
        (
            vec![
                (
                    "compose.yaml",
                    web(&format!("    command: [{}]\n", many("\"$A\", ", 1000))),
                ),
                (".env", format!("A={}\n", many("x", 1 << 15))),
            ],
            "services.web.command[512]: up to this line, variables expand to more than 16 MiB",
        ),
        (
            vec![(
                "compose.yaml",
                web(&format!("    ports:\n{}", ranges.concat())),
            )],
            "services.web.ports[1]: a service may publish at most 1000 ports",
        ),
        (
            vec![("compose.yaml", format!("services:\n{}", services.concat()))],
            "services.s9.deploy.replicas: more than 100000 replicas are declared up to this line",
        ),
        (
            vec![("compose.yaml", web("    env_file: /dev/zero\n"))],
            "`/dev/zero` cannot be read: it is not a regular file; specify a UTF-8 text file",
        ),
        (
            vec![("compose.yaml", "# \n".repeat(6 << 20))],
            "cannot be read: it is larger than 8 MiB",
        ),
    ] {
        let problems = problems(&files).await;
        assert!(problems.contains(expected), "{expected}: {problems:.1000}");
        assert_eq!(problems.lines().count(), 1, "{problems:.1000}");
    }
}

#[tokio::test]
async fn impossible_reservation_is_reported_with_its_line() {
    let compose = "services:\n  a:\n    image: x\n    deploy:\n      resources:\n        \
                   reservations: {cpus: 4}\n";
    let platform = "[nodes.n]\ncapacity = { cpus = 2, memory = \"4g\" }\n";
    let problems = problems(&[
        ("compose.yaml", compose.to_owned()),
        ("platform.toml", platform.to_owned()),
    ])
    .await;
    assert_eq!(
        problems,
        "compose.yaml:6:9: services.a.deploy.resources.reservations: no node that the \
         service may run on has enough capacity; reserve less, or declare a larger `capacity` for a node"
    );
}

#[tokio::test]
async fn number_and_size_of_read_files_are_limited() {
    let named = |name: &str, text: String| (name.to_owned(), text);
    let include = |name: &str, text: &str| named(name, format!("include: [{text}]\n"));
    let mut deep = vec![include("compose.yaml", "f1.yaml")];
    deep.extend((1..40).map(|n| include(&format!("f{n}.yaml"), &format!("f{}.yaml", n + 1))));
    let twice = |n: usize| format!("f{n}.yaml, f{n}.yaml");
    let mut wide = vec![include("compose.yaml", &twice(1))];
    wide.extend((1..20).map(|n| include(&format!("f{n}.yaml"), &twice(n + 1))));
    wide.push(named("f20.yaml", "services: {}\n".to_owned()));
    let chain: Vec<String> = (0..80)
        .map(|n| format!("  s{n}: {{image: x, extends: s{}}}\n", n + 1))
        .collect();
    let chain = format!("services:\n{}  s80: {{image: x}}\n", chain.concat());
    let words = "x, ".repeat(90_000);
    let heirs: Vec<String> = (0..50)
        .map(|n| format!("  s{n}: {{extends: base}}\n"))
        .collect();
    let heirs = format!(
        "services:\n  base: {{image: x, command: [{words}]}}\n{}",
        heirs.concat()
    );
    for (files, expected) in [
        (deep, "includes are nested more than 24 levels deep"),
        (
            wide,
            "more than 256 files are read up to this line; refer to fewer files",
        ),
        (
            vec![named("compose.yaml", chain)],
            "the chain of `extends` is longer than 64 services",
        ),
        (
            vec![named("compose.yaml", heirs)],
            "the files contain more than 300000 values or 32 MiB of text up to this line",
        ),
    ] {
        let files: Vec<(&str, String)> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.clone()))
            .collect();
        let problems = problems(&files).await;
        assert!(problems.contains(expected), "{expected}: {problems:.1000}");
        assert_eq!(problems.lines().count(), 1, "{problems:.1000}");
    }
}

#[tokio::test]
async fn too_large_declarations_are_refused() {
    let compose = "services:\n  web:\n    image: x\n    configs: [c]\n    secrets: [s]\n    volumes:\n      \
                   - ./mount:/m\nconfigs: {c: {file: large}}\nsecrets: {s: {environment: BIG}}\n";
    let problems = problems(&[
        ("compose.yaml", compose.to_owned()),
        ("large", "x".repeat(600 << 10)),
        ("mount", "x".repeat((64 << 20) + 1)),
        (".env", format!("BIG={}\n", "x".repeat(600 << 10))),
    ])
    .await;
    for expected in [
        "services.web.volumes[0]: `",
        "with this file, the total size exceeds 64 MiB",
        "configs.c.file: `",
        "with this file, the total size exceeds 500 KiB",
        "secrets.s.environment: the contents are larger than 500 KiB",
    ] {
        assert!(problems.contains(expected), "{expected}: {problems:.2000}");
    }
}

#[tokio::test]
async fn referenced_files_are_part_of_the_declaration() {
    let directory = tempfile::TempDir::new().unwrap();
    let compose = "services:\n  web:\n    image: x\n    secrets: [{source: s, mode: 0440, uid: \"7\"}]\n    \
                   configs: [{source: c, target: /etc/c}]\n    volumes:\n      - ./site:/srv\n      \
                   - ./data:/data\n      - /etc/localtime:/etc/localtime:ro\n      - /scratch\n\
                   secrets: {s: {file: secret}}\nconfigs: {c: {content: \"a=$$b\"}}\n";
    for (name, text) in [
        ("compose.yaml", compose),
        ("secret", "hunter2"),
        ("site/index.html", "hi"),
        ("site/left.out", "no"),
        ("site/.dockerignore", "left.out\n"),
    ] {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = loaded(&sources(directory.path(), "compose.yaml", None))
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let (_, web) = loaded.declaration.services.first_key_value().unwrap();
    insta::assert_yaml_snapshot!("files", web.container);
    let volume = web.container.volumes[0].volume.clone();
    assert!(loaded.declaration.volumes.contains(&volume));
    assert!(!format!("{:?}", loaded.declaration).contains("hunter2"));
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("files_warnings", warnings.join("\n"));
}

#[tokio::test]
async fn names_belong_to_one_service() {
    let compose = "services:\n  a:\n    image: x\n    container_name: first\n    networks: {n: {aliases: \
                   [shared]}}\n  b:\n    image: x\n    networks: {n: {aliases: [shared]}, m: {aliases: \
                   [other]}}\n    links: [\"a:linked\"]\n  c:\n    image: x\n    networks: [m]\nnetworks: \
                   {n: , m: {internal: true}}\n";
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("compose.yaml"), compose).unwrap();
    let loaded = loaded(&sources(directory.path(), "compose.yaml", None))
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let aliases: Vec<String> = loaded
        .declaration
        .services
        .values()
        .map(|spec| {
            format!(
                "{}: {:?} after {:?}",
                spec.name, spec.aliases, spec.depends_on
            )
        })
        .collect();
    let unsupported: Vec<String> = loaded.unsupported.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(
        "names",
        format!("{}\n{}", aliases.join("\n"), unsupported.join("\n"))
    );
}

#[tokio::test]
async fn separate_networks_are_a_warning_and_other_network_keys_are_not() {
    let compose = |web: &str, networks: &str| {
        format!(
            "services:\n  web: {{image: x, networks: {web}}}\n  db: {{image: x, networks: [back]}}\n  \
             job: {{image: x, network_mode: none}}\nnetworks: {networks}\n"
        )
    };
    let apart = "compose.yaml:5:1: networks: separate networks do not isolate services, whether on \
                 one node or between nodes: every service can reach every other service by name";
    for (web, networks, warned, blocks) in [
        ("[front]", "{front: , back: }", true, false),
        // A null value is equivalent to a missing key.
        ("[]", "{back: }", true, false),
        ("{}", "{back: }", true, false),
        ("[front, back]", "{front: , back: }", false, false),
        ("[front]", "{front: , back: {internal: true}}", true, true),
        ("[back]", "{back: {internal: true}}", false, true),
    ] {
        let text = compose(web, networks);
        let directory = directory_with(&[("compose.yaml", &text)]);
        let loaded = loaded(&sources(directory.path(), "compose.yaml", None))
            .await
            .unwrap_or_else(|problems| panic!("{problems}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings.contains(&apart.to_owned()),
            warned,
            "{text}{warnings:?}"
        );
        let blocking = loaded.unsupported.iter().any(|key| key.changes_behaviour);
        assert_eq!(blocking, blocks, "{text}");
    }
}

#[tokio::test]
async fn a_service_can_join_the_network_of_another_one() {
    let toml = "[nodes.a]\n[nodes.b]\n";
    let read = async |vpn: &str, app: &str| {
        let compose = format!(
            "services:\n  vpn: {{image: x, ports: ['80:80']{vpn}}}\n  \
             app: {{image: x, expose: [80], ports: [], network_mode: 'service:vpn'{app}}}\n"
        );
        let files = [("compose.yaml", compose.as_str()), ("platform.toml", toml)];
        let directory = directory_with(&files);
        let sources = sources(directory.path(), "compose.yaml", Some("platform.toml"));
        loaded(&sources).await
    };
    for (vpn, app, replicas) in [
        ("", "", 1),
        (", deploy: {replicas: 2}", "", 2),
        (", scale: 2", ", scale: 2", 2),
        (", deploy: {mode: global}", "", 2),
        (", deploy: {mode: global}", ", deploy: {mode: global}", 2),
    ] {
        let loaded = read(vpn, app)
            .await
            .unwrap_or_else(|problems| panic!("{problems}"));
        let services = &loaded.declaration.services;
        let app = &services[&ServiceName::try_from("app").unwrap()];
        let vpn = ServiceName::try_from("vpn").unwrap();
        assert_eq!(app.replicas, replicas);
        assert_eq!(app.container.connection.joins(), Some(&vpn));
        let started = DependencyCondition::ServiceStarted;
        assert_eq!(app.depends_on.get(&vpn), Some(&started));
        let mut warnings = loaded.warnings.iter().map(ToString::to_string);
        assert!(warnings.any(|warning| warning.contains("do not use the platform's resolver")));
    }
    let on = |node| format!(", deploy: {{placement: {{constraints: [node.hostname == {node}]}}}}");
    let apart = read(&on("a"), &on("b")).await.unwrap_err().to_string();
    let expected = "services.app.network_mode: no node satisfies the constraints of both this \
                    service and `vpn`; change the constraints: both services run on the same node";
    assert!(apart.contains(expected), "{apart}");
    read(&on("a"), &on("a"))
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
}

#[tokio::test]
async fn valid_compose_files_are_accepted() {
    let compose = "services:\n  web:\n    build: {context: , args: , dockerfile: }\n    scale: 2\n    \
                   cpus: 0.5\n    deploy: {replicas: 2, resources: {limits: {cpus: '0.5'}}}\n    \
                   security_opt: ['label=type:x', 'label:role:y', 'no-new-privileges:true']\n    \
                   networks: {default: {aliases: }}\n  \
                   entry: {image: x, ports: ['80', '8080:80', '8443:443', '443']}\n";
    let directory = directory_with(&[("compose.yaml", compose), ("Dockerfile", "FROM scratch\n")]);
    let loaded = loaded(&sources(directory.path(), "compose.yaml", None))
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let service = |name: &str| &loaded.declaration.services[&name.try_into().unwrap()];
    let web = service("web");
    assert_eq!(web.replicas, 2);
    assert_eq!(
        web.container.isolation.security_opt,
        ["label=type:x", "label=role:y", "no-new-privileges=true"]
    );
    let ports = service("entry").container.ports.iter();
    let ports: Vec<_> = ports.map(|p| (p.host_port, p.container_port)).collect();
    let all = [(None, 80), (Some(8080), 80), (Some(8443), 443), (None, 443)];
    assert_eq!(ports, all);
}

/// Returns the service that these keys declare, or the problems.
async fn web(keys: &str) -> Result<ServiceSpec, String> {
    let compose = format!("name: p\nservices:\n  web: {{image: x, {keys}}}\n");
    let directory = directory_with(&[("compose.yaml", &compose)]);
    let loaded = loaded(&sources(directory.path(), "compose.yaml", None)).await;
    let loaded = loaded.map_err(|problems| problems.to_string())?;
    let mut services = loaded.declaration.services.into_values();
    services
        .next()
        .ok_or_else(|| "no service is declared".into())
}

#[tokio::test]
async fn a_public_service_needs_a_port_that_can_be_opened() {
    let public = "x-lifecycle: {public: true}";
    let ports = "ports: ['8080:80', '127.0.0.1:9090:90', '53:53/udp', '10.0.0.4:443:443']";
    let spec = web(&format!("{ports}, {public}")).await.unwrap();
    let open: Vec<String> = spec.public_ports().map(|port| port.to_string()).collect();
    assert_eq!(open, ["8080/tcp", "53/udp", "443/tcp"]);
    for other in [
        "x-lifecycle: {public: false}",
        "x-lifecycle: {class: model}",
    ] {
        let spec = web(&format!("{ports}, {other}")).await.unwrap();
        assert!(!spec.public);
        assert_eq!(spec.public_ports().count(), 0);
    }
    for (keys, problem) in [
        ("expose: [80]", "publishes no ports"),
        ("ports: ['127.0.0.1:8080:80', '[::1]:8080:80']", "loopback"),
        ("ports: ['80']", "no fixed host port"),
        ("ports: ['8080:80', '443']", "no fixed host port"),
        ("ports: ['8000-8010:80']", "one of several host ports"),
        (
            "ports: ['8080:80', '8000-8010:90']",
            "one of several host ports",
        ),
        ("ports: ['80:80'], network_mode: host", "`network_mode`"),
        ("network_mode: none", "`network_mode`"),
    ] {
        let problems = web(&format!("{keys}, {public}")).await.unwrap_err();
        assert!(problems.contains(problem), "{keys}: {problems}");
        assert!(problems.contains("x-lifecycle.public"), "{problems}");
    }
    let problems = web("ports: ['80:80'], x-lifecycle: {public: maybe}")
        .await
        .unwrap_err();
    assert!(
        problems.contains("neither `true` nor `false`"),
        "{problems}"
    );
}

/// Generates lines that are likely to pass the first checks, so that random files also reach the
/// later ones.
fn fragment() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "services:",
        "  web:",
        "    image: nginx",
        "    ports:",
        "      - \"80-90:80-90\"",
        "    build: .",
        "    build: {context: a, args: [A=b]}",
        "    depends_on: [web, db]",
        "    environment:",
        "      A: ${B:-c}",
        "    deploy: {replicas: 3}",
        "    <<: *x",
        "&x",
        "    x-lifecycle: {ready: {port: 1}}",
        "volumes:",
        "  data:",
        "    healthcheck:",
        "      test: [CMD, x]",
        "  db: {image: a, volumes: [data:/x]}",
        "- a",
        "? [a]",
        "!reset",
        "[nodes.vm1]",
        "[[node_pool]]",
        "count = 2",
        "name = \"x\"",
        "[manager]",
        "port = 1",
        "    ports: [\"0-65535:0-65535\", \"1-65535\"]",
        "    stop_grace_period: 9999999999999999999999h",
        "    mem_limit: 99999999999999999999999g",
        "    cpus: 1e400",
        "\u{feff}",
        "\t",
        "---",
    ]);
    prop_oneof![
        4 => known.prop_map(str::to_owned),
        1 => "[ -~\\t]{0,30}",
        1 => "\\PC{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reader_never_panics(
        compose in proptest::collection::vec(fragment(), 0..14),
        platform in proptest::collection::vec(fragment(), 0..8),
        env in "[ -~\\n]{0,60}",
    ) {
        let directory = tempfile::TempDir::new().unwrap();
        for (name, text) in [
            ("compose.yaml", compose.join("\n")),
            ("platform.toml", platform.join("\n")),
            (".env", env),
            ("Dockerfile", platform.join("\n")),
            (".dockerignore", compose.join("\n")),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sources = sources(directory.path(), "compose.yaml", Some("platform.toml"));
        if let Err(problems) = runtime.block_on(loaded(&sources)) {
            // The reader runs in a separate task and reports a panic as an error.
            prop_assert!(!problems.to_string().contains("panicked"), "{problems}");
            prop_assert!(problems.iter().count() > 0);
        }
    }
}

#[tokio::test]
async fn code_base_names_are_known_before_they_exist() {
    let directory = tempfile::tempdir().unwrap();
    let compose = "name: x\nservices:\n  a: {build: ./nested/../api}\n  b: {build: {context: api}}\n  \
                   c: {build: .}\n  d: {image: debian, mac_address: \"02:42:ac:11:65:43\"}\n  \
                   e: {x-lifecycle: {code: shared/e}}\n";
    std::fs::write(directory.path().join("compose.yaml"), compose).unwrap();
    let sources = sources(directory.path(), "compose.yaml", None);
    let survey = survey(&sources).await.unwrap();
    let names: Vec<&str> = survey.code_bases.iter().map(String::as_str).collect();
    assert_eq!(names, [".", "api", "code/shared/e"]);
    assert_eq!(survey.unsupported.len(), 1);
    assert!(
        loaded(&sources).await.is_err(),
        "the code bases must be missing"
    );
}

#[tokio::test]
async fn ignored_dockerfile_reaches_the_builder() {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in [
        (
            "compose.yaml",
            "services:\n  a: {build: {context: ., dockerfile: docker/Dockerfile.jvm}}\n",
        ),
        (".dockerignore", "*\n!target/*\n"),
        ("docker/Dockerfile.jvm", "FROM base\nEXPOSE 8080\n"),
    ] {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut sources = sources(directory.path(), "compose.yaml", None);
    sources.name = Some("x".try_into().unwrap());
    let loaded = loaded(&sources)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let ImageSource::Build(build) = &loaded.declaration.services.values().next().unwrap().source
    else {
        panic!("the image is not built");
    };
    assert_eq!(build.bases, ["base"]);
    let inline = build.options.inline.as_deref();
    assert_eq!(inline, Some("FROM base\nEXPOSE 8080\n"));
}
