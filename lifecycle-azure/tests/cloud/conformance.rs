//! What every provider must do.

use lifecycle_core::conformance::cloud;

use crate::support::{azure, provider, spec};

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_does_what_every_provider_must() {
    let azure = azure().await;
    cloud::all(&provider(&azure, 1), &[spec("one"), spec("two")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_are_apart() {
    let azure = azure().await;
    let (ours, theirs) = (provider(&azure, 1), provider(&azure, 2));
    cloud::platforms_are_apart(&ours, &theirs, &spec("one")).await;
}
