//! Health, without a credential and without a word more than needed.

use std::sync::Arc;

use axum::extract::State;
use lifecycle_core::api::view;
use lifecycle_core::manager::Manager;

use crate::problem::Problem;

/// The process lives.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Every service is ready.
pub(super) async fn readyz(State(manager): State<Arc<Manager>>) -> Result<&'static str, Problem> {
    if manager.is_open() && view::is_ready(&manager.round()) {
        Ok("ready\n")
    } else {
        Err(Problem::not_ready("the platform converges"))
    }
}
