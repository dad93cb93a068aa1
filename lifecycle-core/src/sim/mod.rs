//! A simulated world: a cloud, its machines, their engines, a code store, and what goes wrong
//! with them, behind the same traits as the real ones.
//!
//! Everything is drawn from a seed and takes its time through `tokio::time`, so that under a
//! paused clock a platform of thousands of nodes runs in seconds, and the same seed with the
//! same calls gives the same run to the byte. No call scans the whole world.
//!
//! The world outlives whoever acts on it. Handles ([`SimWorld::cloud`], [`SimWorld::connector`]
//! and so on) belong to an *incarnation*: one life of a process. When it crashes
//! ([`Faults::crash_at`]), its handles never answer again; the test drops what held them, calls
//! [`SimWorld::next_incarnation`], and starts anew against the same world.
//!
//! | file | what it holds |
//! |---|---|
//! | `world` | the world itself, and what a test asks of it |
//! | `actor` | the gate that every call goes through: latency, faults, crashes, the record |
//! | `files` | what scripts do with a host's files |
//! | `cloud`, `host`, `runtime`, `probe`, `code` | the traits |
//! | `machine`, `engine` | a VM, and the containers on it |
//! | `managers`, `bootstrapper` | the manager's process, and a bootstrapper (feature `api`) |
//! | `databases` | registries in databases of their own |
//! | `behaviour` | how services behave, by script |
//! | `dockerfile` | what the engine must know of a Dockerfile |
//! | `fault`, `ledger` | what goes wrong, and what may never happen |
//! | `options`, `chance` | how long things take, and how that is drawn |

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
pub use ledger::{EffectOutcome, EffectRecord, Place, Violation};
#[cfg(feature = "api")]
pub use managers::{SimManagerImage, SimManagers};
pub use options::{FaultRates, Latencies, SimOptions, Span};
pub use probe::SimProbe;
pub use runtime::SimRuntime;
pub use world::SimWorld;
