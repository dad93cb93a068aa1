//! Providers that do one thing wrong: the suite that all clouds pass finds each of them, by the
//! check that is about it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::cloud::{
    CloudCapabilities, CloudOperation, CloudProgress, CloudProvider, Fenced, NodeChange,
    ObservedNode, Power, PreflightReport, SshAddress, Vm, VmApi, VmCloud,
};
use lifecycle_core::conformance::cloud::{self, CloudBench};
use lifecycle_core::model::{Addresses, NodeName, NodeSpec, PlatformId, PlatformName};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use tokio::time::sleep;
use uuid::Uuid;

/// How long the cloud takes for a change.
const TAKES: Duration = Duration::from_secs(20);

/// What a provider does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// `adopt` always fails, but for nodes that are the platform's already.
    AdoptFails,
    /// An adopted machine is deleted with its node.
    DeletesAdopted,
    /// A change takes the place of the one that is under way.
    Overwrites,
    /// Nodes of other platforms count as its own.
    SeesEverything,
    /// A restart ends whatever boot there is.
    RestartsAnyBoot,
    /// Operations are known only to the process that began them.
    ForgetsOperations,
    /// A change is done as soon as it has begun.
    DoneAtOnce,
}

#[derive(Debug, Default)]
struct Machines {
    all: Vec<Vm>,
    count: usize,
    fails: bool,
}

/// A cloud in memory, whose changes take their time.
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
            },
        });
        id
    }

    /// Sets a machine's power; none, if it is gone.
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

/// The calls of the account, as a right provider uses them, or a wrong one.
#[derive(Debug, Clone)]
struct Calls {
    account: Account,
    wrong: Wrong,
    platform: PlatformId,
}

#[async_trait]
impl VmApi for Calls {
    fn capabilities(&self) -> CloudCapabilities {
        CloudCapabilities {
            name: "memory",
            provisions: true,
            knows_host_keys: false,
            fences: true,
            adopts: true,
        }
    }

    async fn list(&self) -> Result<Vec<Vm>> {
        let mut all = self.account.machines().all.clone();
        if self.wrong == Wrong::SeesEverything {
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

    async fn set_owner(&self, vm: &ObservedNode, owner: Option<&Owner>) -> Result<()> {
        if self.wrong == Wrong::DeletesAdopted && owner.is_none() {
            return self.delete(vm).await;
        }
        let mut machines = self.account.machines();
        for other in &mut machines.all {
            if other.node.provider_id == vm.provider_id {
                other.platform = owner.map(|owner| owner.id);
                other.node.created = false;
            }
        }
        Ok(())
    }
}

/// A provider over these calls, which does the rest of what may be wrong.
#[derive(Debug)]
struct Cloud {
    inner: VmCloud,
    calls: Calls,
    /// What this process has begun.
    begun: Mutex<Vec<CloudOperation>>,
}

impl Cloud {
    fn is(&self, wrong: Wrong) -> bool {
        self.calls.wrong == wrong
    }
}

#[async_trait]
impl CloudProvider for Cloud {
    fn capabilities(&self) -> CloudCapabilities {
        self.inner.capabilities()
    }

    async fn preflight(&self, wanted: &[NodeSpec]) -> Result<PreflightReport> {
        self.inner.preflight(wanted).await
    }

    async fn list(&self) -> Result<Vec<ObservedNode>> {
        self.inner.list().await
    }

    async fn get(&self, node: &NodeName) -> Result<Option<ObservedNode>> {
        self.inner.get(node).await
    }

    async fn adopt(&self, node: &NodeName) -> Result<ObservedNode> {
        let is_ours = self.list().await?.iter().any(|ours| ours.name == *node);
        if self.is(Wrong::AdoptFails) && !is_ours {
            return Err(Error::not_found(format!("node {node}")));
        }
        self.inner.adopt(node).await
    }

    async fn begin(&self, mut change: NodeChange) -> Result<CloudOperation> {
        if let (Wrong::RestartsAnyBoot, NodeChange::Restart { node, boot_id }) =
            (self.calls.wrong, &mut change)
            && let Some(boot) = self.get(node).await?.and_then(|seen| seen.boot_id)
        {
            *boot_id = boot;
        }
        let operation = match self.inner.begin(change.clone()).await {
            Err(Error::Conflict { .. })
                if self.is(Wrong::Overwrites) && matches!(change, NodeChange::Stop { .. }) =>
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
        match self.calls.wrong {
            Wrong::DoneAtOnce => Ok(CloudProgress::Done),
            Wrong::ForgetsOperations if !is_known => Err(Error::not_found("this operation")),
            _ => self.inner.poll(operation).await,
        }
    }

    async fn fence(&self, node: &NodeName) -> Result<Fenced> {
        self.inner.fence(node).await
    }

    async fn delete_shared(&self) -> Result<()> {
        self.inner.delete_shared().await
    }
}

#[derive(Debug)]
struct Bench {
    account: Account,
    wrong: Wrong,
}

impl Bench {
    fn open(&self, id: u128) -> Box<dyn CloudProvider> {
        let owner = Owner {
            id: PlatformId::new(Uuid::from_u128(id)),
            name: PlatformName::try_from("demo").unwrap(),
        };
        let calls = Calls {
            account: self.account.clone(),
            wrong: self.wrong,
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
        wrong: Wrong::Nothing,
    };
    cloud::all(&bench).await.unwrap();
    assert_eq!(account.machines().all, [], "machines are left");
}

#[tokio::test(start_paused = true)]
async fn each_wrong_provider_fails_the_check_that_is_about_it() {
    let adopted = "an_adopted_machine_is_released_and_never_deleted";
    for (wrong, check) in [
        (Wrong::AdoptFails, adopted),
        (Wrong::DeletesAdopted, adopted),
        (Wrong::Overwrites, "a_change_in_progress_is_not_overwritten"),
        (Wrong::SeesEverything, "platforms_are_separate"),
        (Wrong::RestartsAnyBoot, "a_running_node"),
        (Wrong::ForgetsOperations, "another_process_can_poll"),
        (Wrong::DoneAtOnce, "provision_is_idempotent"),
    ] {
        let account = Account::default();
        let failed = cloud::all(&Bench { account, wrong }).await.unwrap_err();
        assert_eq!(failed.check, check, "{wrong:?}: {failed}");
    }
}
