//! The address of a node at which the host ports that the platform chooses are bound.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The address of the node at which chosen host ports are bound. All clones of an engine's client
/// share it.
#[derive(Debug, Clone, Default)]
pub(super) struct BoundAddress {
    address: Option<IpAddr>,
    is_absent: Arc<AtomicBool>,
}

impl BoundAddress {
    pub(super) fn new(address: Option<IpAddr>) -> Self {
        Self {
            address,
            is_absent: Arc::default(),
        }
    }

    /// Returns the address at which other nodes reach this node, even if the host does not have it.
    pub(super) fn reached(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns the address for new containers; `None` for all addresses.
    pub(super) fn for_new(&self) -> Option<IpAddr> {
        self.address
            .filter(|_| !self.is_absent.load(Ordering::Relaxed))
    }

    /// Records that the host does not have the address.
    pub(super) fn set_absent(&self) {
        self.is_absent.store(true, Ordering::Relaxed);
    }
}

/// Returns whether the engine's message reports that the host lacks an address.
pub(super) fn is_missing(message: &str) -> bool {
    message.contains("cannot assign requested address")
}

/// Returns whether the engine's message is about a port at this address.
pub(super) fn names(message: &str, address: IpAddr) -> bool {
    let at = SocketAddr::new(address, 0).to_string();
    message.contains(at.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_address_is_found_in_every_engine_message() {
        for message in [
            "driver failed programming external connectivity on endpoint a (b): Error starting \
             userland proxy: listen tcp4 10.0.0.7:20001: bind: cannot assign requested address",
            "failed to set up container networking: driver failed programming external \
             connectivity on endpoint a (b): failed to bind host port 10.0.0.7:20001/tcp: cannot \
             assign requested address",
        ] {
            assert!(is_missing(message), "{message}");
            assert!(names(message, [10, 0, 0, 7].into()), "{message}");
            assert!(!names(message, [10, 0, 0, 70].into()), "{message}");
        }
        let six = "listen tcp6 [fd00::7]:20001: bind: cannot assign requested address";
        assert!(names(six, "fd00::7".parse().unwrap()));
        assert!(!names(six, "fd00::".parse().unwrap()));
        assert!(!is_missing("port is already allocated"));
    }

    #[test]
    fn an_absent_address_is_not_used_for_new_containers() {
        let address = Some(IpAddr::from([10, 0, 0, 7]));
        let bound = BoundAddress::new(address);
        assert_eq!(bound.for_new(), address);
        bound.clone().set_absent();
        assert_eq!((bound.for_new(), bound.reached()), (None, address));
    }
}
