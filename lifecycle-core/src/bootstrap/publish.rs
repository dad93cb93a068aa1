//! Publishes code bases of this machine to the store that the platform builds from.

use super::Reporter;
use super::progress::Stage;
use crate::code::{CodePublisher, DirectoryStore, Published, publishing};
use crate::error::Result;

/// Publishes the named code bases, one after the other, and asks the store after each what it
/// holds then. Those before one that fails stay published.
///
/// # Errors
/// Those of [`publishing::publish`].
pub async fn publish(
    directory: &DirectoryStore,
    store: &dyn CodePublisher,
    names: &[String],
    reporter: &dyn Reporter,
) -> Result<Vec<Published>> {
    let mut published = Vec::new();
    for name in names {
        let stage = Stage::begin(reporter, format!("publish code base {name}"));
        published.push(publishing::publish(directory, store, name).await?);
        stage.done();
    }
    Ok(published)
}
