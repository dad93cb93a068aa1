//! Azure backends for `lifecycle-core`: VMs as nodes ([`Azure`]), an Azure Files share as the code
//! store ([`AzureFiles`]), and a simulator of both that Microsoft's own clients accept (feature
//! `simulator`).
//!
//! All requests to Resource Manager (`arm`) use one transport, which respects Azure's rate limits
//! and parses its errors. VMs are managed through the generated client of the compute service
//! (`compute`), and all other resources through this crate's own requests. `provider` implements
//! [`Azure`] and keeps no state outside Azure; `files` implements [`AzureFiles`].

mod alternative;
mod arm;
mod compute;
mod credential;
mod declared;
mod files;
mod first_boot;
mod network;
mod options;
mod preflight;
mod provider;
#[cfg(feature = "simulator")]
pub mod simulator;
mod tags;
mod trust;
mod vm;

pub use credential::Login;
pub use files::{AzureFiles, AzureFilesBuilder, FilesCredential};
pub use options::AzureOptions;
pub use provider::Azure;
