//! Decides the states of instances, for the planner and for [`super::record`]. No other code
//! decides states.

use super::index::Seen;
use super::observe::{EngineView, NodeView, Readiness};
use super::step::InstanceStatus;
use crate::model::InstanceState;
use crate::runtime::{ContainerState, ObservedContainer};

/// Why a container is unhealthy, if its check reported no reason.
const NO_LONGER: &str = "its readiness check no longer passes";

/// The planner's conclusion about a replica, in addition to what its container shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No conclusion: the replica has the state of its container.
    #[default]
    Open,
    /// The container completed, and must not be started again.
    Completed,
    /// The declared specification is not started in this round.
    NotStarted,
    /// The declared specification failed in this round.
    Failed { why: String },
}

/// Returns the state of a replica that has the container `seen`.
///
/// A replica counts as failed or stopped even if `seen` is a ready container of an older
/// specification.
pub(super) fn of_replica(seen: &Seen<'_>, verdict: Verdict) -> InstanceState {
    match verdict {
        Verdict::Failed { why } => InstanceState::Failed { why },
        Verdict::NotStarted => InstanceState::Stopped,
        verdict => of_container(seen.view, seen.container, verdict),
    }
}

/// Returns the state of a replica, or of a recorded container, that no engine lists. `view` is the
/// node on which the container may still run.
pub(super) fn without_container(view: Option<&NodeView>, verdict: Verdict) -> InstanceState {
    match (view.map(|view| &view.engine), verdict) {
        (Some(EngineView::Unknown(unknown)), _) => InstanceState::Unknown {
            since: unknown.since,
            why: unknown.why.clone(),
        },
        (_, Verdict::Failed { why }) => InstanceState::Failed { why },
        (_, Verdict::Open | Verdict::Completed | Verdict::NotStarted) => InstanceState::Stopped,
    }
}

/// Returns the state of a container. `status` is the status of the container's replica in the plan.
pub(super) fn of_planned_container(
    view: &NodeView,
    container: &ObservedContainer,
    status: Option<&InstanceStatus>,
) -> InstanceState {
    let own = status.filter(|status| status.container.as_ref() == Some(&container.id));
    let verdict = match own.map(|status| &status.state) {
        Some(InstanceState::Completed) => Verdict::Completed,
        Some(InstanceState::Failed { why }) => Verdict::Failed { why: why.clone() },
        _ => Verdict::Open,
    };
    of_container(view, container, verdict)
}

fn of_container(view: &NodeView, container: &ObservedContainer, verdict: Verdict) -> InstanceState {
    let readiness = view.readiness.get(&container.id);
    let is_ready = matches!(readiness, Some(Readiness::Ready { .. }));
    match (&container.state, verdict) {
        (ContainerState::Running { .. }, _) if is_ready => InstanceState::Ready,
        (ContainerState::Exited { code: 0, .. }, Verdict::Completed) => InstanceState::Completed,
        (_, Verdict::Failed { why }) => InstanceState::Failed { why },
        (ContainerState::Running { .. }, _) => match readiness {
            Some(Readiness::Waiting {
                was_ready: true,
                why,
                ..
            }) => InstanceState::Unhealthy {
                why: why.clone().unwrap_or_else(|| NO_LONGER.to_owned()),
            },
            _ => InstanceState::Starting,
        },
        (
            ContainerState::Exited { .. } | ContainerState::Created | ContainerState::Paused,
            Verdict::Open | Verdict::Completed | Verdict::NotStarted,
        ) => InstanceState::Stopped,
    }
}
