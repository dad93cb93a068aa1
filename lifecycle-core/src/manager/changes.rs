//! Notifications that the state of the platform may have changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Manager;
use crate::reconcile::Round;

/// How long a receiver waits without a notification.
const POLL: Duration = Duration::from_secs(1);

/// Notifications of the commits and rounds of a manager.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The number of commits to the registry by this manager.
    pub commits: watch::Receiver<u64>,
    /// The latest round.
    pub rounds: watch::Receiver<Arc<Round>>,
}

impl Changes {
    /// Ignores all notifications so far.
    pub fn mark_seen(&mut self) {
        self.commits.mark_unchanged();
        self.rounds.mark_unchanged();
    }

    /// Waits for a notification, but at most one second: another manager may lead. Returns `None` if there
    /// will be no more notifications.
    pub async fn next(&mut self) -> Option<()> {
        tokio::select! {
            changed = self.commits.changed() => changed.ok(),
            changed = self.rounds.changed() => changed.ok(),
            () = tokio::time::sleep(POLL) => Some(()),
        }
    }
}

impl Manager {
    /// Subscribes to the commits and rounds of this manager.
    pub fn changes(&self) -> Changes {
        Changes {
            commits: self.commits.clone(),
            rounds: self.rounds.subscribe(),
        }
    }
}
