//! Tests the real control loop and manager in the simulation: convergence, faults, and a crash at
//! every effect. Simulated time makes hours pass in seconds. Tests with a real database run in real
//! time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a failure prints its seed")]

mod audit;
mod cloud;
mod convergence;
mod crash;
mod databases;
mod drain;
mod fault;
mod joined;
mod leadership;
mod metrics;
mod network;
mod platform;
mod port_ranges;
#[path = "../registry/postgres_server.rs"]
#[expect(dead_code, reason = "the registry's own tests use the rest")]
mod postgres_server;
mod recorded;
mod registry;
mod removal;
mod requests;
mod retry;
mod scale;
mod stage;
mod strangers;
mod tokens;
mod volumes;
