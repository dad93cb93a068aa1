//! The heart of a platform of services on VMs: the words as types, the traits behind which
//! clouds, engines and databases lie, the planner, and the control loops.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | nodes, services, instances, endpoints, operations, events |
//! | [`network`] | service addresses, and what the agents on the nodes are told |
//! | `agent` | makes service addresses work on a node (feature `agent`) |
//! | [`platform`] | what the user declares |
//! | [`cloud`], [`host`], [`runtime`], [`code`], [`registry`] | the traits that backends implement |
//! | [`secret`] | values that are shown nowhere, and the platform key |
//! | [`clock`] | time and new ids, asked for |
//! | `conformance` | the suites that every backend of a trait passes (feature `conformance`) |

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
