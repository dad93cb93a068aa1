//! Defines per-kind databases: separate databases for some kinds of objects. Each contains a copy
//! of one part of the central registry. Services that need only this part query the copy and put no
//! load on the central database.
//!
//! The central registry remains authoritative, so all guarantees of [`Registry`] hold for all
//! objects. A per-kind database follows the central registry with a short delay
//! ([`super::mirror`]).

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Effect, Registry};
use crate::error::{Error, Result};
use crate::model::{Epoch, Event, PlatformId};
use crate::platform::ManagerEndpoint;
use crate::secret::{PlatformKey, Sensitive};

/// The id of a central registry. A registry that is re-created after a loss gets a new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryId(pub String);

/// A set of changes for a per-kind database.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirrored {
    /// The registry that the changes come from.
    pub of: RegistryId,
    /// Whether the previous contents of the database are deleted first.
    pub replace_all: bool,
    /// The changes to the state. A declaration in the changes contains only objects of the
    /// database's kinds.
    pub changes: Effect,
    /// The id directly before the first event. If this id is greater than the latest event id in
    /// the database, the central registry has deleted the events in between. The database then
    /// deletes all its events.
    pub after: u64,
    /// The events about objects of the database's kinds, with their ids in the central registry.
    pub events: Vec<Event>,
    /// The id of the last event of the central registry that this update covers. The next update
    /// starts after this event.
    pub through: u64,
}

/// A database that follows a central registry and can be read like any registry.
///
/// # Guarantees
/// - `mirror` is one transaction.
/// - `mirror` returns [`crate::Error::StaleEpoch`] if the database has already received an update
///   with a newer epoch from the same registry.
/// - `mirror` returns [`crate::Error::Conflict`] if the database follows another registry and the
///   update does not replace all contents.
/// - `mirror` returns [`crate::Error::Invalid`] if the database contains a central registry.
#[async_trait]
pub trait KindDatabase: Registry {
    /// Returns the registry that the database follows; `None` before the first mirroring.
    async fn follows(&self) -> Result<Option<RegistryId>>;

    /// Writes changes from the central registry. `epoch` is the epoch of the current leader.
    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()>;
}

/// Opens the databases of registries by URL.
///
/// # Errors
/// The same as for opening a registry. No error contains a URL or a password.
#[async_trait]
pub trait Databases: Debug + Send + Sync + 'static {
    /// Checks that [`Databases::prepare`] would succeed, without changing anything.
    async fn check(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey) -> Result<()>;

    /// Prepares a database as the central registry of `platform`: connects to the database,
    /// migrates its tables, and checks that `key` is its encryption key. If the platform was
    /// removed and its key was lost, the old database is reused with `key`.
    async fn prepare(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey)
    -> Result<()>;

    /// Records the manager's endpoint. The bootstrapper calls this method without holding the
    /// lease.
    async fn record_manager(
        &self,
        url: &Sensitive,
        key: &PlatformKey,
        endpoint: &ManagerEndpoint,
    ) -> Result<()>;

    /// Opens a per-kind database. Deletes the copied data if it belongs to the same platform but is
    /// encrypted with another key.
    async fn kind(
        &self,
        url: &Sensitive,
        platform: PlatformId,
        key: &PlatformKey,
    ) -> Result<Arc<dyn KindDatabase>>;
}

/// Creates the error for an attempt to mirror into a database that contains a central registry.
pub(super) fn is_central(what: &str) -> Error {
    Error::Invalid {
        what: what.to_owned(),
        why: "the database contains a central registry, so it cannot be the database for nodes \
              or a service class"
            .into(),
        hint: "write the URL of an empty database in the section `[registry]` of platform.toml"
            .into(),
    }
}

/// Creates the error for a database that was overwritten by the mirror of another registry.
pub(super) fn follows_another(what: &str) -> Error {
    Error::Conflict {
        what: what.to_owned(),
        why: "the database was overwritten with the records of another central registry".into(),
    }
}
