//! Runs Compose files from `lifecycle-core/tests/published` on two nodes, and checks that the
//! services work. All projects use the same platform: each project replaces the services of the
//! previous project.

use std::path::Path;
use std::time::Duration;

use crate::project::Project;
use crate::subprocess::until;

/// For each project, services and a text that each service's output must contain.
const PROJECTS: [(&str, &[(&str, &str)]); 6] = [
    ("build-inline", &[("hello", "hello")]),
    (
        "built-configured",
        &[
            ("reader", "hello, world"),
            // This service prints a mounted file and a secret.
            ("reader", "conf/a.conf"),
            ("reader", "token.txt"),
        ],
    ),
    ("built-jobs", &[("prepare", "prepared")]),
    ("built-merged", &[]),
    // The client connects to the service by an alias.
    ("built-networks", &[("client", "hello")]),
    ("built-pair", &[("reader", "")]),
];

/// The project whose service mounts the directory `conf`.
const WITH_MOUNT: &str = "built-configured";

/// Time limit for a container to write the expected output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn published_projects_run_on_two_nodes() {
    let all = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../lifecycle-core/tests/published"
    ));
    let nodes = std::fs::read_to_string(all.join("platform.toml")).unwrap();
    let project = Project::new();
    for (name, expected) in PROJECTS {
        project.remove_files();
        project.copy(&all.join(name));
        project.write("platform.toml", &nodes);
        let numbers: Vec<String> = (0..2_000_000).map(|n| n.to_string()).collect();
        let large = numbers.join("\n");
        if name == WITH_MOUNT {
            project.write("conf/large", &large);
        }
        project.ends(0, &["-p", &project.name, "up"]);
        if name == WITH_MOUNT {
            let sum = "wc -c < /conf/large; tail -n 1 /conf/large";
            let said = project.ends(0, &["exec", "reader", "--", "sh", "-c", sum]);
            assert_eq!(said.stdout.trim(), format!("{}\n1999999", large.len()));
        }
        let status = project.status();
        assert_eq!(status["platform"]["state"], "running", "{name}: {status}");
        assert_eq!(status["nodes"].as_array().unwrap().len(), 2, "{name}");
        for (service, said) in expected {
            let file = all.join(name).join(said);
            let said = std::fs::read_to_string(&file).unwrap_or((*said).to_owned());
            until(
                &format!("{name}: {service} says {said}"),
                OUTPUT_TIMEOUT,
                || {
                    let logs = project.ends(0, &["logs", service]).stdout;
                    (logs.contains(said.trim()) && !logs.is_empty()).then_some(())
                },
            );
        }
    }
    project.ends(0, &["down", "--yes"]);
}
