//! Azure for `lifecycle-core`.

#[cfg(feature = "simulator")]
pub mod simulator;
