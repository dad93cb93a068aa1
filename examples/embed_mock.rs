//! A service that embeds the library and finds VMs that cost money without doing any work. The
//! tests use mocks instead of a cloud and a manager.
#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::collections::BTreeSet;

use lifecycle_core::Result;
use lifecycle_core::api::wire::NodeStateV1;
use lifecycle_core::api::{ApiClient, ManagerApi};
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::cloud::CloudProvider;
use lifecycle_core::model::{NodeName, PlatformId};
use lifecycle_core::runtime::Owner;
use lifecycle_core::sim::SimWorld;

/// The VMs that do no work: those that the manager does not know, and those that have failed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Idle {
    forgotten: BTreeSet<NodeName>,
    failed: BTreeSet<NodeName>,
}

async fn idle(cloud: &dyn CloudProvider, manager: &dyn ManagerApi) -> Result<Idle> {
    let known = manager.nodes().await?;
    let mut idle = Idle::default();
    for vm in cloud.list().await? {
        match known.iter().find(|node| node.name == vm.name) {
            None => idle.forgotten.insert(vm.name),
            Some(node) if node.state == NodeStateV1::Failed => idle.failed.insert(vm.name),
            Some(_) => false,
        };
    }
    Ok(idle)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // A real service creates the provider for its cloud here.
    let (id, name) = (PlatformId::new(RandomIds.uuid()), "demo".parse()?);
    let cloud = SimWorld::new(1).cloud(&Owner { id, name });
    // If a service declares `x-lifecycle: {api: read}`, the environment of its containers contains
    // the manager's address.
    match ApiClient::of_this_service() {
        Ok(manager) => {
            let Idle { forgotten, failed } = idle(&cloud, &manager).await?;
            println!("not known to the manager: {forgotten:?}; failed: {failed:?}");
        }
        Err(error) => {
            println!("{error}; run this in a platform's container (the tests run anywhere)");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lifecycle_core::Error;
    use lifecycle_core::api::wire::NodeV1;
    use lifecycle_core::cloud::{ObservedNode, OpenPorts, Power, SshAddress};
    use lifecycle_core::mock::{MockCloudProvider, MockManagerApi};
    use lifecycle_core::model::Addresses;

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn vm(text: &str) -> ObservedNode {
        ObservedNode {
            name: name(text),
            provider_id: text.to_owned(),
            power: Power::Running,
            addresses: Addresses::private([10, 0, 0, 2]),
            ssh: SshAddress::new("admin"),
            boot_id: None,
            created: true,
            open_ports: OpenPorts::default(),
        }
    }

    #[tokio::test]
    async fn finds_forgotten_and_failed_vms() {
        let mut cloud = MockCloudProvider::new();
        cloud
            .expect_list()
            .times(1)
            .returning(|| Ok(vec![vm("lost"), vm("n1"), vm("n2")]));
        let mut manager = MockManagerApi::new();
        manager.expect_nodes().times(1).returning(|| {
            Ok(vec![
                NodeV1::new(name("n1"), NodeStateV1::Running),
                NodeV1::new(name("n2"), NodeStateV1::Failed),
            ])
        });
        let found = idle(&cloud, &manager).await.unwrap();
        assert_eq!(found.forgotten, [name("lost")].into());
        assert_eq!(found.failed, [name("n2")].into());
    }

    #[tokio::test]
    async fn does_not_ask_the_cloud_while_the_manager_is_not_ready() {
        // This mock expects no calls, so any call to the cloud fails the test.
        let cloud = MockCloudProvider::new();
        let mut manager = MockManagerApi::new();
        let standby = || Error::not_ready("the manager", "it is not the leader at the moment");
        manager.expect_nodes().returning(move || Err(standby()));
        let error = idle(&cloud, &manager).await.unwrap_err();
        assert!(matches!(error, Error::NotReady { .. }), "{error:?}");
    }
}
