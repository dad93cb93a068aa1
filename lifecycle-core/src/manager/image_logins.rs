//! Stores the logins for the registries of images.

use super::{Accepted, Manager};
use crate::error::Result;
use crate::reconcile::image_logins;
use crate::registry::Batch;
use crate::runtime::ImageLogins;

impl Manager {
    /// Replaces the logins for the registries of images. The registry stores them encrypted, and
    /// nodes get them only for pulls and builds. No container is replaced, and failed pulls are not
    /// retried before the next [`Manager::apply`].
    pub async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()> {
        let write = self.begin_write(Accepted::Always).await?;
        let registry = &self.backends.registry;
        if image_logins::stored(registry.as_ref()).await? == *logins {
            return Ok(());
        }
        let change = image_logins::change(logins)?;
        registry.commit(write.epoch, Batch::of(change)).await?;
        let registries: Vec<String> = logins.keys().map(ToString::to_string).collect();
        tracing::info!(
            ?registries,
            "stored the logins for the registries of images"
        );
        Ok(())
    }
}
