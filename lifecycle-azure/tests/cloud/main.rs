//! The provider against the simulator of Azure.
#![expect(clippy::unwrap_used, reason = "tests")]

mod alternatives;
mod budgets;
mod conformance;
mod failures;
mod identity;
mod patience;
mod preflight;
mod raw;
mod secrecy;
mod shared;
mod support;
