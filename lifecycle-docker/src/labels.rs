//! Labels that identify the containers, networks, and volumes of a platform. Images get no labels,
//! because the containers of an image's build steps would inherit the labels.

/// The platform's name, for display only.
pub(crate) const PLATFORM: &str = "lifecycle.platform";
/// The platform's UUID. Observation selects resources by this label.
pub(crate) const PLATFORM_ID: &str = "lifecycle.platform-id";
/// The resource's purpose: one of the `ROLE_` constants.
pub(crate) const ROLE: &str = "lifecycle.role";
/// The instance that a container runs, for display only: `db-1`.
pub(crate) const INSTANCE: &str = "lifecycle.instance";
/// The service that a container runs.
pub(crate) const SERVICE: &str = "lifecycle.service";
/// The number of the replica that a container runs.
pub(crate) const REPLICA: &str = "lifecycle.replica";
/// The digest of the specification that a container was created from.
pub(crate) const SPEC_DIGEST: &str = "lifecycle.spec-digest";
/// The digest of the specification without the image.
pub(crate) const TEMPLATE_DIGEST: &str = "lifecycle.template-digest";
/// The version of the digest's input format.
pub(crate) const SPEC_VERSION: &str = "lifecycle.spec-version";
/// The ports that a container which joins the network of another one exposes: `80/tcp,53/udp`. The
/// engine does not store them.
pub(crate) const EXPOSED: &str = "lifecycle.exposed";
/// The node's address at which a container's chosen host ports are bound; absent if they are bound at
/// all addresses.
pub(crate) const ADDRESS: &str = "lifecycle.address";
/// The name of the node that a local node's container represents.
pub(crate) const NODE: &str = "lifecycle.node";
/// The name of a volume in the declaration.
pub(crate) const VOLUME: &str = "lifecycle.volume";
/// Marks a volume that the engine created together with a container, because none with its name
/// existed.
pub(crate) const SUBSTITUTE: &str = "lifecycle.substitute";

/// The role of a container that runs a replica of a service.
pub(crate) const ROLE_INSTANCE: &str = "instance";
/// The role of the container that runs the manager.
pub(crate) const ROLE_MANAGER: &str = "manager";
/// The role of the agent's container, which serves the service addresses on its node.
pub(crate) const ROLE_AGENT: &str = "agent";
/// The role of a container that acts as a node.
pub(crate) const ROLE_NODE: &str = "node";
