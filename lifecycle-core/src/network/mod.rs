//! The service network. Each service has one address, the same on every node, that the service's
//! name resolves to. An agent on each node makes these addresses work; the manager sends [`Table`]s
//! to the agent, with the endpoints for connections to these addresses.

mod address;
mod feed;
mod table;

pub use address::{Block, DEFAULT_BLOCK, assign};
pub use feed::{Report, ReportKind};
pub use table::{Backend, ServiceEntry, Table};
