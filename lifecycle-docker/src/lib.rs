//! Implements [`ContainerRuntime`](lifecycle_core::runtime::ContainerRuntime) with Docker engines,
//! reached over a local socket or over SSH, and the hosts that run them.
//!
//! | module | contents |
//! |---|---|
//! | [`ssh`] | a node's operating system over SSH |
//! | [`local_nodes`] | a cloud provider whose VMs are containers on the operator's own engine |
//! | [`prepare`] | installs an engine on a bare host |
//! | [`engine`] | one node's engine, restricted to one platform |
//! | [`connector`] | host and engine of a node as one handle, shared until the node reboots |
//! | [`readiness`] | checks that an address responds |

pub mod connector;
pub mod engine;
mod error;
mod inspect;
mod labels;
pub mod local_nodes;
pub mod prepare;
pub mod readiness;
pub mod ssh;

pub use connector::{AddressChoice, SshConnector};
pub use engine::DockerEngine;
pub use local_nodes::{Bridge, FirstBoot, LocalNodes, LocalNodesOptions, Subnet};
pub use prepare::DebianPreparer;
pub use readiness::SocketReadiness;
pub use ssh::{JumpHost, SshAccess, SshCredential, SshTarget, SshTimings, generate_ssh_key};
