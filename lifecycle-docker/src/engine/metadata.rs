//! Blocks the cloud's metadata service for the containers and builds of a node, because it hands out
//! the credentials of the VM's identity. Containers of services that declare that they need it are in
//! a Docker network of their own. Containers on the node's network can always reach it.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::InspectNetworkOptions;
use lifecycle_core::host::{HostCommand, NodeAccess as _};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{DockerEngine, QUICK, spec};
use crate::ssh::SshAccess;

/// The prefix of the names of interfaces whose containers may use the metadata service.
const ALLOWED: &str = "lcm-";

/// Fills the chain in one transaction, then adds it to the chain that the engine evaluates first and
/// keeps when it restarts.
///
/// 169.254.169.254 is the metadata service of all large clouds. On Azure, 168.63.129.16 serves the
/// VM's agent and DNS
/// (<https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16>). The
/// original destination counts, because a node may translate it.
const BLOCK: &str = "\
    printf '%s\\n' '*filter' ':LIFECYCLE-METADATA - [0:0]' \
    '-A LIFECYCLE-METADATA -i lcm-+ -j RETURN' \
    '-A LIFECYCLE-METADATA -m conntrack --ctproto udp --ctorigdst 168.63.129.16 --ctorigdstport 53 -j RETURN' \
    '-A LIFECYCLE-METADATA -m conntrack --ctproto tcp --ctorigdst 168.63.129.16 --ctorigdstport 53 -j RETURN' \
    '-A LIFECYCLE-METADATA -m conntrack --ctdir ORIGINAL --ctorigdst 168.63.129.16 -j REJECT' \
    '-A LIFECYCLE-METADATA -m conntrack --ctdir ORIGINAL --ctorigdst 169.254.169.254 -j REJECT' \
    COMMIT | iptables-restore -w --noflush && \
    { iptables -w -C DOCKER-USER -j LIFECYCLE-METADATA 2>/dev/null || \
      iptables -w -I DOCKER-USER -j LIFECYCLE-METADATA; }";

/// Removes the chain, after the containers and networks. For a machine that leaves the platform.
pub(crate) const UNBLOCK: &str = "\
    while iptables -w -D DOCKER-USER -j LIFECYCLE-METADATA 2>/dev/null; do :; done; \
    iptables -w -F LIFECYCLE-METADATA 2>/dev/null; \
    iptables -w -X LIFECYCLE-METADATA 2>/dev/null";

/// How long the rules count as present. A node takes longer to reboot.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Blocks the metadata service of one node.
#[derive(Debug, Clone, Default)]
pub(super) struct Metadata {
    /// `None` for the engine of this machine, whose firewall belongs to the user.
    access: Option<Arc<SshAccess>>,
    /// When the rules were last added.
    blocked_at: Arc<Mutex<Option<Instant>>>,
}

impl Metadata {
    pub(super) fn of(access: Arc<SshAccess>) -> Self {
        Self {
            access: Some(access),
            blocked_at: Arc::default(),
        }
    }

    /// Ensures that containers cannot reach the metadata service.
    pub(super) async fn block(&self) -> Result<()> {
        let Some(access) = &self.access else {
            return Ok(());
        };
        let mut blocked_at = self.blocked_at.lock().await;
        if blocked_at.is_some_and(|at| at.elapsed() < KNOWN_FOR) {
            return Ok(());
        }
        let began = Instant::now();
        let output = access.exec(HostCommand::new(BLOCK).as_root()).await?;
        output.success("blocking the cloud's metadata service for containers")?;
        *blocked_at = Some(began);
        Ok(())
    }
}

/// The name of the network for containers that may use the metadata service.
pub(super) fn network_name(owner: &Owner) -> String {
    format!("{}-{}-metadata", owner.name, owner.id.short())
}

impl DockerEngine {
    /// Ensures that the network for containers that may use the metadata service exists.
    pub(super) async fn ensure_metadata_network(&self) -> Result<()> {
        let name = network_name(&self.owner);
        let what = format!("creating network {name}");
        let inspect = self
            .docker
            .inspect_network(&name, None::<InspectNetworkOptions>);
        match self.within(QUICK, &what, inspect).await {
            Ok(_) => return Ok(()),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let interface = format!("{ALLOWED}{}", self.owner.id.short());
        let create = self.docker.create_network(NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(spec::owner_labels(&self.owner)),
            options: Some([("com.docker.network.bridge.name".to_owned(), interface)].into()),
            ..NetworkCreateRequest::default()
        });
        match self.within(QUICK, &what, create).await {
            // Another caller has created it meanwhile.
            Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_allowed_networks_match_the_rule() {
        assert!(BLOCK.contains(&format!("-i {ALLOWED}+ -j RETURN")));
        // The kernel limits names of interfaces to 15 bytes. A short id has 6.
        assert!(ALLOWED.len() + 6 <= 15);
    }
}
