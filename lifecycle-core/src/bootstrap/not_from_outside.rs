//! Readiness as it is judged from outside the platform's network: not at all.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::runtime::ReadinessProbe;

/// Asks nobody. To the outside only SSH is open, so a question to a service from there waits for
/// nothing; whether services are ready is the manager's to judge, and nodes need none of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotFromOutside;

#[async_trait]
impl ReadinessProbe for NotFromOutside {
    async fn tcp(&self, _: IpAddr, _: u16, _: Duration) -> bool {
        false
    }

    async fn http(&self, _: IpAddr, _: u16, _: &str, _: Duration) -> bool {
        false
    }
}
