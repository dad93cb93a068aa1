//! The reports that an agent sends to the manager, one line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, InstanceId, Protocol, ServiceName};

/// A report of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch of the active table.
    pub epoch: Epoch,
    /// The version of the active table.
    pub version: u64,
    /// The name of the agent, if it has one: the name of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Why the agent cannot redirect published ports; `None` if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_redirect: Option<String>,
    #[serde(flatten)]
    pub kind: ReportKind,
}

/// The content of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "report")]
pub enum ReportKind {
    /// The table is active: its names resolve, and the agent listens on its addresses, except for
    /// those that [`ReportKind::CannotListen`] reports.
    Accepted,
    /// The agent rejected the table for this reason, and keeps its active table.
    Refused { why: String },
    /// Connections to a service were reset because no endpoint became ready within the limit. The
    /// agent sends at most one such report per second for each port of a service.
    NoReadyEndpoint {
        service: ServiceName,
        /// The requested port.
        port: u16,
        /// The number of connections since the last such report.
        connections: u64,
    },
    /// The agent cannot listen on an address of the table, because something else on the node uses
    /// the address. The agent retries until it succeeds.
    CannotListen {
        /// The service that the address belongs to; `None` for the agent's own address for DNS.
        service: Option<ServiceName>,
        address: SocketAddr,
        protocol: Protocol,
        /// The operating system's error.
        why: String,
    },
    /// The number of open connections of a draining instance. Reported after each accepted table, and
    /// when it changes.
    Draining {
        instance: InstanceId,
        container: String,
        /// The number of open connections.
        open: u64,
    },
}
