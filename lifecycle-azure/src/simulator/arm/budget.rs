//! Simulates Azure's rate limits with token buckets. Counts requests even if the limits are not
//! enforced, so that tests can read how many requests were sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use chrono::{DateTime, Utc};

use super::id::key_of;

/// A bucket's size and refill rate.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    size: f64,
    per_second: f64,
}

const fn rate(size: f64, per_second: f64) -> Rate {
    Rate { size, per_second }
}

/// The limits of Azure Resource Manager, per subscription and principal.
const READS: Rate = rate(250.0, 25.0);
const WRITES: Rate = rate(200.0, 10.0);
const DELETES: Rate = rate(200.0, 10.0);
/// The limit of the compute service per VM. Creating and changing a VM use one bucket; starting,
/// stopping, and deleting a VM use another.
const MACHINE: Rate = rate(12.0, 4.0 / 60.0);
/// The limit of the compute service per subscription and location, for the same two buckets.
const COMPUTE: Rate = rate(1500.0, 500.0 / 60.0);

/// Reports how much of a rate limit has been used.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetReading {
    /// The bucket's name: `reads`, `writes`, `deletes`, `PutVM`, or `VMActions`, followed by the
    /// scope. The scope is a subscription and a principal, a subscription and a location, or a VM's
    /// id in lower case.
    pub name: String,
    /// The number of counted requests.
    pub requests: u64,
    /// The number of requests that arrived while the bucket was empty. Such requests are rejected
    /// if limits are enforced.
    pub beyond: u64,
    /// The number of requests that the bucket currently allows.
    pub left: u32,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// The number of tokens. Becomes negative if requests arrive while the bucket is empty. A
    /// negative number lengthens the wait.
    level: f64,
    at: DateTime<Utc>,
    requests: u64,
    beyond: u64,
}

impl Bucket {
    fn fill(&mut self, now: DateTime<Utc>) {
        let passed = (now - self.at).to_std().unwrap_or_default();
        self.level = (self.level + passed.as_secs_f64() * self.rate.per_second).min(self.rate.size);
        self.at = now;
    }

    /// Counts a request. If the bucket was empty, returns how long to wait.
    fn take(&mut self, now: DateTime<Utc>) -> Option<Duration> {
        self.fill(now);
        self.requests += 1;
        let enough = self.level >= 1.0;
        self.level = (self.level - 1.0).max(-self.rate.size);
        if enough {
            return None;
        }
        self.beyond += 1;
        let wait = (1.0 - self.level) / self.rate.per_second;
        Some(Duration::from_secs_f64(wait.ceil().max(1.0)))
    }

    fn left(&self) -> u32 {
        let mut whole = 0;
        while f64::from(whole) + 1.0 <= self.level {
            whole += 1;
        }
        whole
    }
}

/// The buckets for all clients.
#[derive(Debug, Default)]
pub(crate) struct Budgets(Mutex<BTreeMap<String, Bucket>>);

/// The result of counting a request.
#[derive(Debug)]
pub(crate) struct Spent {
    /// How long the client must wait. `None` if no limit is reached.
    pub(crate) wait: Option<Duration>,
    /// Whether the reached limit belongs to the compute service.
    pub(crate) compute: bool,
    /// The headers that report the remaining number of requests.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// A request to the compute service that must be counted.
pub(crate) struct ComputeRequest<'a> {
    /// `PutVM` or `VMActions`.
    pub(crate) operation: &'static str,
    pub(crate) vm: &'a str,
    pub(crate) location: &'a str,
}

impl Budgets {
    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that a principal sends to a subscription.
    pub(crate) fn spend(
        &self,
        now: DateTime<Utc>,
        method: &Method,
        subscription: &str,
        principal: &str,
        compute: Option<&ComputeRequest<'_>>,
    ) -> Spent {
        let mut buckets = self.buckets();
        let mut take = |name: String, rate: Rate| {
            let bucket = buckets.entry(name).or_insert(Bucket {
                rate,
                level: rate.size,
                at: now,
                requests: 0,
                beyond: 0,
            });
            let wait = bucket.take(now);
            (wait, bucket.left())
        };
        let (kind, rate, header) = match *method {
            Method::GET | Method::HEAD => (
                "reads",
                READS,
                "x-ms-ratelimit-remaining-subscription-reads",
            ),
            Method::DELETE => (
                "deletes",
                DELETES,
                "x-ms-ratelimit-remaining-subscription-deletes",
            ),
            _ => (
                "writes",
                WRITES,
                "x-ms-ratelimit-remaining-subscription-writes",
            ),
        };
        let (wait, left) = take(format!("{kind} {subscription} {principal}"), rate);
        let mut spent = Spent {
            wait,
            compute: false,
            headers: vec![(header, left.to_string())],
        };
        let Some(compute) = compute else {
            return spent;
        };
        let operation = compute.operation;
        let own = take(format!("{operation} {}", key_of(compute.vm)), MACHINE);
        let all = take(
            format!("{operation} {subscription} {}", compute.location),
            COMPUTE,
        );
        spent.headers.push((
            "x-ms-ratelimit-remaining-resource",
            format!(
                "Microsoft.Compute/{operation}Subscription;{},Microsoft.Compute/{operation}Resource;{}",
                all.1, own.1
            ),
        ));
        if spent.wait.is_none() {
            spent.wait = own.0.max(all.0);
            spent.compute = spent.wait.is_some();
        }
        spent
    }

    /// Returns the reading of each bucket.
    pub(crate) fn readings(&self, now: DateTime<Utc>) -> Vec<BudgetReading> {
        let mut buckets = self.buckets();
        let reading = |(name, bucket): (&String, &mut Bucket)| {
            bucket.fill(now);
            BudgetReading {
                name: name.clone(),
                requests: bucket.requests,
                beyond: bucket.beyond,
                left: bucket.left(),
            }
        };
        buckets.iter_mut().map(reading).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn put(budgets: &Budgets, seconds: i64) -> Spent {
        let compute = ComputeRequest {
            operation: "PutVM",
            vm: "/VM",
            location: "westeurope",
        };
        budgets.spend(at(seconds), &Method::PUT, "s", "p", Some(&compute))
    }

    #[test]
    fn allows_twelve_requests_at_once_and_then_four_per_minute_for_a_vm() {
        let budgets = Budgets::default();
        for _ in 0..12 {
            assert_eq!(put(&budgets, 0).wait, None);
        }
        let refused = put(&budgets, 0);
        assert!(refused.compute);
        assert_eq!(
            refused.wait,
            Some(Duration::from_secs(30)),
            "two tokens are missing, and the bucket gains one every 15 seconds"
        );
        assert!(put(&budgets, 31).wait.is_none());
    }

    #[test]
    fn further_requests_lengthen_the_wait() {
        let budgets = Budgets::default();
        let waits: Vec<_> = (0..15).filter_map(|_| put(&budgets, 0).wait).collect();
        assert_eq!(waits.len(), 3);
        assert!(waits.is_sorted() && waits[0] < waits[2]);
    }

    #[test]
    fn reads_the_remaining_requests() {
        let budgets = Budgets::default();
        let spent = budgets.spend(at(0), &Method::GET, "s", "p", None);
        let header = (
            "x-ms-ratelimit-remaining-subscription-reads",
            "249".to_owned(),
        );
        assert_eq!(spent.headers, [header]);
        let reading = &budgets.readings(at(0))[0];
        assert_eq!(
            (reading.requests, reading.beyond, reading.left),
            (1, 0, 249)
        );
        assert_eq!(reading.name, "reads s p");
    }
}
