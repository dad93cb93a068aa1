//! Runs unmodified Compose files in the style of published ones, on two nodes. Uses the files whose
//! images need only the base image, and checks that their services start and work. All of them use
//! the same platform, so each project also replaces the services of the previous one.

use std::path::Path;
use std::time::Duration;

use crate::project::Project;
use crate::subprocess::until;

/// Each project with the services whose output shows that it works.
const PROJECTS: [(&str, &[(&str, &str)]); 6] = [
    ("build-inline", &[("hello", "hello")]),
    (
        "built-configured",
        &[
            ("reader", "hello, world"),
            // The output contains the contents of the mounted file and of the secret.
            ("reader", "conf/a.conf"),
            ("reader", "token.txt"),
        ],
    ),
    ("built-jobs", &[("prepare", "prepared")]),
    ("built-merged", &[]),
    // The service is reached by an alias, from a client on any node.
    ("built-networks", &[("client", "hello")]),
    ("built-pair", &[("reader", "")]),
];

/// Longer than a container takes to write its first line.
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
        project.ends(0, &["-p", &project.name, "up"]);
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
