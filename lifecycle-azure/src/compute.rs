//! Azure's compute service through its generated client: only ever `send`, never awaited to the
//! end, since its own way of waiting for an operation asks for the wrong field.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use azure_core_legacy::{Response, RetryOptions, TransportOptions};
use azure_mgmt_compute::models;
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};
use url::Url;

use crate::arm::failure::{Failure, Refusal};
use crate::arm::transport::{Transport, pages, sent, waiting_time};
use crate::credential::Credential;
use crate::machine::Machine;

/// The version of the API, for what is asked for without the generated client.
pub(crate) const COMPUTE: &str = "2024-07-01";

/// The VMs of one subscription.
#[derive(Clone)]
pub(crate) struct Compute {
    client: azure_mgmt_compute::Client,
    subscription: String,
    group: String,
}

impl std::fmt::Debug for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compute")
            .field("subscription", &self.subscription)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// What may be done to a VM that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Start,
    Restart,
    Deallocate,
    /// Without a shutdown of the system.
    PowerOff,
    Delete,
}

impl Compute {
    pub(crate) fn new(
        endpoint: Url,
        scope: &str,
        transport: Arc<Transport>,
        credential: Arc<Credential>,
        subscription: String,
        group: String,
    ) -> Result<Self> {
        let client = azure_mgmt_compute::Client::builder(credential)
            .endpoint(endpoint)
            .scopes(&[scope])
            // Who calls decides; and its own would sleep as long as Azure says.
            .retry(RetryOptions::none())
            .transport(TransportOptions::new(transport))
            .build()
            .map_err(|error| Error::failed("making a client of Azure", error.to_string()))?;
        Ok(Self {
            client,
            subscription,
            group,
        })
    }

    /// A VM, with how it is.
    pub(crate) async fn get(&self, group: &str, name: &str) -> Result<Option<Machine>> {
        let vms = self.client.virtual_machines_client();
        let request = vms
            .get(group, name, &self.subscription)
            .expand("instanceView");
        let what = format!("reading VM {name}");
        let answer = match sent(async { request.send().await }).await {
            Ok(answer) => answer,
            Err(failure) if failure.refusal().is_some_and(Refusal::is_absent) => return Ok(None),
            Err(failure) => return Err(failure.into_error(what)),
        };
        let vm = sent(answer.into_body()).await;
        let vm = vm.map_err(|failure| failure.into_error(what))?;
        Machine::read(vm).map(Some)
    }

    /// All VMs of the subscription, with how they are. Azure gives what they are and how they are
    /// in two lists; what is only in the first was made between them, and is asked for by itself.
    pub(crate) async fn list(&self) -> Result<Vec<Machine>> {
        let (models, statuses) = tokio::try_join!(self.pages(false), self.pages(true))?;
        let key = |vm: &models::VirtualMachine| vm.resource.id.as_ref().map(|id| id.to_lowercase());
        let mut views: BTreeMap<String, models::VirtualMachineInstanceView> = statuses
            .into_iter()
            .filter_map(|vm| Some((key(&vm)?, vm.properties?.instance_view?)))
            .collect();
        let mut machines = Vec::with_capacity(models.len());
        for mut vm in models {
            let view = key(&vm).and_then(|key| views.remove(&key));
            if let (Some(view), Some(properties)) = (view, vm.properties.as_mut()) {
                properties.instance_view = Some(view);
                machines.push(Machine::read(vm)?);
                continue;
            }
            let machine = Machine::read(vm)?;
            if let Some(machine) = self.get(machine.group(), &machine.name).await? {
                machines.push(machine);
            }
        }
        Ok(machines)
    }

    /// The VMs of the subscription that are a node by their tags or, without any, by their names.
    pub(crate) async fn named(&self, node: &NodeName) -> Result<Vec<Machine>> {
        let mut found = Vec::new();
        for vm in self.pages(false).await? {
            let machine = Machine::read(vm)?;
            if machine.node().as_ref() == Some(node) {
                // With how it is.
                found.extend(self.get(machine.group(), &machine.name).await?);
            }
        }
        Ok(found)
    }

    async fn pages(&self, status_only: bool) -> Result<Vec<models::VirtualMachine>> {
        let vms = self.client.virtual_machines_client();
        let mut request = vms.list_all(&self.subscription);
        if status_only {
            request = request.status_only("true");
        }
        let pages = pages(request.into_stream()).await;
        let pages = pages.map_err(|failure| failure.into_error("listing VMs"))?;
        Ok(pages.into_iter().flat_map(|page| page.value).collect())
    }

    /// Asks for a VM that is not there; returns how long to wait before asking how far it is.
    pub(crate) async fn create(
        &self,
        name: &str,
        vm: models::VirtualMachine,
    ) -> Result<Option<Duration>, Failure> {
        let vms = self.client.virtual_machines_client();
        let request = vms
            .create_or_update(&self.group, name, vm, &self.subscription)
            .if_none_match("*");
        let answer = sent(async { request.send().await }).await?;
        Ok(Begun::of(answer.as_raw_response()).after)
    }

    /// Begins to change a VM.
    pub(crate) async fn begin(
        &self,
        group: &str,
        name: &str,
        action: Action,
    ) -> Result<Begun, Failure> {
        let vms = self.client.virtual_machines_client();
        let subscription = &self.subscription;
        macro_rules! begun {
            ($request:expr) => {
                sent(async { $request.send().await })
                    .await
                    .map(|answer| Begun::of(answer.as_raw_response()))
            };
        }
        match action {
            Action::Start => begun!(vms.start(group, name, subscription)),
            Action::Restart => begun!(vms.restart(group, name, subscription)),
            Action::Deallocate => begun!(vms.deallocate(group, name, subscription)),
            Action::PowerOff => {
                begun!(vms.power_off(group, name, subscription).skip_shutdown(true))
            }
            Action::Delete => begun!(vms.delete(group, name, subscription)),
        }
    }

    pub(crate) fn client(&self) -> &azure_mgmt_compute::Client {
        &self.client
    }
}

/// An operation that Azure has accepted.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// Where it is asked for, if Azure says.
    pub(crate) url: Option<String>,
    /// How long to wait before that, if Azure says.
    pub(crate) after: Option<Duration>,
}

impl Begun {
    fn of(answer: &Response) -> Self {
        let header = |name: &'static str| {
            let name = azure_core_legacy::headers::HeaderName::from_static(name);
            answer.headers().get_optional_string(&name)
        };
        Self {
            url: header("azure-asyncoperation").or_else(|| header("location")),
            after: header("retry-after").and_then(|text| waiting_time(&text)),
        }
    }
}
