//! A readiness probe that never succeeds, for use outside the platform's network.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::runtime::ReadinessProbe;

const UNREACHABLE: &str = "it is not reachable from outside the platform's network";

/// Reports every service as not ready: outside the platform's network, a probe would only time out.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoProbe;

#[async_trait]
impl ReadinessProbe for NoProbe {
    async fn tcp(&self, _: IpAddr, _: u16, _: Duration) -> Result<(), String> {
        Err(UNREACHABLE.to_owned())
    }

    async fn http(&self, _: IpAddr, _: u16, _: &str, _: Duration) -> Result<(), String> {
        Err(UNREACHABLE.to_owned())
    }
}
