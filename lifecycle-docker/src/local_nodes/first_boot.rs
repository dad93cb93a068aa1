//! Describes a stock node: the input of its first boot, and its address, firewall, and metadata
//! service. As on a cloud VM, Debian's cloud-init carries out the first boot. It reads the input
//! from files (the `NoCloud` data source).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use russh::keys::PublicKey;
use serde_json::json;

use super::inbound;
use super::subnet::Subnet;

/// The directory from which cloud-init reads the node's input.
const SEED: &str = "var/lib/cloud/seed/nocloud";
/// The file with settings that a cloud adds to its images. cloud-init reads this file after
/// Debian's own settings.
const SETTINGS: &str = "etc/cloud/cloud.cfg.d/99-node.cfg";
/// The maximum length of an account name on Linux.
const LONGEST_ACCOUNT: usize = 32;

/// Describes a node that boots Debian's stock image, as on a cloud. Its only account is `account`,
/// and it has no engine unless its first boot installs one.
///
/// cloud-init applies this description at a machine's first boot only.
#[derive(Debug, Clone)]
pub struct FirstBoot {
    /// The name of the account to create. The account can use `sudo` and has no password.
    pub account: String,
    /// The public keys that the account accepts, in OpenSSH format.
    pub authorized_keys: Vec<String>,
    pub host_name: String,
    /// The user data for cloud-init, in Base64.
    pub user_data: Option<Sensitive>,
    /// The node's address in the nodes' network. If `None`, the lowest free address is used.
    pub address: Option<Ipv4Addr>,
    /// The TCP ports that are open to traffic from outside the nodes' network. All other traffic
    /// from outside is dropped, even traffic from the machine that runs the engine. Traffic between
    /// nodes is not filtered. [`LocalNodes::set_inbound`](super::LocalNodes::set_inbound) changes the
    /// ports later.
    pub inbound: Vec<RangeInclusive<u16>>,
    /// Networks outside the nodes' network that the node must reach. The node's own engine chooses
    /// other subnets for its bridges.
    pub outside: Vec<Subnet>,
    /// The server that acts as the cloud's metadata service, at 169.254.169.254 on the node.
    pub metadata_service: Option<SocketAddrV4>,
}

impl FirstBoot {
    /// Describes a node with an account that accepts no keys, and with a firewall that blocks all
    /// traffic from outside.
    pub fn new(account: impl Into<String>, host_name: impl Into<String>) -> Self {
        Self {
            account: account.into(),
            authorized_keys: Vec::new(),
            host_name: host_name.into(),
            user_data: None,
            address: None,
            inbound: Vec::new(),
            outside: Vec::new(),
            metadata_service: None,
        }
    }

    /// Rejects values that Debian does not accept, and values that would corrupt the files to which
    /// they are written.
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |what: String, why: &str, hint: &str| Error::invalid(what, why, hint);
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        let account = self.account.as_str();
        if account.len() > LONGEST_ACCOUNT
            || !account.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            || !account.chars().all(fits)
        {
            return Err(invalid(
                format!("the account `{account}`"),
                "Debian does not accept this account name",
                "use lower-case letters, digits, `-` and `_`, at most 32 characters, starting \
                 with a letter",
            ));
        }
        let is_key = |key: &String| PublicKey::from_openssh(key.trim()).is_ok();
        if !self.authorized_keys.iter().all(is_key) {
            return Err(invalid(
                format!("a key of the account `{account}`"),
                "it is not a single public key in OpenSSH format",
                "pass the line of a `.pub` file, for example `ssh-ed25519 AAAA…`",
            ));
        }
        self.user_data_bytes().map(drop)
    }

    fn user_data_bytes(&self) -> Result<Vec<u8>> {
        let Some(data) = &self.user_data else {
            return Ok(Vec::new());
        };
        STANDARD.decode(data.expose()).map_err(|_| {
            Error::invalid(
                "the user data of a node",
                "it is not Base64",
                "encode the user data, for example with `base64 -w0`",
            )
        })
    }

    /// Returns the environment for the node's entrypoint.
    pub(super) fn environment(&self) -> Vec<String> {
        let words = |words: Vec<String>| words.join(" ");
        let outside = self.outside.iter().map(ToString::to_string);
        let metadata = self.metadata_service.map(|address| address.to_string());
        vec![
            format!("NODE_INBOUND={}", inbound::words(&self.inbound)),
            format!("NODE_OUTSIDE={}", words(outside.collect())),
            format!("NODE_METADATA={}", metadata.unwrap_or_default()),
        ]
    }

    /// Returns the files that cloud-init reads, as an archive for the node's root directory.
    pub(super) fn seed(&self, instance: &str) -> Result<Bytes> {
        let settings = json!({
            "datasource_list": ["NoCloud"],
            "network": { "config": "disabled" },
            // The only locale of a minimal Debian.
            "locale": "C.UTF-8",
            "system_info": { "default_user": { "name": self.account } },
        });
        let about = json!({
            "instance-id": instance,
            "local-hostname": self.host_name,
            "public-keys": self.authorized_keys,
        });
        // JSON is valid YAML, so no YAML writer is needed.
        let files = [
            (SETTINGS.to_owned(), format!("{settings}\n").into_bytes()),
            (
                format!("{SEED}/meta-data"),
                format!("{about}\n").into_bytes(),
            ),
            (format!("{SEED}/user-data"), self.user_data_bytes()?),
        ];
        let mut archive = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(contents.len() as u64);
            archive
                .append_data(&mut header, name, contents.as_slice())
                .map_err(|error| Error::io("writing the input of cloud-init", error))?;
        }
        let archive = archive
            .into_inner()
            .map_err(|error| Error::io("writing the input of cloud-init", error))?;
        Ok(archive.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIII6fX/0SqxN5uKL92X3reblSoar81B6yIgED6RWolKy";

    fn first_boot() -> FirstBoot {
        FirstBoot {
            authorized_keys: vec![KEY.into()],
            user_data: Some(Sensitive::new(STANDARD.encode("#cloud-config\n{}\n"))),
            inbound: vec![22..=22, 8000..=8010],
            outside: vec!["172.17.0.0/16".parse().unwrap()],
            ..FirstBoot::new("azureuser", "vm1")
        }
    }

    #[test]
    fn the_seed_contains_account_keys_and_user_data() {
        let archive = first_boot().seed("i-1").unwrap();
        let mut archive = tar::Archive::new(archive.as_ref());
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600);
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(
            files["var/lib/cloud/seed/nocloud/user-data"],
            "#cloud-config\n{}\n"
        );
        let about = &files["var/lib/cloud/seed/nocloud/meta-data"];
        assert!(about.contains(KEY) && about.contains("\"i-1\""), "{about}");
        let settings = &files["etc/cloud/cloud.cfg.d/99-node.cfg"];
        assert!(settings.contains("azureuser"), "{settings}");
    }

    #[test]
    fn the_environment_contains_the_network_but_no_secret() {
        let environment = first_boot().environment();
        assert_eq!(
            environment,
            [
                "NODE_INBOUND=22:22 8000:8010",
                "NODE_OUTSIDE=172.17.0.0/16",
                "NODE_METADATA="
            ]
        );
    }

    #[test]
    fn rejects_values_that_debian_does_not_accept() {
        for account in ["", "Admin", "a b", "1st", "a\nb", &"a".repeat(33)] {
            let wrong = FirstBoot {
                account: account.to_owned(),
                ..first_boot()
            };
            assert!(wrong.check().is_err(), "{account}");
        }
        let wrong = FirstBoot {
            user_data: Some(Sensitive::new("#cloud-config")),
            ..first_boot()
        };
        assert!(wrong.check().is_err());
        first_boot().check().unwrap();
    }
}
