//! Reads `[cloud]`: the provider of nodes and its settings.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::super::azure::{AzureSpec, JumpHostSpec, LoginSpec};
use super::super::compose::value;
use super::super::diagnostic::Report;
use super::super::secret_reference::SecretReader;
use super::super::tree::Field;
use super::super::{CloudSpec, Credentials, HostsSpec};
use crate::cloud::CloudDeadlines;

/// The keys for local nodes.
const LOCAL: [&str; 3] = ["deadlines", "provider", "subnet"];
/// The keys for machines that exist already.
const HOSTS: [&str; 2] = ["deadlines", "provider"];
/// All keys of `[cloud]`, which are also the keys for Azure.
pub(in super::super) const CLOUD: [&str; 18] = [
    "account",
    "authority",
    "ca",
    "deadlines",
    "endpoint",
    "identity",
    "image",
    "jump_host",
    "location",
    "login",
    "provider",
    "public_ip",
    "resource_group",
    "size",
    "ssh_from",
    "subnet",
    "subscription",
    "zones",
];
pub(in super::super) const LOGIN: [&str; 4] = ["client", "method", "secret", "tenant"];
pub(in super::super) const JUMP_HOST: [&str; 4] = ["address", "host_key", "key", "user"];
pub(in super::super) const DEADLINES: [&str; 5] = ["create", "delete", "restart", "start", "stop"];
/// The login methods that can be selected.
pub(in super::super) const METHODS: [&str; 4] = [
    "azure-cli",
    "client-secret",
    "managed-identity",
    "workload-identity",
];
pub(in super::super) const PROVIDERS: [&str; 3] = ["azure", "hosts", "local"];

/// The default port of SSH.
const SSH: u16 = 22;
/// The shortest reasonable timeout.
const SHORTEST: Duration = Duration::from_secs(10);

/// The provider of nodes that `platform.toml` selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Local,
    Azure,
    Hosts,
}

impl Provider {
    /// Returns the provider in `[cloud]`, or the local one by default. Ignores errors, which
    /// [`read`] reports.
    pub(super) fn of(cloud: Option<&Field<'_>>) -> Self {
        let named = cloud.and_then(|cloud| cloud.get("provider"));
        match named.and_then(|named| named.text(&mut Report::new(""))) {
            Some("azure") => Self::Azure,
            Some("hosts") => Self::Hosts,
            _ => Self::Local,
        }
    }

    /// Returns the valid keys of `[cloud]`, and the name of the provider's nodes for messages.
    fn keys(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Local => (&LOCAL, "local nodes"),
            Self::Azure => (&CLOUD, "nodes on Azure"),
            Self::Hosts => (&HOSTS, "machines that exist already"),
        }
    }
}

/// Reads `[cloud]`: the provider of nodes and the timeouts for changes of nodes. Secrets are stored
/// in `credentials`.
pub(super) fn read(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    credentials: &mut Credentials,
    report: &mut Report,
) -> (CloudSpec, CloudDeadlines) {
    let provider = Provider::of(Some(field));
    let mut spec = AzureSpec::new("", "");
    let mut limits = CloudDeadlines::default();
    for (key, field) in field.entries(report) {
        let (valid, nodes) = provider.keys();
        if CLOUD.contains(&key) && !valid.contains(&key) {
            let help = "set `provider = \"azure\"` for nodes on Azure, or remove this key";
            let why = format!("this key is not valid for {nodes}");
            field.problem_with_help(report, why, help);
            continue;
        }
        match key {
            "provider" => {
                field.word(report, &PROVIDERS.map(|word| (word, ())));
            }
            "deadlines" => limits = deadlines(&field, report),
            "subnet" => spec.subnet = field.parse(report, ipv4_network),
            "subscription" => {
                spec.subscription = field.parse(report, subscription).unwrap_or_default();
            }
            "location" => spec.location = field.parse(report, location).unwrap_or_default(),
            "resource_group" => spec.resource_group = field.parse(report, filled),
            "size" => spec.sizes = words(&field, report),
            "zones" => spec.zones = zones(&field, report),
            "image" => spec.image = field.parse(report, image),
            "account" => spec.account = field.parse(report, filled),
            "ssh_from" => spec.ssh_from = words(&field, report),
            "public_ip" => spec.public_ip = field.boolean(report).unwrap_or(true),
            "identity" => spec.identity = field.parse(report, identity),
            "login" => {
                spec.login = login(&field, secrets, credentials, report).unwrap_or_default();
            }
            "jump_host" => spec.jump_host = jump_host(&field, secrets, credentials, report),
            "endpoint" => spec.endpoint = field.parse(report, address),
            "authority" => spec.authority = field.parse(report, address),
            "ca" => spec.ca = certificate(&field, secrets, report),
            _ => report.unknown_key(field.at, &field.path, key, valid.iter().copied()),
        }
    }
    match provider {
        Provider::Local => {
            let subnet = spec.subnet;
            return (CloudSpec::Local { subnet }, limits);
        }
        Provider::Hosts => return (CloudSpec::Hosts(HostsSpec::default()), limits),
        Provider::Azure => {}
    }
    for key in ["subscription", "location"] {
        if field.get(key).is_none() {
            field.problem(report, format!("`{key}` is missing"));
        }
    }
    // If `login` or `identity` is invalid, the problem is already reported.
    let login_is_known = field.get("login").is_none() || spec.login != LoginSpec::InOrder;
    if field.get("identity").is_none() && login_is_known && spec.login_of_manager().is_none() {
        field.problem_with_help(
            report,
            "the manager cannot log in from its VM, because your login is only valid on this \
             machine",
            "set `identity` to the resource id of a user-assigned identity for the manager's VM, \
             or set a `login` with `method = \"client-secret\"`",
        );
    }
    (CloudSpec::Azure(Box::new(spec)), limits)
}

fn deadlines(field: &Field<'_>, report: &mut Report) -> CloudDeadlines {
    let mut limits = CloudDeadlines::default();
    let longest = |text: &str| {
        let limit = value::duration(text)?;
        if limit < SHORTEST {
            return Err(format!("`{text}` is too short: the minimum is 10s"));
        }
        Ok(limit)
    };
    for (key, field) in field.entries(report) {
        let limit = match key {
            "create" => &mut limits.create,
            "delete" => &mut limits.delete,
            "restart" => &mut limits.restart,
            "start" => &mut limits.start,
            "stop" => &mut limits.stop,
            _ => {
                report.unknown_key(field.at, &field.path, key, DEADLINES);
                continue;
            }
        };
        *limit = field.parse(report, longest).unwrap_or(*limit);
    }
    limits
}

fn login(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    credentials: &mut Credentials,
    report: &mut Report,
) -> Option<LoginSpec> {
    let methods = METHODS.map(|word| (word, word));
    if !field.is_map() {
        return match field.word(report, &methods)? {
            "azure-cli" => Some(LoginSpec::AzureCli),
            "managed-identity" => Some(LoginSpec::ManagedIdentity { client: None }),
            "workload-identity" => Some(LoginSpec::WorkloadIdentity),
            method => {
                let form = "write `{ method = \"client-secret\", tenant = \"…\", client = \"…\", \
                            secret = { env = \"NAME\" } }`";
                field.problem_with_help(report, format!("`{method}` needs more settings"), form);
                None
            }
        };
    }
    let (mut method, mut tenant, mut client, mut secret) = (None, None, None, None);
    for (key, field) in field.entries(report) {
        match key {
            "method" => method = field.word(report, &methods),
            "tenant" => tenant = field.parse(report, filled),
            "client" => client = field.parse(report, filled),
            "secret" => secret = secrets.secret(&field, report),
            _ => report.unknown_key(field.at, &field.path, key, LOGIN),
        }
    }
    let needed: &[&str] = match method {
        Some("client-secret") => &["client", "method", "secret", "tenant"],
        Some("managed-identity") => &["client", "method"],
        _ => &["method"],
    };
    let optional = method == Some("managed-identity");
    for key in LOGIN {
        match field.get(key) {
            None if needed.contains(&key) && !(optional && key == "client") => {
                field.problem(report, format!("`{key}` is missing"));
            }
            Some(given) if method.is_some() && !needed.contains(&key) => {
                given.problem_with_help(
                    report,
                    "this key is not valid for this login method",
                    "remove this key",
                );
            }
            _ => {}
        }
    }
    Some(match method? {
        "azure-cli" => LoginSpec::AzureCli,
        "managed-identity" => LoginSpec::ManagedIdentity { client },
        "workload-identity" => LoginSpec::WorkloadIdentity,
        _ => {
            credentials.cloud = Some(secret?);
            LoginSpec::ClientSecret {
                tenant: tenant?,
                client: client?,
            }
        }
    })
}

fn jump_host(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    credentials: &mut Credentials,
    report: &mut Report,
) -> Option<JumpHostSpec> {
    let (mut address, mut user, mut host_key) = (None, None, None);
    for (key, field) in field.entries(report) {
        match key {
            "address" => address = field.parse(report, host_and_port),
            "user" => user = field.parse(report, filled),
            "host_key" => host_key = field.parse(report, filled),
            "key" => credentials.jump_host = secrets.secret(&field, report),
            _ => report.unknown_key(field.at, &field.path, key, JUMP_HOST),
        }
    }
    for key in ["address", "user", "host_key"] {
        if field.is_map() && field.get(key).is_none() {
            let help = match key {
                "host_key" => {
                    "`ssh-keyscan <host>` prints the key; verify the key with the owner of the \
                               host"
                }
                _ => {
                    "write `{ address = \"bastion.example:22\", user = \"ops\", host_key = \"ssh-ed25519 …\" }`"
                }
            };
            field.problem_with_help(report, format!("`{key}` is missing"), help);
        }
    }
    let (host, port) = address?;
    Some(JumpHostSpec {
        host,
        port,
        user: user?,
        host_key: host_key?,
    })
}

/// Reads one word or a list of words, in order.
pub(super) fn words(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    field
        .items_or_one(report)
        .iter()
        .filter_map(|item| item.parse(report, filled))
        .collect()
}

fn zones(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let zone = |text: &str| {
        let is_zone = text.len() == 1 && text.starts_with(|c: char| ('1'..='9').contains(&c));
        is_zone.then(|| text.to_owned()).ok_or_else(|| {
            format!("`{text}` is not a zone: Azure numbers zones, for example \"1\"")
        })
    };
    field
        .items_or_one(report)
        .iter()
        .filter_map(|item| item.parse(report, zone))
        .collect()
}

/// Reads the certificate from the file whose path is in a field.
pub(super) fn certificate(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    report: &mut Report,
) -> Option<String> {
    let text = secrets.file(field, report)?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return Some(text);
    }
    field.problem_with_help(
        report,
        "the file does not contain a certificate",
        "specify a file in PEM format, with a line `-----BEGIN CERTIFICATE-----`",
    );
    None
}

/// Checks that a URL starts with `https://` and contains no credentials.
pub(super) fn address(text: &str) -> Result<String, String> {
    let bad = |why: &str| format!("`{text}` is not a usable URL: {why}");
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| bad("write it like `https://management.azure.com`"))?;
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if host.is_empty() || host.contains('@') || text.contains(char::is_whitespace) {
        return Err(bad("write it like `https://management.azure.com`"));
    }
    match scheme {
        "https" => Ok(text.trim_end_matches('/').to_owned()),
        "http" => Err(bad(
            "secrets are sent to this URL, so the URL must start with `https://`",
        )),
        _ => Err(bad("the URL must start with `https://`")),
    }
}

pub(super) fn filled(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the value is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn subscription(text: &str) -> Result<String, String> {
    uuid::Uuid::parse_str(text)
        .map(|_| text.to_owned())
        .map_err(|_| format!("`{text}` is not a UUID; `az account show --query id` prints the id"))
}

fn location(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
    is_word.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "`{text}` is not a region name; write it like `westeurope` (`az account \
             list-locations --query [].name` lists all regions)"
        )
    })
}

fn identity(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let is_identity = lower.starts_with("/subscriptions/")
        && lower.contains("/providers/microsoft.managedidentity/userassignedidentities/");
    is_identity.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "`{text}` is not the resource id of an identity; `az identity show --query id` \
                 prints the id"
        )
    })
}

/// Checks an image: `publisher:offer:sku:version`.
pub(super) fn image(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() == 4 && parts.into_iter().all(is_part) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is not an image; write `publisher:offer:sku:version`, for example \
         `Debian:debian-12:12-gen2:latest`"
    ))
}

/// Parses `bastion.example`, `bastion.example:2222`, or `[2001:db8::1]:22`.
pub(super) fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let bad = || format!("`{text}` is not a host; write it like `bastion.example:22`");
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address.to_string(), SSH));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().map_err(|_| bad())?),
        None => (text, SSH),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    if port == 0 || !(is_name(host) || host.parse::<IpAddr>().is_ok()) {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

/// Checks an IPv4 network: `10.0.0.0/24`.
fn ipv4_network(text: &str) -> Result<String, String> {
    let bad = |why: &str| format!("`{text}` is not an IPv4 network: {why}");
    let (address, bits) = text
        .split_once('/')
        .ok_or_else(|| bad("write it like `10.42.0.0/24`"))?;
    let address: Ipv4Addr = address
        .parse()
        .map_err(|_| bad("write it like `10.42.0.0/24`"))?;
    let bits = bits
        .parse::<u32>()
        .ok()
        .filter(|bits| (8..=29).contains(bits))
        .ok_or_else(|| bad("the prefix length must be from 8 to 29"))?;
    if address.to_bits() << bits != 0 {
        return Err(bad("bits after the prefix must be 0"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_invalid_networks() {
        for good in ["10.42.0.0/24", "172.16.0.0/12"] {
            assert!(ipv4_network(good).is_ok(), "{good}");
        }
        for bad in [
            "10.42.0.0",
            "10.42.0.1/24",
            "10.0.0.0/30",
            "x/8",
            "::/8",
            "10.0.0.0/99",
        ] {
            assert!(ipv4_network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parses_hosts_with_optional_ports() {
        let of = |text: &str| host_and_port(text).ok();
        assert_eq!(of("bastion.example"), Some(("bastion.example".into(), 22)));
        assert_eq!(of("10.0.0.1:2222"), Some(("10.0.0.1".into(), 2222)));
        assert_eq!(of("2001:db8::1"), Some(("2001:db8::1".into(), 22)));
        assert_eq!(of("[2001:db8::1]:2222"), Some(("2001:db8::1".into(), 2222)));
        for bad in ["", "a b", "host:", "host:0", "host:70000", "ops@host"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn endpoints_must_use_https() {
        assert_eq!(
            address("https://management.azure.com/").as_deref(),
            Ok("https://management.azure.com")
        );
        for bad in [
            "management.azure.com",
            "http://10.0.0.1:1",
            "https://",
            "https://u:p@h",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
