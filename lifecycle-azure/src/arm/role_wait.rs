//! Waits for new role assignments. Azure denies requests for some minutes after the assignment of
//! the role that allows them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use http::Method;
use lifecycle_core::clock::{Clock as _, SystemClock};
use tokio::time::Instant;

use super::refusal::Refusal;

/// How long denied requests are repeated, counted from the first denial. From "Troubleshoot Azure
/// RBAC": changes of role assignments take up to 10 minutes to take effect.
const LIMIT: Duration = Duration::from_mins(10);
/// How long after the previous denial a denial begins a new wait, for another role assignment.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(30);
/// The interval between two attempts.
const EVERY: Duration = Duration::from_secs(10);

/// Repeats requests that Azure denies because a role is missing, for at most 10 minutes after the
/// first denial. A denial more than half an hour after the previous one begins a new wait. Without a
/// `RoleWait`, a denied request fails at once.
#[derive(Clone)]
pub struct RoleWait {
    report: Arc<dyn Fn(&str) + Send + Sync>,
    /// Whether requests that change nothing are repeated too.
    repeats_reads: bool,
    /// The interval between two attempts.
    pub every: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// When Azure denied the first request of the current wait.
    since: Option<Instant>,
    /// When Azure denied the latest request.
    latest: Option<Instant>,
    /// The denied actions that were reported.
    reported: BTreeSet<String>,
}

impl fmt::Debug for RoleWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleWait")
            .field("repeats_reads", &self.repeats_reads)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

impl RoleWait {
    /// Repeats all requests. `report` receives a line of text for each denied action, and must not
    /// block.
    pub fn for_all(report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            report: Arc::new(report),
            repeats_reads: true,
            every: EVERY,
            state: Arc::default(),
        }
    }

    /// Repeats only requests that change something. A program that observes Azure all the time
    /// repeats its other requests anyway.
    pub fn for_changes(report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            repeats_reads: false,
            ..Self::for_all(report)
        }
    }

    /// Returns how long to wait before a denied request is repeated, or `None` if it has failed.
    pub(super) fn pause(&self, method: &Method, refusal: &Refusal) -> Option<Duration> {
        if !refusal.lacks_role() || !self.repeats_reads && *method == Method::GET {
            return None;
        }
        let now = Instant::now();
        let action = refusal.denied_action().map_or_else(
            || "the request".to_owned(),
            |action| format!("the action `{action}`"),
        );
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .latest
            .is_some_and(|latest| now - latest > FORGOTTEN_AFTER)
        {
            *state = State::default();
        }
        state.latest = Some(now);
        let left = LIMIT.checked_sub(now - *state.since.get_or_insert(now))?;
        if left.is_zero() {
            return None;
        }
        let is_new = state.reported.insert(action.clone());
        drop(state);
        if is_new {
            (self.report)(&line(&action, &refusal.code, left));
        }
        Some(self.every.min(left))
    }
}

fn line(action: &str, code: &str, left: Duration) -> String {
    let left = TimeDelta::from_std(left).unwrap_or_default();
    let until = { SystemClock.now().checked_add_signed(left) }.map_or_else(String::new, |until| {
        format!(" until {} UTC", until.format("%H:%M"))
    });
    format!(
        "Azure denies {action} ({code}); a new role assignment takes up to 10 minutes to take \
         effect; trying again{until}"
    )
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;

    fn refusal(code: &str, action: &str) -> Refusal {
        let message = format!("The client has no authorization to perform action '{action}'.");
        let body = json!({ "error": { "code": code, "message": message } }).to_string();
        Refusal::read(Some(StatusCode::FORBIDDEN), None, body.as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn ends_ten_minutes_after_the_first_denial() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let wait = RoleWait::for_all(move |line| kept.lock().unwrap().push(line.to_owned()));
        let put = refusal(
            "AuthorizationFailed",
            "Microsoft.Network/virtualNetworks/write",
        );
        let get = refusal(
            "AuthorizationFailed",
            "Microsoft.Network/virtualNetworks/read",
        );
        assert_eq!(wait.pause(&Method::PUT, &put), Some(EVERY));
        tokio::time::advance(LIMIT.saturating_sub(Duration::from_secs(3))).await;
        assert_eq!(wait.pause(&Method::PUT, &put), Some(Duration::from_secs(3)));
        assert_eq!(wait.pause(&Method::GET, &get), Some(Duration::from_secs(3)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(wait.pause(&Method::PUT, &put), None);
        // A request that is denied again and again is not repeated for another 10 minutes.
        tokio::time::advance(LIMIT).await;
        assert_eq!(wait.pause(&Method::PUT, &put), None);
        {
            let lines = lines.lock().unwrap();
            assert_eq!(lines.len(), 2, "each action is reported once: {lines:?}");
        }
        tokio::time::advance(FORGOTTEN_AFTER + EVERY).await;
        assert_eq!(wait.pause(&Method::PUT, &put), Some(EVERY));
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        let start = "Azure denies the action `Microsoft.Network/virtualNetworks/write` \
                     (AuthorizationFailed); a new role assignment takes up to 10 minutes to take \
                     effect; trying again until ";
        assert!(lines[0].starts_with(start), "{}", lines[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_denials_and_observations_of_a_manager_are_not_repeated() {
        let all = RoleWait::for_all(|_| ());
        let policy = refusal("RequestDisallowedByPolicy", "x/write");
        assert_eq!(all.pause(&Method::PUT, &policy), None);
        let changes = RoleWait::for_changes(|_| ());
        let role = refusal("AuthorizationFailed", "x/read");
        assert_eq!(changes.pause(&Method::GET, &role), None);
        assert_eq!(changes.pause(&Method::PUT, &role), Some(EVERY));
    }
}
