//! Tests the planner: compares plans in typical situations with snapshots, and checks properties of
//! plans in random situations. A model of the world carries out the plans, without a backend.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agents;
mod arbitrary;
mod builder;
mod checks;
mod host_ports;
mod images;
mod joined;
mod model;
mod node_restarts;
mod preparations;
mod properties;
mod public_ports;
mod recorded;
mod rollouts;
mod scheduling;
mod situations;
