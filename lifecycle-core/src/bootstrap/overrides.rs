//! Scales, stops and starts services, removes overrides, and waits until the platform has settled.

use super::{ACCEPTED_WITHIN, Bootstrapper, Outcome, follow};
use crate::api::ManagerApi;
use crate::api::wire::{AppliedV1, OverrideV1};
use crate::error::{Error, Result};
use crate::model::{PlatformId, ServiceName};
use crate::platform::OverrideChange;

impl Bootstrapper {
    /// Scales, stops or starts a service, and waits until the platform has settled. The outcome
    /// contains only failures of this service.
    pub async fn override_service(
        &self,
        platform: PlatformId,
        service: &ServiceName,
        change: OverrideChange,
    ) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let cursor = self.latest_event(client).await?;
        // A repeated request changes nothing.
        let applied = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.override_service(service.as_str(), change))
            .await?;
        self.settled(client, applied, cursor, service).await
    }

    /// Removes an override by its id, and waits until the platform has settled. The outcome contains
    /// only failures of the service that was overridden.
    pub async fn remove_override(&self, platform: PlatformId, id: &str) -> Result<Outcome> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let cursor = self.latest_event(client).await?;
        let overrides = self.overrides_of(client).await?;
        let Some(found) = overrides.iter().find(|one| one.id == id) else {
            let known = overrides.iter().map(|one| one.id.as_str());
            return Err(Error::unknown_name(format!("override {id}"), id, known));
        };
        let applied = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .until(client.remove_override(id))
            .await?;
        self.settled(client, applied, cursor, &found.service).await
    }

    /// Returns the overrides in force.
    pub async fn overrides(&self, platform: PlatformId) -> Result<Vec<OverrideV1>> {
        let client = self.client(platform).await?;
        self.overrides_of(client.as_ref()).await
    }

    pub(super) async fn overrides_of(&self, client: &dyn ManagerApi) -> Result<Vec<OverrideV1>> {
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .until(client.overrides())
            .await
    }

    async fn latest_event(&self, client: &dyn ManagerApi) -> Result<u64> {
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .until(client.last_event())
            .await
    }

    async fn settled(
        &self,
        client: &dyn ManagerApi,
        applied: AppliedV1,
        cursor: u64,
        service: &ServiceName,
    ) -> Result<Outcome> {
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let followed = follow::follow(client, applied.generation, cursor, reporter, clock).await?;
        let (mut outcome, _) = followed;
        let of_service = outcome.services.iter().find(|one| one.name == *service);
        let instances = of_service.iter().flat_map(|one| &one.instances);
        let instances: Vec<&String> = instances.map(|instance| &instance.id).collect();
        outcome
            .failures
            .retain(|failure| instances.contains(&&failure.instance));
        Ok(outcome)
    }
}
