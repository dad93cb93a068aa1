//! Reads the engine's default network, `bridge`. Containers of all networks reach the machine at
//! the gateway address of this network.

use std::net::Ipv4Addr;
use std::path::Path;

use bollard::query_parameters::InspectNetworkOptions;
use lifecycle_core::{Error, Result};

use super::engine::{self, engine_error};
use super::subnet::Subnet;

/// An engine's default bridge network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// The machine's address on the bridge.
    pub gateway: Ipv4Addr,
    pub subnet: Subnet,
}

impl Bridge {
    /// Reads the default bridge network of the engine at `socket`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if no engine responds; [`Error::Invalid`] if the network has no IPv4
    /// subnet.
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
            // An engine that has not yet started a container on this network may omit the gateway.
            let gateway = config.gateway.as_deref().and_then(|text| text.parse().ok());
            Some(Self {
                gateway: gateway.unwrap_or_else(|| subnet.gateway()),
                subnet,
            })
        });
        bridge.ok_or_else(|| {
            Error::invalid(
                what,
                "the network has no IPv4 subnet",
                "enable the engine's default bridge network, and give it an IPv4 subnet",
            )
        })
    }
}
