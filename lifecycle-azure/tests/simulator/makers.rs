//! Something else makes the machines behind the VMs.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lifecycle_azure::simulator::{
    AzureSimulator, MachineChange, MachineFailure, MachineMaker, SimulatorOptions,
};

use super::azure::{Azure, GROUP, machine};

/// Writes down what it is told; machines named `broken` cannot be made.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

#[async_trait]
impl MachineMaker for Notes {
    async fn change(&self, change: MachineChange) -> Result<(), MachineFailure> {
        let note = match change {
            MachineChange::Make(order) if order.host_name == "broken" => {
                return Err(MachineFailure {
                    code: "OSProvisioningTimedOut".into(),
                    message: "It did not come up.".into(),
                });
            }
            MachineChange::Make(order) => format!(
                "make {} for {} at {} with {}",
                order.system,
                order.admin,
                order.private_address.unwrap(),
                order.custom_data.unwrap().expose(),
            ),
            MachineChange::Start { .. } => "start".into(),
            MachineChange::Restart { .. } => "restart".into(),
            MachineChange::PowerOff { skip_shutdown, .. } => format!("off {skip_shutdown}"),
            MachineChange::Deallocate { .. } => "deallocate".into(),
            MachineChange::Delete { machine } => {
                assert!(machine.ends_with("/virtualmachines/vm"), "{machine}");
                "delete".into()
            }
            other => panic!("{other:?}"),
        };
        self.0.lock().unwrap().push(note);
        Ok(())
    }
}

#[tokio::test]
async fn a_maker_is_told_of_each_change() {
    let notes = Arc::new(Notes::default());
    let simulator = AzureSimulator::start_with(SimulatorOptions::default(), notes.clone());
    let azure = Azure::of(simulator.await.unwrap()).await;
    azure.prepare().await;
    let begun = azure.create("vm").await.is(201);
    Azure::succeeded(&azure.end(&begun).await);
    for action in [
        "powerOff?skipShutdown=true",
        "start",
        "restart",
        "deallocate",
    ] {
        let begun = azure.post(&machine(&format!("vm/{action}"))).await.is(202);
        Azure::succeeded(&azure.end(&begun).await);
    }
    let begun = azure
        .delete(&format!("/resourceGroups/{GROUP}"))
        .await
        .is(202);
    while azure.get(begun.header("location")).await.status == 202 {}
    let wanted = [
        "make debian for azureuser at 10.0.0.4 with I2Nsb3VkLWNvbmZpZwo=",
        "off true",
        "start",
        "restart",
        "deallocate",
        "delete",
    ];
    assert_eq!(*notes.0.lock().unwrap(), wanted);
}

#[tokio::test]
async fn what_cannot_be_made_fails_its_vm() {
    let simulator =
        AzureSimulator::start_with(SimulatorOptions::default(), Arc::new(Notes::default()));
    let azure = Azure::of(simulator.await.unwrap()).await;
    azure.prepare().await;
    let begun = azure.create("broken").await.is(201);
    let status = azure.end(&begun).await;
    assert_eq!(status["error"]["code"], "OSProvisioningTimedOut");
    let codes = azure.codes("broken").await;
    assert_eq!(codes, ["ProvisioningState/failed/OSProvisioningTimedOut"]);
}
