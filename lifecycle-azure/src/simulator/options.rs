//! How a simulated Azure begins: who may sign in, what it has to offer, how long things take.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lifecycle_core::secret::Sensitive;

/// Where a simulator listens and what it simulates. The default is one tenant with one
/// subscription and one client, without delays, at free ports of this machine.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// Where the http endpoint listens; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where the https endpoint listens; port 0 takes a free one.
    pub https: SocketAddr,
    /// Where Azure Files listens over http; port 0 takes a free one.
    pub files_http: SocketAddr,
    /// Where Azure Files listens over https; port 0 takes a free one.
    pub files_https: SocketAddr,
    /// Names and addresses, beside those that it listens at and `localhost`, by which clients reach
    /// it: its certificates are valid for them.
    pub known_as: Vec<String>,
    /// A file to which each request is added; see [`Requests::written_to`](super::Requests::written_to).
    pub record: Option<PathBuf>,
    /// The storage accounts of Azure Files.
    pub storage_accounts: Vec<StorageAccount>,
    /// The id of the one tenant.
    pub tenant: String,
    /// Who may ask for tokens with a secret.
    pub clients: Vec<Client>,
    /// The client id of the machine's managed identity.
    pub managed_identity: String,
    /// What `X-IDENTITY-HEADER` has to hold at the managed identity's App Service form.
    pub identity_header: Sensitive,
    /// How long a token is valid.
    pub token_life: Duration,
    /// The ids of the subscriptions.
    pub subscriptions: Vec<String>,
    /// How long operations take.
    pub delays: Delays,
    /// What `Retry-After` says while an operation is under way, in whole seconds; Azure's compute
    /// often says nothing.
    pub poll_after: Option<Duration>,
    /// How many items a page of a list holds.
    pub page_size: usize,
    /// How many cores of a family may be used in a location, by the family's name as
    /// `Microsoft.Compute/skus` gives it; others have [`default_quota`](Self::default_quota).
    pub quotas: BTreeMap<String, u32>,
    /// How many cores of any other family may be used in a location.
    pub default_quota: u32,
    /// How many cores of all families together may be used in a location.
    pub regional_quota: u32,
    /// VM sizes that this subscription may not have (location, size).
    pub restricted_sizes: Vec<(String, String)>,
    /// Whether requests beyond Azure's budgets are refused with 429. They are counted in any case.
    pub enforce_budgets: bool,
    /// How long a NIC stays reserved for a VM whose creation was refused.
    pub nic_reservation: Duration,
}

/// Who may ask for tokens.
#[derive(Clone)]
pub struct Client {
    /// Its client id.
    pub id: String,
    /// Its secret.
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
    /// Its name.
    pub name: String,
    /// Its key, in Base64.
    pub key: Sensitive,
    /// The names of its shares.
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

/// How long operations take, from the request to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delays {
    /// To create or resize a VM.
    pub create: Duration,
    /// To start a VM.
    pub start: Duration,
    /// To restart a VM.
    pub restart: Duration,
    /// To power a VM off.
    pub power_off: Duration,
    /// To deallocate a VM.
    pub deallocate: Duration,
    /// To delete a VM.
    pub delete: Duration,
    /// To create, change or delete a network, a NIC, an address and the like.
    pub network: Duration,
    /// To delete a resource group.
    pub group: Duration,
}

impl Delays {
    /// The same for all.
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
/// The default client's secret. It opens nothing but a simulator.
pub const CLIENT_SECRET: &str = "the-simulators-own-secret";
/// The default managed identity.
pub const MANAGED_IDENTITY: &str = "44444444-4444-4444-4444-444444444444";
/// The default storage account.
pub const STORAGE_ACCOUNT: &str = "simulatedfiles";
/// The default storage account's key. It opens nothing but a simulator.
pub const STORAGE_KEY: &str = "dGhlLXNpbXVsYXRvcnMtb3duLXN0b3JhZ2Uta2V5";
/// The default storage account's share.
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
