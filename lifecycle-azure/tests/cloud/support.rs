//! Provides a simulated Azure and a provider that uses it.

use std::time::Duration;

use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, CLIENT_SECRET, Delays, Recorded, SUBSCRIPTION, SimulatorOptions, TENANT,
};
use lifecycle_azure::{Azure, AzureOptions, Login};
use lifecycle_core::Result;
use lifecycle_core::cloud::{CloudProvider, NodeChange, ObservedNode, Power, carry_out};
use lifecycle_core::model::{NodeName, NodeSpec, PlatformId, PlatformName};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

/// A time limit that is never reached: the test runner ends a hanging test earlier.
pub(crate) const DEADLINE: Duration = Duration::from_mins(10);

/// A time that exceeds the duration of a test and the lifetime of idle connections.
pub(crate) const LONG: Duration = Duration::from_mins(5);

/// Advances tokio's paused clock, which both the client and the simulator use. Works only in
/// single-threaded tests.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Starts a simulated Azure in which every operation takes a short time.
pub(crate) async fn azure() -> AzureSimulator {
    azure_with(|_| ()).await
}

pub(crate) async fn azure_with(change: impl FnOnce(&mut SimulatorOptions)) -> AzureSimulator {
    let mut options = SimulatorOptions {
        delays: Delays::all(Duration::from_millis(60)),
        ..SimulatorOptions::default()
    };
    change(&mut options);
    AzureSimulator::start(options).await.unwrap()
}

/// Returns the provider's options for the platform with this number.
pub(crate) fn options(azure: &AzureSimulator, number: u128) -> AzureOptions {
    let owner = Owner {
        id: PlatformId::new(uuid::Uuid::from_u128(number << 120)),
        name: PlatformName::try_from("demo").unwrap(),
    };
    let mut options = AzureOptions::new(SUBSCRIPTION, "westeurope", owner, KEY);
    options.login = Login::ClientSecret {
        tenant: TENANT.to_owned(),
        client: CLIENT.to_owned(),
        secret: Sensitive::new(CLIENT_SECRET),
    };
    options.endpoint = azure.secure_endpoint();
    options.authority_host = Some(azure.secure_endpoint());
    options.certificate_authority = Some(azure.authority_pem());
    options.poll_every = Duration::from_millis(20);
    options
}

pub(crate) fn provider(azure: &AzureSimulator, number: u128) -> Azure {
    Azure::new(options(azure, number)).unwrap()
}

pub(crate) fn spec(name: &str) -> NodeSpec {
    NodeSpec::new(NodeName::try_from(name).unwrap())
}

pub(crate) fn provision(name: &str) -> NodeChange {
    NodeChange::Provision { spec: spec(name) }
}

pub(crate) async fn carry(provider: &Azure, change: NodeChange) -> Result<()> {
    carry_out(provider, change, DEADLINE).await
}

pub(crate) async fn get(provider: &Azure, name: &str) -> Option<ObservedNode> {
    provider
        .get(&NodeName::try_from(name).unwrap())
        .await
        .unwrap()
}

/// Waits until Azure reports the VM as running. Polls the VM, not an operation.
pub(crate) async fn running(provider: &Azure, name: &str) {
    let reached = async {
        while get(provider, name).await.map(|node| node.power) != Some(Power::Running) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.unwrap();
}

/// Returns the write requests that were sent to Resource Manager.
pub(crate) fn writes(azure: &AzureSimulator) -> Vec<Recorded> {
    let mut all = azure.requests().all();
    all.retain(|one| one.method != "GET" && one.path.starts_with("/subscriptions/"));
    all
}
