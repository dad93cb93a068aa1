//! Separate databases for kinds of objects. Each is a copy of a part of the central registry, for
//! services that query one kind and should put no load on the central database.
//!
//! The central registry remains authoritative, so all guarantees of [`Registry`] hold for all
//! objects; the database of a kind follows it with a short delay ([`super::mirror`]).

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Effect, Registry};
use crate::error::{Error, Result};
use crate::model::{Epoch, Event, PlatformId};
use crate::platform::ManagerEndpoint;
use crate::secret::{PlatformKey, Sensitive};

/// The id of a central registry. A registry that was lost and re-created has a new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryId(pub String);

/// A set of changes for the database of a kind. `None` in a map means that the entry is deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirrored {
    /// The registry that the changes come from.
    pub of: RegistryId,
    /// Whether the previous contents of the database are deleted first.
    pub replace_all: bool,
    /// The changes to the state. Their declaration contains only the part for these kinds.
    pub changes: Effect,
    /// The id that precedes the first event. It is greater than the database's latest id if the
    /// central registry has deleted events in between; in this case, older events are deleted.
    pub after: u64,
    /// The events of these kinds, with the ids of the central registry.
    pub events: Vec<Event>,
    /// The id of the central registry's latest processed event: the position of the database.
    pub through: u64,
}

/// A database that follows a central registry. Can be read like any registry.
///
/// # Guarantees
/// - `mirror` is one transaction.
/// - `mirror` returns [`crate::Error::StaleEpoch`] for an epoch that is older than a previous one
///   of the same registry, and [`crate::Error::Conflict`] if the database follows another registry
///   and is not replaced, or is a central registry.
#[async_trait]
pub trait KindDatabase: Registry {
    /// Returns the registry that the database follows; `None` before the first mirroring.
    async fn follows(&self) -> Result<Option<RegistryId>>;

    /// Writes changes of the central registry, which the holder of `epoch` leads.
    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()>;
}

/// Opens registries in databases by URL.
///
/// # Errors
/// Those of opening a registry; none quotes a URL or a password.
#[async_trait]
pub trait Databases: Debug + Send + Sync + 'static {
    /// Checks that [`Databases::prepare`] would succeed. Changes nothing.
    async fn check(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey) -> Result<()>;

    /// Prepares a central registry for `platform`, so that it answers, its tables are migrated, and
    /// it is encrypted with `key`. If this platform left a registry behind when the platform was
    /// removed, and the key of that registry was lost, the registry is reused.
    async fn prepare(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey)
    -> Result<()>;

    /// Records the manager's endpoint. Does not need the lease, because the bootstrapper decides
    /// where the manager runs.
    async fn record_manager(
        &self,
        url: &Sensitive,
        key: &PlatformKey,
        endpoint: &ManagerEndpoint,
    ) -> Result<()>;

    /// Opens the database of a kind. Data of the same platform with another key is deleted, because
    /// it is a copy.
    async fn kind(
        &self,
        url: &Sensitive,
        platform: PlatformId,
        key: &PlatformKey,
    ) -> Result<Arc<dyn KindDatabase>>;
}

/// Creates the error for mirroring to a central registry.
pub(super) fn is_central(what: &str) -> Error {
    Error::Invalid {
        what: what.to_owned(),
        why: "it contains a central registry, but must contain only the records of nodes or of a \
              service class"
            .into(),
        hint: "set an empty database in platform.toml".into(),
    }
}

/// Creates the error that is returned if the mirror of another registry has taken the database
/// over.
pub(super) fn follows_another(what: &str) -> Error {
    Error::Conflict {
        what: what.to_owned(),
        why: "it is a copy of another registry now".into(),
    }
}
