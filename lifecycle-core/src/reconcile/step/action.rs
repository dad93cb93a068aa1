//! Defines the actions of steps. Everything that the planner and the control loop need to know
//! about an action is in one row of one table, [`Action::facts`].
//!
//! Add a new action in three places, which `tests/source/actions.rs` checks: as a variant with a
//! row in [`Action::facts`]; in `Execution::act`, which carries it out; and in the module of the
//! planner that proposes it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::StepId;
use crate::model::{
    ContainerId, InstanceId, NodeName, OperationId, PublicPorts, ServiceName, Subject,
};

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "action")]
#[non_exhaustive]
pub enum Action {
    /// Creates a node.
    ProvisionNode {
        /// The node's name.
        node: NodeName,
    },
    /// Starts a stopped node.
    StartNode {
        /// The node's name.
        node: NodeName,
    },
    /// Stops a node on request.
    StopNode {
        /// The node's name.
        node: NodeName,
    },
    /// Restarts a node on request.
    RestartNode {
        /// The node's name.
        node: NodeName,
        /// The boot that the restart ends.
        boot_id: String,
    },
    /// Prepares a node for Docker: installs packages and the engine.
    PrepareNode {
        /// The node's name.
        node: NodeName,
        /// The operation that requested the preparation, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operation: Option<OperationId>,
    },
    /// Deletes a node that is no longer declared, or whose creation failed.
    DeleteNode {
        /// The node's name.
        node: NodeName,
    },
    /// Removes the platform from a machine that is no longer declared, and that the platform did not
    /// create. The machine continues to run.
    ReleaseNode {
        /// The node's name.
        node: NodeName,
    },
    /// Makes exactly these ports of a node reachable from outside the nodes' network.
    SetPublicPorts {
        /// The ports; empty to close all of them.
        ports: PublicPorts,
        /// The node's name.
        node: NodeName,
    },
    /// Builds a service's image.
    BuildImage {
        /// The image's name.
        image: String,
        /// The service whose declaration describes the build.
        service: ServiceName,
        /// The node that builds the image.
        node: NodeName,
    },
    /// Copies an image from another node.
    CopyImage {
        /// The image's name.
        image: String,
        /// The node that has the image.
        from: NodeName,
        /// The node that receives the image.
        node: NodeName,
    },
    /// Pulls an image.
    PullImage {
        /// The image's name.
        image: String,
        /// The node that pulls the image.
        node: NodeName,
    },
    /// Removes a name of an image that the platform built, and the image if it has no other name.
    RemoveImage {
        /// The image's name.
        image: String,
        /// The node that has the image.
        node: NodeName,
    },
    /// Starts the node's agent. If another agent is running, waits until the new one has taken over.
    EnsureAgent {
        /// The container's name.
        container: String,
        /// The agent's node.
        node: NodeName,
    },
    /// Removes a node's agent.
    RemoveAgent {
        /// The container's name.
        container: String,
        /// The agent's node.
        node: NodeName,
    },
    /// Creates an instance's container if it does not exist, and starts it.
    StartInstance {
        /// The replica.
        instance: InstanceId,
        /// The container's name.
        container: String,
        /// The container's node.
        node: NodeName,
        /// The container whose network the container joins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        joins: Option<String>,
    },
    /// Stops an instance's container and keeps it.
    StopInstance {
        /// The replica.
        instance: InstanceId,
        /// The container's name.
        container: String,
        /// The engine's id of the container. The JSON field has another name, because a step and
        /// its action are one JSON object, in which `id` is the step's id.
        #[serde(rename = "container_id")]
        id: ContainerId,
        /// The container's node.
        node: NodeName,
    },
    /// Removes an instance's container.
    RemoveInstance {
        /// The replica.
        instance: InstanceId,
        /// The container's name.
        container: String,
        /// The engine's id of the container. The JSON field has another name, because a step and
        /// its action are one JSON object, in which `id` is the step's id.
        #[serde(rename = "container_id")]
        id: ContainerId,
        /// The container's node.
        node: NodeName,
    },
}

/// The type of work that an action does. Determines the action's time limit and concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    CreateNode,
    StartNode,
    StopNode,
    RestartNode,
    DeleteNode,
    PrepareNode,
    /// Opens and closes ports in the cloud's firewall.
    PublicPorts,
    Image,
    Container,
    /// Stops a container, after its connections were drained. The time limit includes the drain and
    /// the grace period of the container's service.
    StoppingContainer,
    /// Removes a container. The time limit includes the grace period of the container's service.
    RemovingContainer,
}

/// What an action does to its node, or to an image or a container on the node. Step ids contain the
/// verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verb {
    Provision,
    Prepare,
    Delete,
    Release,
    PublicPorts,
    /// Builds, copies or pulls an image.
    Image,
    RemoveImage,
    Agent,
    RemoveAgent,
    Start,
    Stop,
    Restart,
    Remove,
}

/// The facts about an action.
struct Facts<'a> {
    node: &'a NodeName,
    verb: Verb,
    /// The image or container that the action works on, if it is not the node itself.
    object: Option<&'a str>,
    about: About<'a>,
    work: Work,
    /// The node that an image is copied from. This node also has to respond.
    from: Option<&'a NodeName>,
    /// The container that the action stops or removes.
    ends: Option<&'a ContainerId>,
    words: Words<'a>,
}

#[derive(Clone, Copy)]
enum About<'a> {
    Node,
    Service(&'a ServiceName),
    Instance(&'a InstanceId),
}

/// The parts of an action's description.
type Words<'a> = [&'a dyn fmt::Display; 6];

fn words<const N: usize>(parts: [&dyn fmt::Display; N]) -> Words<'_> {
    let mut words: Words<'_> = [&""; 6];
    for (word, part) in words.iter_mut().zip(parts) {
        *word = part;
    }
    words
}

impl Action {
    /// Returns the action's row in the table of actions.
    fn facts(&self) -> Facts<'_> {
        let on_node = |node, verb, work, words| Facts {
            node,
            verb,
            object: None,
            about: About::Node,
            work,
            from: None,
            ends: None,
            words,
        };
        match self {
            Self::ProvisionNode { node } => on_node(
                node,
                Verb::Provision,
                Work::CreateNode,
                words([&"provision node ", node]),
            ),
            Self::StartNode { node } => on_node(
                node,
                Verb::Start,
                Work::StartNode,
                words([&"start node ", node]),
            ),
            Self::StopNode { node } => on_node(
                node,
                Verb::Stop,
                Work::StopNode,
                words([&"stop node ", node]),
            ),
            Self::RestartNode { node, boot_id: _ } => on_node(
                node,
                Verb::Restart,
                Work::RestartNode,
                words([&"restart node ", node]),
            ),
            Self::PrepareNode { node, operation: _ } => on_node(
                node,
                Verb::Prepare,
                Work::PrepareNode,
                words([&"prepare ", node, &" for Docker"]),
            ),
            Self::DeleteNode { node } => on_node(
                node,
                Verb::Delete,
                Work::DeleteNode,
                words([&"delete node ", node]),
            ),
            Self::ReleaseNode { node } => on_node(
                node,
                Verb::Release,
                Work::DeleteNode,
                words([&"release node ", node]),
            ),
            Self::SetPublicPorts { ports, node } => on_node(
                node,
                Verb::PublicPorts,
                Work::PublicPorts,
                if ports.is_empty() {
                    words([&"close the public ports of ", node])
                } else {
                    words([&"make ", ports, &" of ", node, &" reachable from outside"])
                },
            ),
            Self::BuildImage {
                image,
                service,
                node,
            } => Facts {
                object: Some(image),
                about: About::Service(service),
                ..on_node(
                    node,
                    Verb::Image,
                    Work::Image,
                    words([&"build ", image, &" on ", node]),
                )
            },
            Self::CopyImage { image, from, node } => Facts {
                object: Some(image),
                from: Some(from),
                ..on_node(
                    node,
                    Verb::Image,
                    Work::Image,
                    words([&"copy ", image, &" from ", from, &" to ", node]),
                )
            },
            Self::PullImage { image, node } => Facts {
                object: Some(image),
                ..on_node(
                    node,
                    Verb::Image,
                    Work::Image,
                    words([&"pull ", image, &" on ", node]),
                )
            },
            Self::RemoveImage { image, node } => Facts {
                object: Some(image),
                ..on_node(
                    node,
                    Verb::RemoveImage,
                    Work::Image,
                    words([&"remove ", image, &" from ", node]),
                )
            },
            Self::EnsureAgent { container, node } => Facts {
                object: Some(container),
                ..on_node(
                    node,
                    Verb::Agent,
                    Work::Container,
                    words([&"start the agent on ", node]),
                )
            },
            Self::RemoveAgent { container, node } => Facts {
                object: Some(container),
                ..on_node(
                    node,
                    Verb::RemoveAgent,
                    Work::Container,
                    words([&"remove the agent on ", node]),
                )
            },
            Self::StartInstance {
                instance,
                container,
                node,
                joins: _,
            } => Facts {
                object: Some(container),
                about: About::Instance(instance),
                ..on_node(
                    node,
                    Verb::Start,
                    Work::Container,
                    words([&"start ", instance, &" on ", node]),
                )
            },
            Self::StopInstance {
                instance,
                container,
                id,
                node,
            } => Facts {
                object: Some(container),
                about: About::Instance(instance),
                ends: Some(id),
                ..on_node(
                    node,
                    Verb::Stop,
                    Work::StoppingContainer,
                    words([&"stop ", instance, &" on ", node]),
                )
            },
            Self::RemoveInstance {
                instance,
                container,
                id,
                node,
            } => Facts {
                object: Some(container),
                about: About::Instance(instance),
                ends: Some(id),
                ..on_node(
                    node,
                    Verb::Remove,
                    Work::RemovingContainer,
                    words([
                        &"remove ",
                        instance,
                        &"'s container ",
                        container,
                        &" on ",
                        node,
                    ]),
                )
            },
        }
    }

    /// Returns the action's id.
    pub fn id(&self) -> StepId {
        let Facts {
            node, verb, object, ..
        } = self.facts();
        StepId::new(node.clone(), verb, object)
    }

    /// Returns the node that the action works on. The action counts toward the limits of this node.
    pub fn node(&self) -> &NodeName {
        self.facts().node
    }

    /// Returns the nodes that have to respond: the action's own node, and the one that an image is
    /// copied from.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        let Facts { node, from, .. } = self.facts();
        std::iter::once(node).chain(from)
    }

    /// Returns the subject that the action is reported under.
    pub fn subject(&self) -> Subject {
        let Facts { node, about, .. } = self.facts();
        match about {
            About::Node => Subject::Node(node.clone()),
            About::Service(service) => Subject::Service(service.clone()),
            About::Instance(instance) => Subject::Instance(instance.clone()),
        }
    }

    /// Returns the replica that the action works on, if it works on one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self.facts().about {
            About::Instance(instance) => Some(instance),
            About::Node | About::Service(_) => None,
        }
    }

    /// Returns the image that the action brings to its node, if it brings one.
    pub(crate) fn image(&self) -> Option<&str> {
        let Facts { verb, object, .. } = self.facts();
        object.filter(|_| verb == Verb::Image)
    }

    /// Returns the container that the action stops or removes, if there is one.
    pub(crate) fn ended_container(&self) -> Option<&ContainerId> {
        self.facts().ends
    }

    /// Returns the type of work.
    pub(crate) fn work(&self) -> Work {
        self.facts().work
    }

    /// Returns whether the action's effect is observed in the cloud rather than on the node's
    /// engine.
    pub fn is_at_cloud(&self) -> bool {
        self.changes_node() || self.work() == Work::PublicPorts
    }

    /// Returns whether the action is a [`NodeChange`](crate::cloud::NodeChange), which the cloud
    /// continues if this process ends.
    pub(crate) fn changes_node(&self) -> bool {
        match self.work() {
            Work::CreateNode
            | Work::StartNode
            | Work::StopNode
            | Work::RestartNode
            | Work::DeleteNode => true,
            Work::PrepareNode
            | Work::PublicPorts
            | Work::Image
            | Work::Container
            | Work::StoppingContainer
            | Work::RemovingContainer => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for word in self.facts().words {
            word.fmt(f)?;
        }
        Ok(())
    }
}
