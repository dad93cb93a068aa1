//! What the benches share: made-up platforms, the example platform as its user brings it up, and
//! how a platform at rest is measured, which a test of the command line uses too.

pub mod at_rest;
pub mod docker;
pub mod example;
pub mod platform;
