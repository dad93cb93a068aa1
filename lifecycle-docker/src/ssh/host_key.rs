//! Which host keys are accepted: those that the provider tells, and no others.

use lifecycle_core::Result;
use russh::client;
use russh::keys::ssh_key::{Algorithm, PublicKey};
use russh::keys::{HashAlg, PublicKeyOrCertificate};

use crate::error::SshError;

/// Checks the key of one connection.
pub(super) struct HostKeyCheck {
    pinned: Vec<PublicKey>,
}

impl HostKeyCheck {
    /// The check by the keys that the provider told, in OpenSSH form. If it told none, nobody
    /// is trusted.
    pub(super) fn new(told: &[String]) -> Result<Self, SshError> {
        Ok(Self {
            pinned: parse(told)?,
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

/// The keys in what `ssh-keyscan` prints, or in plain OpenSSH form, without the hosts' names.
pub(super) fn scanned(told: &[String]) -> Vec<String> {
    let lines = told.iter().flat_map(|text| text.lines().map(str::trim));
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
    fn another_key_than_was_told_is_refused() {
        let check = HostKeyCheck::new(&[ONE.to_owned()]).unwrap();
        check.accept(&key(ONE)).unwrap();
        let error = check.accept(&key(TWO)).unwrap_err();
        assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
        assert_eq!(check.algorithms(), Some(vec![Algorithm::Ed25519]));
    }

    #[test]
    fn keys_are_taken_as_ssh_keyscan_prints_them() {
        let printed = format!("# 10.0.0.4:22 SSH-2.0-OpenSSH_9.2p1\n10.0.0.4 {ONE}\n\n");
        let keys = scanned(&[printed, TWO.to_owned()]);
        assert_eq!(keys, [ONE, TWO]);
        let [nonsense] = &scanned(&["no key".to_owned()])[..] else {
            panic!("not one");
        };
        assert!(HostKeyCheck::new(std::slice::from_ref(nonsense)).is_err());
    }

    #[test]
    fn without_a_key_nobody_is_trusted() {
        let check = HostKeyCheck::new(&[]).unwrap();
        let error = check.accept(&key(ONE)).unwrap_err();
        assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{error}");
    }
}
