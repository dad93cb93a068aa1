//! Health checks, which require no credential and return no details.

use lifecycle_core::Error;

use super::Api;
use crate::problem::Problem;

/// `GET /healthz`: succeeds while the process is running.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: succeeds after the first round, while every service is ready.
pub(super) async fn readyz(api: Api) -> Result<&'static str, Problem> {
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
