//! Keeps requests within Azure's rate limits per subscription, with one token bucket for each
//! limit. When Azure throttles a request, the request's bucket is closed for the time that Azure
//! specifies. Each provider counts only its own requests.
//!
//! The sizes of the buckets are from "Understand how Azure Resource Manager throttles requests"
//! (per subscription, principal, and region) and "Troubleshooting API throttling errors – Compute".

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep_until};

/// The fraction of Azure's limit that this provider uses. The rest is a safety margin: other
/// clients share the limit, and clocks differ.
const SHARE: f64 = 0.9;

/// The longest time that a request waits. A request that would wait longer fails immediately.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kind of a request, which determines the bucket that the request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Delete,
}

impl Kind {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Read,
            Method::DELETE => Self::Delete,
            _ => Self::Write,
        }
    }
}

#[derive(Debug)]
struct Bucket {
    size: f64,
    /// Requests per second.
    refill: f64,
    left: f64,
    at: Instant,
    /// No request is sent before this time.
    closed_until: Option<Instant>,
}

impl Bucket {
    fn new(size: f64, refill: f64, now: Instant) -> Self {
        Self {
            size: size * SHARE,
            refill: refill * SHARE,
            left: size * SHARE,
            at: now,
            closed_until: None,
        }
    }

    /// Takes one token and returns the time at which the request may be sent. If that time is too
    /// far in the future, takes no token and returns the required wait as an error.
    fn take(&mut self, now: Instant) -> Result<Instant, Duration> {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * self.refill;
        let left = (self.left + grown).min(self.size) - 1.0;
        let wait = Duration::from_secs_f64((-left).max(0.0) / self.refill);
        if wait > PATIENCE {
            return Err(wait);
        }
        (self.left, self.at) = (left, now);
        Ok(now + wait)
    }
}

/// The buckets of one subscription in one region.
#[derive(Debug)]
pub(crate) struct Budgets {
    read: Mutex<Bucket>,
    write: Mutex<Bucket>,
    delete: Mutex<Bucket>,
}

impl Budgets {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            read: Mutex::new(Bucket::new(250.0, 25.0, now)),
            write: Mutex::new(Bucket::new(200.0, 10.0, now)),
            delete: Mutex::new(Bucket::new(200.0, 10.0, now)),
        }
    }

    /// Waits until a request with this method may be sent.
    ///
    /// # Errors
    /// Returns the required wait if that wait is too long, or if the bucket is closed.
    pub(crate) async fn turn(&self, method: &Method) -> Result<(), Duration> {
        let at = self.with(method, |bucket| bucket.take(Instant::now()))?;
        sleep_until(at).await;
        // The bucket may have been closed while this request waited.
        self.with(method, |bucket| {
            let now = Instant::now();
            match bucket.closed_until.filter(|until| *until > now) {
                Some(until) => Err(until - now),
                None => Ok(()),
            }
        })
    }

    /// Closes the bucket for this method after Azure has throttled a request. The bucket stays
    /// closed for `wait`.
    pub(crate) fn close(&self, method: &Method, wait: Duration) {
        let until = Instant::now() + wait;
        self.with(method, |bucket| {
            bucket.closed_until = bucket.closed_until.max(Some(until));
        });
    }

    fn with<T>(&self, method: &Method, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let bucket = match Kind::of(method) {
            Kind::Read => &self.read,
            Kind::Write => &self.write,
            Kind::Delete => &self.delete,
        };
        act(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sends_a_burst_at_once_and_the_rest_at_the_refill_rate() {
        let budgets = Budgets::new();
        let begun = Instant::now();
        for _ in 0..180 {
            budgets.turn(&Method::PUT).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..45 {
            budgets.turn(&Method::POST).await.unwrap();
        }
        let took = begun.elapsed();
        assert!((4_900..=5_100).contains(&took.as_millis()), "{took:?}");
        // Reads have a separate bucket.
        budgets.turn(&Method::GET).await.unwrap();
        budgets.turn(&Method::DELETE).await.unwrap();
        assert_eq!(begun.elapsed(), took);
    }

    #[tokio::test(start_paused = true)]
    async fn sends_nothing_before_azure_allows_it() {
        let budgets = Budgets::new();
        budgets.close(&Method::PUT, Duration::from_secs(30));
        budgets.close(&Method::PUT, Duration::from_secs(10));
        let wait = budgets.turn(&Method::PATCH).await.unwrap_err();
        assert_eq!(wait, Duration::from_secs(30));
        budgets.turn(&Method::GET).await.unwrap();
        tokio::time::advance(Duration::from_secs(30)).await;
        budgets.turn(&Method::PUT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_a_long_wait_and_reports_it() {
        let budgets = Budgets::new();
        let turns = (0..400).map(|_| budgets.turn(&Method::PUT));
        let ended = futures_util::future::join_all(turns).await;
        let refused: Vec<Duration> = ended.into_iter().filter_map(Result::err).collect();
        assert_eq!(
            refused.len(),
            130,
            "180 are sent immediately, and 90 within ten seconds"
        );
        assert!(refused.iter().all(|wait| *wait > PATIENCE), "{refused:?}");
    }
}
