//! Which host keys are accepted: those that the provider tells, or, for machines that were
//! not made by us, the one that was offered first.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lifecycle_core::Result;
use lifecycle_core::model::NodeName;
use russh::client;
use russh::keys::ssh_key::{Algorithm, PublicKey};
use russh::keys::{HashAlg, PublicKeyOrCertificate};

use crate::error::SshError;

/// Remembers the host keys of machines whose provider cannot tell them.
///
/// # Guarantees
/// What `pin` was given, `pinned` returns from then on, in every process that shares the store.
#[async_trait]
pub trait HostKeyStore: Debug + Send + Sync + 'static {
    /// The keys that are pinned for a node, in OpenSSH form; none before the first connection.
    async fn pinned(&self, node: &NodeName) -> Result<Vec<String>>;

    /// Pins the key that a node offered first, in OpenSSH form.
    async fn pin(&self, node: &NodeName, key: &str) -> Result<()>;
}

/// Where trust in a host's key comes from, when the provider tells none.
#[derive(Debug, Clone)]
pub enum HostKeyTrust {
    /// Nowhere: the provider knows its nodes' keys, so a node without one is refused.
    Provider,
    /// The first connection: its key is remembered, another one later is refused.
    FirstUse(Arc<dyn HostKeyStore>),
}

/// Remembers host keys as long as the process lives.
#[derive(Debug, Default)]
pub struct MemoryHostKeys(Mutex<BTreeMap<NodeName, Vec<String>>>);

#[async_trait]
impl HostKeyStore for MemoryHostKeys {
    async fn pinned(&self, node: &NodeName) -> Result<Vec<String>> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(node).cloned().unwrap_or_default())
    }

    async fn pin(&self, node: &NodeName, key: &str) -> Result<()> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(node.clone()).or_default().push(key.to_owned());
        Ok(())
    }
}

/// Checks the key of one connection.
pub(super) struct HostKeyCheck {
    node: NodeName,
    pinned: Vec<PublicKey>,
    store: Option<Arc<dyn HostKeyStore>>,
}

impl HostKeyCheck {
    /// The check for a node: by the provider's keys if it told any, else by `trust`.
    pub(super) async fn new(
        node: &NodeName,
        told: &[String],
        trust: &HostKeyTrust,
    ) -> Result<Self, SshError> {
        let (pinned, store) = match (told, trust) {
            ([], HostKeyTrust::FirstUse(store)) => {
                let pins = store.pinned(node).await;
                let pins = pins.map_err(|e| SshError::Pins(e.chain()))?;
                (parse(&pins)?, Some(Arc::clone(store)))
            }
            (told, _) => (parse(told)?, None),
        };
        Ok(Self {
            node: node.clone(),
            pinned,
            store,
        })
    }

    /// The algorithms to ask for: a server with several keys must offer the kind that is pinned.
    pub(super) fn algorithms(&self) -> Option<Vec<Algorithm>> {
        if self.pinned.is_empty() {
            return None;
        }
        let mut wanted = Vec::new();
        for key in &self.pinned {
            match key.algorithm() {
                Algorithm::Rsa { .. } => wanted.extend(
                    [HashAlg::Sha512, HashAlg::Sha256]
                        .map(|hash| Algorithm::Rsa { hash: Some(hash) }),
                ),
                other => wanted.push(other),
            }
        }
        wanted.dedup();
        Some(wanted)
    }

    /// The fingerprints of the pinned keys, for messages.
    pub(super) fn pinned(&self) -> String {
        fingerprints(&self.pinned)
    }

    async fn accept(&self, offered: &PublicKey) -> Result<(), SshError> {
        if self
            .pinned
            .iter()
            .any(|pinned| pinned.key_data() == offered.key_data())
        {
            return Ok(());
        }
        let fingerprint = fingerprint(offered);
        if !self.pinned.is_empty() {
            return Err(SshError::HostKeyChanged {
                pinned: fingerprints(&self.pinned),
                offered: fingerprint,
            });
        }
        let Some(store) = &self.store else {
            return Err(SshError::HostKeyUnknown {
                offered: fingerprint,
            });
        };
        let line = PublicKey::new(offered.key_data().clone(), "")
            .to_openssh()
            .map_err(|e| SshError::Protocol(e.into()))?;
        store
            .pin(&self.node, line.trim())
            .await
            .map_err(|e| SshError::Pins(e.chain()))?;
        tracing::info!(node = %self.node, key = %fingerprint, "host key pinned on first use");
        Ok(())
    }
}

impl client::Handler for HostKeyCheck {
    type Error = SshError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.accept(key).await.map(|()| true),
            PublicKeyOrCertificate::Certificate(_) => Err(SshError::HostCertificate),
        }
    }
}

fn parse(lines: &[String]) -> Result<Vec<PublicKey>, SshError> {
    lines
        .iter()
        .map(|line| {
            PublicKey::from_openssh(line.trim()).map_err(|e| SshError::PinUnreadable(e.to_string()))
        })
        .collect()
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn fingerprints(keys: &[PublicKey]) -> String {
    keys.iter().map(fingerprint).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ one";
    const TWO: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X two";

    fn key(line: &str) -> PublicKey {
        PublicKey::from_openssh(line).unwrap()
    }

    fn node() -> NodeName {
        NodeName::try_from("vm1").unwrap()
    }

    #[tokio::test]
    async fn first_use_pins_and_a_second_key_is_refused() {
        let store = Arc::new(MemoryHostKeys::default());
        let trust = HostKeyTrust::FirstUse(Arc::clone(&store) as Arc<dyn HostKeyStore>);
        let first = HostKeyCheck::new(&node(), &[], &trust).await.unwrap();
        first.accept(&key(ONE)).await.unwrap();

        let later = HostKeyCheck::new(&node(), &[], &trust).await.unwrap();
        later.accept(&key(ONE)).await.unwrap();
        let error = later.accept(&key(TWO)).await.unwrap_err();
        assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
        assert_eq!(store.pinned(&node()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_providers_keys_go_before_first_use() {
        let store = Arc::new(MemoryHostKeys::default());
        let trust = HostKeyTrust::FirstUse(Arc::clone(&store) as Arc<dyn HostKeyStore>);
        let check = HostKeyCheck::new(&node(), &[ONE.to_owned()], &trust)
            .await
            .unwrap();
        assert!(check.accept(&key(TWO)).await.is_err());
        assert!(store.pinned(&node()).await.unwrap().is_empty());
        assert_eq!(check.algorithms(), Some(vec![Algorithm::Ed25519]));
    }

    #[tokio::test]
    async fn without_a_key_nobody_is_trusted_when_the_provider_should_know() {
        let check = HostKeyCheck::new(&node(), &[], &HostKeyTrust::Provider)
            .await
            .unwrap();
        let error = check.accept(&key(ONE)).await.unwrap_err();
        assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{error}");
    }
}
