//! Code shared by the benchmarks: generated platforms, the example platform as a user brings it up,
//! and the measurement of an idle platform, which a test of the command line also uses.

pub mod at_rest;
pub mod docker;
pub mod example;
pub mod platform;
