//! Verifies host keys. Only keys that the provider reported, or that are configured for a jump
//! host, are accepted.

use lifecycle_core::Result;
use russh::client;
use russh::keys::ssh_key::{Algorithm, PublicKey};
use russh::keys::{HashAlg, PublicKeyOrCertificate};

use crate::error::SshError;

/// Verifies the host key of one connection.
pub(super) struct HostKeyCheck {
    pinned: Vec<PublicKey>,
}

impl HostKeyCheck {
    /// Creates a check for the keys that the provider reported, in OpenSSH format. If `reported` is
    /// empty, the check rejects every host.
    pub(super) fn new(reported: &[String]) -> Result<Self, SshError> {
        Ok(Self {
            pinned: parse(reported)?,
        })
    }

    /// Returns the key algorithms to request, so that a server with several keys offers a key of a
    /// pinned type.
    pub(super) fn algorithms(&self) -> Option<Vec<Algorithm>> {
        if self.pinned.is_empty() {
            return None;
        }
        let mut algorithms = Vec::new();
        for key in &self.pinned {
            match key.algorithm() {
                Algorithm::Rsa { .. } => algorithms.extend(
                    [HashAlg::Sha512, HashAlg::Sha256]
                        .map(|hash| Algorithm::Rsa { hash: Some(hash) }),
                ),
                other => algorithms.push(other),
            }
        }
        algorithms.dedup();
        Some(algorithms)
    }

    /// Returns the fingerprints of the pinned keys, for messages.
    pub(super) fn pinned(&self) -> String {
        fingerprints(&self.pinned)
    }

    fn accept(&self, offered: &PublicKey) -> Result<(), SshError> {
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
        Err(SshError::HostKeyUnknown {
            offered: fingerprint,
        })
    }
}

impl client::Handler for HostKeyCheck {
    type Error = SshError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.accept(key).map(|()| true),
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

/// Extracts keys from the output of `ssh-keyscan`, or from lines in OpenSSH format. The result
/// contains no host names.
pub(crate) fn scanned(reported: &[String]) -> Vec<String> {
    let lines = reported.iter().flat_map(|text| text.lines().map(str::trim));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(char::is_whitespace) {
            Some((_, rest)) if PublicKey::from_openssh(line).is_err() => rest.trim().to_owned(),
            _ => line.to_owned(),
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

    #[test]
    fn rejects_a_host_key_that_is_not_pinned() {
        let check = HostKeyCheck::new(&[ONE.to_owned()]).unwrap();
        check.accept(&key(ONE)).unwrap();
        let error = check.accept(&key(TWO)).unwrap_err();
        assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
        assert_eq!(check.algorithms(), Some(vec![Algorithm::Ed25519]));
    }

    #[test]
    fn accepts_keys_as_printed_by_ssh_keyscan() {
        let printed = format!("# 10.0.0.4:22 SSH-2.0-OpenSSH_9.2p1\n10.0.0.4 {ONE}\n\n");
        let keys = scanned(&[printed, TWO.to_owned()]);
        assert_eq!(keys, [ONE, TWO]);
        let [nonsense] = &scanned(&["no key".to_owned()])[..] else {
            panic!("expected exactly one line");
        };
        assert!(HostKeyCheck::new(std::slice::from_ref(nonsense)).is_err());
    }

    #[test]
    fn rejects_every_host_without_a_pinned_key() {
        let check = HostKeyCheck::new(&[]).unwrap();
        let error = check.accept(&key(ONE)).unwrap_err();
        assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{error}");
    }
}
