//! Implements [`ContainerRuntime`](lifecycle_core::runtime::ContainerRuntime) with Docker engines,
//! over a local socket or over SSH. Also gives access to the hosts of these engines.
//!
//! | module | contents |
//! |---|---|
//! | [`ssh`] | accesses a node's operating system over SSH |
//! | [`hosts`] | implements a cloud of machines that exist already and are reached by address |
//! | [`local_nodes`] | implements a cloud whose VMs are containers on the operator's own engine |
//! | [`login`] | reads the logins that `docker login` stored on this machine |
//! | [`prepare`] | installs an engine on a bare host |
//! | [`engine`] | controls one node's engine, restricted to one platform |
//! | [`connector`] | combines a node's host and engine in one handle, shared until the node reboots |
//! | [`readiness`] | checks that an address responds |

pub mod connector;
pub mod engine;
mod error;
pub mod hosts;
mod inspect;
mod labels;
pub mod local_nodes;
pub mod login;
pub mod prepare;
pub mod readiness;
pub mod ssh;

pub use connector::{AddressChoice, SshConnector};
pub use engine::DockerEngine;
pub use hosts::{Hosts, MixedCloud};
pub use local_nodes::{Bridge, FirstBoot, LocalNodes, LocalNodesOptions, Subnet};
pub use login::{FoundLogins, image_logins};
pub use prepare::DebianPreparer;
pub use readiness::SocketReadiness;
pub use ssh::{
    JumpHost, SshAccess, SshCredential, SshTarget, SshTimings, generate_ssh_key, offered_host_key,
};
