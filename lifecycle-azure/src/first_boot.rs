//! Creates the cloud-init data for a VM's first boot. The data installs a container engine, and a
//! host key with which the first connection can be verified.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use serde_json::json;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};

/// A host key of an SSH server.
#[derive(Debug)]
pub(crate) struct HostKey {
    private: Sensitive,
    /// The public key in OpenSSH format, without a comment.
    pub(crate) public: String,
}

impl HostKey {
    /// Generates a host key.
    pub(crate) fn generate() -> Result<Self> {
        let failed =
            |error: ssh_key::Error| Error::failed("generating a host key", error.to_string());
        let pair = Ed25519Keypair::from_seed(&rand::random());
        let key = PrivateKey::new(KeypairData::Ed25519(pair), "").map_err(failed)?;
        let private = key.to_openssh(LineEnding::LF).map_err(failed)?;
        let public = key.public_key().to_openssh().map_err(failed)?;
        Ok(Self {
            private: Sensitive::new(private.as_str()),
            public: public.trim().to_owned(),
        })
    }

    /// Returns the `customData` of a VM, in Base64. The data is JSON, which is valid YAML.
    pub(crate) fn custom_data(&self) -> Sensitive {
        let config = json!({
            "ssh_deletekeys": true,
            "ssh_genkeytypes": ["ed25519"],
            "ssh_keys": {
                "ed25519_private": self.private.expose(),
                "ed25519_public": self.public,
            },
            // The network may not be available yet. If this installation fails, the node's
            // preparation installs the packages.
            "package_update": true,
            "packages": ["docker.io"],
        });
        Sensitive::new(STANDARD.encode(format!("#cloud-config\n{config}\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_boot_installs_the_reported_host_key() {
        let key = HostKey::generate().unwrap();
        assert!(key.public.starts_with("ssh-ed25519 AAAA"), "{}", key.public);
        let data = STANDARD.decode(key.custom_data().expose()).unwrap();
        let text = String::from_utf8(data).unwrap();
        let config = text.strip_prefix("#cloud-config\n").unwrap();
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        let private = config["ssh_keys"]["ed25519_private"].as_str().unwrap();
        let parsed = PrivateKey::from_openssh(private).unwrap();
        assert_eq!(parsed.public_key().to_openssh().unwrap().trim(), key.public);
        assert!(!format!("{key:?}").contains(private.lines().nth(1).unwrap()));
        assert_ne!(HostKey::generate().unwrap().public, key.public);
    }
}
