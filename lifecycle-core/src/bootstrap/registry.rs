//! Checks that the registry's databases are usable before anything is changed, and records the
//! manager's endpoint in the central database. A registry in a file is opened only by the manager.

use super::Bootstrapper;
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::model::PlatformId;
use crate::platform::ManagerEndpoint;

impl Bootstrapper {
    /// Checks that the registry is usable, without changing it.
    pub(super) async fn check_registry(&self, platform: PlatformId) -> Result<()> {
        let Some(url) = &self.registry.central else {
            return Ok(());
        };
        let checked = self.databases.check(url, platform, &self.secrets.key).await;
        checked.map_err(with_hint)
    }

    /// Prepares the central and the per-kind databases. Only the manager needs the latter, so they
    /// may be unreachable.
    pub(super) async fn prepare_databases(&self, platform: PlatformId) -> Result<()> {
        let key = &self.secrets.key;
        if let Some(url) = &self.registry.central {
            let prepared = self.databases.prepare(url, platform, key).await;
            prepared.map_err(with_hint)?;
        }
        for (kind, url) in &self.registry.kinds {
            match self.databases.kind(url, platform, key).await {
                Ok(_) => {}
                Err(error) if is_unreachable(&error) => self.reporter.report(Progress::Note {
                    text: format!(
                        "the database of {kind} is not reachable from this machine ({}); the manager \
                         will keep trying to connect",
                        error.chain()
                    ),
                }),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Records the manager's endpoint, so that other programs can find it.
    pub(super) async fn record_manager(&self, endpoint: &ManagerEndpoint) -> Result<()> {
        let Some(url) = &self.registry.central else {
            return Ok(());
        };
        let key = &self.secrets.key;
        self.databases.record_manager(url, key, endpoint).await
    }
}

fn is_unreachable(error: &Error) -> bool {
    matches!(
        error,
        Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Interrupted { .. }
    )
}

/// Adds a hint to the error of an unreachable database. The hint states that nothing was changed.
fn with_hint(error: Error) -> Error {
    if !is_unreachable(&error) {
        return error;
    }
    Error::Invalid {
        what: "the registry's database".into(),
        why: error.chain(),
        hint:
            "start the database, or correct `registry.url` in platform.toml; the database must be \
             reachable from this machine and from the manager's node; nothing was changed"
                .into(),
    }
}
