//! The bootstrapper at registries that lie in databases: they have to be usable before anything
//! is touched, and the central one learns from the bootstrapper where the manager is. A registry
//! in a file is its manager's alone.

use super::Bootstrapper;
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::model::PlatformId;
use crate::platform::ManagerEndpoint;

impl Bootstrapper {
    /// Refuses a registry that cannot be used, and leaves no trace in it.
    pub(super) async fn check_registry(&self, platform: PlatformId) -> Result<()> {
        let Some(url) = &self.registry.central else {
            return Ok(());
        };
        let checked = self.databases.check(url, platform, &self.secrets.key).await;
        checked.map_err(with_hint)
    }

    /// Takes the registry and the databases of kinds into use. The databases of kinds may be away, or reachable
    /// from nodes only: they hold up nobody.
    pub(super) async fn prepare_databases(&self, platform: PlatformId) -> Result<()> {
        let key = &self.secrets.key;
        if let Some(url) = &self.registry.central {
            let prepared = self.databases.prepare(url, platform, key).await;
            prepared.map_err(with_hint)?;
        }
        for (kind, url) in &self.registry.kinds {
            match self.databases.kind(url, platform, key).await {
                Ok(_) => {}
                Err(error) if is_away(&error) => self.reporter.report(Progress::Told {
                    text: format!(
                        "the database of {kind} is not reached from here ({}); the manager keeps \
                         trying",
                        error.chain()
                    ),
                }),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Records the manager's endpoint where others look it up.
    pub(super) async fn record_manager(&self, endpoint: &ManagerEndpoint) -> Result<()> {
        let Some(url) = &self.registry.central else {
            return Ok(());
        };
        let key = &self.secrets.key;
        self.databases.record_manager(url, key, endpoint).await
    }
}

fn is_away(error: &Error) -> bool {
    matches!(
        error,
        Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Interrupted { .. }
    )
}

/// What the user can do about a database that does not answer; nothing was touched yet.
fn with_hint(error: Error) -> Error {
    if !is_away(&error) {
        return error;
    }
    Error::Invalid {
        what: "the registry's database".into(),
        why: error.chain(),
        hint: "start it, or correct `registry.url` in platform.toml: it has to answer here and on \
               the manager's node; nothing was changed"
            .into(),
    }
}
