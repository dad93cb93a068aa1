//! The simulator of Azure, by plain requests; and by Microsoft's own clients.

#![expect(
    clippy::unwrap_used,
    reason = "a setup that fails is a test that fails"
)]

mod access;
mod azure;
mod budgets;
mod faults;
mod groups;
mod machines;
mod makers;
mod microsoft;
mod networks;
mod offers;
mod requests;
