//! Docker engines as [`ContainerRuntime`](lifecycle_core::runtime::ContainerRuntime)s, over a
//! local socket or over SSH, and the hosts that they run on.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ssh`] | a node's operating system over SSH |
//! | [`local_nodes`] | a cloud whose VMs are containers on the operator's own engine |
//! | [`prepare`] | a bare host made one that runs containers |
//! | [`engine`] | one node's engine as one platform sees it |
//! | [`connector`] | host and engine of a node as one handle, shared per boot |
//! | [`readiness`] | checks that an address answers |

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
