//! Changes that were requested at run time, on top of what the user's files declare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Declaration;
use super::compose::MAX_REPLICAS;
use super::validate::MAX_INSTANCES;
use crate::error::{Error, Result};
use crate::model::ServiceName;

/// The overrides of a declaration. A declaration with overrides contains the effective values; each
/// override also contains the value in the files that it was based on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<ServiceName, ServiceOverrides>,
}

/// The overrides of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ServiceOverrides {
    /// The number of replicas in the files.
    declared: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scaled: Option<Scaled>,
    /// Set if the service was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Requested>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scaled {
    replicas: u16,
    #[serde(flatten)]
    requested: Requested,
}

/// When an override was requested, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    pub at: DateTime<Utc>,
    /// The token, with its id and the address of the client.
    pub by: String,
}

/// An override in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pub service: ServiceName,
    pub kind: OverrideKind,
    pub requested: Requested,
}

/// What an override changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideKind {
    /// The number of replicas.
    Replicas {
        replicas: u16,
        /// The number in the files.
        declared: u16,
    },
    /// The service has no replicas until it is started.
    Stopped,
}

/// A change of overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideChange {
    /// Sets the number of replicas. The number in the files removes the override.
    Scale(u16),
    /// Stops a service, so that it has no replicas.
    Stop,
    /// Starts a stopped service with the number of replicas that it had.
    Start,
}

impl Override {
    /// Returns the name of the override, for example `web.replicas`.
    pub fn id(&self) -> String {
        let field = match self.kind {
            OverrideKind::Replicas { .. } => "replicas",
            OverrideKind::Stopped => "stopped",
        };
        format!("{}.{field}", self.service)
    }

    /// Returns the change that removes this override.
    pub fn removal(&self) -> OverrideChange {
        match self.kind {
            OverrideKind::Replicas { declared, .. } => OverrideChange::Scale(declared),
            OverrideKind::Stopped => OverrideChange::Start,
        }
    }
}

impl fmt::Display for OverrideChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale(replicas) => write!(f, "scale to {replicas}"),
            Self::Stop => f.write_str("stop"),
            Self::Start => f.write_str("start"),
        }
    }
}

impl Overrides {
    /// Returns whether there are no overrides.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Returns the overrides in the order of services.
    pub fn iter(&self) -> impl Iterator<Item = Override> {
        self.services.iter().flat_map(|(service, overrides)| {
            let of = |kind, requested: &Requested| Override {
                service: service.clone(),
                kind,
                requested: requested.clone(),
            };
            let declared = overrides.declared;
            let scaled = overrides.scaled.as_ref().map(|scaled| {
                let replicas = scaled.replicas;
                of(
                    OverrideKind::Replicas { replicas, declared },
                    &scaled.requested,
                )
            });
            let stopped = overrides.stopped.as_ref();
            let stopped = stopped.map(|requested| of(OverrideKind::Stopped, requested));
            scaled.into_iter().chain(stopped)
        })
    }
}

impl ServiceOverrides {
    /// Returns the overrides that stay in force for a service with this number of replicas in the
    /// files; `None` if there are none. A number that was changed in the files replaces the requested
    /// one.
    fn on(mut self, declared: u16) -> Option<Self> {
        let is_changed = self.declared != declared;
        self.declared = declared;
        self.scaled = self
            .scaled
            .filter(|scaled| !is_changed && scaled.replicas != declared);
        (self.scaled.is_some() || self.stopped.is_some()).then_some(self)
    }

    fn effective(&self) -> u16 {
        let running = self.scaled.as_ref().map_or(self.declared, |s| s.replicas);
        if self.stopped.is_some() { 0 } else { running }
    }
}

impl Declaration {
    /// Returns what the files declare.
    #[must_use]
    pub fn without_overrides(mut self) -> Self {
        for (name, overrides) in std::mem::take(&mut self.overrides).services {
            if let Some(spec) = self.services.get_mut(&name) {
                spec.replicas = overrides.declared;
            }
        }
        self
    }

    /// Returns the effective declaration, where `self` is what the files declare. Overrides of
    /// services that are not declared, and of values that were changed in the files, are dropped.
    #[must_use]
    pub fn with_overrides(self, overrides: Overrides) -> Self {
        let mut effective = self.without_overrides();
        for (name, overrides) in overrides.services {
            if let Some(spec) = effective.services.get_mut(&name)
                && let Some(overrides) = overrides.on(spec.replicas)
            {
                spec.replicas = overrides.effective();
                effective.overrides.services.insert(name, overrides);
            }
        }
        effective
    }

    /// Applies a change to a service, and to the services whose network it joins or that join its
    /// network, because they need the same number of replicas. A change that is already in force is
    /// not requested again.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the service is not declared
    /// - [`Error::Invalid`] if the platform would have too many replicas
    pub fn overriding(
        self,
        service: &str,
        change: OverrideChange,
        requested: &Requested,
    ) -> Result<Self> {
        let known = self.services.keys();
        let Some(name) = known.clone().find(|name| name.as_str() == service) else {
            let known = known.map(ServiceName::as_str);
            return Err(Error::unknown_name(
                format!("service {service}"),
                service,
                known,
            ));
        };
        let group = self.joined_with(name);
        let mut overrides = self.overrides.clone();
        let files = self.without_overrides();
        for (name, spec) in &files.services {
            if !group.contains(name) {
                continue;
            }
            let entry = overrides.services.entry(name.clone());
            let entry = entry.or_insert_with(|| ServiceOverrides {
                declared: spec.replicas,
                scaled: None,
                stopped: None,
            });
            match change {
                OverrideChange::Scale(replicas) => {
                    let same = entry.scaled.take().filter(|s| s.replicas == replicas);
                    entry.scaled = Some(same.unwrap_or_else(|| Scaled {
                        replicas,
                        requested: requested.clone(),
                    }));
                }
                OverrideChange::Stop => {
                    entry.stopped.get_or_insert_with(|| requested.clone());
                }
                OverrideChange::Start => entry.stopped = None,
            }
        }
        if let OverrideChange::Scale(replicas) = change
            && u32::from(replicas) > MAX_REPLICAS
        {
            return Err(Error::invalid(
                format!("the number of replicas of {service}"),
                format!("{replicas} replicas were requested"),
                format!("request at most {MAX_REPLICAS} replicas"),
            ));
        }
        let effective = files.with_overrides(overrides);
        let replicas = effective.services.values();
        let replicas: usize = replicas.map(|spec| usize::from(spec.replicas)).sum();
        if replicas > MAX_INSTANCES {
            return Err(Error::invalid(
                format!("the number of replicas of {service}"),
                format!("the platform would have {replicas} replicas"),
                format!("a platform can have at most {MAX_INSTANCES} replicas"),
            ));
        }
        Ok(effective)
    }

    /// Returns the services that share a network namespace with `service`, including itself.
    fn joined_with(&self, service: &ServiceName) -> BTreeSet<ServiceName> {
        let joined = |spec: &crate::model::ServiceSpec| spec.container.connection.joins().cloned();
        let mut group = BTreeSet::from([service.clone()]);
        loop {
            let before = group.len();
            for (name, spec) in &self.services {
                if let Some(other) = joined(spec)
                    && (group.contains(name) || group.contains(&other))
                {
                    group.extend([name.clone(), other]);
                }
            }
            if group.len() == before {
                return group;
            }
        }
    }
}
