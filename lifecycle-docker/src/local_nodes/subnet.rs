//! Represents IPv4 subnets, and finds subnets that do not overlap others.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use lifecycle_core::Error;

/// The shortest and the longest prefix of a subnet.
const WIDEST: u8 = 8;
const NARROWEST: u8 = 29;

/// An IPv4 network for the nodes' addresses, for example `10.89.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Returns the network that contains `address`; `None` for an invalid prefix.
    pub(super) fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = mask(prefix)?;
        Some(Self {
            address: Ipv4Addr::from_bits(address.to_bits() & mask),
            prefix,
        })
    }

    /// Returns whether any address belongs to both subnets.
    pub fn overlaps(self, other: Self) -> bool {
        let shared = mask(self.prefix.min(other.prefix)).unwrap_or(0);
        self.address.to_bits() & shared == other.address.to_bits() & shared
    }

    /// Returns the engine's own address in the subnet: the first address after the network address.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits().saturating_add(1))
    }

    /// Iterates over the addresses available to nodes: all except the network, gateway, and
    /// broadcast addresses.
    pub(super) fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = self.address.to_bits();
        let last = first | !mask(self.prefix).unwrap_or(u32::MAX);
        (first.saturating_add(2)..last).map(Ipv4Addr::from_bits)
    }

    /// Returns the lowest address that is available to nodes and not in `taken`.
    pub(super) fn lowest_free(self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        self.hosts().find(|address| !taken.contains(address))
    }
}

fn mask(prefix: u8) -> Option<u32> {
    match prefix {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - prefix)),
        _ => None,
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::invalid(
                format!("subnet `{text}`"),
                why,
                "write the network's first address and a prefix length, for example 10.89.0.0/24",
            )
        };
        let (address, prefix) = text
            .split_once('/')
            .ok_or_else(|| invalid("it has no prefix length"))?;
        let address = Ipv4Addr::from_str(address)
            .map_err(|_| invalid("the part before the slash is not an IPv4 address"))?;
        let prefix = prefix
            .parse::<u8>()
            .ok()
            .filter(|prefix| (WIDEST..=NARROWEST).contains(prefix))
            .ok_or_else(|| invalid("its prefix length is not between 8 and 29"))?;
        Self::new(address, prefix)
            .filter(|subnet| subnet.address == address)
            .ok_or_else(|| invalid("its address has bits set beyond the prefix"))
    }
}

/// Iterates over the candidates for a platform's network. They do not overlap Docker's own pools or
/// the default block for service addresses.
pub(super) fn candidates() -> impl Iterator<Item = Subnet> {
    (0..=u8::MAX).filter_map(|third| Subnet::new(Ipv4Addr::new(10, 89, third, 0), 24))
}

/// Returns the destinations in a Linux routing table (`/proc/net/route`), without the default
/// route.
pub(super) fn routed(table: &str) -> Vec<Subnet> {
    let address = |hex: &str| {
        u32::from_str_radix(hex, 16)
            .ok()
            .map(|bits| Ipv4Addr::from_bits(bits.swap_bytes()))
    };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let destination = address(fields.nth(1)?)?;
            let mask = address(fields.nth(5)?)?.to_bits();
            let prefix = u8::try_from(mask.leading_ones()).ok()?;
            (prefix > 0).then(|| Subnet::new(destination, prefix))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn parses_the_displayed_form_of_a_subnet() {
        assert_eq!(subnet("10.89.3.0/24").to_string(), "10.89.3.0/24");
        for bad in [
            "10.89.0.0",
            "10.89.0.1/24",
            "10.89.0.0/30",
            "10.0.0.0/7",
            "a/24",
            "10.89.0.0/x",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn subnets_overlap_if_one_contains_the_other() {
        assert!(subnet("10.89.0.0/16").overlaps(subnet("10.89.7.0/24")));
        assert!(subnet("10.89.7.0/24").overlaps(subnet("10.89.0.0/16")));
        assert!(!subnet("10.89.6.0/24").overlaps(subnet("10.89.7.0/24")));
    }

    #[test]
    fn nodes_get_the_lowest_free_address() {
        let small = subnet("10.89.0.0/29");
        let mut taken = BTreeSet::from([Ipv4Addr::new(10, 89, 0, 3)]);
        let mut given = Vec::new();
        while let Some(address) = small.lowest_free(&taken) {
            taken.insert(address);
            given.push(address.octets()[3]);
        }
        assert_eq!(given, [2, 4, 5, 6]);
        assert_eq!(small.gateway(), Ipv4Addr::new(10, 89, 0, 1));
    }

    #[test]
    fn parses_the_kernels_routing_table() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                     eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(
            routed(table),
            [subnet("172.17.0.0/16"), subnet("192.0.2.0/24")]
        );
    }
}
