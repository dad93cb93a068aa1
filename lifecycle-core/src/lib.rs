//! The core of the platform: domain types, the traits for clouds, container engines and databases,
//! the planner, and the control loops.
//!
//! | module | contents |
//! |---|---|
//! | [`model`] | nodes, services, instances, endpoints, operations, events |
//! | [`network`] | service addresses, and the tables for the agents on the nodes |
//! | `agent` | serves names and service addresses on a node (feature `agent`) |
//! | [`platform`] | reading the user's declaration |
//! | [`cloud`], [`host`], [`runtime`], [`code`], [`registry`] | the traits that backends implement
//! |
//! | [`secret`] | secret values and the platform key |
//! | [`clock`] | sources of time and ids |
//! | `conformance` | the test suites for implementations of the traits (feature `conformance`) |

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "api")]
pub mod bootstrap;
pub mod clock;
pub mod cloud;
pub mod code;
#[cfg(feature = "conformance")]
pub mod conformance;
mod epoch;
pub mod error;
pub mod host;
pub mod manager;
#[cfg(feature = "mock")]
pub mod mock;
pub mod model;
pub mod network;
pub mod platform;
pub mod reconcile;
pub mod registry;
pub mod runtime;
pub mod secret;
#[cfg(feature = "sim")]
pub mod sim;
mod similar;
pub mod stream;

pub use error::{BuildPlace, Error, Result, Retry};
