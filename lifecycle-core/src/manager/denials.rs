//! Counts the requests without a valid token by the address that they come from, and records them in
//! the audit. Anyone can send such requests, so the number of stored addresses is limited, and so is the
//! number of events, which otherwise would push the other events out of the registry.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Manager;
use crate::error::Result;
use crate::model::{Epoch, EventKind, NewEvent, Subject};
use crate::registry::Batch;

/// The period in which requests are counted, and after which they are recorded again.
const PERIOD: Duration = Duration::from_mins(1);

/// How many requests from one address may be without a valid token in this period. Further ones must
/// wait.
const PERMITTED: u32 = 20;

/// How many addresses are counted separately.
const ADDRESSES: usize = 1_000;

/// For how many addresses an event is recorded in one period. Another one covers all others.
const RECORDED: usize = 5;

/// The counted requests.
#[derive(Debug, Default)]
pub(super) struct Denials {
    /// By address; `None` counts addresses that are unknown or too many.
    by_address: BTreeMap<Option<IpAddr>, Counted>,
    recorded_at: Option<Instant>,
}

#[derive(Debug)]
struct Counted {
    /// When the current period began.
    since: Instant,
    /// The requests in the current period.
    requests: u32,
    /// The requests that are in no event yet.
    unrecorded: u64,
}

/// A number of requests from one address; `None` for several others.
type Number = (Option<IpAddr>, u64);

impl Denials {
    /// Counts a request. If there were too many from this address, returns how long the sender must
    /// wait.
    pub(super) fn count(&mut self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let address = address.map(network);
        if self.by_address.len() >= ADDRESSES {
            let is_idle = |one: &Counted| one.unrecorded == 0 && now - one.since >= PERIOD;
            self.by_address.retain(|_, counted| !is_idle(counted));
        }
        let has_room = self.by_address.len() < ADDRESSES;
        let address = address.filter(|_| has_room || self.by_address.contains_key(&address));
        let counted = self.by_address.entry(address).or_insert(Counted {
            since: now,
            requests: 0,
            unrecorded: 0,
        });
        if now - counted.since >= PERIOD {
            counted.since = now;
            counted.requests = 0;
        }
        counted.requests = counted.requests.saturating_add(1);
        counted.unrecorded = counted.unrecorded.saturating_add(1);
        (counted.requests > PERMITTED).then(|| PERIOD.saturating_sub(now - counted.since))
    }

    /// Returns the numbers that must be recorded now, largest first.
    fn due(&self, now: Instant) -> Vec<Number> {
        if self.recorded_at.is_some_and(|at| now - at < PERIOD) {
            return Vec::new();
        }
        let numbers = self.by_address.iter();
        let numbers = numbers.map(|(address, counted)| (*address, counted.unrecorded));
        let mut due: Vec<Number> = numbers.filter(|(_, number)| *number > 0).collect();
        due.sort_by_key(|(address, number)| (address.is_none(), Reverse(*number)));
        due
    }

    fn recorded(&mut self, due: &[Number], now: Instant) {
        self.recorded_at = Some(now);
        for (address, number) in due {
            if let Some(counted) = self.by_address.get_mut(address) {
                counted.unrecorded = counted.unrecorded.saturating_sub(*number);
            }
        }
    }
}

/// Returns the address by which a client is counted: with IPv6, the client's whole network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(own) => match own.to_ipv4_mapped() {
            Some(mapped) => mapped.into(),
            None => Ipv6Addr::from_bits(own.to_bits() & (u128::MAX << 64)).into(),
        },
    }
}

/// Returns the numbers for single events: the first ones, and the sum of the others.
fn summarized(due: &[Number]) -> Vec<Number> {
    let (first, others) = due.split_at(due.len().min(RECORDED));
    let others: u64 = others.iter().map(|(_, number)| number).sum();
    let rest = (others > 0).then_some((None, others));
    first.iter().copied().chain(rest).collect()
}

impl Manager {
    /// Records the requests without a valid token, at most once a minute.
    pub(super) async fn record_denials(&self, epoch: Epoch) -> Result<()> {
        let now = Instant::now();
        let due = self.tokens.denials().due(now);
        if due.is_empty() {
            return Ok(());
        }
        let events = summarized(&due).into_iter().map(|(address, number)| {
            let from = address.map_or("other addresses".to_owned(), |ip| ip.to_string());
            let requests = if number == 1 {
                "a request".to_owned()
            } else {
                format!("{number} requests")
            };
            NewEvent {
                at: self.backends.clock.now(),
                kind: EventKind::Audit,
                subject: Subject::Platform,
                message: format!("{requests} from {from} had no valid token"),
                data: json!({
                    "request": "authenticate",
                    "result": "denied",
                    "peer": address,
                    "number": number,
                }),
            }
        });
        let batch = Batch {
            changes: Vec::new(),
            events: events.collect(),
        };
        self.backends.registry.commit(epoch, batch).await?;
        self.tokens.denials().recorded(&due, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_limited_for_a_minute() {
        let (mut denials, begin) = (Denials::default(), Instant::now());
        for _ in 0..PERMITTED {
            assert_eq!(denials.count(Some(address(1)), begin), None);
        }
        let later = begin + Duration::from_secs(50);
        let wait = Some(Duration::from_secs(10));
        assert_eq!(denials.count(Some(address(1)), later), wait);
        assert_eq!(denials.count(Some(address(2)), later), None);
        assert_eq!(denials.count(Some(address(1)), begin + PERIOD), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_is_recorded_once() {
        let (mut denials, begin) = (Denials::default(), Instant::now());
        for _ in 0..3 {
            denials.count(Some(address(1)), begin);
        }
        let due = denials.due(begin);
        assert_eq!(due, [(Some(address(1)), 3)]);
        denials.count(Some(address(1)), begin);
        // Not recorded yet, for example because the registry did not answer.
        assert_eq!(denials.due(begin), [(Some(address(1)), 4)]);
        denials.recorded(&due, begin);
        denials.count(Some(address(2)), begin);
        assert_eq!(denials.due(begin + Duration::from_secs(59)), []);
        let later = denials.due(begin + PERIOD);
        assert_eq!(later, [(Some(address(1)), 1), (Some(address(2)), 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_and_events_are_limited() {
        let (mut denials, begin) = (Denials::default(), Instant::now());
        let many = u32::try_from(ADDRESSES).unwrap() * 3;
        denials.count(Some(address(7)), begin);
        for number in 1..=many {
            denials.count(Some(address(number)), begin);
        }
        assert!(denials.by_address.len() <= ADDRESSES + 1);
        let due = denials.due(begin);
        let events = summarized(&due);
        assert_eq!(events.len(), RECORDED + 1);
        assert_eq!(events[0], (Some(address(7)), 2));
        assert_eq!(events[RECORDED].0, None);
        let total: u64 = events.iter().map(|(_, number)| number).sum();
        assert_eq!(total, u64::from(many) + 1, "a request is missing");
        denials.recorded(&due, begin);
        denials.count(Some(address(1)), begin + PERIOD);
        assert_eq!(denials.by_address.len(), 1);
    }

    #[test]
    fn a_client_has_one_address() {
        for (address, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ] {
            let (address, expected): (IpAddr, IpAddr) =
                (address.parse().unwrap(), expected.parse().unwrap());
            assert_eq!(network(address), expected);
        }
    }
}
