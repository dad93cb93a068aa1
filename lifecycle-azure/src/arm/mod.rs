//! Azure Resource Manager: how requests reach it, what they may cost, and what its refusals mean.
//!
//! The generated client of Azure's compute service and our own requests share one transport, so
//! that one budget covers both, and a refusal is read in one place.

pub(crate) mod budget;
pub(crate) mod client;
pub(crate) mod failure;
pub(crate) mod transport;

pub(crate) use client::Client;
