//! Azure for `lifecycle-core`: VMs as nodes ([`Azure`]), and a simulator of Azure that Microsoft's
//! own clients accept (feature `simulator`).
//!
//! Resource Manager (`arm`) is reached through one transport, which keeps Azure's budgets and
//! reads its refusals; VMs through the generated client of its compute service (`compute`),
//! networks and all else by our own requests. Why so: `docs/decisions/0021`.

mod arm;
mod compute;
mod credential;
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
pub use options::AzureOptions;
pub use provider::Azure;
