//! The labels on all that is ours. Observation and removal go by them, never by names.

/// The platform's name, for people.
pub const PLATFORM: &str = "lifecycle.platform";
/// The platform's id; what goes by labels goes by this one.
pub const PLATFORM_ID: &str = "lifecycle.platform-id";
/// What the object is for: one of the `ROLE_` values.
pub const ROLE: &str = "lifecycle.role";
/// A replica of a service, as `<service>-<replica>`.
pub const INSTANCE: &str = "lifecycle.instance";
/// The service that an instance belongs to.
pub const SERVICE: &str = "lifecycle.service";
/// Which replica of its service an instance is.
pub const REPLICA: &str = "lifecycle.replica";
/// The digest of what the container was made from.
pub const SPEC_DIGEST: &str = "lifecycle.spec-digest";
/// The version of the digest's form.
pub const SPEC_VERSION: &str = "lifecycle.spec-version";
/// The name of the node.
pub const NODE: &str = "lifecycle.node";

/// [`ROLE`] of a container that runs a replica of a service.
pub const ROLE_INSTANCE: &str = "instance";
/// [`ROLE`] of the manager's container.
pub const ROLE_MANAGER: &str = "manager";
/// [`ROLE`] of a container that plays a VM.
pub const ROLE_NODE: &str = "node";
