//! Code that the benchmarks share: generates platforms, brings up the example platform, and
//! measures an idle platform.

pub mod at_rest;
pub mod docker;
pub mod example;
pub mod platform;
