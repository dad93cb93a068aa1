//! Runs the conformance suite with every registry, and tests what only registries in databases must
//! do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clock;
mod equivalence;
mod memory;
mod mirror;
mod platform;
mod postgres;
mod postgres_server;
mod sqlite;
