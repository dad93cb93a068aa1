//! Defines and validates the options of an Azure provider.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use url::Url;

use crate::arm::role_wait::RoleWait;
use crate::credential::Login;
use crate::vm::Vm;

/// The URL of Resource Manager in the public cloud.
const PUBLIC: &str = "https://management.azure.com";
/// The default VM size.
const SIZE: &str = "Standard_B2s";
const IMAGE: &str = "Debian:debian-12:12-gen2:latest";
/// Account names that Azure rejects, as documented for `adminUsername` in "Virtual Machines -
/// Create Or Update".
const RESERVED: [&str; 30] = [
    "a",
    "actuser",
    "adm",
    "admin",
    "admin1",
    "admin2",
    "administrator",
    "aspnet",
    "backup",
    "console",
    "david",
    "guest",
    "john",
    "owner",
    "root",
    "server",
    "sql",
    "support",
    "support_388945a0",
    "sys",
    "test",
    "test1",
    "test2",
    "test3",
    "user",
    "user1",
    "user2",
    "user3",
    "user4",
    "user5",
];
/// The maximum length of the platform's name within the names of shared resources. Azure allows 64
/// characters for a network's name, and the suffix is `-123456-vnet`.
const PREFIX: usize = 50;
/// The maximum number of sources for SSH. Each source becomes a rule, and Azure allows 1000 rules
/// per security group.
const SOURCES: usize = 1_000;
const ACCOUNT: &str = "lifecycle";

/// The options of an Azure provider for one platform.
#[derive(Debug, Clone)]
pub struct AzureOptions {
    pub subscription: String,
    /// The region, for example `westeurope`.
    pub location: String,
    /// The platform that the nodes belong to.
    pub owner: Owner,
    /// The public key, in OpenSSH format, that the account on each new node accepts.
    pub authorized_key: String,
    pub account: String,
    pub login: Login,
    /// The resource group. If `None`, a new group is created for the platform, and removed together
    /// with the platform.
    pub resource_group: Option<String>,
    /// The address block of the nodes' network: `/29` or larger.
    pub network: (Ipv4Addr, u8),
    /// The sources from which SSH is allowed: at most 1000 addresses, blocks, or service tags such
    /// as `Internet`; `*` allows all sources.
    pub ssh_from: Vec<String>,
    /// Whether new nodes get a public address. Nodes without a public address can only be reached
    /// from inside the network.
    pub public_ip: bool,
    /// The default VM sizes, in order of preference. The first available size is used.
    pub sizes: Vec<String>,
    /// The availability zones of new nodes. All zones are tried with one size before the next size
    /// is tried. If empty, Azure chooses the zone.
    pub zones: Vec<String>,
    /// The resource id of a user-assigned identity that the manager uses to log in. The manager's
    /// VM gets the identity when the VM is created; an existing VM is left unchanged.
    pub identity: Option<String>,
    /// The manager's node, whose VM gets the identity.
    pub manager_node: Option<NodeName>,
    /// The default image, as `publisher:offer:sku:version`.
    pub image: String,
    /// The URL of Resource Manager. Other clouds and the simulator have their own URLs.
    pub endpoint: String,
    /// The URL of Entra, if not the public one.
    pub authority_host: Option<String>,
    /// The only trusted certificate authority, in PEM. If `None`, the public ones are trusted.
    pub certificate_authority: Option<String>,
    /// The names of existing VMs of the subscription that are nodes under other names.
    pub existing: BTreeMap<NodeName, String>,
    /// Repeats requests that Azure denies until a new role assignment takes effect. If `None`, a
    /// denied request fails at once.
    pub role_wait: Option<RoleWait>,
    /// The poll interval, unless Azure specifies one.
    pub poll_every: Duration,
}

impl AzureOptions {
    /// Returns the default options for a subscription, a region, an owner, and a key.
    pub fn new(
        subscription: impl Into<String>,
        location: impl Into<String>,
        owner: Owner,
        authorized_key: impl Into<String>,
    ) -> Self {
        Self {
            subscription: subscription.into(),
            location: location.into(),
            owner,
            authorized_key: authorized_key.into(),
            account: ACCOUNT.to_owned(),
            login: Login::default(),
            resource_group: None,
            network: (Ipv4Addr::new(10, 90, 0, 0), 16),
            ssh_from: vec!["Internet".to_owned()],
            public_ip: true,
            sizes: vec![SIZE.to_owned()],
            zones: Vec::new(),
            identity: None,
            manager_node: None,
            image: IMAGE.to_owned(),
            endpoint: PUBLIC.to_owned(),
            authority_host: None,
            certificate_authority: None,
            existing: BTreeMap::new(),
            role_wait: None,
            poll_every: Duration::from_secs(5),
        }
    }

    /// Returns the node that a VM of this platform is: according to its tag, the declared names of
    /// existing VMs, or its name.
    pub(crate) fn node_of(&self, vm: &Vm) -> Option<NodeName> {
        let mut existing = self.existing.iter();
        let declared = || {
            let found = existing.find(|(_, name)| vm.name.eq_ignore_ascii_case(name));
            found.map(|(node, _)| node.clone())
        };
        vm.tags.node().or_else(declared).or_else(|| vm.node())
    }

    /// Validates the options as far as possible without a request to Azure. Returns the URL of
    /// Resource Manager.
    pub(crate) fn check(&self) -> Result<Url> {
        let invalid = |what: &str, value: &str, why: &str, hint: &str| {
            Error::invalid(format!("{what} `{value}`"), why, hint)
        };
        if uuid::Uuid::parse_str(&self.subscription).is_err() {
            let hint =
                "specify a subscription id; `az account show --query id` prints the current one";
            return Err(invalid(
                "the subscription",
                &self.subscription,
                "it is not a UUID",
                hint,
            ));
        }
        let is_word =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_word(&self.location) {
            let hint = "specify a region name; `az account list-locations --query [].name` lists \
                        the names of all regions";
            return Err(invalid(
                "the location",
                &self.location,
                "it is not a region name",
                hint,
            ));
        }
        // From "Naming rules and restrictions for Azure resources", section Microsoft.Resources.
        let fits = |group: &str| {
            (1..=90).contains(&group.len())
                && !group.ends_with('.')
                && group
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.()".contains(c))
        };
        if let Some(group) = self.resource_group.as_ref().filter(|group| !fits(group)) {
            let hint =
                "use at most 90 letters, digits, `-`, `_`, `.` and parentheses, not ending in `.`";
            return Err(invalid(
                "the resource group",
                group,
                "Azure does not allow this name",
                hint,
            ));
        }
        let (block, length) = self.network;
        let text = format!("{block}/{length}");
        if !(8..=29).contains(&length) || u32::from(block) & (u32::MAX >> length) != 0 {
            let hint = "specify a block from /8 to /29, such as 10.90.0.0/16";
            return Err(invalid(
                "the network",
                &text,
                "it is not an address block from /8 to /29",
                hint,
            ));
        }
        image(&self.image)?;
        self.check_vms()?;
        let account = &self.account;
        let is_name = account.starts_with(|c: char| c.is_ascii_lowercase())
            && account.len() <= 32
            && account
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
        if !is_name || RESERVED.contains(&account.as_str()) {
            let hint =
                "use lower-case letters, digits, `-` and `_`, and none of Azure's reserved names";
            return Err(invalid(
                "the account",
                account,
                "Azure does not accept this account name",
                hint,
            ));
        }
        let hint = "specify the contents of a `.pub` file, for example `ssh-ed25519 AAAA…`";
        let key = ssh_key::PublicKey::from_openssh(self.authorized_key.trim())
            .map_err(|error| invalid("the key for nodes", "…", &error.to_string(), hint))?;
        if !matches!(
            key.algorithm(),
            ssh_key::Algorithm::Ed25519 | ssh_key::Algorithm::Rsa { .. }
        ) {
            let why = "Azure accepts only Ed25519 and RSA keys";
            return Err(invalid("the key for nodes", "…", why, hint));
        }
        for source in &self.ssh_from {
            if !is_source(source) {
                let hint = "specify an address, a block such as 203.0.113.0/24, or a service tag \
                            such as Internet";
                return Err(invalid(
                    "the source for SSH",
                    source,
                    "Azure has no such source",
                    hint,
                ));
            }
        }
        if self.ssh_from.len() > SOURCES {
            let hint = "specify fewer, larger blocks";
            let count = self.ssh_from.len().to_string();
            return Err(invalid(
                "the number of sources for SSH",
                &count,
                "Azure allows at most 1000",
                hint,
            ));
        }
        let endpoint: Result<Url, _> = self.endpoint.parse();
        endpoint.ok().filter(is_endpoint).ok_or_else(|| {
            let hint = "specify an address such as https://management.azure.com";
            invalid(
                "the endpoint",
                &self.endpoint,
                "it is not an https address",
                hint,
            )
        })
    }

    /// Validates sizes, zones, identity, and image.
    fn check_vms(&self) -> Result<()> {
        if self.sizes.is_empty() || self.sizes.iter().any(String::is_empty) {
            return Err(Error::invalid(
                "the sizes for nodes",
                "the list is empty or contains an empty size",
                format!("specify a size such as {SIZE}, or remove `size`"),
            ));
        }
        // Azure numbers the zones of each region.
        let is_zone = |zone: &&String| (1..=9).any(|number| **zone == number.to_string());
        if let Some(zone) = self.zones.iter().find(|zone| !is_zone(zone)) {
            return Err(Error::invalid(
                format!("the zone `{zone}`"),
                "Azure has no such zone",
                "use one or more of \"1\", \"2\" and \"3\", or remove `zones`",
            ));
        }
        if let Some(identity) = &self.identity {
            check_identity(identity)?;
        }
        if let Login::AssignedIdentity { id } = &self.login {
            check_identity(id)?;
        }
        Ok(())
    }

    /// Returns the name of the resource group.
    pub(crate) fn group(&self) -> String {
        self.resource_group.clone().unwrap_or_else(|| self.prefix())
    }

    /// Returns the common prefix for the names of the shared resources.
    pub(crate) fn prefix(&self) -> String {
        let name: String = self.owner.name.as_str().chars().take(PREFIX).collect();
        format!("{name}-{}", self.owner.id.short())
    }
}

/// Returns whether tokens may be sent to this address. Plain HTTP is allowed only for addresses of
/// this machine.
fn is_endpoint(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

/// Returns whether a security rule accepts this source: an address, a block, or a service tag.
fn is_source(source: &str) -> bool {
    let (address, length) = source
        .split_once('/')
        .map_or((source, None), |(address, length)| (address, Some(length)));
    if let Ok(address) = address.parse::<IpAddr>() {
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        return length.is_none_or(|length| length.parse().is_ok_and(|length: u8| length <= most));
    }
    let is_word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
    };
    source == "*" || is_word(source)
}

/// Checks that `id` is the resource id of a user-assigned identity.
pub(crate) fn check_identity(id: &str) -> Result<()> {
    let is_segment = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.()".contains(c))
    };
    let segments: Vec<&str> = id.split('/').collect();
    let is_id = match segments.as_slice() {
        [
            "",
            subscriptions,
            subscription,
            groups,
            group,
            providers,
            provider,
            kind,
            name,
        ] => {
            let words = [
                (subscriptions, "subscriptions"),
                (groups, "resourceGroups"),
                (providers, "providers"),
                (provider, "Microsoft.ManagedIdentity"),
                (kind, "userAssignedIdentities"),
            ];
            words.iter().all(|(word, is)| word.eq_ignore_ascii_case(is))
                && uuid::Uuid::parse_str(subscription).is_ok()
                && is_segment(group)
                && is_segment(name)
        }
        _ => false,
    };
    if is_id {
        return Ok(());
    }
    Err(Error::invalid(
        format!("the identity `{id}`"),
        "it is not the id of a user-assigned identity \
         (`/subscriptions/…/resourceGroups/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/…`)",
        "specify a resource id; `az identity list --query [].id` prints the ids of all identities",
    ))
}

/// Splits an image name into its parts.
pub(crate) fn image(name: &str) -> Result<[&str; 4]> {
    // Allow only characters that are safe in URLs, because the parts are also used in URLs.
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = name.split(':').collect();
    <[&str; 4]>::try_from(parts)
        .ok()
        .filter(|parts| parts.iter().all(|part| is_part(part)))
        .ok_or_else(|| {
            Error::invalid(
                format!("the image `{name}`"),
                "it is not `publisher:offer:sku:version`",
                format!(
                    "specify an image such as `{IMAGE}`; `az vm image list --all` lists the \
                         available images"
                ),
            )
        })
}

#[cfg(test)]
mod tests {
    use lifecycle_core::model::{PlatformId, PlatformName};

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    const IDENTITY: &str = "/subscriptions/22222222-2222-2222-2222-222222222222/resourcegroups/g\
        /providers/Microsoft.ManagedIdentity/userAssignedIdentities/manager";

    fn options() -> AzureOptions {
        let owner = Owner {
            id: PlatformId::new(uuid::Uuid::from_u128(7)),
            name: PlatformName::try_from("demo").unwrap(),
        };
        AzureOptions::new(
            "22222222-2222-2222-2222-222222222222",
            "westeurope",
            owner,
            KEY,
        )
    }

    #[test]
    fn the_defaults_are_valid() {
        options().check().unwrap();
        let mut options = options();
        let sources = ["*", "203.0.113.7", "2001:db8::/32", "AzureCloud.westeurope"];
        options.ssh_from = sources.map(str::to_owned).to_vec();
        options.endpoint = "http://127.0.0.1:8080".into();
        options.zones = vec!["3".into(), "1".into()];
        options.identity = Some(IDENTITY.into());
        options.check().unwrap();
    }

    #[test]
    fn the_longest_platform_name_fits_azures_limits() {
        let mut options = options();
        options.owner.name = PlatformName::try_from("x".repeat(63)).unwrap();
        assert!(format!("{}-vnet", options.prefix()).len() <= 64);
        options.owner.name = PlatformName::try_from("demo").unwrap();
        assert_eq!(options.prefix(), "demo-000000");
    }

    #[test]
    fn names_each_invalid_value_with_a_hint() {
        let spoilt: [fn(&mut AzureOptions); 23] = [
            |o| o.sizes = Vec::new(),
            |o| o.sizes.push(String::new()),
            |o| o.zones = vec!["westeurope-1".into()],
            |o| o.zones = vec!["1".into(), "0".into()],
            |o| {
                o.login = Login::AssignedIdentity {
                    id: "manager".into(),
                }
            },
            |o| o.identity = Some("manager".into()),
            |o| o.identity = Some(format!("{IDENTITY}/../x")),
            |o| o.image = "a:b:../..:d".into(),
            |o| o.account = "console".into(),
            |o| o.ssh_from = vec!["203.0.113.0/33".into()],
            |o| o.ssh_from = vec!["my office".into()],
            |o| o.ssh_from = vec!["203.0.113.7".into(); 1_001],
            |o| o.endpoint = "http://management.example".into(),
            |o| {
                o.authorized_key = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAy\
                    NTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUhOOig4vkbqAcEc="
                    .into();
            },
            |o| o.subscription = "mine".into(),
            |o| o.location = "West Europe".into(),
            |o| o.resource_group = Some("a/b".into()),
            |o| o.network = (Ipv4Addr::new(10, 90, 0, 1), 16),
            |o| o.network.1 = 30,
            |o| o.image = "debian".into(),
            |o| o.account = "root".into(),
            |o| o.authorized_key = "ssh-ed25519".into(),
            |o| o.endpoint = "management.azure.com".into(),
        ];
        for spoil in spoilt {
            let mut options = options();
            spoil(&mut options);
            let error = options.check().unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(error.hint().is_some());
        }
    }
}
