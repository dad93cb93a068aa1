//! The programs as their users run them: platforms on this machine's Docker, brought up, broken,
//! mended and taken down through the command line. Bringing a platform up takes a while, so each
//! test asks much of its own one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_files;
mod bring_up;
mod careful;
mod crashes;
mod docker;
mod document;
mod failing_service;
mod hang;
mod hello;
mod host;
mod https;
mod project;
mod reboot;
mod secrets;
mod subprocess;
