//! Kills `up` with SIGKILL after each request to Azure Resource Manager. The next `up` must
//! continue, and in the end no resource may be duplicated or left behind.

use std::time::{Duration, Instant};

use super::simulated::{SimulatedAzure, small_project};
use crate::subprocess::until;

/// If this variable is set, the test kills `up` after each request; otherwise, after every third
/// request.
const WHOLE: &str = "LIFECYCLE_TEST_WHOLE";

/// Time limit for each wait.
const TIMEOUT: Duration = Duration::from_mins(8);

#[test]
fn up_continues_after_a_kill_at_any_request() {
    let azure = SimulatedAzure::start();
    let project = small_project(&azure, "");
    project.ends(0, &["publish"]);
    let step = if std::env::var_os(WHOLE).is_some() {
        1
    } else {
        3
    };
    let count = || {
        azure
            .requests()
            .iter()
            .filter(|r| r.is_of_resources())
            .count()
    };
    let mut kills = 0;
    // Kill each `up` after `step` more requests than the previous `up`. Stop when an
    // `up` finishes before it is killed.
    for number in (1..).step_by(step) {
        let target = count() + number;
        let began = Instant::now();
        let mut up = project.start(&["up"]);
        while up.runs() && count() < target {
            assert!(
                began.elapsed() < TIMEOUT,
                "`up` neither sent request {number} nor finished"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        let up = up.kill_after(Duration::ZERO);
        project.keep(&up);
        if up.status.success() {
            break;
        }
        assert_eq!(up.status.code(), None, "killed, or: {}", up.stderr);
        kills += 1;
    }
    // Creating the shared resources and a VM with its network interface takes at least nine
    // requests.
    assert!(kills >= 9 / step, "{kills} kills");
    until(
        "the requests of killed processes have no further effect",
        TIMEOUT,
        || {
            let resources = azure.resources();
            let names = |kind: &str| resources.get(kind).map_or(0, Vec::len);
            let is_whole = [
                "virtualmachines",
                "networkinterfaces",
                "publicipaddresses",
                "disks",
            ]
            .iter()
            .all(|kind| names(kind) == 2);
            let shared = ["virtualnetworks", "networksecuritygroups"];
            let is_whole = is_whole && shared.iter().all(|kind| names(kind) == 1);
            (is_whole && resources.len() == 6).then_some(())
        },
    );
    let status = project.status();
    assert_eq!(status["platform"]["state"], "running", "{status}");
    assert_eq!(azure.machines(&project.id()).len(), 2);
    project.ends(0, &["down", "--yes"]);
    assert!(azure.resources().is_empty(), "{:?}", azure.resources());
}
