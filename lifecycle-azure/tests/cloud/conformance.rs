//! Runs the conformance suite for cloud providers.

use async_trait::async_trait;
use http::Method;
use lifecycle_azure::Azure;
use lifecycle_azure::simulator::{AzureSimulator, Fault, When};
use lifecycle_core::Result;
use lifecycle_core::cloud::CloudProvider;
use lifecycle_core::conformance::cloud::{self, CloudBench};
use lifecycle_core::model::{NodeName, NodeSpec};

use crate::raw;
use crate::support::{azure, carry, options, provider, provision, spec};

/// A simulated Azure for the suite. A third platform creates the VMs that must belong to neither
/// platform under test. The VMs' tags are then removed.
#[derive(Debug)]
struct Bench(AzureSimulator);

const THIRD: u128 = 3;

/// The node that the suite uses for machines without a platform. Such a VM is found only if it is
/// declared.
const UNOWNED: &str = "two";

fn declared(azure: &AzureSimulator, number: u128) -> Box<dyn CloudProvider> {
    let mut options = options(azure, number);
    let node = NodeName::try_from(UNOWNED).unwrap();
    options.existing.insert(node, UNOWNED.to_owned());
    Box::new(Azure::new(options).unwrap())
}

#[async_trait]
impl CloudBench for Bench {
    fn ours(&self) -> Box<dyn CloudProvider> {
        declared(&self.0, 1)
    }

    fn theirs(&self) -> Box<dyn CloudProvider> {
        declared(&self.0, 2)
    }

    fn nodes(&self) -> [NodeSpec; 2] {
        [spec("one"), spec(UNOWNED)]
    }

    async fn add_unowned(&self, spec: &NodeSpec) -> Result<()> {
        let name = spec.name.as_str();
        carry(&provider(&self.0, THIRD), provision(name)).await?;
        raw::strip_tags(&self.0, name).await;
        raw::settled(&self.0, name).await;
        Ok(())
    }

    async fn remove_unowned(&self, node: &NodeName) -> Result<()> {
        raw::delete(&self.0, node.as_str()).await;
        Ok(())
    }

    async fn fail_provisions(&self, fail: bool) -> bool {
        self.0.faults().clear();
        if fail {
            let when = When::request(Method::PUT, "/virtualMachines/").always();
            self.0.faults().add(when, Fault::AllocationFailed);
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_cloud_suite() {
    cloud::all(&Bench(azure().await)).await.unwrap();
}
