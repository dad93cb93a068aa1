//! Health, without a credential and without details.

use axum::extract::State;
use lifecycle_core::Error;

use super::Api;
use crate::problem::Problem;

/// The process runs.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The first round has ended and every service is ready.
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    let is_ready = match api.manager.progress(false).await {
        Ok(progress) => progress.open && progress.ready,
        Err(_) => false,
    };
    if is_ready {
        Ok("ready\n")
    } else {
        let why = "some of its services are still starting or have failed";
        Err(Error::not_ready("the platform", why).into())
    }
}
