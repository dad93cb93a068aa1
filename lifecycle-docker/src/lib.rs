//! Docker for `lifecycle-core`: nodes that are containers of the operator's own engine.

pub mod labels;
pub mod local_nodes;

pub use local_nodes::{LocalNodes, LocalNodesOptions, Subnet};
