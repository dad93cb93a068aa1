//! Changes what is declared, on top of the user's files.

use super::{Accepted, Actor, Applied, Manager, is_platform_deletion};
use crate::error::{Error, Result};
use crate::model::Subject;
use crate::platform::{Override, OverrideChange, Requested};

impl Manager {
    /// Scales, stops or starts a service, and the services that share its network namespace. A
    /// repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the service is not declared
    /// - [`Error::Invalid`] if there would be too many replicas
    /// - [`Error::Conflict`] if the platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn override_service(&self, service: &str, change: OverrideChange) -> Result<Applied> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        let registry = &self.backends.registry;
        let open = registry.open_operations().await?;
        if open.iter().any(is_platform_deletion) {
            return Err(Error::Conflict {
                what: format!("the {change} of {service} was rejected"),
                why: "the platform is being deleted".into(),
            });
        }
        let snapshot = registry.snapshot().await?;
        let previous = snapshot.declaration.ok_or_else(|| {
            Error::not_found_with_hint(
                format!("service {service}"),
                "nothing is declared; run `bootstrapper up` first",
            )
        })?;
        let requested = Requested {
            at: self.backends.clock.now(),
            by: Actor::current().to_string(),
        };
        let declaration = previous.1.clone().overriding(service, change, &requested)?;
        let subject = { declaration.services.keys() }.find(|name| name.as_str() == service);
        let subject = subject.map_or(Subject::Platform, |name| Subject::Service(name.clone()));
        let audit = self.audit(&change.to_string(), subject);
        let what = format!("{change} of {service}");
        self.declare(write.epoch, Some(previous), declaration, what, audit)
            .await
    }

    /// Removes an override by its id, so that the value in the user's files applies again.
    ///
    /// # Errors
    /// As for [`Self::override_service`]; [`Error::NotFound`] if there is no such override.
    pub async fn remove_override(&self, id: &str) -> Result<Applied> {
        let overrides = self.overrides().await?;
        let Some(found) = overrides.iter().find(|one| one.id() == id) else {
            let known: Vec<String> = overrides.iter().map(Override::id).collect();
            let known = known.iter().map(String::as_str);
            return Err(Error::unknown_name(format!("override {id}"), id, known));
        };
        self.override_service(found.service.as_str(), found.removal())
            .await
    }

    /// Returns the overrides in force.
    pub async fn overrides(&self) -> Result<Vec<Override>> {
        let declaration = self.snapshot().await?.declaration;
        let overrides = declaration.iter().flat_map(|(_, d)| d.overrides.iter());
        Ok(overrides.collect())
    }
}
