//! Azure for `lifecycle-core`: VMs as nodes ([`Azure`]), a share of Azure Files as code store
//! ([`AzureFiles`]), and a simulator of both that Microsoft's own clients accept (feature
//! `simulator`).
//!
//! Resource Manager (`arm`) is reached through one transport, which keeps Azure's budgets and
//! reads its refusals; VMs through the generated client of its compute service (`compute`),
//! networks and all else by requests of our own. `provider` is the whole of [`Azure`], told from
//! what Azure shows alone; `files` the whole of [`AzureFiles`].

mod alternative;
mod arm;
mod compute;
mod credential;
mod declared;
mod files;
mod first_boot;
mod machine;
mod network;
mod options;
mod preflight;
mod provider;
#[cfg(feature = "simulator")]
pub mod simulator;
mod tags;
mod trust;

pub use credential::Login;
pub use files::{AzureFiles, AzureFilesBuilder, FilesCredential};
pub use options::AzureOptions;
pub use provider::Azure;
