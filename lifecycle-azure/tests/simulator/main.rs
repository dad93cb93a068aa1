//! Tests the Azure simulator with plain requests and with Microsoft's own clients.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod access;
mod azure;
mod budgets;
mod faults;
mod groups;
mod hosts;
mod microsoft;
mod networks;
mod offers;
mod requests;
mod vms;
