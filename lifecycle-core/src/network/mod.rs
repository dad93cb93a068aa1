//! The service network. Each service has one address, which is the same on every node. The
//! service's name resolves to this address. An agent on each node forwards connections from service
//! addresses to endpoints. The manager sends the endpoints to the agents, as [`Table`]s.

mod address;
mod feed;
mod table;

pub use address::{Block, DEFAULT_BLOCK, assign};
pub use feed::{Report, ReportKind};
pub use table::{Backend, Redirect, ServiceEntry, Table};
