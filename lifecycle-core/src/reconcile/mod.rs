//! The control loop: observe → plan → execute → record.
//!
//! The control loop is level-triggered: its decisions depend on observations; events only make it
//! faster.
//! 1. [`observe`]: collects what exists; a node's observation is complete, or the node is unknown.
//! 2. [`plan`](mod@plan): a pure function that returns the steps from the observed to the declared
//!    state, each with its reason.
//! 3. [`execute`]: runs steps whose needs are met; every step can be repeated.
//! 4. `record`: writes states, endpoints and events to the registry.
//!
//! The [`driver`] plans again after every step instead of executing one plan to its end, so that it
//! never misses a change, and a start after a crash is not a special case.

mod agent;
mod backends;
pub mod declared;
pub mod driver;
pub mod execute;
mod feeder;
mod files;
mod index;
pub mod input;
mod liveness;
pub mod observe;
pub mod observe_once;
pub mod placement;
pub mod plan;
mod record;
mod state;
pub mod step;
mod traffic;
mod watch;

pub use backends::Backends;
pub use declared::{Agents, Declared, DeclaredService};
pub use driver::{Bounds, Driver, DriverOptions, RetryRequest, Round, RunningStep, Target};
pub use execute::{Deadlines, ServiceApi};
pub use input::{Endings, Failure, History, PlanningInput, RecordedPlan};
pub use observe::{EngineView, NodeView, Observed, Readiness};
pub use observe_once::observe_once;
pub use plan::{Policy, plan};
pub use step::{Action, Held, HeldBy, InstanceStatus, Plan, Reason, Step, StepId};
pub use watch::WatchPolicy;
