//! Creates the provider of local nodes from a platform's declaration.

use std::path::PathBuf;

use lifecycle_core::Result;
use lifecycle_core::host::OPERATOR_ENGINE_SOCKET;
use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Owner;

use super::{LocalNodes, LocalNodesOptions};

impl LocalNodes {
    /// Creates the provider for the bootstrapper. The nodes run on the engine at `socket`. Only the
    /// bootstrapper creates `manager_node`.
    ///
    /// # Errors
    /// [`lifecycle_core::Error::Invalid`] if the subnet or the key is invalid.
    pub fn for_bootstrapper(
        subnet: Option<&str>,
        owner: Owner,
        authorized_key: impl Into<String>,
        socket: PathBuf,
        manager_node: NodeName,
    ) -> Result<Self> {
        let mut options = LocalNodesOptions::declared(subnet, owner, authorized_key)?;
        options.socket = socket;
        options.manager_node = Some(manager_node);
        Self::new(options)
    }

    /// Creates the provider for the manager. The nodes run on the operator's engine, whose socket
    /// is mounted on the manager's node.
    ///
    /// # Errors
    /// The same errors as [`LocalNodes::for_bootstrapper`].
    pub fn for_manager(
        subnet: Option<&str>,
        owner: Owner,
        authorized_key: impl Into<String>,
    ) -> Result<Self> {
        let mut options = LocalNodesOptions::declared(subnet, owner, authorized_key)?;
        options.socket = OPERATOR_ENGINE_SOCKET.into();
        Self::new(options)
    }
}

impl LocalNodesOptions {
    fn declared(
        subnet: Option<&str>,
        owner: Owner,
        authorized_key: impl Into<String>,
    ) -> Result<Self> {
        Ok(Self {
            subnet: subnet.map(str::parse).transpose()?,
            ..Self::new(owner, authorized_key)
        })
    }
}
