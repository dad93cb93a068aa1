//! Code that the benchmarks share: generates platforms, brings up the example platform, and
//! measures an idle platform. A test of the command line also uses this measurement.

pub mod at_rest;
pub mod docker;
pub mod example;
pub mod platform;
