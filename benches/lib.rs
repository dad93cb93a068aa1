//! Code shared by the benchmarks: generated platforms, the example platform as its user brings it
//! up, and the measurement of an idle platform, which a test of the command line uses too.

pub mod at_rest;
pub mod docker;
pub mod example;
pub mod platform;
