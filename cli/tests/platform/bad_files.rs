//! Checks that errors in the user's files are reported with the file and the line, before anything
//! is changed.

use crate::project::Project;

#[test]
fn bad_files_and_queries_change_nothing() {
    let project = Project::new();
    let touched = || {
        let named = format!("lifecycle.platform={}", project.name);
        let filter = format!("label={named}");
        let containers = crate::docker::docker(&["ps", "--all", "--quiet", "--filter", &filter]);
        project.identity().is_some() || !containers.is_empty()
    };

    project.compose("  web:\n    image: [not, a, name]\n");
    let failed = project.ends(2, &["up"]);
    assert!(
        failed.stderr.contains("compose.yaml:4:"),
        "file and line are missing: {}",
        failed.stderr
    );
    assert!(failed.stderr.contains("hint: "), "{}", failed.stderr);
    assert!(failed.stdout.is_empty(), "{}", failed.stdout);
    assert!(!touched());

    project.write("compose.yaml", "services: {web: {image: a}\n");
    project.ends(2, &["up"]);
    assert!(!touched());

    let unsupported =
        "  web:\n    image: debian:bookworm-slim\n    mac_address: 02:42:ac:11:65:43\n";
    project.compose(unsupported);
    let failed = project.ends(2, &["up"]);
    assert!(
        failed.stderr.contains("compose.yaml:5:") && failed.stderr.contains("mac_address"),
        "{}",
        failed.stderr
    );
    assert!(
        failed.stderr.contains("--accept-unsupported"),
        "{}",
        failed.stderr
    );
    assert!(!touched());

    // The files are valid, but the cloud does not support one of the settings. `up` must fail
    // before it creates anything.
    project.compose(unsupported);
    project.write(
        "platform.toml",
        "[cloud]\nprovider = \"local\"\nsubnet = \"172.17.0.0/16\"\n",
    );
    let failed = project.ends(1, &["up", "--accept-unsupported"]);
    assert!(
        failed.stderr.contains("warning: ") && failed.stderr.contains("mac_address"),
        "{}",
        failed.stderr
    );
    assert!(failed.stderr.contains("172.17.0.0/16"), "{}", failed.stderr);
    assert!(!touched());

    let never_up = Project::new();
    never_up.compose(unsupported);
    for command in [&["status"][..], &["logs", "web"], &["down", "--yes"]] {
        let failed = never_up.ends(1, command);
        assert!(
            failed
                .stderr
                .contains("hint: start the platform with `bootstrapper up`"),
            "{}",
            failed.stderr
        );
        assert!(never_up.identity().is_none());
    }
    never_up.ends(2, &["ascend"]);
}

#[test]
fn init_declares_as_many_nodes_as_the_file_needs() {
    let project = Project::new();
    let replicas = |count: u32| {
        project.compose(&format!(
            "  web:\n    image: debian:bookworm-slim\n    ports: [\"8080:80\"]\n    deploy: {{replicas: {count}}}\n"
        ));
    };
    replicas(3);
    let alone = project.ends(2, &["plan"]);
    assert!(alone.stderr.contains("8080"), "{}", alone.stderr);
    let too_few = project.ends(2, &["init", "--yes", "--nodes", "2"]);
    assert!(too_few.stderr.contains("8080"), "{}", too_few.stderr);
    project.ends(0, &["init", "--yes"]);
    let written = project.read("platform.toml");
    assert!(written.contains("count = 3"), "{written}");
    project.ends(0, &["plan"]);
    // More nodes cannot fix this error, so it is reported for a platform with one node.
    replicas(51);
    let never = project.ends(2, &["init", "--yes", "--force"]);
    assert!(never.stderr.contains("only 1 node"), "{}", never.stderr);
}
