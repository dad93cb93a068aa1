//! The planner: snapshots of plans in typical situations, and properties of plans in random ones. A
//! model world carries the plans out; no backend is involved.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arbitrary;
mod builder;
mod model;
mod properties;
mod recorded;
mod situations;
