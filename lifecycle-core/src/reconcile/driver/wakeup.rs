//! What the control loop waits for, and what it does about each.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::{Driver, RetryRequest, Target};
use crate::cloud::CloudOperation;
use crate::error::Result;
use crate::model::NodeName;
use crate::network::Report;

/// Changes within this time, for each node and each replica, are planned for together, since
/// few changes come alone: half a millisecond for fifty.
const GATHERING_PER_OBJECT: Duration = Duration::from_micros(10);
const LONGEST_GATHERING: Duration = Duration::from_millis(50);

/// The least time between two plans, for each node and each replica: the work of planning grows
/// with the platform, and on a large one changes come in swarms. For a dozen replicas it is a few
/// milliseconds, for two thousand less than a second. Steps that only wait for their turn do not
/// wait for it, nor does the first change after some quiet.
const BETWEEN_PLANS_PER_OBJECT: Duration = Duration::from_micros(300);
const LONGEST_BETWEEN_PLANS: Duration = Duration::from_secs(2);

/// How often the last line of a running step is published.
const LINES_EVERY: Duration = Duration::from_secs(1);

/// The result of a step, as its task returns it.
pub(super) type StepEnd = std::result::Result<(tokio::task::Id, Result<()>), JoinError>;

/// Why the control loop goes on.
#[derive(Debug)]
pub(super) enum Wakeup {
    /// The cloud has accepted a change of a node.
    Begun(CloudOperation),
    StepEnded(StepEnd),
    /// Another declaration, or other restarts were requested.
    Target,
    Retry(RetryRequest),
    /// The cloud or an engine reports something else than before.
    Observation,
    /// An agent has taken the services' addresses, or does not take them.
    Agents,
    /// An agent reports something that becomes an event.
    Report(NodeName, Report),
    /// The time that the pace sets.
    Due,
    /// A running step may have written another line.
    Lines,
}

/// When the next plan is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// When something happens, or at this time.
    Waiting { until: Instant },
    /// At this time: something has happened, and what happens until then is planned for with it.
    Gathering { until: Instant },
}

impl Driver {
    /// Waits for the next thing to handle.
    pub(super) async fn wakeup(&mut self) -> Wakeup {
        let Self {
            target,
            tasks,
            just_begun,
            retry_requests,
            watcher,
            feeder,
            reports,
            running,
            pace,
            ..
        } = self;
        match *pace {
            Pace::Waiting { until } => tokio::select! {
                biased;
                Some(operation) = just_begun.recv() => Wakeup::Begun(operation),
                Some(end) = tasks.join_next_with_id() => Wakeup::StepEnded(end),
                () = changed(target) => Wakeup::Target,
                Some(request) = retry_requests.recv() => Wakeup::Retry(request),
                () = watcher.changed() => Wakeup::Observation,
                () = feeder.changed() => Wakeup::Agents,
                Some((node, report)) = reports.recv() => Wakeup::Report(node, report),
                () = tokio::time::sleep_until(until) => Wakeup::Due,
                () = tokio::time::sleep(LINES_EVERY), if !running.is_empty() => Wakeup::Lines,
            },
            Pace::Gathering { until } => tokio::select! {
                biased;
                () = changed(target) => Wakeup::Target,
                () = tokio::time::sleep_until(until) => Wakeup::Due,
                Some(operation) = just_begun.recv() => Wakeup::Begun(operation),
                Some(end) = tasks.join_next_with_id() => Wakeup::StepEnded(end),
            },
        }
    }

    pub(super) async fn handle(&mut self, wakeup: Wakeup) -> Result<()> {
        match wakeup {
            Wakeup::Begun(operation) => {
                self.store(operation).await?;
                match self.pace {
                    Pace::Waiting { .. } => Ok(()),
                    Pace::Gathering { .. } => self.gather().await,
                }
            }
            Wakeup::StepEnded(end) => {
                self.ended(end).await?;
                self.gather().await
            }
            Wakeup::Target => {
                self.take_ended().await?;
                self.round().await
            }
            Wakeup::Retry(request) => {
                self.take_ended().await?;
                self.take_target();
                self.retry(request).await?;
                self.round().await
            }
            Wakeup::Observation | Wakeup::Agents => self.gather().await,
            Wakeup::Report(node, report) => {
                self.hear(&node, report);
                self.gather().await
            }
            Wakeup::Due => match self.pace {
                Pace::Waiting { .. } => self.gather().await,
                Pace::Gathering { .. } => self.round().await,
            },
            Wakeup::Lines => {
                self.publish_lines();
                Ok(())
            }
        }
    }

    /// Has the next plan made soon, and launches what waited for its turn.
    async fn gather(&mut self) -> Result<()> {
        if let Pace::Waiting { .. } = self.pace {
            self.pace = Pace::Gathering {
                until: self.next_plan(),
            };
        }
        self.take_ended().await?;
        // Under another target, the plan is made first.
        if self.target.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.launch().await
    }

    /// Handles all steps that have ended by now.
    async fn take_ended(&mut self) -> Result<()> {
        while let Some(end) = self.tasks.try_join_next_with_id() {
            self.ended(end).await?;
        }
        Ok(())
    }

    /// Until when changes are gathered before they are planned for.
    fn next_plan(&self) -> Instant {
        let declared = self.declared.borrow();
        let objects = declared.as_ref().map_or(0, |declared| {
            let replicas = declared
                .services
                .values()
                .map(|s| u32::from(s.spec.replicas));
            let nodes = u32::try_from(declared.nodes.len()).unwrap_or(u32::MAX);
            replicas.fold(nodes, u32::saturating_add)
        });
        let gathering = GATHERING_PER_OBJECT.saturating_mul(objects);
        let between = BETWEEN_PLANS_PER_OBJECT.saturating_mul(objects);
        let gathered = Instant::now() + gathering.min(LONGEST_GATHERING);
        let least = self.latest.as_ref().map(|latest| latest.made_at);
        least.map_or(gathered, |made_at| {
            gathered.max(made_at + between.min(LONGEST_BETWEEN_PLANS))
        })
    }
}

/// Waits for another target; for ever when nobody can set one any more.
async fn changed(target: &mut watch::Receiver<Option<Target>>) {
    if target.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
