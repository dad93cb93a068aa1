//! Waits for the control loop's next wakeup, and handles each wakeup.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::{Driver, RetryRequest, Target};
use crate::cloud::CloudOperation;
use crate::error::Result;
use crate::model::NodeName;
use crate::network::Report;

/// How long to gather changes before a plan, per node and replica. Changes tend to come in groups.
const GATHERING_PER_OBJECT: Duration = Duration::from_micros(10);
const LONGEST_GATHERING: Duration = Duration::from_millis(50);

/// The minimum time between two plans, per node and replica. Plans for a larger platform cost more.
const BETWEEN_PLANS_PER_OBJECT: Duration = Duration::from_micros(300);
const LONGEST_BETWEEN_PLANS: Duration = Duration::from_secs(2);

/// How often the latest output line of each running step is published.
const LINES_EVERY: Duration = Duration::from_secs(1);

pub(super) type StepEnd = std::result::Result<(tokio::task::Id, Result<()>), JoinError>;

/// The event that ended a wait of the control loop.
#[derive(Debug)]
pub(super) enum Wakeup {
    /// The cloud has accepted a change of a node.
    Begun(CloudOperation),
    StepEnded(StepEnd),
    /// The declaration or the requested restarts have changed.
    Target,
    Retry(RetryRequest),
    /// The cloud or an engine reports a change.
    Observation,
    /// An agent accepted the service addresses, or an agent's feed ended.
    Agents,
    /// An agent sent a report.
    Report(NodeName, Report),
    /// The time in the current [`Pace`] has been reached.
    Due,
    /// A running step may have written a new line of output.
    Lines,
}

/// Determines when the next plan is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// Nothing has changed since the last plan. Plan after the next change, or at `until` at the
    /// latest.
    Waiting { until: Instant },
    /// Something has changed. Plan at `until`.
    Gathering { until: Instant },
}

impl Driver {
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
                self.handle_report(&node, report).await?;
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

    /// Schedules the next plan, and starts steps for which a slot has become free.
    async fn gather(&mut self) -> Result<()> {
        if let Pace::Waiting { .. } = self.pace {
            self.pace = Pace::Gathering {
                until: self.next_plan(),
            };
        }
        self.take_ended().await?;
        // A new target needs a new plan before any step starts.
        if self.target.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.launch().await
    }

    async fn take_ended(&mut self) -> Result<()> {
        while let Some(end) = self.tasks.try_join_next_with_id() {
            self.ended(end).await?;
        }
        Ok(())
    }

    /// Returns the time at which the next plan is due.
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

/// Waits for a change of the target; never returns after the sender is gone.
async fn changed(target: &mut watch::Receiver<Option<Target>>) {
    if target.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
