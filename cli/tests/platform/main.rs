//! Tests the programs as users run them: from the command line, with this machine's Docker.
//! Starting a platform takes a while, so each test checks many properties of one platform.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adoption;
mod azure;
mod azure_login;
mod azure_machines;
mod bad_files;
mod bring_up;
mod careful;
mod crashes;
mod database;
mod docker;
mod document;
mod failing_service;
mod foreign_addresses;
mod hang;
mod hello;
mod host;
mod hosts;
mod https;
mod interactive;
mod joined;
mod load;
mod machine;
mod names;
mod ports;
#[path = "../../../lifecycle-core/tests/registry/postgres_server.rs"]
#[expect(dead_code, reason = "the core's tests use the rest")]
mod postgres_server;
mod private_registry;
mod project;
mod publish;
mod published;
mod reboot;
mod rollouts;
mod rotation;
mod schema;
mod secrets;
#[path = "../../src/simulated_azure/mod.rs"]
#[expect(dead_code, reason = "the program uses the rest")]
mod simulated_azure;
mod subprocess;
mod terminal;
mod upgrades;
mod waits;
