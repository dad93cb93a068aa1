//! Tests the agent on the loopback network: tables, names, connections, datagrams, faults.
//!
//! Each test has its own address block, so that tests can run in parallel. Only the tests of
//! redirects need a capability.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod faults;
mod handover;
mod names;
mod redirects;
mod restart;
mod support;
mod tables;
mod tcp;
mod udp;
