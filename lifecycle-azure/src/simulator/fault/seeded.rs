//! Determines faults from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Fault;

/// The fraction of requests that each fault affects, between 0 and 1. A request is affected by at
/// most one fault. The fractions apply in the order of the fields, and their sum should not exceed
/// 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRates {
    /// The fraction of requests that receive a response with status 429 and `Retry-After`.
    pub throttled: f64,
    /// The wait in the `Retry-After` of a throttled response.
    pub retry_after: Duration,
    /// The fraction of requests that have no effect and receive a response with status 500.
    pub internal_error: f64,
    /// The fraction of requests whose connection is closed before they have an effect.
    pub dropped: f64,
    /// The fraction of requests that are processed, but whose response is lost.
    pub answer_lost: f64,
    /// The fraction of requests whose operation is slow.
    pub slow_operation: f64,
    /// The additional time that a slow operation takes.
    pub slowness: Duration,
    /// The fraction of requests whose operation fails.
    pub operation_fails: f64,
    /// The fraction of requests whose VM gets no capacity.
    pub allocation_fails: f64,
}

impl FaultRates {
    /// Causes no faults.
    pub const NONE: Self = Self {
        throttled: 0.0,
        retry_after: Duration::from_secs(1),
        internal_error: 0.0,
        dropped: 0.0,
        answer_lost: 0.0,
        slow_operation: 0.0,
        slowness: Duration::from_secs(1),
        operation_fails: 0.0,
        allocation_fails: 0.0,
    };

    /// Uses `share` as the fraction of every transient fault: 429, 500, closed connections, and
    /// lost responses.
    pub const fn transient(share: f64) -> Self {
        Self {
            throttled: share,
            internal_error: share,
            dropped: share,
            answer_lost: share,
            ..Self::NONE
        }
    }
}

#[derive(Debug)]
pub(super) struct Seeded {
    seed: u64,
    rates: FaultRates,
    seen: BTreeMap<String, u64>,
}

impl Seeded {
    pub(super) fn new(seed: u64, rates: FaultRates) -> Self {
        Self {
            seed,
            rates,
            seen: BTreeMap::new(),
        }
    }

    pub(super) fn strike(&mut self, method: &Method, path: &str) -> Option<Fault> {
        // Omit operation ids, which differ between runs.
        let path: Vec<_> = path
            .split('/')
            .filter(|segment| Uuid::parse_str(segment).is_err())
            .collect();
        let key = format!("{method} {}", path.join("/").to_lowercase());
        let nth = self.seen.entry(key.clone()).or_default();
        *nth += 1;
        let mut left = share(self.seed, &key, *nth);
        let rates = &self.rates;
        let internal = || {
            let message = "The server encountered an internal error.";
            Fault::error(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                "InternalServerError",
                message,
            )
        };
        let fails = || Fault::OperationFails {
            code: "InternalExecutionError".into(),
            message: "An internal execution error occurred. Please retry later.".into(),
        };
        let retry_after = rates.retry_after;
        let choices: [(f64, &dyn Fn() -> Fault); 7] = [
            (rates.throttled, &|| Fault::Throttled { retry_after }),
            (rates.internal_error, &internal),
            (rates.dropped, &|| Fault::Dropped),
            (rates.answer_lost, &|| Fault::AnswerLost),
            (rates.slow_operation, &|| {
                Fault::SlowOperation(rates.slowness)
            }),
            (rates.operation_fails, &fails),
            (rates.allocation_fails, &|| Fault::AllocationFailed),
        ];
        for (rate, fault) in choices {
            if left < rate {
                return Some(fault());
            }
            left -= rate;
        }
        None
    }
}

/// Returns a number from 0 to 1 that depends only on the arguments.
fn share(seed: u64, key: &str, nth: u64) -> f64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(nth.to_be_bytes());
    hash.update(key.as_bytes());
    let digest = hash.finalize();
    let high = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, interleaved: bool) -> Vec<Option<Fault>> {
        let mut seeded = Seeded::new(seed, FaultRates::transient(0.1));
        (0..100)
            .map(|i| {
                if interleaved {
                    seeded.strike(&Method::GET, "/other");
                }
                // Give each path a different id, as in the paths of operations.
                seeded.strike(&Method::GET, &format!("/op/{}", Uuid::from_u128(i)))
            })
            .collect()
    }

    #[test]
    fn other_requests_do_not_change_the_faults_of_a_seed() {
        assert_eq!(fates(1, false), fates(1, true));
        assert_ne!(fates(1, false), fates(2, false));
    }

    #[test]
    fn affects_about_the_requested_share() {
        let struck = fates(3, false).iter().flatten().count();
        assert!(
            (25..55).contains(&struck),
            "{struck} of 100, but about 4 × 10% were requested"
        );
    }
}
