//! The suites that every backend of a trait passes: one behaviour, however it is made.
//!
//! A suite panics where a guarantee does not hold, and returns the error of a call that should
//! not have failed.

pub mod cloud;
pub mod code;
pub mod publishing;
pub mod registry;
pub mod runtime;
