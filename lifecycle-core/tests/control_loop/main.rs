//! The real control loop and the real manager against the simulated world: convergence,
//! faults, and a crash at every effect. Time is paused, so hours pass in seconds; it is real only
//! where a real database is asked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a failure tells its seed")]

mod cloud;
mod convergence;
mod crash;
mod databases;
mod fault;
mod leadership;
mod network;
mod platform;
#[path = "../registry/postgres_server.rs"]
#[expect(dead_code, reason = "the registry's own tests use the rest")]
mod postgres_server;
mod recorded;
mod registry;
mod requests;
mod retry;
mod scale;
mod stage;
mod take_down;
