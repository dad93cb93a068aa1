//! The last lines of the output of failed replicas, as part of an explanation.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::why::{DecisionData, WhyV1};
use crate::manager::{Manager, Output};
use crate::model::{InstanceId, InstanceState, Subject};
use crate::reconcile::HeldBy;
use crate::runtime::LogOptions;

/// Of how many failed replicas `why` shows the last lines of output, and how many lines.
const OUTPUTS: usize = 3;
const LAST_LINES: u32 = 10;

/// How long `why` waits for the output of a replica.
const OUTPUT_WITHIN: Duration = Duration::from_secs(5);

/// The end of a replica's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LastOutputV1 {
    /// The replica.
    pub about: Subject,
    /// The last lines of its output.
    pub lines: Vec<String>,
}

/// Adds the last lines of the replicas that failed according to an explanation.
pub(super) async fn add(why: &mut WhyV1, manager: &Manager) {
    for failed in failed(why).into_iter().take(OUTPUTS) {
        why.output.extend(last_output(manager, failed).await);
    }
}

/// Returns the replicas that failed according to an explanation.
fn failed(why: &WhyV1) -> BTreeSet<InstanceId> {
    let failed = why.decided.iter().filter_map(|decision| {
        let id = match &decision.about {
            Subject::Instance(id) => Some(id.clone()),
            _ => None,
        };
        match &decision.data {
            DecisionData::Held(HeldBy::Failed { .. } | HeldBy::Backoff { .. }) => id,
            DecisionData::Held(by) => by.failed_dependency().map(|failed| failed.replica.clone()),
            DecisionData::Status(status) => {
                id.filter(|_| matches!(status.state, InstanceState::Failed { .. }))
            }
            DecisionData::Step(_) | DecisionData::Rollout(_) => None,
        }
    });
    failed.collect()
}

/// Returns the last lines of a replica's output, if it has written any and its node responds.
async fn last_output(manager: &Manager, id: InstanceId) -> Option<LastOutputV1> {
    let read = async {
        let options = LogOptions::last(LAST_LINES);
        let lines = manager.logs(&id.service, options).await.ok()?;
        let name = id.to_string();
        let own = lines.filter_map(|output| {
            let line = match output.output {
                Output::Line(line) if output.instance == name => Some(line.text),
                _ => None,
            };
            async move { line }
        });
        Some(own.collect::<Vec<String>>().await)
    };
    let lines = tokio::time::timeout(OUTPUT_WITHIN, read).await.ok()??;
    (!lines.is_empty()).then_some(LastOutputV1 {
        about: Subject::Instance(id),
        lines,
    })
}
