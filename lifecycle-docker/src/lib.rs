//! Docker engines as [`ContainerRuntime`](lifecycle_core::runtime::ContainerRuntime)s, over a
//! local socket or over SSH, and the hosts that they run on.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ssh`] | a node's operating system over SSH |

mod error;
mod labels;
pub mod ssh;

pub use ssh::{
    HostKeyStore, HostKeyTrust, MemoryHostKeys, SshAccess, SshCredential, SshTarget, SshTimings,
};
