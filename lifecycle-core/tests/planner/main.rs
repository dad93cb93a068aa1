//! The pure planner: what it does in telling situations (snapshots), and what it never does in
//! random ones (properties). Its plans are walked in a model world; no backend is involved.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arbitrary;
mod builder;
mod model;
mod properties;
mod recorded;
mod situations;
