//! Stores the logins for the registries of images.

use super::{Accepted, Manager};
use crate::error::Result;
use crate::model::Subject;
use crate::reconcile::image_logins;
use crate::registry::{Batch, Change};
use crate::runtime::ImageLogins;

impl Manager {
    /// Returns the change that stores the logins from the options, unless the registry contains
    /// logins. The first pulls may begin before the bootstrapper's first request.
    pub(super) async fn initial_image_logins(&self) -> Result<Option<Change>> {
        let initial = &self.options.image_logins;
        let registry = self.backends.registry.as_ref();
        if initial.is_empty() || image_logins::stored(registry).await?.is_some() {
            return Ok(None);
        }
        image_logins::change(initial).map(Some)
    }

    /// Replaces the logins for the registries of images. The registry stores them encrypted, and
    /// nodes get them only for pulls and builds. No container is replaced, and failed pulls are not
    /// retried before the next [`Manager::apply`].
    pub async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()> {
        let write = self.begin_write(Accepted::Always).await?;
        let registry = &self.backends.registry;
        let stored = image_logins::stored(registry.as_ref()).await?;
        if stored.unwrap_or_default() == *logins {
            return Ok(());
        }
        let change = image_logins::change(logins)?;
        let audit = self.audit("set-image-logins", Subject::Platform);
        let batch = Batch::of(change).event(audit);
        registry.commit(write.epoch, batch).await?;
        let registries: Vec<String> = logins.keys().map(ToString::to_string).collect();
        tracing::info!(
            ?registries,
            "stored the logins for the registries of images"
        );
        Ok(())
    }
}
