//! Tests the provider against the Azure simulator.
#![expect(clippy::unwrap_used, reason = "tests")]

mod alternatives;
mod budgets;
mod conformance;
mod deaths;
mod failures;
mod fault_cases;
mod fault_page;
mod fault_table;
mod first_hour;
mod identity;
mod leaks;
mod patience;
mod permissions;
mod preflight;
mod public_ports;
mod raw;
mod refusals;
mod secrecy;
mod secrets;
mod seeds;
mod shared;
mod steps;
mod support;
mod throttling;
mod unreachable;
