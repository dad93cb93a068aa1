//! Reads the keys of `[nodes.<name>]` that describe a machine that exists already: its addresses,
//! and how to log in.

use std::net::IpAddr;

use super::super::NodeLogin;
use super::super::diagnostic::Report;
use super::super::hosts::{HostPlace, HostSpec, Membership};
use super::super::secret_reference::SecretReader;
use super::super::tree::Field;
use super::cloud::{Provider, filled, host_and_port};
use crate::cloud::MachineSpec;
use crate::model::Existing;
use crate::secret::Sensitive;

/// The keys of a node that are only for machines that exist already.
pub(in super::super) const HOST: [&str; 9] = [
    "address",
    "existing",
    "host_key",
    "key",
    "password",
    "port",
    "private_address",
    "provider",
    "user",
];
/// The keys that are only for machines that are reached by address, and not for VMs of the cloud.
const BY_ADDRESS: [&str; 2] = ["address", "private_address"];
/// The keys of a node that are only for providers that create machines.
const CREATED: [&str; 2] = ["image", "size"];

/// The default port of SSH.
const SSH: u16 = 22;

/// Returns whether a node exists already, and what it is then. `provider` is the platform's.
pub(super) fn kind(provider: Provider, node: &Field<'_>, report: &mut Report) -> Option<Existing> {
    let by_address = node.get("provider").filter(|field| {
        let words = [("hosts", ())];
        field.word(report, &words).is_some()
    });
    let vm = node.get("existing");
    match (provider, by_address, vm) {
        (Provider::Hosts, _, None) | (Provider::Azure, Some(_), None) => Some(Existing::Host),
        (Provider::Hosts, _, Some(field)) => {
            let help = "remove this key: all nodes of this platform exist already";
            field.problem_with_help(report, "this key is only for VMs of Azure", help);
            Some(Existing::Host)
        }
        (Provider::Azure, Some(_), Some(field)) => {
            let help = "keep `existing` for a VM of the subscription, or `provider` for a machine \
                        elsewhere";
            field.problem_with_help(report, "`existing` and `provider` exclude each other", help);
            Some(Existing::Vm)
        }
        (Provider::Azure, None, Some(_)) => Some(Existing::Vm),
        (Provider::Azure | Provider::Local, None, None) => None,
        (Provider::Local, Some(field), _) | (Provider::Local, None, Some(field)) => {
            let help = "set `provider = \"hosts\"` or `provider = \"azure\"` in `[cloud]`";
            field.problem_with_help(report, "local nodes cannot exist already", help);
            None
        }
    }
}

/// Returns whether a key of a node is valid. If not, reports why.
pub(super) fn is_valid_key(
    key: &str,
    existing: Option<Existing>,
    field: &Field<'_>,
    report: &mut Report,
) -> bool {
    match existing {
        Some(_) if CREATED.contains(&key) => {
            let help = "remove this key: the machine exists already";
            field.problem_with_help(report, "this key is not valid for existing machines", help);
            false
        }
        Some(Existing::Vm) if BY_ADDRESS.contains(&key) => {
            let help = "remove this key: Azure reports the addresses of the VM";
            field.problem_with_help(report, "this key is not valid for VMs of Azure", help);
            false
        }
        None if key != "provider" && key != "existing" && HOST.contains(&key) => {
            let help = "set `provider = \"hosts\"` in `[cloud]`, or for a single node of Azure in the \
                        node itself, to use machines that exist already, or remove this key";
            field.problem_with_help(report, "this key is only for existing machines", help);
            false
        }
        _ => true,
    }
}

/// Reads a machine that is requested at run time.
pub(in super::super) fn machine(
    address: &str,
    private_address: Option<IpAddr>,
    port: Option<u16>,
    user: &str,
    host_key: Option<&str>,
) -> Result<MachineSpec, String> {
    let port = port.unwrap_or(SSH);
    if port == 0 {
        return Err("`0` is not a port".to_owned());
    }
    let host_keys = host_key.map(filled).transpose()?;
    Ok(MachineSpec {
        address: address_of_host(address)?,
        private_address,
        port,
        user: account(user)?,
        host_keys: host_keys.into_iter().collect(),
    })
}

/// Reads the machine of a node, and how to log in to the machine.
pub(super) fn read(
    existing: Existing,
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    report: &mut Report,
) -> Option<(HostSpec, NodeLogin)> {
    let mut login = NodeLogin::default();
    let (mut address, mut private_address, mut user, mut vm) = (None, None, None, None);
    let (mut port, mut host_keys) = (SSH, Vec::new());
    for (key, field) in field.entries(report) {
        match key {
            "address" => address = field.parse(report, address_of_host),
            "existing" => vm = field.parse(report, name_of_vm),
            "private_address" => private_address = field.parse(report, ip),
            "user" => user = field.parse(report, account),
            "port" => {
                let number = field.number(report, 1, u32::from(u16::MAX));
                port = number.and_then(|n| u16::try_from(n).ok()).unwrap_or(port);
            }
            "host_key" => host_keys = super::cloud::words(&field, report),
            "password" => login.password = secret(&field, secrets, &mut login.unavailable, report),
            "key" => login.key = secret(&field, secrets, &mut login.unavailable, report),
            _ => {}
        }
    }
    let required: &[&str] = match existing {
        Existing::Host => &["address", "user"],
        Existing::Vm => &["user"],
    };
    for key in required {
        if field.is_map() && field.get(key).is_none() {
            let help = match existing {
                Existing::Host => {
                    "write, for example, `address = \"203.0.113.7\"` and `user = \"admin\"`"
                }
                Existing::Vm => {
                    "write the account for the first login, for example `user = \"admin\"`"
                }
            };
            field.problem_with_help(report, format!("`{key}` is missing"), help);
        }
    }
    let place = match existing {
        Existing::Host => HostPlace::Address {
            address: address?,
            private_address,
        },
        Existing::Vm => HostPlace::Vm { vm: vm? },
    };
    let host = HostSpec {
        place,
        port,
        user: user?,
        host_keys,
        membership: Membership::New,
        id: None,
    };
    Some((host, login))
}

fn secret(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    unavailable: &mut Option<String>,
    report: &mut Report,
) -> Option<Sensitive> {
    match secrets.optional_secret(field, report)? {
        Ok(secret) => Some(secret),
        Err(why) => {
            *unavailable = Some(why);
            None
        }
    }
}

fn address_of_host(text: &str) -> Result<String, String> {
    let text = filled(text)?;
    if text.contains(':') && text.parse::<IpAddr>().is_err() {
        return Err(format!(
            "`{text}` is not an address; the port of the SSH server is a separate key, `port`"
        ));
    }
    host_and_port(&text).map(|(host, _)| host).map_err(|_| {
        format!("`{text}` is not an IP address or host name; write it like `203.0.113.7`")
    })
}

fn ip(text: &str) -> Result<IpAddr, String> {
    let bad = || format!("`{text}` is not an IP address; write it like `10.0.0.7`");
    text.trim().parse().map_err(|_| bad())
}

/// Checks the name of a VM, as Azure allows it.
fn name_of_vm(text: &str) -> Result<String, String> {
    let text = filled(text)?;
    let is_valid = text.len() <= 64
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_valid {
        return Ok(text);
    }
    Err(format!(
        "`{text}` is not the name of a VM; write the name without the resource group, like \
         `db-server`"
    ))
}

/// Checks the name of an account. Names that a shell or SSH could misunderstand are rejected.
fn account(text: &str) -> Result<String, String> {
    let text = filled(text)?;
    let is_valid = !text.starts_with('-')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.@\\".contains(c));
    if is_valid {
        return Ok(text);
    }
    Err(format!("`{text}` is not the name of an account"))
}
