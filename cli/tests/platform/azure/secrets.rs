//! Checks that the secrets for the cloud, the share, and the jump host are only in the user's and
//! the manager's files. The jump host test calls these checks.

use std::path::Path;
use std::sync::Arc;

use chrono::TimeDelta;
use lifecycle_azure::simulator::files::{FilesService, ShareSas};
use lifecycle_azure::simulator::{
    CLIENT_SECRET, STORAGE_ACCOUNT, STORAGE_KEY, STORAGE_SHARE, StorageAccount,
};
use lifecycle_core::clock::{Clock as _, RandomIds, SystemClock};
use secrecy::ExposeSecret as _;

use super::simulated::SimulatedAzure;
use crate::docker::{Node, docker};
use crate::project::Project;
use crate::secrets::{
    Secret, are_not_in, assert_only_root_can_read, both, command_lines, files_with, longest_line,
    own, without_environment,
};

/// Creates a signature that allows reading and writing the share for a limited time.
pub(super) fn share_signature() -> String {
    let service = FilesService::new(Arc::new(SystemClock), Arc::new(RandomIds));
    service.add(&StorageAccount::default()).unwrap();
    let terms = ShareSas {
        share: STORAGE_SHARE.to_owned(),
        permissions: "rcwdl".to_owned(),
        starts: None,
        expires: SystemClock.now() + TimeDelta::hours(2),
    };
    let signature = service.share_sas(STORAGE_ACCOUNT, &terms).unwrap();
    signature.expose_secret().to_owned()
}

/// Returns the secrets that must not leak: those of the cloud, the share, and the jump host.
pub(super) fn planted(azure: &SimulatedAzure, signature: &str, jump_key: &str) -> Vec<Secret> {
    let parameter = signature.rsplit_once("sig=").unwrap().1;
    let decoded = parameter
        .replace("%2B", "+")
        .replace("%2F", "/")
        .replace("%3D", "=");
    // All tokens start with the same header, so a search for the header finds every token.
    let token = azure.token();
    let head = token.split_once('.').unwrap().0;
    vec![
        ("client secret", CLIENT_SECRET.to_owned()),
        ("storage key", STORAGE_KEY.to_owned()),
        ("signature of the share", parameter.to_owned()),
        ("signature of the share, decoded", decoded),
        ("jump host's key", longest_line(jump_key)),
        ("token", format!("{head}.")),
    ]
}

/// Checks that `planted` and the platform's own secrets occur only in the files that must contain
/// secrets.
pub(super) fn are_nowhere_else(azure: &SimulatedAzure, project: &Project, planted: &[Secret]) {
    let id = project.id();
    let all = [planted, &own(project)].concat();
    let mut places = vec![
        ("the output of the commands", project.said()),
        ("command lines", command_lines("/iot-platform")),
        (
            "the files that may be committed",
            project.read(".lifecycle/platform.json"),
        ),
        (
            "VMs as Azure shows them",
            azure
                .get("providers/Microsoft.Compute/virtualMachines")
                .to_string(),
        ),
        ("resources", azure.get("resources").to_string()),
    ];
    assert!(places[0].1.contains("TRACE"), "traces are missing");
    let machines = azure.machines(&id);
    for node in machines.values() {
        places.push(("a VM's machine", docker(&["inspect", &node.container])));
    }
    for name in ["a", "b"] {
        for container in machines[name].inspect_all() {
            places.push(("a container", without_environment(container).to_string()));
        }
    }
    places.extend(of_manager(&machines["a"], &id));
    are_not_in(&all, &places);

    assert_only_root_can_read(&machines["a"], &id);
    let handed = format!("/var/lib/lifecycle/{id}/manager/");
    for (secret, value) in planted {
        for (name, node) in &machines {
            for file in files_with(node, value) {
                let may = name == "a" && file.starts_with(&handed);
                assert!(may, "{file} on {name} contains the secret {secret}");
            }
        }
        let kept = format!("the state on this machine contains the secret {secret}");
        assert_eq!(files_of(&project.state(), value), [""; 0], "{kept}");
        let known = files_of(&project.path(""), value);
        let theirs = ["jump.key", "share.sas"];
        assert!(
            known.iter().all(|f| theirs.contains(&f.as_str())),
            "{known:?}"
        );
    }
    // Check the search itself: it must find the secret in this file.
    let found = files_with(&machines["a"], CLIENT_SECRET);
    assert_eq!(found, [format!("{handed}credentials.json")]);
}

/// Returns the manager's output and files.
fn of_manager(node: &Node, id: &str) -> Vec<(&'static str, String)> {
    let manager = node.inspect("lifecycle.role=manager");
    let log = node.call(&["docker", "logs", &node.manager().id]);
    let shell = |script: &str| node.exec(&["sh", "-c", script]);
    let registry = shell(&format!("cat /var/lib/lifecycle/{id}/registry.db*"));
    assert!(registry.starts_with("SQLite format 3"));
    vec![
        ("the manager's log", both(&log)),
        (
            "the manager's environment",
            shell(&format!("cat /proc/{}/environ", manager["State"]["Pid"])),
        ),
        ("the manager", manager.to_string()),
        ("the registry", registry),
        (
            "the engine's events",
            shell("docker events --since 0 --until $(date +%s)"),
        ),
        (
            "journals",
            shell("journalctl --no-pager 2>&1 || true; cat /var/log/*.log"),
        ),
    ]
}

/// Returns the names of all files below `directory` that contain `value`.
fn files_of(directory: &Path, value: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files_of(&entry.path(), value));
            continue;
        }
        let text = std::fs::read(entry.path()).unwrap();
        if String::from_utf8_lossy(&text).contains(value) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}
