//! The manager's API as other programs see it: what goes over the wire, a client, and the
//! platform's own certificate authority (feature `api`).

pub mod authority;
pub mod client;
mod service;
pub mod view;
pub mod wire;

pub use authority::{Authority, ServerIdentity};
pub use client::{ApiClient, Dial};
