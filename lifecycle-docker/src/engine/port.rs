//! Chooses host ports, and reads from the engine's errors which ports are already in use.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use lifecycle_core::model::{PortChoice, Protocol, Replica};

/// The platform's range of host ports.
pub(super) const RANGE: RangeInclusive<u16> = 20_000..=29_999;

/// A host port and its protocol. Each protocol has its own set of ports.
pub(super) type HostPort = (u16, Protocol);

/// Assigns a host port outside `taken` to each container port: the preferred port, or the next free
/// one. Returns `None` if the range is exhausted.
pub(super) fn assign(
    preferred: &BTreeMap<(u16, Protocol), u16>,
    taken: &BTreeSet<HostPort>,
) -> Option<BTreeMap<(u16, Protocol), u16>> {
    let mut used: BTreeSet<HostPort> = taken.clone();
    let mut assigned = BTreeMap::new();
    for (container, first) in preferred {
        let port = free_from(*first, container.1, &used)?;
        used.insert((port, container.1));
        assigned.insert(*container, port);
    }
    Some(assigned)
}

/// Chooses a host port outside `used`, and adds it to `used`. Returns `None` if all are in use.
pub(super) fn choose(
    choice: &PortChoice,
    replica: Replica,
    used: &mut BTreeSet<HostPort>,
) -> Option<u16> {
    let mut candidates = choice.preferred(replica);
    candidates.find(|port| used.insert((*port, choice.protocol)))
}

fn free_from(first: u16, protocol: Protocol, used: &BTreeSet<HostPort>) -> Option<u16> {
    let after = first.saturating_add(1).max(*RANGE.start());
    std::iter::once(first)
        .chain(after..=*RANGE.end())
        .chain(RANGE)
        .find(|port| !used.contains(&(*port, protocol)))
}

/// Returns whether the engine's message reports that a host port is already in use.
pub(super) fn is_conflict(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
}

/// Returns those of `ports` that occur in the engine's message, or all of `ports` if none occurs.
/// Searches for the numbers, because the wording of the message differs between engine versions.
pub(super) fn conflicting(message: &str, ports: &BTreeSet<HostPort>) -> BTreeSet<HostPort> {
    let named = named(message, ports);
    if named.is_empty() {
        ports.clone()
    } else {
        named
    }
}

/// Returns those of `ports` that occur in the engine's message.
pub(super) fn named(message: &str, ports: &BTreeSet<HostPort>) -> BTreeSet<HostPort> {
    ports
        .iter()
        .filter(|(port, _)| names(message, *port))
        .copied()
        .collect()
}

fn names(message: &str, port: u16) -> bool {
    let needle = format!(":{port}");
    message
        .match_indices(&needle)
        .any(|(at, _)| !message[at + needle.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: (u16, Protocol) = (80, Protocol::Tcp);
    const DNS: (u16, Protocol) = (53, Protocol::Udp);
    const MORE: (u16, Protocol) = (81, Protocol::Tcp);

    fn tcp(ports: &[u16]) -> BTreeSet<HostPort> {
        ports.iter().map(|p| (*p, Protocol::Tcp)).collect()
    }

    #[test]
    fn keeps_a_preferred_port_while_it_is_free() {
        let bindings = BTreeMap::from([(HTTP, 20_005)]);
        assert_eq!(assign(&bindings, &tcp(&[])).unwrap()[&HTTP], 20_005);
        assert_eq!(
            assign(&bindings, &tcp(&[20_005, 20_006])).unwrap()[&HTTP],
            20_007
        );
    }

    #[test]
    fn container_ports_get_different_host_ports() {
        let bindings = BTreeMap::from([(HTTP, 20_000), (MORE, 20_000)]);
        let assigned = assign(&bindings, &tcp(&[20_001])).unwrap();
        assert_eq!(assigned, BTreeMap::from([(HTTP, 20_000), (MORE, 20_002)]));
    }

    #[test]
    fn a_replica_takes_the_next_free_port_of_several() {
        let choice = PortChoice {
            candidates: vec![8000, 8002, 8003],
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        };
        for (replica, used, expected) in [
            (1, &[][..], Some(8000)),
            (2, &[], Some(8002)),
            (4, &[], Some(8000)),
            (1, &[8000], Some(8002)),
            (3, &[8003], Some(8000)),
            (2, &[8000, 8002, 8003], None),
        ] {
            let found = choose(&choice, Replica(replica), &mut tcp(used));
            assert_eq!(found, expected, "replica {replica}, {used:?}");
        }
    }

    #[test]
    fn wraps_around_the_range_per_protocol() {
        let bindings = BTreeMap::from([(HTTP, 29_999), (DNS, 29_999)]);
        let assigned = assign(&bindings, &tcp(&[29_999])).unwrap();
        assert_eq!(assigned[&HTTP], 20_000);
        assert_eq!(assigned[&DNS], 29_999);
    }

    #[test]
    fn returns_none_for_an_exhausted_range() {
        let bindings = BTreeMap::from([(HTTP, 20_000)]);
        let all: Vec<u16> = RANGE.collect();
        assert_eq!(assign(&bindings, &tcp(&all)), None);
    }

    #[test]
    fn finds_the_port_in_every_engine_message() {
        for message in [
            "driver failed programming external connectivity on endpoint a (b): Bind for \
             0.0.0.0:20001 failed: port is already allocated",
            "driver failed programming external connectivity on endpoint a (b): Error starting \
             userland proxy: listen tcp4 0.0.0.0:20001: bind: address already in use",
            "failed to set up container networking: driver failed programming external \
             connectivity on endpoint a (b): failed to bind host port 0.0.0.0:20001/tcp: \
             address already in use",
        ] {
            assert!(is_conflict(message), "{message}");
            let ports = tcp(&[2000, 20_000, 20_001, 20_002]);
            assert_eq!(conflicting(message, &ports), tcp(&[20_001]), "{message}");
        }
        let all = tcp(&[20_000, 20_001]);
        assert_eq!(conflicting("port is already allocated", &all), all);
        assert!(!is_conflict("no such image"));
    }
}
