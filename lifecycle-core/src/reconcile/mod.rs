//! The control loop: observe → plan → execute → record.
//!
//! The control loop is level-triggered: its decisions depend only on observations. Events only make
//! observations happen sooner.
//! 1. [`observe`]: collects what exists. Each node is either observed completely or reported as
//!    unknown.
//! 2. [`plan`](mod@plan): a pure function that returns the steps that lead from the observed to the
//!    declared state, each with its reason.
//! 3. [`execute`]: runs the steps whose prerequisite steps are done. Every step can be repeated.
//! 4. `record`: writes states, endpoints and events to the registry.
//!
//! The [`driver`] does not execute a plan to its end: it makes a new plan after every step. It
//! therefore reacts to every change, and a start after a crash needs no special handling.

mod agent;
mod backends;
pub(crate) mod clear;
pub mod declared;
mod direct;
pub mod driver;
mod endpoints;
pub mod execute;
mod feeder;
mod files;
pub(crate) mod image_logins;
mod index;
pub mod input;
mod liveness;
pub mod node_directory;
pub mod observe;
pub mod observe_once;
pub mod placement;
pub mod plan;
mod record;
pub(crate) mod service_credential;
mod state;
pub mod step;
mod traffic;
mod watch;

pub use backends::{Backends, OwnImage};
pub use declared::{Agents, Declared, DeclaredService};
pub use driver::{
    Bounds, Driver, DriverOptions, RetryOptions, RetryRequest, Round, RunningStep, Target,
};
pub use execute::{Deadlines, ServiceApi};
pub use input::{Endings, Failure, History, PlanningInput, Preparation, RecordedPlan};
pub use observe::{EngineView, NodeView, Observed, Readiness};
pub use observe_once::observe_once;
pub use plan::{Policy, plan};
pub use step::{
    Action, FailedReplica, Held, HeldBy, InstanceStatus, Plan, Reason, RolloutProgress,
    RolloutState, Step, StepId,
};
pub use watch::WatchPolicy;
