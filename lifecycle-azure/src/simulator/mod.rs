//! A simulator of Azure, for tests and for trying things out: what it answers, Microsoft's own
//! clients accept. `docs/azure-simulator.md` says what it covers and where it differs on purpose.

mod authority;
mod fault;
pub mod files;
mod listener;
mod recording;
mod selector;

use axum::Router;
use axum::middleware::from_fn_with_state;

pub use authority::{Authority, ServerIdentity};
pub use fault::{Fault, FaultRates, Faults, When};
pub use listener::Listener;
pub use recording::{Outcome, Recorded, Requests};
pub use selector::Selector;

/// `router` with its requests recorded and struck by faults: what every service of the simulator
/// is wrapped in before a [`Listener`] serves it.
pub fn observed(router: Router, requests: &Requests, faults: &Faults) -> Router {
    router
        .layer(from_fn_with_state(faults.clone(), fault::inject))
        .layer(from_fn_with_state(requests.clone(), recording::record))
}
