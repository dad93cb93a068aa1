//! Tests that every plan for a simulated platform can be computed again from the recorded input.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::reconcile::{PlanningInput, RecordedPlan, plan};
use lifecycle_core::sim::{Behaviour, SimOptions};

use crate::platform::{instance, node};
use crate::stage::Stage;

/// Returns the names of the optional fields that this input contains.
fn filled(input: &PlanningInput) -> Vec<&'static str> {
    let (observed, history) = (&input.observed, &input.history);
    let fields = [
        ("agents", !observed.agents.is_empty()),
        ("last_seen", !history.last_seen.is_empty()),
        ("placed", !history.placed.is_empty()),
        ("rejected", !history.rejected.is_empty()),
        ("failures", !history.failures.is_empty()),
        ("endings", !history.endings.is_empty()),
        ("restarts", !history.restarts.is_empty()),
    ];
    let filled = fields.into_iter().filter(|(_, is_filled)| *is_filled);
    filled.map(|(name, _)| name).collect()
}

/// Follows the manager's rounds. Records each plan as JSON, and checks that planning from the
/// recorded input yields the same plan. Collects the inputs' optional fields in `met`.
async fn replay(stage: &Stage, met: &RefCell<BTreeSet<&'static str>>) {
    let mut rounds = stage.manager.rounds();
    loop {
        let round = rounds.borrow_and_update().clone();
        if let Some(input) = &round.input {
            let recorded = RecordedPlan {
                input: input.clone(),
                plan: round.plan.clone(),
            };
            let recorded = serde_json::to_string(&recorded).unwrap();
            let read: RecordedPlan = serde_json::from_str(&recorded).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), recorded);
            let planned = serde_json::to_string(&plan(&read.input)).unwrap();
            assert_eq!(planned, serde_json::to_string(&round.plan).unwrap());
            met.borrow_mut().extend(filled(input));
        }
        rounds.changed().await.unwrap();
    }
}

/// Starts a platform, causes faults, changes the declaration, and deletes the platform.
async fn life(stage: &Stage) {
    stage.settled().await;
    let faults = stage.world.faults();
    let (at, container) = stage.place(&instance("db", 1));
    faults.kill_container(&at, &container.name, 1).unwrap();
    stage.pass(Duration::from_mins(1)).await;
    faults.reboot(&node("n2")).unwrap();
    stage.pass(Duration::from_mins(10)).await;
    stage.manager.restart("web", None).await.unwrap();
    stage.pass(Duration::from_mins(5)).await;
    let mut changed = stage.declaration.clone();
    for service in changed.services.values_mut() {
        let labels = &mut service.container.labels;
        labels.insert("version".into(), "2".into());
    }
    stage
        .world
        .behave("web", Behaviour::default().never_ready());
    stage.manager.apply(changed).await.unwrap();
    stage.pass(Duration::from_hours(1)).await;
    stage.manager.delete_platform(false).await.unwrap();
    stage.pass(Duration::from_mins(30)).await;
}

#[tokio::test(start_paused = true)]
async fn every_plan_can_be_computed_again_from_its_recording() {
    for seed in 131..=133 {
        let mut stage = Stage::shop_without_manager(SimOptions::seeded(seed)).await;
        stage.use_agents();
        let fails = Error::failed("pulling", "the registry is unavailable");
        stage.world.faults().fail_next("pull db-image:1", fails);
        stage.start();
        let met = RefCell::default();
        tokio::select! {
            () = replay(&stage, &met) => {}
            () = life(&stage) => {}
        }
        assert_eq!(met.into_inner().len(), 7, "seed {seed}");
    }
}
