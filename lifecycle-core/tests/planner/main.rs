//! Tests the planner with snapshots of plans in typical situations, and with properties of plans in
//! random ones. A model of the world carries out the plans; no backend is involved.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arbitrary;
mod builder;
mod model;
mod properties;
mod recorded;
mod situations;
