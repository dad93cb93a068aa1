//! Azure Resource Manager: requests, rate limits, and error responses.
//!
//! The generated compute client and this crate's own requests share one transport, so that the rate
//! limits cover both.

pub(crate) mod budget;
pub(crate) mod client;
pub(crate) mod consistency;
pub(crate) mod failure;
mod meaning;
mod refusal;
pub(crate) mod role_wait;
pub(crate) mod transport;

pub(crate) use client::Client;
