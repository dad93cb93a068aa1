//! SIGKILL, at drawn moments: `up` goes on where it was killed and doubles nothing; a killed
//! manager comes back and touches no service.

use std::time::{Duration, Instant};

use crate::docker::Belongings;
use crate::project::Project;
use crate::subprocess::until;

const SERVICE: &str = r#"
  web:
    build: ./web
    ports: ["8080:8080"]
"#;

/// What the moments are drawn from. They are printed, so that a failure can be had again.
const SEED: u64 = 20_261_123;

/// Fractions of the whole, from a seed (`SplitMix64`).
struct Moments(u64);

impl Moments {
    fn within(&mut self, whole: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let thousandth = u32::try_from(mixed % 1000).unwrap();
        whole * thousandth / 1000
    }
}

fn nothing_is_doubled(project: &Project) {
    let node = project.node();
    assert_eq!(node.containers("lifecycle.role=manager").len(), 1);
    assert_eq!(node.containers("lifecycle.role=instance").len(), 1);
    let belongings = Belongings::of(&project.id());
    assert_eq!(belongings.networks.len(), 1, "{belongings:?}");
    assert_eq!(project.status()["platform"]["state"], "running");
}

#[test]
fn a_killed_up_goes_on_and_a_killed_manager_comes_back() {
    let mut moments = Moments(SEED);
    let project = Project::new();
    project.compose(SERVICE);
    project.web_server("web");
    let began = Instant::now();
    project.ends(0, &["up"]);
    let whole = began.elapsed();
    println!("seed {SEED}; an undisturbed up takes {whole:?}");

    managers_are_killed(&project, &mut moments);

    // Early, in the middle, and late.
    for part in 0..3 {
        project.ends(0, &["down", "--yes"]);
        let moment = whole / 3 * part + moments.within(whole / 3);
        println!("up is killed after {moment:?}");
        let killed = project.start(&["up"]).kill_after(moment);
        project.keep(&killed);
        println!("it had said:\n{}", killed.stderr);
        project.ends(0, &["up"]);
        nothing_is_doubled(&project);
    }
    let id = project.id();
    project.ends(0, &["down", "--yes"]);
    assert!(Belongings::of(&id).is_empty());
}

#[expect(
    clippy::print_stdout,
    reason = "the drawn moments, for whoever has to repeat them"
)]
fn managers_are_killed(project: &Project, moments: &mut Moments) {
    let (api, node) = (project.api(), project.node());
    for _ in 0..2 {
        let moment = moments.within(Duration::from_secs(3));
        println!("the manager is killed after {moment:?}");
        std::thread::sleep(moment);
        let (service, manager) = (node.service("web"), node.manager());
        let pid = node.inspect("lifecycle.role=manager")["State"]["Pid"].to_string();
        node.exec(&["kill", "-KILL", &pid]);
        until("another manager runs", Duration::from_secs(30), || {
            (node.manager().started_at != manager.started_at).then_some(())
        });
        assert_eq!(node.manager().id, manager.id, "the engine restarts it");
        until("the API answers", Duration::from_secs(30), || {
            api.is_healthy().then_some(())
        });
        until("all is ready", Duration::from_mins(1), || {
            api.is_ready().then_some(())
        });
        assert_eq!(node.service("web"), service);
        nothing_is_doubled(project);
    }
}
