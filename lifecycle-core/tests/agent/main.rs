//! The agent on the loopback network: tables, names, connections, datagrams, faults.
//!
//! Each test has a block of its own, so that they can run beside each other. No rights are
//! needed.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod faults;
mod names;
mod restart;
mod support;
mod tables;
mod tcp;
mod udp;
