//! Tests the code store on Azure Files against the simulator.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod conformance;
mod credentials;
mod faults;
mod microsoft;
mod plain;
mod publish;
mod wire;
