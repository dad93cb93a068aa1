//! Publishes code bases from this machine to the code store of a platform.

use std::time::Duration;

use super::Reporter;
use super::progress::Stage;
use crate::clock::Clock;
use crate::code::{CodePublisher, DirectoryStore, Published, publishing};
use crate::error::Result;

/// How long publishing one code base may take.
const PUBLISHED_WITHIN: Duration = Duration::from_hours(2);

/// Publishes the named code bases in order, and verifies each in the store. After a failure, the
/// earlier ones remain published.
///
/// # Errors
/// The same as for [`publishing::publish`].
pub async fn publish(
    directory: &DirectoryStore,
    store: &dyn CodePublisher,
    names: &[String],
    reporter: &dyn Reporter,
    clock: &dyn Clock,
) -> Result<Vec<Published>> {
    let mut published = Vec::new();
    for name in names {
        let what = format!("publish code base {name}");
        let stage = Stage::begin(reporter, clock, what, PUBLISHED_WITHIN);
        let done = stage.run(publishing::publish(directory, store, name));
        published.push(done.await?);
    }
    Ok(published)
}
