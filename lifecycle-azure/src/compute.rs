//! Calls Azure's compute service through the generated client. Does not use the client's polling,
//! which reads an operation's state from the wrong field.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use azure_core_legacy::{Response, RetryOptions, TransportOptions};
use azure_mgmt_compute::models;
use lifecycle_core::{Error, Result};
use url::Url;

use crate::arm::failure::{Failure, Refusal};
use crate::arm::transport::{Transport, pages, sent, waiting_time};
use crate::credential::Credential;
use crate::vm::Vm;

/// The API version for requests that do not use the generated client.
pub(crate) const COMPUTE: &str = "2024-07-01";

/// Reads and changes the VMs of one subscription.
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

/// A change to an existing VM.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Start,
    Restart,
    Deallocate,
    /// Powers off without shutting down the operating system first.
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
            // Disable the client's retries, which would sleep for as long as Azure requests. The
            // caller decides whether to retry.
            .retry(RetryOptions::none())
            .transport(TransportOptions::new(transport))
            .build()
            .map_err(|error| Error::failed("creating the Azure client", error.to_string()))?;
        Ok(Self {
            client,
            subscription,
            group,
        })
    }

    /// Returns a VM with its instance view.
    pub(crate) async fn get(&self, group: &str, name: &str) -> Result<Option<Vm>> {
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
        Vm::read(vm).map(Some)
    }

    /// Returns all VMs of the subscription with their instance views. Azure returns models and
    /// instance views in two separate lists. If a VM is only in the list of models, it was created
    /// between the two requests and is read separately.
    pub(crate) async fn list(&self) -> Result<Vec<Vm>> {
        let (models, statuses) = tokio::try_join!(self.pages(false), self.pages(true))?;
        let key = |vm: &models::VirtualMachine| vm.resource.id.as_ref().map(|id| id.to_lowercase());
        let mut views: BTreeMap<String, models::VirtualMachineInstanceView> = statuses
            .into_iter()
            .filter_map(|vm| Some((key(&vm)?, vm.properties?.instance_view?)))
            .collect();
        let mut vms = Vec::with_capacity(models.len());
        for mut vm in models {
            let view = key(&vm).and_then(|key| views.remove(&key));
            if let (Some(view), Some(properties)) = (view, vm.properties.as_mut()) {
                properties.instance_view = Some(view);
                vms.push(Vm::read(vm)?);
                continue;
            }
            let vm = Vm::read(vm)?;
            if let Some(vm) = self.get(vm.group(), &vm.name).await? {
                vms.push(vm);
            }
        }
        Ok(vms)
    }

    /// Returns the VMs of the subscription that meet a condition.
    pub(crate) async fn find(&self, is_searched: impl Fn(&Vm) -> bool) -> Result<Vec<Vm>> {
        let mut found = Vec::new();
        for vm in self.pages(false).await? {
            let vm = Vm::read(vm)?;
            if is_searched(&vm) {
                // Read again to include the instance view.
                found.extend(self.get(vm.group(), &vm.name).await?);
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

    /// Requests the creation of a VM; returns how long to wait before the first poll.
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

    /// Starts a change to a VM.
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
    /// The URL to poll, if Azure returns one.
    pub(crate) url: Option<String>,
    /// How long to wait before polling, if Azure specifies a wait.
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
