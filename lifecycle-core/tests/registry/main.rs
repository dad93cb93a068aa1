//! Every registry passes one suite; beside it, what only the one in a database has to keep.

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
