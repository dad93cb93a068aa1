//! Implements `ReadinessProbe` for the simulation.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::actor::Actor;
use crate::model::Protocol;
use crate::runtime::ReadinessProbe;

/// Probes the machines of the world.
#[derive(Debug, Clone)]
pub struct SimProbe {
    actor: Actor,
}

enum Answer {
    Yes,
    Refused,
    Outage,
}

impl SimProbe {
    pub(super) fn new(actor: Actor) -> Self {
        Self { actor }
    }

    async fn ask(&self, ip: IpAddr, port: u16, timeout: Duration) -> Result<(), String> {
        self.actor.outlive().await;
        let takes = {
            let mut state = self.actor.world().lock();
            let state = &mut *state;
            let span = state.rules.latencies.node_call;
            let chance = state.rules.chance;
            let address = format!("{ip}:{port}");
            let purpose = ["probe", address.as_str()];
            state.at_address(ip, Instant::now()).map(|machine| {
                machine.calls += 1;
                chance.between(span, &purpose, machine.calls)
            })
        };
        let late = || format!("timed out: no response within {timeout:?}");
        sleep(takes.unwrap_or(timeout).min(timeout)).await;
        self.actor.outlive().await;
        match self.answer(ip, port) {
            Answer::Yes if takes.is_some_and(|takes| takes < timeout) => Ok(()),
            Answer::Yes => Err(late()),
            Answer::Refused => Err("connection refused".to_owned()),
            Answer::Outage => {
                let passed = takes.unwrap_or(timeout);
                sleep(timeout.saturating_sub(passed)).await;
                Err(late())
            }
        }
    }

    fn answer(&self, ip: IpAddr, port: u16) -> Answer {
        let now = Instant::now();
        let mut state = self.actor.world().lock();
        match state.at_address(ip, now) {
            Some(machine) if !machine.is_reachable() => Answer::Outage,
            Some(machine) if machine.engine.answers(port, Protocol::Tcp, now) => Answer::Yes,
            Some(_) => Answer::Refused,
            None => Answer::Outage,
        }
    }
}

#[async_trait]
impl ReadinessProbe for SimProbe {
    async fn tcp(&self, ip: IpAddr, port: u16, timeout: Duration) -> Result<(), String> {
        self.ask(ip, port, timeout).await
    }

    async fn http(
        &self,
        ip: IpAddr,
        port: u16,
        _path: &str,
        timeout: Duration,
    ) -> Result<(), String> {
        self.ask(ip, port, timeout).await
    }
}
