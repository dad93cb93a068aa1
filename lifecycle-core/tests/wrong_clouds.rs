//! Tests the conformance suite for clouds. Each provider has one deliberate fault; only the check
//! for that fault must fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, Firewall, NodeChange,
    ObservedNode, OpenPorts, Power, PreflightReport, SshAddress, Vm, VmApi, VmCloud,
};
use lifecycle_core::conformance::cloud::{self, CloudBench};
use lifecycle_core::model::{Addresses, NodeName, NodeSpec, PlatformId, PlatformName, PublicPorts};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use tokio::time::sleep;
use uuid::Uuid;

/// How long a change takes in the cloud.
const TAKES: Duration = Duration::from_secs(20);

/// The deliberate fault of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// `adopt` fails for every node that does not belong to the platform yet.
    AdoptFails,
    /// Deleting a node also deletes an adopted machine.
    DeletesAdopted,
    /// A change replaces the change in progress.
    Overwrites,
    /// The provider treats nodes of other platforms as the platform's own.
    SeesEverything,
    /// A restart is executed even if the node's boot id has changed.
    RestartsAnyBoot,
    /// Only the process that started an operation can poll it.
    ForgetsOperations,
    /// A change is reported as complete as soon as it has started.
    DoneAtOnce,
    /// Ports stay open when others are requested.
    ClosesNothing,
    /// A released machine keeps its open ports.
    ReleasesOpen,
}

#[derive(Debug, Default)]
struct Machines {
    all: Vec<Vm>,
    count: usize,
    fails: bool,
}

/// A simulated cloud in memory. Its changes take some time.
#[derive(Debug, Clone, Default)]
struct Account(Arc<Mutex<Machines>>);

impl Account {
    fn machines(&self) -> MutexGuard<'_, Machines> {
        self.0.lock().unwrap()
    }

    fn add(&self, spec: &NodeSpec, platform: Option<PlatformId>, power: Power) -> String {
        let mut machines = self.machines();
        machines.count += 1;
        let id = format!("vm-{}", machines.count);
        let last = u8::try_from(machines.count % 250).unwrap();
        machines.all.push(Vm {
            platform,
            node: ObservedNode {
                name: spec.name.clone(),
                provider_id: id.clone(),
                power,
                addresses: Addresses {
                    private: Some([10, 0, 0, last].into()),
                    public: None,
                },
                ssh: SshAddress {
                    user: "admin".into(),
                    port: 22,
                    host_keys: Vec::new(),
                },
                boot_id: (power == Power::Running).then(|| format!("{id} boot")),
                created: platform.is_some(),
                open_ports: OpenPorts::default(),
            },
        });
        id
    }

    /// Sets a machine's power. Returns `None` if the machine does not exist.
    fn set(&self, id: &str, power: Power) -> Option<()> {
        let mut machines = self.machines();
        machines.count += 1;
        let boot = format!("boot {}", machines.count);
        let vm = machines
            .all
            .iter_mut()
            .find(|vm| vm.node.provider_id == id)?;
        vm.node.power = power;
        vm.node.boot_id = (power == Power::Running).then_some(boot);
        Some(())
    }

    async fn change(&self, vm: &ObservedNode, during: Power, after: Power) -> Result<()> {
        let gone = || Error::not_found(vm.name.to_string());
        self.set(&vm.provider_id, during).ok_or_else(gone)?;
        sleep(TAKES).await;
        self.set(&vm.provider_id, after).ok_or_else(gone)
    }
}

/// Implements a platform's calls to the account, with some of the faults.
#[derive(Debug, Clone)]
struct Calls {
    account: Account,
    fault: Fault,
    platform: PlatformId,
}

#[async_trait]
impl VmApi for Calls {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: "memory",
            provisions: true,
            powers: true,
            knows_host_keys: false,
            fences: true,
            adopts: true,
            firewall: Firewall::Managed,
        }
    }

    async fn list(&self) -> Result<Vec<Vm>> {
        let mut all = self.account.machines().all.clone();
        if self.fault == Fault::SeesEverything {
            for vm in &mut all {
                vm.platform = vm.platform.map(|_| self.platform);
            }
        }
        Ok(all)
    }

    async fn create(&self, spec: &NodeSpec, owner: &Owner) -> Result<()> {
        let id = self.account.add(spec, Some(owner.id), Power::Starting);
        sleep(TAKES).await;
        if self.account.machines().fails {
            self.account.set(&id, Power::Failed);
            return Err(Error::failed("creating a machine", "no capacity"));
        }
        let gone = || Error::not_found(id.clone());
        self.account.set(&id, Power::Running).ok_or_else(gone)
    }

    async fn start(&self, vm: &ObservedNode) -> Result<()> {
        let account = &self.account;
        account.change(vm, Power::Starting, Power::Running).await
    }

    async fn stop(&self, vm: &ObservedNode) -> Result<()> {
        let account = &self.account;
        account.change(vm, Power::Stopping, Power::Stopped).await
    }

    async fn restart(&self, vm: &ObservedNode) -> Result<()> {
        self.stop(vm).await?;
        self.start(vm).await
    }

    async fn delete(&self, vm: &ObservedNode) -> Result<()> {
        if self.account.set(&vm.provider_id, Power::Stopping).is_some() {
            sleep(TAKES).await;
        }
        let mut machines = self.account.machines();
        machines
            .all
            .retain(|other| other.node.provider_id != vm.provider_id);
        Ok(())
    }

    async fn power_off(&self, vm: &ObservedNode) -> Result<()> {
        let gone = || Error::not_found(vm.name.to_string());
        let off = self.account.set(&vm.provider_id, Power::Stopped);
        off.ok_or_else(gone)
    }

    async fn set_public_ports(&self, vm: &ObservedNode, ports: &PublicPorts) -> Result<()> {
        let mut machines = self.account.machines();
        for other in &mut machines.all {
            if other.node.provider_id == vm.provider_id {
                let open = &mut other.node.open_ports.open.0;
                if self.fault != Fault::ClosesNothing {
                    open.clear();
                }
                open.extend(&ports.0);
            }
        }
        Ok(())
    }

    async fn set_owner(&self, vm: &ObservedNode, owner: Option<&Owner>) -> Result<()> {
        if self.fault == Fault::DeletesAdopted && owner.is_none() {
            return self.delete(vm).await;
        }
        let mut machines = self.account.machines();
        for other in &mut machines.all {
            if other.node.provider_id == vm.provider_id {
                other.platform = owner.map(|owner| owner.id);
                other.node.created = false;
                if self.fault != Fault::ReleasesOpen {
                    other.node.open_ports = OpenPorts::default();
                }
            }
        }
        Ok(())
    }
}

/// Implements the provider with [`Calls`], and with the remaining faults.
#[derive(Debug)]
struct Cloud {
    inner: VmCloud,
    calls: Calls,
    /// The operations that this provider has started.
    begun: Mutex<Vec<CloudOperation>>,
}

impl Cloud {
    fn is(&self, fault: Fault) -> bool {
        self.calls.fault == fault
    }
}

#[async_trait]
impl CloudProvider for Cloud {
    fn capabilities(&self) -> CloudCapabilities {
        self.inner.capabilities()
    }

    async fn preflight(&self, specs: &[NodeSpec]) -> Result<PreflightReport> {
        self.inner.preflight(specs).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        self.inner.list().await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        self.inner.get(node).await
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let is_ours = self.list().await?.iter().any(|ours| ours.name == *node);
        if self.is(Fault::AdoptFails) && !is_ours {
            return Err(Error::not_found(format!("node {node}")));
        }
        self.inner.adopt(node).await
    }

    async fn begin(&self, mut change: NodeChange) -> Result<CloudOperation> {
        if let (Fault::RestartsAnyBoot, NodeChange::Restart { node, boot_id }) =
            (self.calls.fault, &mut change)
            && let Some(boot) = self.get(node).await?.and_then(|seen| seen.boot_id)
        {
            *boot_id = boot;
        }
        let operation = match self.inner.begin(change.clone()).await {
            Err(Error::Conflict { .. })
                if self.is(Fault::Overwrites) && matches!(change, NodeChange::Stop { .. }) =>
            {
                self.inner.fence(change.node()).await?;
                self.inner.begin(change).await?
            }
            other => other?,
        };
        self.begun.lock().unwrap().push(operation.clone());
        Ok(operation)
    }

    async fn poll(&self, operation: &CloudOperation) -> Result<CloudProgress> {
        let is_known = self.begun.lock().unwrap().contains(operation);
        match self.calls.fault {
            Fault::DoneAtOnce => Ok(CloudProgress::Done),
            Fault::ForgetsOperations if !is_known => Err(Error::not_found("this operation")),
            _ => self.inner.poll(operation).await,
        }
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        self.inner.fence(node).await
    }

    async fn set_public_ports(&self, node: &NodeName, ports: &PublicPorts) -> Result<()> {
        self.inner.set_public_ports(node, ports).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.inner.delete_shared().await
    }
}

#[derive(Debug)]
struct Bench {
    account: Account,
    fault: Fault,
}

impl Bench {
    fn open(&self, id: u128) -> Box<dyn CloudProvider> {
        let owner = Owner {
            id: PlatformId::new(Uuid::from_u128(id)),
            name: PlatformName::try_from("demo").unwrap(),
        };
        let calls = Calls {
            account: self.account.clone(),
            fault: self.fault,
            platform: owner.id,
        };
        Box::new(Cloud {
            inner: VmCloud::new(calls.clone(), owner),
            calls,
            begun: Mutex::default(),
        })
    }
}

#[async_trait]
impl CloudBench for Bench {
    fn ours(&self) -> Box<dyn CloudProvider> {
        self.open(1)
    }

    fn theirs(&self) -> Box<dyn CloudProvider> {
        self.open(2)
    }

    fn nodes(&self) -> [NodeSpec; 2] {
        ["one", "two"].map(|name| NodeSpec::new(NodeName::try_from(name).unwrap()))
    }

    async fn add_unowned(&self, spec: &NodeSpec) -> Result<()> {
        self.account.add(spec, None, Power::Running);
        Ok(())
    }

    async fn remove_unowned(&self, node: &NodeName) -> Result<()> {
        self.account
            .machines()
            .all
            .retain(|vm| vm.node.name != *node);
        Ok(())
    }

    async fn fail_provisions(&self, fail: bool) -> bool {
        self.account.machines().fails = fail;
        true
    }
}

#[tokio::test(start_paused = true)]
async fn vm_cloud_passes_the_suite() {
    let account = Account::default();
    let bench = Bench {
        account: account.clone(),
        fault: Fault::Nothing,
    };
    cloud::all(&bench).await.unwrap();
    assert_eq!(account.machines().all, [], "machines are left");
}

#[tokio::test(start_paused = true)]
async fn each_faulty_provider_fails_its_check() {
    let adopted = "an_adopted_machine_is_released_and_never_deleted";
    for (fault, check) in [
        (Fault::AdoptFails, adopted),
        (Fault::DeletesAdopted, adopted),
        (Fault::Overwrites, "a_change_in_progress_is_not_overwritten"),
        (Fault::SeesEverything, "platforms_are_separate"),
        (Fault::RestartsAnyBoot, "a_running_node"),
        (Fault::ForgetsOperations, "another_process_can_poll"),
        (Fault::DoneAtOnce, "provision_is_idempotent"),
        (Fault::ClosesNothing, "public_ports_are_opened_and_closed"),
        (Fault::ReleasesOpen, adopted),
    ] {
        let account = Account::default();
        let failed = cloud::all(&Bench { account, fault }).await.unwrap_err();
        assert_eq!(failed.check, check, "{fault:?}: {failed}");
    }
}
