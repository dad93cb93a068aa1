//! Plans for the requested preparation of a node.

use lifecycle_core::model::{NodeName, OperationId};
use lifecycle_core::reconcile::{Action, Declared, HeldBy, Plan, Preparation, Reason, Step};

use super::builder::{ServiceChanges, declared, node_name, service};
use super::checks::may_run;
use super::model::World;

const OPERATION: OperationId = OperationId(uuid::Uuid::from_u128(7));

fn pair() -> Declared {
    declared(&["n1", "n2"], vec![service("web").on("n1")])
}

/// Returns the world after the plans were carried out, with the request to prepare `n1`.
fn requested(declared: &Declared) -> (World, NodeName) {
    let mut world = World::empty();
    world.settle(declared);
    let node = node_name("n1");
    request(&mut world, &node);
    (world, node)
}

fn request(world: &mut World, node: &NodeName) {
    let preparation = Preparation {
        operation: OPERATION,
        outcome: None,
    };
    world.preparations.insert(node.clone(), preparation);
}

fn preparations(plan: &Plan) -> Vec<Step> {
    let steps = may_run(plan).into_iter();
    let prepares = |step: &Step| matches!(step.action, Action::PrepareNode { .. });
    steps.filter(prepares).collect()
}

#[test]
fn a_node_with_an_engine_is_prepared_once() {
    let declared = pair();
    let (mut world, node) = requested(&declared);
    let plan = world.plan(&declared);
    let action = Action::PrepareNode {
        node,
        operation: Some(OPERATION),
    };
    let steps = preparations(&plan);
    assert_eq!(plan.steps.len(), 1, "{plan}");
    assert_eq!(
        (&steps[0].action, &steps[0].reason),
        (&action, &Reason::PreparationRequested)
    );
    world.apply(&declared, &action);
    assert!(world.plan(&declared).is_empty());
}

#[test]
fn replicas_start_while_a_node_with_an_engine_is_prepared() {
    let declared = pair();
    let mut world = World::empty();
    let mut pending = world.plan(&declared);
    while preparations(&pending).is_empty() {
        let step = may_run(&pending).remove(0);
        world.apply(&declared, &step.action);
        pending = world.plan(&declared);
    }
    // The step that the empty node needs anyway carries out the request.
    let node = node_name("n1");
    request(&mut world, &node);
    let step = preparations(&world.plan(&declared)).remove(0);
    assert_eq!(step.reason, Reason::EngineMissing);
    world.apply(&declared, &step.action);
    request(&mut world, &node);
    let plan = world.plan(&declared);
    let starts = |step: &Step| !matches!(step.action, Action::PrepareNode { .. });
    assert!(may_run(&plan).iter().any(starts), "{plan}");
    let of_node = preparations(&plan).into_iter();
    assert_eq!(
        of_node.filter(|step| *step.action.node() == node).count(),
        1
    );
}

#[test]
fn a_node_that_does_not_respond_is_not_prepared() {
    let declared = pair();
    let (mut world, node) = requested(&declared);
    world.lose(&node);
    let plan = world.plan(&declared);
    assert!(preparations(&plan).is_empty(), "{plan}");
    let mut held = plan.held.iter();
    assert!(held.any(|held| matches!(&held.by, HeldBy::NodeUnknown { .. })));
}
