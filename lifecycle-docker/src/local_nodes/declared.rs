//! From what a platform's files declare to its local nodes.

use std::path::PathBuf;

use lifecycle_core::Result;
use lifecycle_core::host::OPERATOR_ENGINE_SOCKET;
use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Owner;

use super::{LocalNodes, LocalNodesOptions};

impl LocalNodes {
    /// The nodes as the bootstrapper reaches them, through the engine at `socket`. It alone creates
    /// `manager_node`.
    ///
    /// # Errors
    /// [`lifecycle_core::Error::Invalid`] names the value that cannot be used.
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

    /// The nodes as the manager reaches them, from its own node.
    ///
    /// # Errors
    /// As [`LocalNodes::for_bootstrapper`].
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
