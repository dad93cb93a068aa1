//! Databases for one kind of objects each: copies of what the central registry holds of them,
//! for services that look up one kind and should not load the central database.
//!
//! The central registry stays the journal and the truth, so every promise of [`Registry`] holds
//! for all objects; a kind's database follows it, a moment later ([`super::mirror`]).

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Effect, Registry};
use crate::error::{Error, Result};
use crate::model::{Epoch, Event, PlatformId};
use crate::platform::ManagerEndpoint;
use crate::secret::{PlatformKey, Sensitive};

/// Names one central registry: a database that was lost and made anew is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryId(pub String);

/// What changes in a kind's database at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirrored {
    /// The registry that it comes from.
    pub of: RegistryId,
    /// Whether everything that the database holds goes first.
    pub anew: bool,
    /// What changed in the state; the declaration is the part of this kind.
    pub changes: Effect,
    /// The id behind which these events begin. Greater than the database's latest where the
    /// central registry keeps what was between no more; then the older ones go.
    pub after: u64,
    /// The events of this kind, with the central registry's ids.
    pub events: Vec<Event>,
    /// The central registry's latest event that was looked at: the database's position.
    pub through: u64,
}

/// A database that follows a central registry. Read like any registry.
///
/// # Guarantees
/// - `mirror` is one transaction.
/// - It is refused with [`crate::Error::StaleEpoch`] under an epoch that is older than one under
///   which the same registry was mirrored before, and with [`crate::Error::Conflict`] if the
///   database follows another registry and is not made anew, or is a central registry itself.
#[async_trait]
pub trait KindDatabase: Registry {
    /// The registry that it follows; `None` before the first mirroring.
    async fn follows(&self) -> Result<Option<RegistryId>>;

    /// Writes what changed in the central registry, which `epoch`'s holder leads.
    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()>;
}

/// Registries that lie in databases of their own, by URL.
///
/// # Errors
/// As those of opening a registry; none quotes a URL or a password.
#[async_trait]
pub trait Databases: Debug + Send + Sync + 'static {
    /// Whether [`Databases::prepare`] would end well. Leaves no trace.
    async fn check(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey) -> Result<()>;

    /// Sees to it that a central registry can be used by `platform`: it answers, its tables are
    /// up to date, it is sealed with `key`. One that this platform left when it was taken down,
    /// and whose key was forgotten then, is taken into use again.
    async fn prepare(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey)
    -> Result<()>;

    /// Records where the manager's API is. Needs no lead: the manager's place is the
    /// bootstrapper's to say.
    async fn record_manager(
        &self,
        url: &Sensitive,
        key: &PlatformKey,
        endpoint: &ManagerEndpoint,
    ) -> Result<()>;

    /// Opens a kind's database. What it holds of the same platform under a key that is not in
    /// use any more goes: it is a copy.
    async fn kind(
        &self,
        url: &Sensitive,
        platform: PlatformId,
        key: &PlatformKey,
    ) -> Result<Arc<dyn KindDatabase>>;
}

/// A mirror may not write over what was never a copy.
pub(super) fn is_central(what: &str) -> Error {
    Error::Invalid {
        what: what.to_owned(),
        why: "it is a central registry, not the database of a kind".into(),
        hint: "name an empty database for the kind in platform.toml".into(),
    }
}

/// The database was taken over by another registry's mirror since it was read.
pub(super) fn follows_another(what: &str) -> Error {
    Error::Conflict {
        what: what.to_owned(),
        why: "it follows another registry".into(),
    }
}
