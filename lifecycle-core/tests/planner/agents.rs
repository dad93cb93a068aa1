//! Tests the replacement of outdated agents: one node after the other, the new agent next to the old
//! one, which is removed after it has finished its connections.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use lifecycle_core::model::{ContainerId, SpecDigest, Subject};
use lifecycle_core::platform::NetworkSpec;
use lifecycle_core::reconcile::observe::AgentView;
use lifecycle_core::reconcile::{Action, Agents, Declared, Failure, HeldBy, Plan, Policy, Reason};
use lifecycle_core::runtime::{ContainerState, EngineState, ObservedContainer, Role};
use lifecycle_core::secret::PlatformKey;

use super::builder::{ServiceChanges as _, declared, node_name, service};
use super::model::{Machine, World};

const OLD: &str = "shop-ab12cd-lifecycle-agent-old";
const IMAGE: &str = "shop-ab12cd/lifecycle-manager:new";

/// A platform with agents.
struct Fleet {
    world: World,
    declared: Declared,
}

impl Fleet {
    /// Creates nodes without agents, which have the new agents' image.
    fn new(nodes: &[&str]) -> Self {
        let web = service("web").image("web:1").on(nodes[nodes.len() - 1]);
        let key = PlatformKey::from_hex(&"07".repeat(32)).unwrap();
        let addresses = [(web.name.clone(), [10, 210, 0, 2].into())].into();
        let agents = Agents::new(IMAGE.into(), NetworkSpec::default(), addresses, &key);
        let mut fleet = Self {
            world: World::empty(),
            declared: declared(nodes, vec![web]).with_agents(agents.unwrap()),
        };
        for node in nodes {
            let images = [IMAGE, "web:1"].map(|image| (image.to_owned(), format!("id of {image}")));
            let machine = Machine {
                prepared: true,
                state: EngineState {
                    images: images.into(),
                    ..EngineState::default()
                },
                ..Machine::new()
            };
            fleet.world.machines.insert(node_name(node), machine);
        }
        fleet
    }

    /// Creates nodes on which an outdated agent serves.
    fn outdated(nodes: &[&str]) -> Self {
        let mut fleet = Self::new(nodes);
        for node in nodes {
            fleet.run(node, OLD);
            fleet.serves(node, OLD);
        }
        fleet.pass(Duration::from_mins(1));
        fleet
    }

    fn current(&self) -> String {
        let agents = self.declared.agents.as_ref().unwrap();
        self.declared.agent_container(agents)
    }

    fn state(&mut self, node: &str) -> &mut EngineState {
        let machine = self.world.machines.get_mut(&node_name(node));
        &mut machine.unwrap().state
    }

    /// Starts an agent, or starts it again.
    fn run(&mut self, node: &str, container: &str) {
        let started_at = Some(self.world.now);
        let containers = &mut self.state(node).containers;
        containers.retain(|agent| agent.name != container);
        containers.push(ObservedContainer {
            id: ContainerId(container.into()),
            name: container.to_owned(),
            role: Role::Agent,
            digest: SpecDigest::from_hex("00"),
            digest_version: SpecDigest::VERSION.into(),
            template_digest: None,
            image: String::new(),
            state: ContainerState::Running { health: None },
            started_at,
            ports: Vec::new(),
            exposed: Vec::new(),
            has_healthcheck: false,
            failed_check: None,
            out_of_memory: None,
            joins: None,
        });
    }

    fn end(&mut self, node: &str, container: &str) {
        let mut agents = self.state(node).containers.iter_mut();
        let agent = agents.find(|agent| agent.name == container).unwrap();
        agent.state = ContainerState::Exited { code: 0, at: None };
    }

    fn serves(&mut self, node: &str, container: &str) {
        let serving = Some(container.to_owned());
        self.world.agents.insert(
            node_name(node),
            AgentView::UpToDate {
                serving,
                cannot_redirect: None,
            },
        );
    }

    fn has_no_table(&mut self, node: &str, since: DateTime<Utc>) {
        let why = "it has just started".to_owned();
        self.world
            .agents
            .insert(node_name(node), AgentView::Outdated { since, why });
    }

    /// Starts the current agent next to the old one. It takes over.
    fn replace(&mut self, node: &str) {
        let current = self.current();
        self.run(node, &current);
        self.serves(node, &current);
    }

    fn pass(&mut self, time: Duration) {
        self.world.now += TimeDelta::from_std(time).unwrap();
    }

    fn plan(&self) -> Plan {
        self.world.plan(&self.declared)
    }

    /// Returns the nodes on which the plan starts the agent.
    fn started(&self) -> Vec<String> {
        let steps = self.plan().steps.into_iter();
        steps
            .filter_map(|step| match step.action {
                Action::EnsureAgent { node, container } => {
                    assert_eq!(container, self.current());
                    Some(node.to_string())
                }
                _ => None,
            })
            .collect()
    }

    /// Returns the agents that the plan removes.
    fn removed(&self) -> Vec<(String, String)> {
        let steps = self.plan().steps.into_iter();
        steps
            .filter_map(|step| match step.action {
                Action::RemoveAgent { node, container } => {
                    assert_eq!(step.reason, Reason::AgentOutdated);
                    Some((node.to_string(), container))
                }
                _ => None,
            })
            .collect()
    }

    /// Returns the nodes that wait for another node's replacement, and this other node.
    fn waiting(&self) -> Vec<(String, String)> {
        let held = self.plan().held.into_iter();
        held.filter_map(|held| match (held.subject, held.by) {
            (Subject::Node(node), HeldBy::AgentReplacedAfter { node: first }) => {
                Some((node.to_string(), first.to_string()))
            }
            _ => None,
        })
        .collect()
    }

    /// Records that the start of an agent has failed.
    fn fail(&mut self, node: &str, times: u32) {
        let action = Action::EnsureAgent {
            container: self.current(),
            node: node_name(node),
        };
        let failure = Failure {
            times,
            again_at: Some(self.world.now + TimeDelta::seconds(30)),
            why: "exit code 1".into(),
            is_final: false,
        };
        self.world.failures.insert(action.id(), failure);
    }
}

fn pairs<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(String, String)> {
    let owned = pairs.iter().map(|(a, b)| ((*a).into(), (*b).into()));
    owned.collect()
}

#[test]
fn the_first_agents_start_on_all_nodes_at_once() {
    let fleet = Fleet::new(&["a", "b", "c"]);
    assert_eq!(fleet.started(), ["a", "b", "c"]);
    assert!(!fleet.plan().settled);
}

#[test]
fn agents_are_replaced_on_one_node_after_the_other() {
    let mut fleet = Fleet::outdated(&["a", "b", "c"]);
    assert_eq!(fleet.started(), ["a"]);
    assert_eq!(fleet.waiting(), pairs(&[("b", "a"), ("c", "a")]));
    assert!(!fleet.plan().settled);
    let step = fleet.plan().steps.remove(0);
    assert_eq!(step.reason, Reason::AgentOutdated);
    fleet.replace("a");
    assert_eq!(fleet.started(), ["b"]);
    assert_eq!(fleet.waiting(), pairs(&[("c", "b")]));
    fleet.replace("b");
    fleet.replace("c");
    assert_eq!(fleet.started(), [""; 0]);
    assert_eq!(fleet.removed(), []);
}

#[test]
fn containers_start_while_an_outdated_agent_serves() {
    let mut fleet = Fleet::outdated(&["a", "b"]);
    let starts = |fleet: &Fleet| {
        let mut steps = fleet.plan().steps.into_iter();
        steps.any(|step| matches!(step.action, Action::StartInstance { .. }))
    };
    assert!(starts(&fleet));
    fleet.has_no_table("b", fleet.world.now);
    assert!(!starts(&fleet));
}

#[test]
fn the_next_node_waits_until_the_new_agent_has_its_table() {
    let mut fleet = Fleet::outdated(&["a", "b"]);
    let (current, since) = (fleet.current(), fleet.world.now);
    fleet.run("a", &current);
    fleet.has_no_table("a", since);
    assert_eq!(fleet.started(), [""; 0]);
    assert_eq!(fleet.waiting(), pairs(&[("b", "a")]));
    // The new agent may be broken, which must not hold the others forever.
    fleet.pass(Policy::default().unknown_before_failed);
    assert_eq!(fleet.started(), ["b"]);
}

#[test]
fn an_agent_that_has_not_taken_over_is_first() {
    let mut fleet = Fleet::outdated(&["a", "b"]);
    let current = fleet.current();
    fleet.run("b", &current);
    assert_eq!(fleet.started(), ["b"]);
    assert_eq!(fleet.waiting(), pairs(&[("a", "b")]));
    // An agent of an older version does not report its name.
    let view = AgentView::UpToDate {
        serving: None,
        cannot_redirect: None,
    };
    fleet.world.agents.insert(node_name("b"), view);
    assert_eq!(fleet.started(), ["b"]);
    fleet.serves("b", &current);
    assert_eq!(fleet.started(), ["a"]);
}

#[test]
fn a_failed_replacement_holds_the_others_for_a_limited_time() {
    let mut fleet = Fleet::outdated(&["a", "b"]);
    let most = Policy::default().failures_before_failed;
    fleet.fail("a", most - 1);
    assert_eq!(fleet.started(), [""; 0]);
    assert_eq!(fleet.waiting(), pairs(&[("b", "a")]));
    fleet.fail("a", most);
    assert_eq!(fleet.started(), ["b"]);
    assert!(!fleet.plan().settled);
    fleet.fail("b", most);
    let held = fleet.plan().held;
    let backoff = held
        .iter()
        .filter(|held| matches!(held.by, HeldBy::Backoff { .. }));
    assert_eq!(backoff.count(), 2);
}

#[test]
fn an_unreachable_node_does_not_hold_the_others() {
    let mut fleet = Fleet::outdated(&["a", "b", "c"]);
    let now = fleet.world.now;
    let machine = fleet.world.machines.get_mut(&node_name("b"));
    machine.unwrap().unknown_since = Some(now);
    fleet.world.agents.remove(&node_name("b"));
    fleet.replace("a");
    assert_eq!(fleet.started(), ["c"]);
}

#[test]
fn all_nodes_get_the_image_at_once() {
    let mut fleet = Fleet::outdated(&["a", "b", "c"]);
    for node in ["b", "c"] {
        fleet.state(node).images.remove(IMAGE);
    }
    let steps = fleet.plan().steps;
    let copies = steps
        .iter()
        .filter(|step| matches!(&step.action, Action::CopyImage { image, .. } if image == IMAGE));
    assert_eq!(copies.count(), 2);
    assert_eq!(fleet.started(), ["a"]);
}

#[test]
fn a_previous_agent_is_removed_after_it_has_finished() {
    let mut fleet = Fleet::outdated(&["a"]);
    fleet.replace("a");
    fleet.pass(Duration::from_secs(1));
    assert_eq!(fleet.removed(), []);
    fleet.end("a", OLD);
    assert_eq!(fleet.removed(), pairs(&[("a", OLD)]));
    // The engine has started it again.
    fleet.run("a", OLD);
    assert_eq!(fleet.removed(), pairs(&[("a", OLD)]));
    // While the current agent does not serve, the previous one may be needed.
    fleet.serves("a", OLD);
    assert_eq!(fleet.removed(), []);
}

#[test]
fn a_previous_agent_is_removed_after_the_limit() {
    let mut fleet = Fleet::outdated(&["a"]);
    fleet.replace("a");
    let limit = Policy::default().agent_finishes_within;
    let end = fleet.world.now + TimeDelta::from_std(limit).unwrap();
    fleet.pass(limit.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(fleet.removed(), []);
    assert_eq!(fleet.plan().next_change, Some(end));
    fleet.pass(Duration::from_millis(1));
    assert_eq!(fleet.removed(), pairs(&[("a", OLD)]));
}
