//! Provides Azure backends for `lifecycle-core`: VMs as nodes ([`Azure`]), an Azure Files share as
//! the code store ([`AzureFiles`]), and a simulator of both (feature `simulator`). The simulator is
//! compatible with Microsoft's own clients.
//!
//! All requests to Resource Manager use one transport (`arm`), which respects Azure's rate limits
//! and parses its errors. Requests for VMs use the generated client of the compute service
//! (`compute`); requests for all other resources are built in this crate. `provider` implements
//! [`Azure`] and keeps no state outside Azure; `files` implements [`AzureFiles`].

mod alternative;
mod arm;
mod clouds;
mod compute;
mod connection;
mod credential;
mod declared;
mod files;
mod first_boot;
mod network;
mod options;
mod preflight;
mod provider;
mod public_ports;
#[cfg(feature = "simulator")]
pub mod simulator;
mod tags;
mod trust;
mod vm;

pub use arm::role_wait::RoleWait;
pub use clouds::TrustedAddresses;
pub use credential::Login;
pub use files::{AzureFiles, AzureFilesBuilder, FilesCredential};
pub use options::AzureOptions;
pub use provider::Azure;
