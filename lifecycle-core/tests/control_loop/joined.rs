//! Tests containers that share a network: they lose it with its container, and get it back after
//! every fault and after a crash at every effect.

use std::collections::BTreeSet;

use lifecycle_core::model::{Generation, Healthcheck, HealthcheckTest, NetworkMode, NodeSpec};
use lifecycle_core::reconcile::Round;
use lifecycle_core::runtime::ObservedContainer;
use lifecycle_core::sim::{Edge, SimOptions, SimWorld};

use crate::platform::{built, empty, instance, named, node, owner, service};
use crate::stage::Stage;

const SEED: u64 = 5;

/// Returns a platform with a service that joins the network of another one, without a manager.
async fn pair() -> Stage {
    let world = SimWorld::with_options(SimOptions::seeded(SEED));
    let owner = owner(1);
    let mut declaration = empty(
        &owner,
        vec![NodeSpec::new(node("n1")), NodeSpec::new(node("n2"))],
    );
    let mut vpn = built(&world, "vpn", 8888, "first").await;
    vpn.container.healthcheck = Some(Healthcheck {
        test: HealthcheckTest::Exec(vec!["true".into()]),
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
    });
    let mut app = named(&world, "app", 8080);
    app.container.connection.mode = NetworkMode::Service(service("vpn"));
    for spec in [vpn, app] {
        declaration.services.insert(spec.name.clone(), spec);
    }
    Stage::of(SEED, world, owner, declaration).await
}

async fn started() -> Stage {
    let mut stage = pair().await;
    stage.start();
    stage.settled().await;
    stage
}

fn container(stage: &Stage, name: &str) -> ObservedContainer {
    stage.place(&instance(name, 1)).1
}

/// Waits until the container that has the network was started again, and both are ready.
async fn restarted(stage: &Stage, before: &ObservedContainer) {
    let limit = std::time::Duration::from_hours(1);
    let restarted = |round: &Round| {
        let vpn = container(stage, "vpn");
        let again = vpn.started_at > before.started_at;
        let lost = container(stage, "app").has_lost_network(&vpn);
        round.settled && round.is_idle() && again && !lost
    };
    stage.until("both were restarted", limit, restarted).await;
}

/// Asserts that both are on one node, that the network works, and that the endpoints are right.
async fn assert_joined(stage: &Stage) {
    let (vpn, app) = (container(stage, "vpn"), container(stage, "app"));
    assert_eq!(app.joins.as_ref(), Some(&vpn.id));
    assert!(!app.has_lost_network(&vpn), "{vpn:#?}\n{app:#?}");
    let records = stage.records().await;
    let hosts = |name: &str| -> BTreeSet<(u16, u16)> {
        let endpoints = records[&instance(name, 1)].endpoints.iter();
        endpoints.map(|at| (at.container_port, at.port)).collect()
    };
    let bound: BTreeSet<(u16, u16)> = vpn.ports.iter().map(|port| (port.0, port.2)).collect();
    assert_eq!(hosts("vpn"), bound);
    let of_app = bound.iter().copied().filter(|(port, _)| *port == 8080);
    let of_app: BTreeSet<(u16, u16)> = of_app.collect();
    assert_eq!((hosts("app"), of_app.len()), (of_app, 1));
    stage.assert_whole().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_network_is_restarted_with_the_container_that_joins_it() {
    let stage = started().await;
    assert_joined(&stage).await;
    let (on, vpn) = stage.place(&instance("vpn", 1));
    let app = container(&stage, "app");
    stage
        .world
        .faults()
        .kill_container(&on, &vpn.name, 1)
        .unwrap();
    restarted(&stage, &vpn).await;
    assert_joined(&stage).await;
    let after = container(&stage, "app");
    assert_eq!(after.id, app.id);
    assert!(after.started_at > app.started_at);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_network_restarts_both() {
    let stage = started().await;
    let before = (container(&stage, "vpn"), container(&stage, "app"));
    stage.manager.restart("vpn", None).await.unwrap();
    restarted(&stage, &before.0).await;
    assert_joined(&stage).await;
    let after = (container(&stage, "vpn"), container(&stage, "app"));
    assert_eq!((&after.0.id, &after.1.id), (&before.0.id, &before.1.id));
    assert!(after.0.started_at > before.0.started_at);
    assert!(after.1.started_at > before.1.started_at);
}

/// Waits until both were replaced, as another version of the service with the network requires.
async fn replaced(stage: &Stage) {
    let limit = std::time::Duration::from_hours(1);
    let replaced = |round: &Round| {
        let input = round.input.as_ref();
        let is_new = input.is_some_and(|input| input.declared.generation == Generation(2));
        is_new && round.settled && round.is_idle()
    };
    stage.until("both were replaced", limit, replaced).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_at_any_effect_of_a_replacement_both_are_replaced() {
    for edge in [Edge::Before, Edge::After] {
        for effect in 1.. {
            let mut stage = started().await;
            let old = (container(&stage, "vpn").id, container(&stage, "app").id);
            let changed = built(&stage.world, "vpn", 8888, "second").await;
            let vpn = stage.declaration.services.get_mut(&service("vpn"));
            vpn.unwrap().source = changed.source;
            let before = u64::try_from(stage.world.effects().len()).unwrap();
            stage.world.faults().crash_at(before + effect, edge);
            let declaration = stage.declaration.clone();
            stage.manager.apply(declaration).await.unwrap();
            let crashed = tokio::select! {
                () = stage.world.crashed() => true,
                () = replaced(&stage) => false,
            };
            if crashed {
                stage.crash().await;
                stage.start();
                replaced(&stage).await;
            }
            assert_joined(&stage).await;
            assert_ne!(
                container(&stage, "vpn").id,
                old.0,
                "effect {effect} {edge:?}"
            );
            assert_ne!(
                container(&stage, "app").id,
                old.1,
                "effect {effect} {edge:?}"
            );
            if !crashed {
                assert!(effect > 5, "only {effect} effects");
                break;
            }
        }
    }
}
