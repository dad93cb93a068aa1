//! The real control loop and the real manager against the simulated world: convergence,
//! faults, and a crash at every effect. Time is paused, so hours pass in seconds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a failure tells its seed")]

mod cloud;
mod convergence;
mod crash;
mod fault;
mod leadership;
mod platform;
mod registry;
mod requests;
mod scale;
mod stage;
mod take_down;
