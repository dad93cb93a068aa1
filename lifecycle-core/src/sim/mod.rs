//! A simulated world: a cloud, its machines, their engines, a code store, and faults. The world
//! implements the same traits as the real backends.
//!
//! All random values are drawn from a seed, and time passes in `tokio::time`. With a paused clock,
//! a platform of thousands of nodes therefore runs in seconds. The same seed and the same calls
//! always produce the same run. No call scans the whole world, so calls stay fast in large worlds.
//!
//! The world outlives the processes that act on it. Handles ([`SimWorld::cloud`],
//! [`SimWorld::connector`] and so on) belong to an *incarnation*: one run of a process. After the
//! process crashes ([`Faults::crash_at`]), calls on the handles of its incarnation never return.
//! The test then drops everything that uses these handles, calls [`SimWorld::next_incarnation`],
//! and starts again with the same world.
//!
//! | file | contents |
//! |---|---|
//! | `world` | the world, and queries for tests |
//! | `actor` | the path of every call: latency, faults, crashes, recording |
//! | `files` | scripts that work with a host's files |
//! | `cloud`, `host`, `runtime`, `probe`, `code` | implementations of the traits |
//! | `machine`, `engine` | a VM, and its containers |
//! | `managers`, `bootstrapper` | the manager's process, and a bootstrapper (feature `api`) |
//! | `databases` | simulated databases |
//! | `behaviour` | scripted behavior of services |
//! | `dockerfile` | reading Dockerfiles |
//! | `fault`, `ledger` | faults, and invariants |
//! | `options`, `chance` | durations, and random draws |

mod actor;
mod behaviour;
#[cfg(feature = "api")]
mod bootstrapper;
mod chance;
mod cloud;
mod code;
mod databases;
mod dockerfile;
mod engine;
mod exec;
mod fault;
mod files;
mod host;
mod ledger;
mod machine;
#[cfg(feature = "api")]
mod managers;
mod options;
mod probe;
mod runtime;
#[cfg(test)]
mod tests;
mod world;

pub use behaviour::{Behaviour, Exit};
pub use cloud::SimCloud;
pub use code::SimCodeStore;
pub use databases::SimDatabases;
pub use fault::{Edge, Faults};
pub use host::{SimConnector, SimHost, SimPreparer};
pub use ledger::{ContainerOnNode, EffectOutcome, EffectRecord, Violation};
#[cfg(feature = "api")]
pub use managers::{SimManagerImage, SimManagers};
pub use options::{FaultRates, Latencies, SimOptions, Span};
pub use probe::SimProbe;
pub use runtime::SimRuntime;
pub use world::SimWorld;
