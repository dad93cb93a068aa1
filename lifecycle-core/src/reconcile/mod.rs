//! The heart: observe → plan → execute → record.
//!
//! Level-triggered: nothing depends on having seen an event, events only make it quicker.
//! 1. [`observe`]: what really exists, complete per node, or that node is unknown.
//! 2. [`plan`](mod@plan): a pure function to the steps between declared and observed, each with
//!    its reason.
//! 3. [`execute`]: runs the steps whose needs are met; every step can be repeated.
//! 4. `record`: states, endpoints and events go to the registry.
//!
//! The [`driver`] plans anew after every step instead of walking one plan to its end, so that what
//! happens meanwhile is never missed, and a start after a crash is no special case.

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
