//! Every registry passes one suite; the SQL ones are compared with the one in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory;
