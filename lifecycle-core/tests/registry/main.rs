//! Tests that all registries pass the same suite. Other tests check the properties that only a
//! registry in a database has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clock;
mod equivalence;
mod memory;
mod mirror;
mod platform;
mod postgres;
#[expect(dead_code, reason = "the programs' tests use the rest")]
mod postgres_server;
mod sqlite;
