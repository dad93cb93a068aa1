//! Assigns an address to each service. A service keeps its previous address. A new address is
//! derived from the service's name, so a lost registry rarely changes addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::model::ServiceName;

/// The block of service addresses if the declaration specifies none.
pub const DEFAULT_BLOCK: Block = Block {
    base: Ipv4Addr::new(10, 210, 0, 0),
    prefix: 16,
};

/// A block of IPv4 addresses for services. The agent answers DNS on the first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    base: Ipv4Addr,
    prefix: u8,
}

impl Block {
    /// The longest prefix. A block with this prefix has 253 addresses for services.
    const MAX_PREFIX: u8 = 24;
    /// The shortest prefix. A larger block could take up a whole private range.
    const MIN_PREFIX: u8 = 12;

    /// Returns the address on which the agent answers DNS.
    pub fn agent(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// Returns the network address.
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// Returns the prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Returns whether the block contains an address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX << (32 - u32::from(self.prefix));
        u32::from(address) & mask == u32::from(self.base)
    }

    /// Returns whether this block and the network `base`/`prefix` have an address in common.
    pub fn overlaps(&self, base: Ipv4Addr, prefix: u8) -> bool {
        let shorter = u32::from(self.prefix.min(prefix).min(32));
        let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
        u32::from(self.base) & mask == u32::from(base) & mask
    }

    /// Returns the maximum number of services. Three addresses are not available to services: the
    /// network address, the agent's address, and the last address.
    pub fn capacity(&self) -> u32 {
        (1 << (32 - u32::from(self.prefix))) - 3
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | offset)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl From<Block> for String {
    fn from(block: Block) -> String {
        block.to_string()
    }
}

impl TryFrom<String> for Block {
    type Error = Error;
    fn try_from(value: String) -> Result<Self> {
        value.parse()
    }
}

impl FromStr for Block {
    type Err = Error;
    fn from_str(value: &str) -> Result<Self> {
        let invalid = |why: &str| Error::Invalid {
            what: format!("the address block `{value}`"),
            why: why.into(),
            hint: format!("specify a private network such as `{DEFAULT_BLOCK}`"),
        };
        let (base, prefix) = value
            .split_once('/')
            .ok_or_else(|| invalid("it has no `/` with a prefix length"))?;
        let base: Ipv4Addr = base
            .parse()
            .map_err(|_| invalid("the part before `/` is not an IPv4 address"))?;
        let prefix: u8 = prefix
            .parse()
            .map_err(|_| invalid("the part after `/` is not a number"))?;
        if !(Self::MIN_PREFIX..=Self::MAX_PREFIX).contains(&prefix) {
            return Err(invalid("its prefix length is not between 12 and 24"));
        }
        let block = Self { base, prefix };
        if !block.contains(base) {
            return Err(invalid("its address has bits set after the prefix"));
        }
        // Accept only private (RFC 1918) and shared (RFC 6598) networks and, for tests, loopback
        // addresses.
        let shared = base.octets()[0] == 100 && (64..128).contains(&base.octets()[1]);
        if !(base.is_private() || base.is_loopback() || shared) {
            return Err(invalid("it is not a private network (RFC 1918, RFC 6598)"));
        }
        Ok(block)
    }
}

/// Assigns an address to each service: its previous address; otherwise the address derived from its
/// name; if that address is taken, the next free one.
///
/// # Errors
/// [`Error::Invalid`] if the block is too small for the services.
pub fn assign<'a>(
    block: Block,
    services: impl IntoIterator<Item = &'a ServiceName>,
    before: &BTreeMap<ServiceName, Ipv4Addr>,
) -> Result<BTreeMap<ServiceName, Ipv4Addr>> {
    let names: BTreeSet<&ServiceName> = services.into_iter().collect();
    if names.len() as u64 > u64::from(block.capacity()) {
        return Err(Error::Invalid {
            what: format!("the address block `{block}`"),
            why: format!("the block is too small for {} services", names.len()),
            hint: "set a larger block in `network.block`".into(),
        });
    }
    let usable = |address: &Ipv4Addr| block.contains(*address) && *address != block.agent();
    let mut taken = BTreeSet::new();
    let mut assigned: BTreeMap<ServiceName, Ipv4Addr> = names
        .iter()
        .filter_map(|name| before.get_key_value(*name))
        .filter(|(_, address)| usable(address) && taken.insert(**address))
        .map(|(name, address)| (name.clone(), *address))
        .collect();
    for name in names {
        if assigned.contains_key(name) {
            continue;
        }
        let hash = Sha256::digest(name.as_str().as_bytes());
        let hash = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        let free = (0..block.capacity())
            .map(|step| block.at(2 + (hash.wrapping_add(step)) % block.capacity()))
            .find(|address| !taken.contains(address));
        if let Some(address) = free {
            taken.insert(address);
            assigned.insert(name.clone(), address);
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_only_private_networks_of_suitable_size() {
        for good in [
            "10.210.0.0/16",
            "127.80.0.0/16",
            "192.168.7.0/24",
            "100.64.0.0/12",
        ] {
            let block: Block = good.parse().unwrap();
            assert_eq!(block.to_string(), good);
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/8",
            "10.0.0.0/25",
            "10.0.0.1/16",
            "8.8.0.0/16",
            "x/16",
            "10.0.0.0/x",
            "100.128.0.0/16",
        ] {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_that_share_addresses_overlap() {
        for (base, prefix, overlaps) in [
            ([10, 210, 3, 0], 24, true),
            ([10, 0, 0, 0], 8, true),
            ([0, 0, 0, 0], 0, true),
            ([10, 211, 0, 0], 16, false),
            ([172, 17, 0, 0], 16, false),
        ] {
            assert_eq!(
                DEFAULT_BLOCK.overlaps(base.into(), prefix),
                overlaps,
                "{base:?}"
            );
        }
    }

    fn names() -> impl Strategy<Value = BTreeSet<ServiceName>> {
        proptest::collection::btree_set("[a-c]{1,4}", 0..120).prop_map(|names| {
            names
                .into_iter()
                .map(|n| ServiceName::try_from(n).unwrap())
                .collect()
        })
    }

    proptest! {
        #[test]
        fn addresses_are_distinct_usable_and_sticky(first in names(), second in names()) {
            let block: Block = "192.168.7.0/24".parse().unwrap();
            let one = assign(block, &first, &BTreeMap::new()).unwrap();
            let two = assign(block, &second, &one).unwrap();
            for (expected, got) in [(&first, &one), (&second, &two)] {
                prop_assert_eq!(got.len(), expected.len());
                let distinct: BTreeSet<_> = got.values().collect();
                prop_assert_eq!(distinct.len(), got.len());
                for address in got.values() {
                    prop_assert!(block.contains(*address));
                    prop_assert!(*address != block.agent() && *address != block.base());
                    prop_assert!(address.octets()[3] != 255);
                }
            }
            for (name, address) in &two {
                prop_assert!(one.get(name).is_none_or(|before| before == address));
            }
        }
    }

    #[test]
    fn rejects_a_block_that_is_too_small() {
        let block: Block = "192.168.7.0/24".parse().unwrap();
        let names: Vec<ServiceName> = (0..254)
            .map(|n| ServiceName::try_from(format!("s{n}")).unwrap())
            .collect();
        assert!(assign(block, &names[..253], &BTreeMap::new()).is_ok());
        assert!(assign(block, &names, &BTreeMap::new()).is_err());
    }
}
