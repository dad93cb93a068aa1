//! Tests that exported files declare exactly what was in force with the overrides, and that all other
//! lines of the files stay.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifecycle_core::model::{ImageSource, NodeName, Origin, ServiceClass, ServiceName};
use lifecycle_core::platform::{
    Declaration, Export, Exportable, OverrideChange, Overrides, Requested, Sources, export, find,
    read_service,
};
use proptest::prelude::*;

use super::project::directory_with;
use super::{id, loaded};

/// Services that are added at run time: in block and in flow notation, with variables of shells, values
/// that look like other types, and a dependency on another added service.
const ADDED: [(&str, ServiceClass, &str); 4] = [
    (
        "added-a",
        ServiceClass::Application,
        r#"{"image": "chat:7", "expose": ["8080"], "volumes": ["added-data:/data"],
            "environment": {"A": "$HOME ${X:-y}", "B": "yes", "C": null, "D": 1.50}}"#,
    ),
    (
        "added-b",
        ServiceClass::Model,
        "# A comment.\nimage: model:1\ncommand: [sh, -c, \"echo \\\"$$\\\"; sleep 1\"]\n\
         environment: [A=1, B]\nx-lifecycle: {ready_within: 90s}\ndepends_on: [added-a]\n",
    ),
    (
        "added-c",
        ServiceClass::Microservice,
        "image: cache:1\ndeploy:\n  replicas: 2\nvolumes:\n- {type: volume, source: added-data, target: \
         /x, volume: {nocopy: true}}\nstop_grace_period: 1m\nlabels: {a: \"# no comment\"}\n",
    ),
    (
        "added-d",
        ServiceClass::Application,
        "image: a\nhealthcheck:\n  test: |\n    test -e /a &&\n      true\n",
    ),
];

#[derive(Debug, Clone)]
enum Request {
    Scale(usize, u16),
    Add(usize),
    Node(&'static str, bool),
    /// Cannot be declared in files.
    Stop(usize),
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (0..100_usize, 0..6_u16).prop_map(|(index, replicas)| Request::Scale(index, replicas)),
        3 => (0..ADDED.len()).prop_map(Request::Add),
        2 => (prop_oneof![Just("added-1"), Just("added-2")], any::<bool>())
            .prop_map(|(name, like)| Request::Node(name, like)),
        1 => (0..100_usize).prop_map(Request::Stop),
    ]
}

fn requested() -> Requested {
    Requested {
        at: chrono::DateTime::UNIX_EPOCH,
        by: "a test".to_owned(),
    }
}

/// Returns the declaration after the requests. A request that a manager rejects changes nothing.
fn with_requests(files: &Declaration, requests: &[Request]) -> Declaration {
    let mut effective = files.clone();
    for request in requests {
        let names: Vec<ServiceName> = effective.services.keys().cloned().collect();
        let name = |index: usize| names[index % names.len()].as_str();
        let before = effective.clone();
        let change = |name, change| before.clone().overriding(name, change, &requested()).ok();
        let changed = match request {
            Request::Scale(index, replicas) => {
                change(name(*index), OverrideChange::Scale(*replicas))
            }
            Request::Stop(index) => change(name(*index), OverrideChange::Stop),
            Request::Add(index) => {
                let (name, class, text) = ADDED[*index];
                let name = ServiceName::try_from(name).unwrap();
                let spec = read_service(&name, class, text, &before).ok();
                spec.and_then(|spec| before.clone().adding_service(spec, text, &requested()).ok())
            }
            Request::Node(name, is_like) => {
                let like = effective.nodes.keys().next().cloned().unwrap();
                let like = is_like.then_some(like.as_str());
                let name = NodeName::try_from(*name).unwrap();
                before.clone().adding_node(name, like, &requested()).ok()
            }
        };
        effective = changed.unwrap_or(effective);
    }
    effective
}

/// Returns what is in force, regardless of who declared it.
fn in_force(declaration: &Declaration) -> Declaration {
    let mut declaration = declaration.clone();
    declaration.overrides = Overrides::default();
    declaration.volumes.clear();
    for spec in declaration.services.values_mut() {
        spec.origin = Origin::File;
        // A mounted directory and a code base may contain the files that are exported.
        spec.container.files.clear();
        if let ImageSource::Build(source) = &mut spec.source {
            source.code.digest.clear();
        }
    }
    for spec in declaration.nodes.values_mut() {
        spec.origin = Origin::File;
    }
    declaration
}

fn found(directory: &Path) -> Sources {
    let mut sources = find(directory, &[]).unwrap();
    sources.environment.clear();
    sources
}

async fn exported(sources: &Sources, overrides: Exportable) -> Export {
    let export = export(sources, id(), overrides, true).await.unwrap();
    for file in &export.files {
        std::fs::write(&file.path, file.text.expose()).unwrap();
    }
    export
}

/// Returns the number of lines of the text that are not in the other text, in the same order.
fn missing_lines(before: &str, after: &str) -> usize {
    // The length of the longest common subsequence with each start of `after`.
    let after: Vec<&str> = after.lines().collect();
    let mut common = vec![0; after.len() + 1];
    for line in before.lines() {
        let mut diagonal = 0;
        for (index, other) in after.iter().enumerate() {
            let above = common[index + 1];
            common[index + 1] = if line == *other {
                diagonal + 1
            } else {
                above.max(common[index])
            };
            diagonal = above;
        }
    }
    before.lines().count() - common[after.len()]
}

/// Exports the requests, and checks the files.
async fn check(directory: &Path, requests: &[Request]) -> Export {
    let files = loaded(&found(directory)).await.unwrap().declaration;
    let effective = with_requests(&files, requests);
    let overrides = effective.overrides.clone();
    let ids: BTreeSet<String> = overrides.iter().map(|one| one.id()).collect();
    let export = exported(&found(directory), overrides.exportable()).await;

    let sources = found(directory);
    let after = loaded(&sources).await;
    let after = after.unwrap_or_else(|problems| panic!("{requests:?}: {problems}"));
    let after = after.declaration.with_overrides(overrides.clone());
    assert_eq!(in_force(&after), in_force(&effective), "{requests:?}");
    let left: BTreeSet<String> = export.left.iter().map(|left| left.id.clone()).collect();
    let still: BTreeSet<String> = after.overrides.iter().map(|one| one.id()).collect();
    assert_eq!(left, still, "{requests:?}: {:?}", export.left);
    let written = export.files.iter().flat_map(|file| file.overrides.clone());
    let all: BTreeSet<String> = written.chain(left).collect();
    assert_eq!(all, ids, "{requests:?}");
    for file in &export.files {
        let before = file.before.as_ref().map_or("", |before| before.expose());
        let replicas = file.overrides.iter().filter(|id| id.ends_with(".replicas"));
        // In flow notation, an insertion changes a line, too.
        let changed = missing_lines(before, file.text.expose());
        assert!(changed <= replicas.count() + 2, "{}", file.text.expose());
    }
    let again = exported(&sources, after.overrides.exportable()).await;
    assert_eq!(again.files, [], "{requests:?}");
    export
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn published() -> Vec<PathBuf> {
    let directory = super::tests().join("published");
    let entries = std::fs::read_dir(&directory).unwrap();
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && !path.ends_with("snapshots"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 40);
    cases
}

fn copy_of(case: &Path) -> tempfile::TempDir {
    let directory = tempfile::TempDir::new().unwrap();
    copy(case, directory.path());
    let platform = case.with_file_name("platform.toml");
    std::fs::copy(platform, directory.path().join("platform.toml")).unwrap();
    directory
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exported_files_declare_what_was_in_force(
        case in 0..100_usize,
        requests in proptest::collection::vec(request(), 1..6),
    ) {
        let cases = published();
        let directory = copy_of(&cases[case % cases.len()]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(directory.path(), &requests));
    }
}

/// Of all services of all published projects, lists those whose number of replicas stays an override.
#[tokio::test]
async fn the_replicas_of_published_projects_are_exported() {
    let mut written = 0;
    let mut left = Vec::new();
    for case in published() {
        let directory = copy_of(&case);
        let files = loaded(&found(directory.path())).await.unwrap().declaration;
        for index in 0..files.services.len() {
            let (directory, scale) = (copy_of(&case), Request::Scale(index, 0));
            let export = check(directory.path(), &[scale]).await;
            written += usize::from(!export.files.is_empty());
            let case = case.file_name().unwrap().to_string_lossy();
            let lines = export.left.iter();
            left.extend(lines.map(|left| format!("{case}: {}: {}", left.id, left.why)));
        }
    }
    let is_global = |line: &&String| line.contains("a global service has exactly one replica");
    let other: Vec<&String> = left.iter().filter(|line| !is_global(line)).collect();
    assert_eq!(other, [""; 0]);
    assert!(written > 100, "{written}");
}

struct Case {
    files: &'static [(&'static str, &'static str)],
    requests: &'static [Request],
    /// The files that are written.
    expected: &'static [(&'static str, &'static str)],
    left: &'static [&'static str],
}

#[tokio::test]
async fn each_override_is_written_where_it_belongs() {
    const SCALE: &[Request] = &[Request::Scale(0, 5)];
    let cases = [
        Case {
            files: &[(
                "compose.yaml",
                "services:\n  web: # the site\n    image: a\n    scale: 2 # two\n",
            )],
            requests: SCALE,
            expected: &[(
                "compose.yaml",
                "services:\n  web: # the site\n    image: a\n    scale: 5 # two\n",
            )],
            left: &[],
        },
        // Another service uses the same number.
        Case {
            files: &[(
                "compose.yaml",
                "x-d: &d {replicas: 2}\nservices:\n  a: {image: a, deploy: *d}\n  b: {image: b, deploy: *d}\n",
            )],
            requests: SCALE,
            expected: &[(
                "compose.override.yaml",
                "services:\n  a:\n    deploy:\n      replicas: 5\n",
            )],
            left: &[],
        },
        Case {
            files: &[(
                "compose.yaml",
                "services:\n  web: {image: a, scale: \"${N:-2}\"}\n",
            )],
            requests: SCALE,
            expected: &[("compose.yaml", "services:\n  web: {image: a, scale: 5}\n")],
            left: &[],
        },
        // The file that was merged last has no number.
        Case {
            files: &[
                (
                    "compose.yaml",
                    "services:\n  web:\n    image: a\n    deploy: {replicas: 2}\n",
                ),
                (
                    "compose.override.yaml",
                    "services:\n  web:\n    init: true\n",
                ),
            ],
            requests: SCALE,
            expected: &[(
                "compose.yaml",
                "services:\n  web:\n    image: a\n    deploy: {replicas: 5}\n",
            )],
            left: &[],
        },
        Case {
            files: &[
                ("compose.yaml", "include: [more.yaml]\nservices: {}\n"),
                ("more.yaml", "services:\n  web: {image: a}\n"),
            ],
            requests: SCALE,
            expected: &[(
                "compose.override.yaml",
                "services:\n  web:\n    deploy:\n      replicas: 5\n",
            )],
            left: &[],
        },
        // A service that joins the network of another one has the same number.
        Case {
            files: &[(
                "compose.yaml",
                "services:\n  a: {image: a, network_mode: \"service:b\"}\n  b: {image: b, scale: 2}\n",
            )],
            requests: SCALE,
            expected: &[(
                "compose.yaml",
                "services:\n  a: {image: a, network_mode: \"service:b\"}\n  b: {image: b, scale: 5}\n",
            )],
            left: &[],
        },
        Case {
            files: &[(
                "compose.yaml",
                "services:\n  a: {image: a, scale: 2, network_mode: \"service:b\"}\n  b: {image: b, scale: 2}\n",
            )],
            requests: SCALE,
            expected: &[(
                "compose.yaml",
                "services:\n  a: {image: a, scale: 5, network_mode: \"service:b\"}\n  b: {image: b, scale: 5}\n",
            )],
            left: &[],
        },
        // A global service would get a replica on the node.
        Case {
            files: &[(
                "compose.yaml",
                "services:\n  web: {image: a, deploy: {mode: global}}\n",
            )],
            requests: &[Request::Node("added-1", false), Request::Stop(0)],
            expected: &[],
            left: &[
                "added-1.added: it would change service web",
                "web.stopped: files cannot declare it",
            ],
        },
        // The default node exists only as long as no node is declared.
        Case {
            files: &[("compose.yaml", "services: {web: {image: a}}\n")],
            requests: &[Request::Node("added-1", false)],
            expected: &[("platform.toml", "[nodes.node-1]\n\n[nodes.added-1]\n")],
            left: &[],
        },
        Case {
            files: &[
                ("compose.yaml", "services: {web: {image: a}}\n"),
                (
                    "platform.toml",
                    "[nodes.n1] # first\nimage = \"ready\"\nlabels = { \"a.b\" = 'x\"y' }\n\
                     capacity = { cpus = 0.5, memory = \"1536m\" }\n\n[manager]\nport = 7444",
                ),
            ],
            requests: &[Request::Node("added-1", true)],
            expected: &[(
                "platform.toml",
                "[nodes.n1] # first\nimage = \"ready\"\nlabels = { \"a.b\" = 'x\"y' }\n\
                 capacity = { cpus = 0.5, memory = \"1536m\" }\n\n[manager]\nport = 7444\n\
                 \n[nodes.added-1]\nimage = \"ready\"\nlabels = { \"a.b\" = \"x\\\"y\" }\n\
                 capacity = { cpus = 0.500, memory = \"1536MiB\" }\n",
            )],
            left: &[],
        },
        Case {
            files: &[(
                "compose.yaml",
                "services:\n  web:\n    image: a\n\n# the end\n",
            )],
            requests: &[Request::Add(0), Request::Scale(0, 3)],
            expected: &[(
                "compose.yaml",
                "services:\n  web:\n    image: a\n  added-a:\n    image: chat:7\n    expose:\n      - \
                 \"8080\"\n    volumes:\n      - added-data:/data\n    environment:\n      A: \"$$HOME \
                 $${X:-y}\"\n      B: \"yes\"\n      C:\n      D: 1.50\n    x-lifecycle:\n      class: \
                 application\n    deploy:\n      replicas: 3\n\nvolumes:\n  added-data:\n\n# the end\n",
            )],
            left: &[],
        },
    ];
    for case in cases {
        let directory = directory_with(case.files);
        let export = check(directory.path(), case.requests).await;
        let files = export.files.iter().map(|file| {
            let name = file.path.file_name().unwrap().to_str().unwrap();
            (name, file.text.expose())
        });
        let files: Vec<_> = files.collect();
        assert_eq!(files, case.expected, "{:?}", export.left);
        let left = export.left.iter();
        let left = left.map(|left| format!("{}: {}", left.id, left.why));
        assert_eq!(left.collect::<Vec<_>>(), case.left);
    }
}

#[tokio::test]
async fn overrides_that_cannot_be_written_stay() {
    let directory = directory_with(&[("compose.yaml", "services:\n  web: {image: a, scale: 2}\n")]);
    let sources = found(directory.path());
    let files = loaded(&sources).await.unwrap().declaration;
    let requests = [Request::Scale(0, 5), Request::Add(0), Request::Add(3)];
    let overrides = with_requests(&files, &requests).overrides.exportable();
    // An earlier version did not keep the text.
    let mut exportable = overrides.clone();
    let web = ServiceName::try_from("web").unwrap();
    let added = ServiceName::try_from("added-a").unwrap();
    exportable.services.get_mut(&added).unwrap().text = None;
    // The user has changed the number since.
    exportable.replicas.get_mut(&web).unwrap().declared = 1;
    let written = exported(&sources, exportable).await;
    let left: Vec<&str> = written.left.iter().map(|left| left.why.as_str()).collect();
    assert!(
        left[0].contains("apply it again with `bootstrapper app apply added-a"),
        "{left:?}"
    );
    assert_eq!(
        left[1],
        "the files were changed since; the next `up` drops this override"
    );
    assert_eq!(left.len(), 2);
    assert_eq!(written.files[0].overrides, ["added-d.added"]);
    assert!(
        !format!("{overrides:?}").contains("HOME"),
        "a text is shown"
    );

    // With `--file`, the next `up` would not find an override file.
    let text =
        "services:\n  a: {image: a, deploy: &d {replicas: 2}}\n  b: {image: b, deploy: *d}\n";
    let directory = directory_with(&[("compose.yaml", text)]);
    let sources = found(directory.path());
    let files = loaded(&sources).await.unwrap().declaration;
    let overrides = with_requests(&files, &[Request::Scale(0, 5)]).overrides;
    let export = export(&sources, id(), overrides.exportable(), false)
        .await
        .unwrap();
    assert_eq!(export.files, []);
    assert_eq!(export.left[0].why, "it would change service b");
}
