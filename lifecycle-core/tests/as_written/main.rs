//! Tests forms that are common in published Compose files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod devices;
mod empty;
mod metadata;
mod numbers;
mod ports;
#[path = "../project/mod.rs"]
mod project;
mod secrets;
mod several;

use std::collections::BTreeMap;
use std::path::Path;

use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::{FileTree, ImageSource, PlatformId, ServiceSpec, TreeEntry};
use lifecycle_core::platform::{Diagnostics, Loaded, Sources, load};

use project::directory_with;

async fn read(directory: &Path, environment: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let variables = environment.iter();
    let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let sources = Sources {
        compose_files: vec![directory.join("compose.yaml")],
        platform_toml: None,
        nodes: 1,
        project_dir: directory.to_owned(),
        env_files: Vec::new(),
        environment: variables.collect(),
        name: Some("shop".try_into().unwrap()),
        profiles: Vec::new(),
    };
    let store = DirectoryStore::new(directory.to_owned());
    let id = PlatformId::new(uuid::Uuid::from_u128(
        0x0189_f7a0_0000_4000_8000_0000_0000_0001,
    ));
    load(&sources, id, &store).await
}

/// Reads a service `s` with these keys.
async fn service(keys: &str, files: &[(&str, &str)]) -> Result<(ServiceSpec, Vec<String>), String> {
    let compose = format!("services:\n  s:\n    {}\n", keys.replace('\n', "\n    "));
    let directory = directory_with(&[&[("compose.yaml", compose.as_str())], files].concat());
    match read(directory.path(), &[("SET", "of the command")]).await {
        Ok(loaded) => {
            let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            let mut services = loaded.declaration.services.into_values();
            Ok((services.next().unwrap(), warnings))
        }
        Err(problems) => Err(problems.to_string()),
    }
}

async fn accepted(keys: &str, files: &[(&str, &str)]) -> ServiceSpec {
    let read = service(keys, files).await;
    read.unwrap_or_else(|problems| panic!("{keys}: {problems}"))
        .0
}

async fn rejected(keys: &str, files: &[(&str, &str)], expected: &str) {
    let problems = service(keys, files).await.unwrap_err();
    assert!(problems.contains(expected), "{keys}: {problems}");
    assert_eq!(problems.lines().count(), 1, "{keys}: {problems}");
}

fn environment(spec: &ServiceSpec) -> BTreeMap<&str, &str> {
    let variables = spec.container.environment.iter();
    variables
        .map(|(name, value)| (name.as_str(), value.expose()))
        .collect()
}

#[tokio::test]
async fn a_variable_without_a_value_is_not_set() {
    let files = [("f.env", "A=1\nB=2\nSET=of the file\n")];
    for listed in [
        "environment: {A: , SET: }",
        "environment: {A: null, SET: ~}",
        "environment: [A, SET]",
    ] {
        let spec = accepted(&format!("image: x\nenv_file: f.env\n{listed}"), &files).await;
        let expected = BTreeMap::from([("B", "2"), ("SET", "of the command")]);
        assert_eq!(environment(&spec), expected, "{listed}");
        // A variable of the image is removed, too.
        assert_eq!(spec.container.unset, ["A".to_owned()].into(), "{listed}");
    }
    let spec = accepted("image: x\nenv_file: f.env\nenvironment: {A: \"\"}", &files).await;
    assert_eq!(environment(&spec)["A"], "");
    assert!(spec.container.unset.is_empty());
}

#[tokio::test]
async fn environment_files_use_variables_of_earlier_ones() {
    let files = [
        ("a.env", "FOO=foo\nSET=of the file\n"),
        ("b.env", "BAZ=${FOO}_baz\nSEEN=$SET\n"),
        ("c.env", "LAST=${BAZ}-${NONE}\n"),
    ];
    let keys = "image: x\nenv_file: [a.env, {path: b.env}, c.env]";
    let (spec, warnings) = service(keys, &files).await.unwrap();
    let variables = environment(&spec);
    assert_eq!(variables["BAZ"], "foo_baz");
    assert_eq!(variables["SEEN"], "of the command");
    assert_eq!(variables["LAST"], "foo_baz-");
    let expected = "compose.yaml:4:38: services.s.env_file[2]: `c.env`, line 1: the value of \
                    `LAST` refers to a variable that is not set; it is replaced by an empty string";
    assert_eq!(warnings, [expected]);
    // The file's own lines precede earlier files; the service's variables precede both.
    let files = [
        ("a.env", "FOO=1\nH=file\n"),
        ("b.env", "FOO=2\nBAR=$FOO\nURL=http://$H\n"),
    ];
    let keys = "image: x\nenv_file: [a.env, b.env]\nenvironment: {H: db}";
    let spec = accepted(keys, &files).await;
    assert_eq!(environment(&spec)["BAR"], "2");
    assert_eq!(environment(&spec)["URL"], "http://db");
    let files = [("a.env", "FOO=foo\n"), ("b.env", "BAZ=${FOO}_baz\n")];
    // A later file has no effect on an earlier one.
    let (spec, warnings) = service("image: x\nenv_file: [b.env, a.env]", &files)
        .await
        .unwrap();
    assert_eq!(environment(&spec)["BAZ"], "_baz");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[tokio::test]
async fn equal_amounts_in_other_units_are_equal() {
    for (older, newer) in [
        ("1g", "1024M"),
        ("512m", "0.5g"),
        ("1048576", "1mb"),
        ("64M", "64m"),
    ] {
        let keys = format!(
            "image: x\nmem_limit: {older}\ndeploy: {{resources: {{limits: {{memory: {newer}}}}}}}"
        );
        accepted(&keys, &[]).await;
    }
    for (older, key, newer) in [
        ("mem_limit: 1g", "memory", "1000M"),
        ("cpus: 0.5", "cpus", "\"0.9\""),
        ("pids_limit: 1", "pids", "2"),
    ] {
        let keys =
            format!("image: x\n{older}\ndeploy: {{resources: {{limits: {{{key}: {newer}}}}}}}");
        rejected(&keys, &[], "sets the same option to a different value").await;
    }
    let keys = "image: x\ncpus: 0.50\ndeploy: {resources: {limits: {cpus: \".5\"}}}";
    accepted(keys, &[]).await;
}

#[tokio::test]
async fn a_name_cannot_forge_a_message() {
    for name in ["a\\nerror: forged\\nhint: rm", "a\\r\\u001b[31m", "a\\tb"] {
        let compose = format!("services:\n  \"{name}\": {{image: x}}\n");
        let directory = directory_with(&[("compose.yaml", compose.as_str())]);
        let problems = read(directory.path(), &[]).await.unwrap_err().to_string();
        assert!(!problems.contains(|c: char| c.is_control()), "{problems:?}");
        assert!(
            problems.contains("is not a valid service name"),
            "{problems}"
        );
    }
}

#[tokio::test]
async fn an_empty_address_means_all_addresses() {
    for port in [
        "\":80:80\"",
        "{target: 80, published: 80, host_ip: \"\"}",
        "\"0.0.0.0:80:80\"",
        "\"[::]:80:80\"",
        "\"${NONE:-}:${NONE:-80}:80\"",
    ] {
        let spec = accepted(&format!("image: x\nports: [{port}]"), &[]).await;
        let [published] = spec.container.ports.as_slice() else {
            panic!("{:?}", spec.container.ports);
        };
        assert_eq!(
            (published.host_ip, published.host_port),
            (None, Some(80)),
            "{port}"
        );
    }
    rejected(
        "image: x\nports: [\"here:80:80\"]",
        &[],
        "`here` is not an IP address",
    )
    .await;
}

#[tokio::test]
async fn one_port_at_two_addresses_is_no_conflict() {
    let ports = "ports: [\"127.0.0.1:53:53/udp\", \"10.0.0.5:53:53/udp\"]";
    let spec = accepted(&format!("image: x\n{ports}"), &[]).await;
    assert_eq!(spec.container.ports.len(), 2);
    let other = |address: &str| {
        format!(
            "services:\n  s: {{image: x, ports: [\"127.0.0.1:53:53\"]}}\n  \
             t: {{image: x, ports: [\"{address}53:53\"]}}\n"
        )
    };
    for (address, is_accepted) in [("127.0.0.2:", true), ("127.0.0.1:", false), ("", false)] {
        let directory = directory_with(&[("compose.yaml", other(address).as_str())]);
        let read = read(directory.path(), &[]).await;
        assert_eq!(read.is_ok(), is_accepted, "{address}");
        if let Err(problems) = read {
            let text = problems.to_string();
            assert!(text.contains("only 1 node is available"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}

#[tokio::test]
async fn equal_entries_count_once() {
    let range = "\"8000-8599:8000-8599\"";
    let spec = accepted(&format!("image: x\nports: [{range}, {range}]"), &[]).await;
    assert_eq!(spec.container.ports.len(), 600);
    let ports =
        "ports: [\"80:80\", \"80:80/tcp\", {target: 80, published: \"80\"}, \"443\", \"443\"]";
    let spec = accepted(&format!("image: x\n{ports}"), &[]).await;
    assert_eq!(spec.container.ports.len(), 2);
    let spec = accepted(
        "image: x\nvolumes: [/data, /data, \"/srv:/srv\", \"/srv:/srv\"]",
        &[],
    )
    .await;
    assert_eq!(spec.container.anonymous_volumes.len(), 1);
    assert_eq!(spec.container.node_paths.len(), 1);
    let different = "image: x\nvolumes: [\"/a:/data\", \"/b:/data\"]";
    rejected(different, &[], "`/data` is mounted twice").await;
    let different = "image: x\nports: [\"80:80\", \"80:81\"]";
    rejected(different, &[], "the host port 80 is used twice").await;
}

fn entries(spec: &ServiceSpec) -> &BTreeMap<String, TreeEntry> {
    match &spec.container.files[0].tree {
        FileTree::Directory(entries) => entries,
        FileTree::File(_) => panic!("not a directory"),
    }
}

#[tokio::test]
async fn a_missing_directory_may_be_mounted_read_only() {
    for mount in [
        "./certificates:/etc/certificates:ro",
        "{type: bind, source: ./certificates, target: /etc/certificates, read_only: true}",
        "./empty:/etc/certificates:ro",
    ] {
        let keys = format!("image: x\nvolumes: [{mount}]");
        let files = [("empty/.gitkeep", "")];
        let (spec, warnings) = service(&keys, &files).await.unwrap();
        assert!(entries(&spec).is_empty());
        assert!(
            warnings[0].contains("an empty directory is mounted"),
            "{warnings:?}"
        );
    }
    let keys = "image: x\nvolumes: [{type: bind, source: ./no, target: /a, read_only: true, bind: \
                {create_host_path: false}}]";
    rejected(keys, &[], "`./no` does not exist").await;
    let typo = "image: x\nvolumes: [\"./nginx.cnf:/etc/nginx/nginx.conf:ro\"]";
    rejected(typo, &[], "`./nginx.cnf` does not exist").await;
}

#[tokio::test]
async fn a_shipped_directory_has_mount_points_for_mounts_below_it() {
    let files = [("web/a.js", "1"), ("web/lib/b.js", "2"), ("one.conf", "3")];
    for (mounts, points) in [
        ("/app/node_modules", vec!["node_modules"]),
        ("/app/var/cache", vec!["var", "var/cache"]),
        ("/app/lib/dist", vec!["lib/dist"]),
        ("/srv/x:/app/mnt", vec!["mnt"]),
        ("/etc/nginx/conf.d:/app/conf.d", vec!["conf.d"]),
        ("/application", vec![]),
    ] {
        let keys = format!("image: x\nvolumes: [\"./web:/app\", \"{mounts}\"]");
        let spec = accepted(&keys, &files).await;
        let mut expected = vec!["a.js", "lib", "lib/b.js"];
        expected.extend(&points);
        expected.sort_unstable();
        let found: Vec<&str> = entries(&spec).keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{mounts}");
        for point in points {
            assert_eq!(entries(&spec)[point], TreeEntry::Directory);
        }
    }
    let keys =
        "image: x\nvolumes: [\"./web:/app\", \"./one.conf:/app/etc/one.conf\"]\ntmpfs: /app/tmp";
    let spec = accepted(keys, &files).await;
    assert!(matches!(entries(&spec)["etc/one.conf"], TreeEntry::File(_)));
    assert_eq!(entries(&spec)["tmp"], TreeEntry::Directory);
    let deep = format!(
        "image: x\nvolumes: [\"./web:/app\"]\ntmpfs: [\"/app/{}\"]",
        "x/".repeat(500_000)
    );
    accepted(&deep, &files).await;
    let many: Vec<String> = (0..3000).map(|n| format!("\"/app/{n}/x\"")).collect();
    let many = format!(
        "image: x\nvolumes: [\"./web:/app\"]\ntmpfs: [{}]",
        many.join(", ")
    );
    rejected(&many, &files, "too many mounts are below").await;
    // The user's own entries remain.
    let spec = accepted(
        "image: x\nvolumes: [\"./web:/app\", \"/app/a.js/x\"]",
        &files,
    )
    .await;
    assert!(matches!(entries(&spec)["a.js"], TreeEntry::File(_)));
    assert_eq!(entries(&spec).len(), 3);
}

#[tokio::test]
async fn contents_that_nobody_mounts_are_not_required() {
    let declared = "secrets: {u: {file: ./nope.txt}, v: {environment: NONE}, e: {external: true}}\n\
                    configs: {w: {file: ./nope.txt}}\n";
    for (used, expected) in [
        ("", None),
        (
            "secrets: [u, u]",
            Some("the file `./nope.txt` does not exist"),
        ),
        ("secrets: [e]", Some("external secrets are not supported")),
        (
            "secrets: [v]",
            Some("the environment variable `NONE` is not set"),
        ),
        (
            "configs: [w, {source: w, target: /b}]",
            Some("the file `./nope.txt` does not exist"),
        ),
    ] {
        let compose = format!("{declared}services:\n  s:\n    image: x\n    {used}\n");
        let directory = directory_with(&[("compose.yaml", compose.as_str())]);
        let read = read(directory.path(), &[]).await;
        match expected {
            None => drop(read.unwrap_or_else(|problems| panic!("{problems}"))),
            Some(expected) => {
                let problems = read.unwrap_err().to_string();
                assert!(problems.contains(expected), "{problems}");
                assert_eq!(problems.lines().count(), 1, "{problems}");
            }
        }
    }
    // A mistake in the file is reported in any case.
    let compose = "secrets: {u: {fil: ./nope.txt}}\nservices: {s: {image: x}}\n";
    let directory = directory_with(&[("compose.yaml", compose)]);
    let problems = read(directory.path(), &[]).await.unwrap_err().to_string();
    assert!(problems.contains("did you mean `file`?"), "{problems}");
}

#[tokio::test]
async fn rejects_windows_paths() {
    for mount in [
        "'C:\\data:/x'",
        "'C:\\data:/x:ro'",
        "'d:/data:/x'",
        "{type: bind, source: 'C:\\data', target: /x}",
    ] {
        let keys = format!("image: x\nvolumes: [{mount}]");
        rejected(
            &keys,
            &[],
            "is a path on this machine, which nodes do not have",
        )
        .await;
    }
}

#[tokio::test]
async fn a_tilde_is_the_home_directory() {
    let home = directory_with(&[(".conf/a", "1"), ("x.env", "A=1\n"), ("secret", "s")]);
    let compose = "secrets: {s: {file: ~/secret}}\nservices:\n  s:\n    image: x\n    \
                   env_file: ~/x.env\n    secrets: [s]\n    volumes: [\"~/.conf:/conf:ro\"]\n";
    let directory = directory_with(&[("compose.yaml", compose)]);
    let home = home.path().display().to_string();
    let loaded = read(directory.path(), &[("HOME", home.as_str())]).await;
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    let spec = loaded.declaration.services.into_values().next().unwrap();
    assert_eq!(environment(&spec)["A"], "1");
    assert_eq!(spec.container.files.len(), 2);
    let of_other = "image: x\nvolumes: [\"~root/x:/x\"]";
    rejected(of_other, &[], "is a path on this machine").await;
}

#[tokio::test]
async fn a_dockerfile_may_be_outside_the_code_base() {
    let directory = tempfile::TempDir::new().unwrap();
    let absolute = directory.path().join("Dockerfile.abs");
    std::fs::write(&absolute, "FROM scratch\nCOPY x /abs\n").unwrap();
    let absolute = absolute.display().to_string();
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY x /\n"),
        ("app/x", "1"),
        ("deep/er/x", "1"),
    ];
    for (context, dockerfile, copy) in [
        ("app", "../Dockerfile", "COPY x /\n"),
        ("deep/er", "../../Dockerfile", "COPY x /\n"),
        ("app", absolute.as_str(), "COPY x /abs\n"),
    ] {
        let keys = format!("build: {{context: {context}, dockerfile: {dockerfile}}}");
        let spec = accepted(&keys, &files).await;
        let ImageSource::Build(source) = &spec.source else {
            panic!("{:?}", spec.source);
        };
        let inline = source.options.inline.as_deref();
        assert_eq!(inline, Some(format!("FROM scratch\n{copy}").as_str()));
    }
    let missing = "build: {context: app, dockerfile: ../no}";
    rejected(missing, &files, "`../no` cannot be read").await;
}

#[tokio::test]
async fn an_ignored_dockerfile_is_read() {
    for ignored in ["*", "src\n!src/x", "**/Dockerfile*", "src/main"] {
        let files = [
            (".dockerignore", ignored),
            ("src/main/Dockerfile.jvm", "FROM scratch\n"),
            ("src/x", "1"),
        ];
        accepted(
            "build: {context: ., dockerfile: src/main/Dockerfile.jvm}",
            &files,
        )
        .await;
    }
}
