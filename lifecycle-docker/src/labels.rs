//! The labels by which everything of ours is found again: containers, networks, volumes.
//! Never images: an image's labels leak into the containers of its build steps.

/// The platform's name, for people.
pub(crate) const PLATFORM: &str = "lifecycle.platform";
/// The platform's UUID; observation goes by it.
pub(crate) const PLATFORM_ID: &str = "lifecycle.platform-id";
/// What the thing is for: one of the `ROLE_` words.
pub(crate) const ROLE: &str = "lifecycle.role";
/// The instance that a container runs, for people: `db-1`.
pub(crate) const INSTANCE: &str = "lifecycle.instance";
/// The service that a container runs.
pub(crate) const SERVICE: &str = "lifecycle.service";
/// The number of the replica that a container runs.
pub(crate) const REPLICA: &str = "lifecycle.replica";
/// The digest of the specification that a container was made from.
pub(crate) const SPEC_DIGEST: &str = "lifecycle.spec-digest";
/// The version of the form that the digest was computed over.
pub(crate) const SPEC_VERSION: &str = "lifecycle.spec-version";
/// The node that a local node's container plays.
pub(crate) const NODE: &str = "lifecycle.node";
/// The declaration's name of a volume.
pub(crate) const VOLUME: &str = "lifecycle.volume";

/// The role of a container that runs a replica of a service.
pub(crate) const ROLE_INSTANCE: &str = "instance";
/// The role of the container that runs the manager.
pub(crate) const ROLE_MANAGER: &str = "manager";
/// The role of the container that makes service addresses work on its node.
pub(crate) const ROLE_AGENT: &str = "agent";
/// The role of a container that plays a node.
pub(crate) const ROLE_NODE: &str = "node";
