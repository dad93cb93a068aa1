//! The service network. Each service has one address, the same on every node, that its name
//! resolves to. An agent on each node makes these addresses work; the manager sends it [`Table`]s
//! with the endpoints for connections to them.

mod address;
mod feed;
mod table;

pub use address::{Block, DEFAULT_BLOCK, assign};
pub use feed::{Report, ReportKind};
pub use table::{Backend, ServiceEntry, Table};
