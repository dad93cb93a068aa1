//! Restarts a service, or one of its replicas, and waits until it is ready.

use std::collections::BTreeMap;

use super::follow::{Following, follow_operation};
use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::api::ManagerApi;
use crate::api::wire::RestartV1;
use crate::error::{Error, Result};
use crate::model::{InstanceId, PlatformId};

impl Bootstrapper {
    /// Restarts the containers of a service one at a time, or the container of one replica
    /// (`web-2`), and waits until all are ready. Returns the names of the restarted replicas.
    pub async fn restart(&self, platform: PlatformId, name: &str) -> Result<Vec<String>> {
        let client = self.client(platform).await?;
        let client = client.as_ref();
        let asked = async { Ok((client.last_event().await?, runs(client, name).await?)) };
        let (cursor, replaces) = self
            .wait("the manager's response", ACCEPTED_WITHIN * 2)
            .until::<_, Error>(asked)
            .await?;
        let names = replaces.keys().map(ToString::to_string).collect();
        let request = RestartV1 { replaces };
        // The request identifies the runs that it replaces, so it can safely be repeated.
        let operation = self
            .wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.restart(name, Some(request.clone())))
            .await?;
        let (reporter, clock) = (self.reporter.as_ref(), self.backends.clock.as_ref());
        let mut following = Following::new(reporter, clock, cursor);
        let ended = follow_operation(client, operation.id(), &mut following).await?;
        ended.succeeded(format!("restarting {name}"))?;
        Ok(names)
    }
}

/// Returns the start time of the current run of each matching replica.
async fn runs(
    client: &dyn ManagerApi,
    name: &str,
) -> Result<BTreeMap<InstanceId, chrono::DateTime<chrono::Utc>>> {
    let services = client.services().await?;
    let replicas = services.iter().flat_map(|service| {
        let instances = service.instances.iter();
        instances.map(move |instance| (&service.name, instance))
    });
    let mut known = services.iter().any(|service| service.name.as_str() == name);
    let mut runs = BTreeMap::new();
    for (service, instance) in replicas {
        if service.as_str() != name && instance.id != name {
            continue;
        }
        known = true;
        if let Some(started_at) = instance.started_at {
            let id = InstanceId {
                service: service.clone(),
                replica: crate::model::Replica(instance.replica),
            };
            runs.insert(id, started_at);
        }
    }
    if known {
        return Ok(runs);
    }
    let names = services.iter().map(|service| service.name.as_str());
    let what = format!("service or replica {name}");
    Err(Error::unknown_name(what, name, names))
}
