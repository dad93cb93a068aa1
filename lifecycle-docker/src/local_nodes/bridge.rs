//! The network that every engine has: by its gateway, containers of all networks reach the machine.

use std::net::Ipv4Addr;
use std::path::Path;

use bollard::query_parameters::InspectNetworkOptions;
use lifecycle_core::{Error, Result};

use super::engine::{self, engine_error};
use super::subnet::Subnet;

/// An engine's own bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// The machine's address on it.
    pub gateway: Ipv4Addr,
    /// Its block.
    pub subnet: Subnet,
}

impl Bridge {
    /// Asks the engine behind a socket.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without an engine; [`Error::Invalid`] if it has no such network.
    pub async fn of(socket: &Path) -> Result<Self> {
        let what = "the engine's network `bridge`";
        let network = engine::open(socket)?
            .inspect_network("bridge", None::<InspectNetworkOptions>)
            .await
            .map_err(|error| engine_error(what, error))?;
        let configured = network
            .ipam
            .and_then(|ipam| ipam.config)
            .unwrap_or_default();
        let bridge = configured.iter().find_map(|config| {
            let subnet: Subnet = config.subnet.as_deref()?.parse().ok()?;
            // Engines that have not yet started a container on it may leave the gateway out.
            let gateway = config.gateway.as_deref().and_then(|text| text.parse().ok());
            Some(Self {
                gateway: gateway.unwrap_or_else(|| subnet.gateway()),
                subnet,
            })
        });
        bridge.ok_or_else(|| {
            Error::invalid(
                what,
                "it has no IPv4 block",
                "let the engine have its bridge, or name an address",
            )
        })
    }
}
