//! Opens handles to nodes over SSH. All callers that use a node share one handle until the node
//! reboots.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lifecycle_core::cloud::ObservedNode;
use lifecycle_core::host::{NodeConnector, NodeHandle};
use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};

use crate::engine::DockerEngine;
use crate::ssh::{Jump, JumpHost, SshAccess, SshCredential, SshTarget, SshTimings};

/// Selects which address of a node to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChoice {
    /// The private address, for clients within the platform's network.
    Private,
    /// For clients outside the network: the public address if there is one, otherwise the private
    /// address.
    PublicThenPrivate,
}

impl AddressChoice {
    fn of(self, node: &ObservedNode) -> Result<IpAddr> {
        let addresses = &node.addresses;
        let chosen = match self {
            Self::Private => addresses.private,
            Self::PublicThenPrivate => addresses.public.or(addresses.private),
        };
        chosen.ok_or_else(|| {
            Error::unreachable(
                format!("node {}", node.name),
                Some("the node has no address yet".into()),
            )
        })
    }
}

/// The values that require a new handle when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    boot_id: Option<String>,
    address: IpAddr,
    private: Option<IpAddr>,
    through_jump: bool,
    port: u16,
    user: String,
    host_keys: Vec<String>,
}

#[derive(Debug, Clone)]
struct Known {
    identity: Identity,
    access: Arc<SshAccess>,
    handle: NodeHandle,
}

/// Connects to nodes over SSH, with the same credential for all nodes. The account's name is part
/// of each node's description.
#[derive(Debug)]
pub struct SshConnector {
    credential: SshCredential,
    owner: Owner,
    addresses: AddressChoice,
    timings: SshTimings,
    jump: Option<Arc<Jump>>,
    binds_privately: bool,
    known: Mutex<HashMap<NodeName, Known>>,
}

impl SshConnector {
    /// Creates a connector for one platform's nodes.
    pub fn new(credential: SshCredential, owner: Owner, addresses: AddressChoice) -> Self {
        Self {
            credential,
            owner,
            addresses,
            timings: SshTimings::default(),
            jump: None,
            binds_privately: false,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// Replaces the timeouts.
    #[must_use]
    pub fn with_timings(mut self, timings: SshTimings) -> Self {
        self.timings = timings;
        self.jump = self.jump.map(|jump| Arc::new(jump.with_timings(timings)));
        self
    }

    /// Binds the host ports that the platform chooses for containers to the private address of their
    /// node only ([`DockerEngine::bound_to`]).
    #[must_use]
    pub fn with_private_ports(mut self) -> Self {
        self.binds_privately = true;
        self
    }

    /// Connects through a jump host to the nodes that have no usable public address. All these
    /// nodes share one connection to the jump host. Returns [`Error::Invalid`] if the jump host's
    /// key is missing or cannot be parsed.
    pub fn through(mut self, jump: JumpHost) -> Result<Self> {
        self.jump = Some(Arc::new(Jump::new(jump, self.timings)?));
        Ok(self)
    }

    /// Returns the address to connect to, and the jump host to connect through, if any.
    fn way(&self, node: &ObservedNode) -> Result<(IpAddr, Option<&Arc<Jump>>)> {
        let Some(jump) = &self.jump else {
            return Ok((self.addresses.of(node)?, None));
        };
        let address = self.addresses.of(node)?;
        let is_public = node.addresses.public == Some(address);
        Ok((address, (!is_public).then_some(jump)))
    }

    fn handle(&self, node: &ObservedNode) -> Result<Known> {
        let (address, jump) = self.way(node)?;
        let identity = Identity {
            boot_id: node.boot_id.clone(),
            address,
            private: node.addresses.private,
            through_jump: jump.is_some(),
            port: node.ssh.port,
            user: node.ssh.user.clone(),
            host_keys: node.ssh.host_keys.clone(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&node.name)
            && found.identity == identity
        {
            return Ok(found.clone());
        }
        let target = SshTarget {
            node: node.name.clone(),
            address: identity.address,
            port: identity.port,
            user: identity.user.clone(),
            host_keys: identity.host_keys.clone(),
        };
        let jump = jump.map(Arc::clone);
        let access = SshAccess::through(jump, target, &self.credential, self.timings)?;
        let access = Arc::new(access);
        let engine = DockerEngine::over_ssh(Arc::clone(&access), self.owner.clone())?;
        let private = identity.private.filter(|_| self.binds_privately);
        let opened = Known {
            identity,
            handle: NodeHandle {
                host: Arc::clone(&access) as _,
                runtime: Arc::new(engine.bound_to(private)),
            },
            access,
        };
        known.insert(node.name.clone(), opened.clone());
        Ok(opened)
    }
}

#[async_trait]
impl NodeConnector for SshConnector {
    async fn connect(&self, node: &ObservedNode) -> Result<NodeHandle> {
        let known = self.handle(node)?;
        known.access.check().await?;
        Ok(known.handle)
    }

    async fn jump_host(&self) -> Option<(String, Result<()>)> {
        let jump = self.jump.as_ref()?;
        Some((jump.name().to_owned(), jump.check().await))
    }
}

#[cfg(test)]
mod tests {
    use lifecycle_core::cloud::{OpenPorts, Power, SshAddress};
    use lifecycle_core::model::{Addresses, PlatformName};
    use lifecycle_core::secret::Sensitive;

    use super::*;

    fn connector(addresses: AddressChoice) -> SshConnector {
        SshConnector::new(
            SshCredential::Password(Sensitive::new("x")),
            Owner {
                id: "12345678-1234-4234-8234-123456789abc".parse().unwrap(),
                name: PlatformName::try_from("demo").unwrap(),
            },
            addresses,
        )
    }

    fn node(boot_id: &str) -> ObservedNode {
        ObservedNode {
            name: NodeName::try_from("vm1").unwrap(),
            provider_id: "x".into(),
            power: Power::Running,
            addresses: Addresses {
                private: Some([127, 0, 0, 1].into()),
                public: None,
            },
            ssh: SshAddress {
                user: "ops".into(),
                port: 1,
                host_keys: Vec::new(),
            },
            boot_id: Some(boot_id.into()),
            created: true,
            open_ports: OpenPorts::default(),
        }
    }

    #[tokio::test]
    async fn a_node_has_one_handle_per_boot() {
        let connector = connector(AddressChoice::Private);
        let first = connector.handle(&node("a")).unwrap();
        let again = connector.handle(&node("a")).unwrap();
        let later = connector.handle(&node("b")).unwrap();
        assert!(Arc::ptr_eq(&first.access, &again.access));
        assert!(!Arc::ptr_eq(&first.access, &later.access));
    }

    #[tokio::test]
    async fn a_node_that_does_not_respond_is_unreachable() {
        let connector = connector(AddressChoice::PublicThenPrivate);
        let error = connector.connect(&node("a")).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("vm1"), "{error}");
    }

    #[test]
    fn uses_the_public_address_only_from_outside() {
        let mut node = node("a");
        node.addresses.public = Some([192, 0, 2, 1].into());
        let outside = AddressChoice::PublicThenPrivate.of(&node).unwrap();
        assert_eq!(outside, IpAddr::from([192, 0, 2, 1]));
        let inside = AddressChoice::Private.of(&node).unwrap();
        assert_eq!(inside, IpAddr::from([127, 0, 0, 1]));
        node.addresses = Addresses::default();
        assert!(AddressChoice::Private.of(&node).is_err());
    }
}
