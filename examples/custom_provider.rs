//! Implements a custom cloud provider: implement [`VmApi`] for the cloud, and let [`VmCloud`] turn
//! this implementation into a provider. The test runs the conformance suite for providers.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::cloud::{
    CloudCapabilities, Firewall, NodeChange, ObservedNode, OpenPorts, Power, SshAddress, Vm, VmApi,
    VmCloud, carry_out,
};
use lifecycle_core::model::{Addresses, NodeSpec, PlatformId, PublicPorts};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result, cloud::CloudProvider};

/// The cloud account. In this example, the VMs exist only in memory. A real provider uses a client
/// for its cloud instead.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Vm>>>);

impl Memory {
    fn vms(&self) -> MutexGuard<'_, BTreeMap<String, Vm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a provider for one platform.
    fn open(&self, platform: &str) -> Result<VmCloud> {
        let (id, name) = (platform.parse()?, "demo".parse()?);
        Ok(VmCloud::new(self.clone(), Owner { id, name }))
    }

    async fn add(&self, spec: &NodeSpec, platform: Option<PlatformId>) -> Result<()> {
        let id = RandomIds.uuid();
        let [.., high, low] = id.into_bytes();
        let node = ObservedNode {
            name: spec.name.clone(),
            provider_id: id.to_string(),
            power: Power::Starting,
            addresses: Addresses::private([10, 0, high, low]),
            ssh: SshAddress::new("admin"),
            boot_id: None,
            created: platform.is_some(),
            open_ports: OpenPorts::default(),
        };
        let vm = Vm { platform, node };
        self.vms().insert(id.to_string(), vm.clone());
        self.start(&vm.node).await
    }

    fn update(&self, vm: &ObservedNode, update: impl FnOnce(&mut Vm)) -> Result<()> {
        let mut vms = self.vms();
        let found = vms.get_mut(&vm.provider_id).map(update);
        found.ok_or_else(|| Error::not_found(format!("VM {}", vm.name)))
    }

    /// Changes the power state of a VM: to `meanwhile` at once, and to `then` after some time.
    async fn power(&self, vm: &ObservedNode, meanwhile: Power, then: Power) -> Result<()> {
        let set = |power: Power| {
            let boot_id = (power == Power::Running).then(|| RandomIds.uuid().to_string());
            self.update(vm, |vm| (vm.node.power, vm.node.boot_id) = (power, boot_id))
        };
        set(meanwhile)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        set(then)
    }
}

#[async_trait]
impl VmApi for Memory {
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
        Ok(self.vms().values().cloned().collect())
    }
    async fn create(&self, spec: &NodeSpec, owner: &Owner) -> Result<()> {
        self.add(spec, Some(owner.id)).await
    }
    async fn start(&self, vm: &ObservedNode) -> Result<()> {
        self.power(vm, Power::Starting, Power::Running).await
    }
    async fn stop(&self, vm: &ObservedNode) -> Result<()> {
        self.power(vm, Power::Stopping, Power::Stopped).await
    }
    async fn restart(&self, vm: &ObservedNode) -> Result<()> {
        self.start(vm).await
    }
    async fn delete(&self, vm: &ObservedNode) -> Result<()> {
        self.vms().remove(&vm.provider_id);
        Ok(())
    }
    async fn power_off(&self, vm: &ObservedNode) -> Result<()> {
        self.stop(vm).await
    }
    async fn set_owner(&self, vm: &ObservedNode, owner: Option<&Owner>) -> Result<()> {
        let platform = owner.map(|owner| owner.id);
        self.update(vm, |vm| {
            (vm.platform, vm.node.created) = (platform, false);
            vm.node.open_ports = OpenPorts::default();
        })
    }
    async fn set_public_ports(&self, vm: &ObservedNode, ports: &PublicPorts) -> Result<()> {
        let open = ports.clone();
        let partly = PublicPorts::default();
        self.update(vm, |vm| vm.node.open_ports = OpenPorts { open, partly })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cloud = Memory::default().open("6ba7b810-9dad-11d1-80b4-00c04fd430c8")?;
    let spec = NodeSpec::new("node1".parse()?);
    let change = NodeChange::Provision { spec };
    carry_out(&cloud, change, Duration::from_mins(1)).await?;
    println!("{:#?}", cloud.list().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use lifecycle_core::conformance::cloud::{self, CloudBench};
    use lifecycle_core::model::NodeName;

    use super::*;

    #[async_trait]
    impl CloudBench for Memory {
        fn ours(&self) -> Box<dyn CloudProvider> {
            Box::new(self.open("6ba7b810-9dad-11d1-80b4-00c04fd430c8").unwrap())
        }
        fn theirs(&self) -> Box<dyn CloudProvider> {
            Box::new(self.open("6ba7b811-9dad-11d1-80b4-00c04fd430c8").unwrap())
        }
        fn nodes(&self) -> [NodeSpec; 2] {
            ["a", "b"].map(|name| NodeSpec::new(name.parse().unwrap()))
        }
        async fn add_unowned(&self, spec: &NodeSpec) -> Result<()> {
            self.add(spec, None).await
        }
        async fn remove_unowned(&self, node: &NodeName) -> Result<()> {
            self.vms().retain(|_, vm| vm.node.name != *node);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_provider_passes_the_suite() {
        cloud::all(&Memory::default()).await.unwrap();
    }
}
