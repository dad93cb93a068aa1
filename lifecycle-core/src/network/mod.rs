//! The service network: each service has one address, the same on every node, that its name
//! resolves to. An agent on each node makes these addresses work there; the manager tells it,
//! by [`Table`]s, where connections to them go.

mod address;
mod feed;
mod table;

pub use address::{Block, DEFAULT_BLOCK, assign};
pub use feed::{Report, ReportKind};
pub use table::{Backend, ServiceEntry, Table};
