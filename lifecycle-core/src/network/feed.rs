//! What an agent says while it is fed with tables: one line of JSON for each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, InstanceId, Protocol, ServiceName};

/// One line of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch of the table that is in force.
    pub epoch: Epoch,
    /// The version of the table that is in force.
    pub version: u64,
    /// What there is to say.
    #[serde(flatten)]
    pub kind: ReportKind,
}

/// What an agent has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "report")]
pub enum ReportKind {
    /// The table is in force: its names resolve, its addresses listen, but for those of which
    /// [`ReportKind::CannotListen`] is said.
    Accepted,
    /// The table was refused, with the reason; the one in force is newer.
    Refused {
        /// Why, in words.
        why: String,
    },
    /// Connections to a service were given up, since no endpoint got ready within the limit.
    /// At most one a second and service.
    NoReadyEndpoint {
        /// The service.
        service: ServiceName,
        /// The port that was asked for.
        port: u16,
        /// How many connections since the last such report.
        connections: u64,
    },
    /// Nobody listens at an address of the table, since something else on the node has it. It is
    /// tried again until it works.
    CannotListen {
        /// Whose address it is. `None`: the agent's own, where it answers DNS.
        service: Option<ServiceName>,
        /// The address and port.
        address: SocketAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// What the operating system says.
        why: String,
    },
    /// How many connections of a draining instance are open. Said when it changes.
    Draining {
        /// The instance.
        instance: InstanceId,
        /// Its container's name.
        container: String,
        /// How many connections are open.
        open: u64,
    },
}
