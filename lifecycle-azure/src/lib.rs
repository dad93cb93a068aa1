//! Azure for `lifecycle-core`.

mod files;
#[cfg(feature = "simulator")]
pub mod simulator;
mod trust;

pub use files::{AzureFiles, AzureFilesBuilder, FilesCredential, Published};
