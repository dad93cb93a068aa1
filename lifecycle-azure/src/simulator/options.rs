//! Defines the options of a simulated Azure: credentials, available sizes and quotas, and delays.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lifecycle_core::secret::Sensitive;

/// The addresses and the options of a simulator. By default, a simulator has one tenant with one
/// subscription and one client, adds no delays, and listens on free ports of this machine.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// The address of the HTTP endpoint. Port 0 selects a free port.
    pub http: SocketAddr,
    /// The address of the HTTPS endpoint. Port 0 selects a free port.
    pub https: SocketAddr,
    /// The address of Azure Files over HTTP. Port 0 selects a free port.
    pub files_http: SocketAddr,
    /// The address of Azure Files over HTTPS. Port 0 selects a free port.
    pub files_https: SocketAddr,
    /// Additional names and addresses with which clients reach the simulator. The simulator's
    /// certificates include these names and addresses.
    pub known_as: Vec<String>,
    /// A file to which each finished request is appended. See
    /// [`Requests::written_to`](super::Requests::written_to).
    pub record: Option<PathBuf>,
    pub storage_accounts: Vec<StorageAccount>,
    pub tenant: String,
    /// The clients that may request tokens with a secret.
    pub clients: Vec<Client>,
    /// The client id of the machine's managed identity.
    pub managed_identity: String,
    /// The value of `X-IDENTITY-HEADER` that clients of the managed identity must send over the App
    /// Service protocol.
    pub identity_header: Sensitive,
    pub token_life: Duration,
    pub subscriptions: Vec<String>,
    pub delays: Delays,
    /// The value of `Retry-After` while an operation is in progress, in whole seconds. If `None`,
    /// the header is absent, as it often is in responses of Azure's compute service.
    pub poll_after: Option<Duration>,
    /// The number of items per page of a list.
    pub page_size: usize,
    /// The quota of cores per location for individual families, by the family's name in
    /// `Microsoft.Compute/skus`. All other families have [`default_quota`](Self::default_quota).
    pub quotas: BTreeMap<String, u32>,
    /// The quota of cores per location for each family that is not in [`quotas`](Self::quotas).
    pub default_quota: u32,
    /// The quota of cores per location for all families together.
    pub regional_quota: u32,
    /// VM sizes that are not available to the subscription, as (location, size).
    pub restricted_sizes: Vec<(String, String)>,
    /// Whether requests that exceed Azure's rate limits are rejected with 429. Requests are always
    /// counted.
    pub enforce_budgets: bool,
    /// How long a NIC stays reserved for a VM whose creation was rejected.
    pub nic_reservation: Duration,
}

/// A client that may request tokens.
#[derive(Clone)]
pub struct Client {
    pub id: String,
    pub secret: Sensitive,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A storage account with file shares.
#[derive(Clone)]
pub struct StorageAccount {
    pub name: String,
    /// The account's key, in Base64.
    pub key: Sensitive,
    pub shares: Vec<String>,
}

impl fmt::Debug for StorageAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageAccount")
            .field("name", &self.name)
            .field("shares", &self.shares)
            .finish_non_exhaustive()
    }
}

/// The durations of operations, each from the request to the end of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delays {
    /// The duration of creating or resizing a VM.
    pub create: Duration,
    pub start: Duration,
    pub restart: Duration,
    pub power_off: Duration,
    pub deallocate: Duration,
    pub delete: Duration,
    /// The duration of creating, changing, or deleting a network, a NIC, an address, or a similar
    /// resource.
    pub network: Duration,
    pub group: Duration,
}

impl Delays {
    /// Uses the same delay for all operations.
    pub const fn all(delay: Duration) -> Self {
        Self {
            create: delay,
            start: delay,
            restart: delay,
            power_off: delay,
            deallocate: delay,
            delete: delay,
            network: delay,
            group: delay,
        }
    }
}

/// The default tenant.
pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
/// The default subscription.
pub const SUBSCRIPTION: &str = "22222222-2222-2222-2222-222222222222";
/// The default client.
pub const CLIENT: &str = "33333333-3333-3333-3333-333333333333";
/// The secret of the default client. Only simulators accept it.
pub const CLIENT_SECRET: &str = "the-simulators-own-secret";
/// The default managed identity.
pub const MANAGED_IDENTITY: &str = "44444444-4444-4444-4444-444444444444";
/// The default storage account.
pub const STORAGE_ACCOUNT: &str = "simulatedfiles";
/// The key of the default storage account. Only simulators accept it.
pub const STORAGE_KEY: &str = "dGhlLXNpbXVsYXRvcnMtb3duLXN0b3JhZ2Uta2V5";
/// The share of the default storage account.
pub const STORAGE_SHARE: &str = "code";

impl Default for StorageAccount {
    fn default() -> Self {
        Self {
            name: STORAGE_ACCOUNT.into(),
            key: Sensitive::new(STORAGE_KEY),
            shares: vec![STORAGE_SHARE.into()],
        }
    }
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            http: free,
            https: free,
            files_http: free,
            files_https: free,
            known_as: Vec::new(),
            record: None,
            storage_accounts: vec![StorageAccount::default()],
            tenant: TENANT.into(),
            clients: vec![Client {
                id: CLIENT.into(),
                secret: Sensitive::new(CLIENT_SECRET),
            }],
            managed_identity: MANAGED_IDENTITY.into(),
            identity_header: Sensitive::new("the-simulators-identity-header"),
            token_life: Duration::from_hours(1),
            subscriptions: vec![SUBSCRIPTION.into()],
            delays: Delays::default(),
            poll_after: None,
            page_size: 50,
            quotas: BTreeMap::new(),
            default_quota: 100,
            regional_quota: 350,
            restricted_sizes: Vec::new(),
            enforce_budgets: false,
            nic_reservation: Duration::from_mins(3),
        }
    }
}
