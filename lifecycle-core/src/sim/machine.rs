//! A simulated VM: its power, boots, files and engine. Changes take time, but do not need tasks:
//! due changes are applied when the machine is accessed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::engine::{Engine, Here};
use super::ledger::{Ledger, OperationStatus};
use super::world::Rules;
use crate::cloud::{NodeChange, ObservedNode, OpenPorts, Power, SshAddress};
use crate::model::{Addresses, NodeName, NodeSpec, PublicPorts};
use crate::runtime::Owner;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Running,
    Stopped,
    Gone,
    Failed,
}

/// A change in progress.
#[derive(Debug, Clone)]
pub(super) struct Transition {
    pub(super) until: Instant,
    pub(super) goal: Goal,
    pub(super) token: String,
    pub(super) change: NodeChange,
}

/// The state of the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    Down,
    /// The operating system is booting, and answers from this time on.
    Boots(Instant),
    Up,
}

/// The reason why a running machine does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Outage {
    #[default]
    None,
    /// The machine is frozen; a reboot ends this outage.
    Paused,
    /// The machine's network is down; a reboot does not end this outage.
    Partitioned,
}

/// How the agent on a machine behaves.
#[derive(Debug, Default)]
pub(super) struct AgentBehaviour {
    /// How long the agent takes to accept a table.
    pub(super) accepts_after: Duration,
    /// The number of open connections from the machine to each container, by the container's name.
    pub(super) open: BTreeMap<String, u64>,
}

/// A machine of the cloud.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) number: u64,
    pub(super) name: NodeName,
    pub(super) owner: Option<Owner>,
    pub(super) created: bool,
    /// Whether the machine was taken over at run time. Then only a manager that has recorded this lists it.
    pub(super) adopted: bool,
    pub(super) power: Power,
    pub(super) boot: u64,
    pub(super) system: System,
    pub(super) transition: Option<Transition>,
    pub(super) gone: bool,
    pub(super) outage: Outage,
    pub(super) fenced: bool,
    pub(super) engine: Engine,
    pub(super) prepared: u32,
    pub(super) files: BTreeMap<String, (u32, Bytes)>,
    pub(super) listeners: BTreeMap<u16, mpsc::UnboundedSender<DuplexStream>>,
    pub(super) agent: AgentBehaviour,
    /// The ports that the cloud's firewall opens.
    pub(super) open_ports: PublicPorts,
    /// Notifies waiters of changes.
    pub(super) signal: watch::Sender<u64>,
    /// The number of calls, for random draws.
    pub(super) calls: u64,
}

/// The image name for a machine without an engine.
const BARE: &str = "bare";

impl Machine {
    pub(super) fn new(number: u64, spec: &NodeSpec, owner: Option<Owner>, rules: &Rules) -> Self {
        let mut engine = Engine::default();
        if spec.image.as_deref() != Some(BARE) {
            engine.installed = true;
            engine.images.clone_from(&rules.preloaded);
        }
        Self {
            number,
            name: spec.name.clone(),
            owner,
            created: true,
            adopted: false,
            power: Power::Starting,
            boot: 0,
            system: System::Down,
            transition: None,
            gone: false,
            outage: Outage::default(),
            fenced: false,
            engine,
            prepared: 0,
            files: BTreeMap::new(),
            listeners: BTreeMap::new(),
            agent: AgentBehaviour::default(),
            open_ports: PublicPorts::default(),
            signal: watch::Sender::new(0),
            calls: 0,
        }
    }

    /// Returns the engine, and the machine on which it runs.
    pub(super) fn engine_here(&mut self) -> (&mut Engine, Here<'_>) {
        let here = Here {
            number: self.number,
            node: &self.name,
            fenced: self.fenced,
        };
        (&mut self.engine, here)
    }

    pub(super) fn ip(&self) -> IpAddr {
        // The first machine gets 10.0.0.4, because clouds reserve the first four addresses of a
        // network.
        let low = u32::try_from((self.number + 3) & 0x00ff_ffff).unwrap_or(u32::MAX);
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | low))
    }

    pub(super) fn provider_id(&self) -> String {
        format!("sim-{}", self.number)
    }

    /// Returns whether the machine's operating system is running and reachable.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_up() && self.outage == Outage::None
    }

    pub(super) fn is_up(&self) -> bool {
        self.system == System::Up
    }

    pub(super) fn boot_id(&self, rules: &Rules) -> String {
        let mut id = rules.chance.hex(
            &["boot", self.name.as_str(), &self.provider_id()],
            self.boot,
        );
        id.truncate(32);
        id
    }

    pub(super) fn observed(&self, rules: &Rules) -> ObservedNode {
        let purpose = ["host-key", self.name.as_str()];
        ObservedNode {
            name: self.name.clone(),
            provider_id: self.provider_id(),
            power: self.power,
            addresses: Addresses {
                private: Some(self.ip()),
                public: None,
            },
            ssh: SshAddress {
                user: "admin".into(),
                port: 22,
                host_keys: vec![rules.chance.host_key(&purpose, self.number)],
            },
            boot_id: (self.power == Power::Running).then(|| self.boot_id(rules)),
            created: self.created,
            open_ports: OpenPorts {
                open: self.open_ports.clone(),
                ..OpenPorts::default()
            },
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let transition = self.transition.as_ref().map(|transition| transition.until);
        let system = match self.system {
            System::Down => None,
            System::Boots(until) => Some(until),
            System::Up => self.engine.next_due(),
        };
        [transition, system].into_iter().flatten().min()
    }

    /// Applies due changes; returns whether there were any.
    pub(super) fn advance(&mut self, now: Instant, rules: &Rules, ledger: &mut Ledger) -> bool {
        let mut changed = false;
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            changed = true;
            if self.transition.as_ref().is_some_and(|t| t.until <= due) {
                self.arrive(due, rules, ledger);
            } else if let System::Boots(_) = self.system {
                self.system = System::Up;
                let (engine, here) = self.engine_here();
                engine.boot(due, here, rules, ledger);
            } else {
                let (engine, here) = self.engine_here();
                engine.advance(due, here, rules, ledger);
            }
        }
        if changed {
            self.notify();
        }
        changed
    }

    pub(super) fn notify(&self) {
        self.signal
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Finishes a change.
    fn arrive(&mut self, at: Instant, rules: &Rules, ledger: &mut Ledger) {
        let Some(transition) = self.transition.take() else {
            return;
        };
        let status = match transition.goal {
            Goal::Running => {
                self.power_on(at, rules);
                OperationStatus::Done
            }
            Goal::Stopped => {
                self.power = Power::Stopped;
                OperationStatus::Done
            }
            Goal::Gone => {
                self.gone = true;
                OperationStatus::Done
            }
            Goal::Failed => {
                self.power = Power::Failed;
                OperationStatus::Failed("the cloud has no capacity left".into())
            }
        };
        ledger
            .operations
            .insert(transition.token, (self.number, status));
    }

    /// Starts booting.
    pub(super) fn power_on(&mut self, at: Instant, rules: &Rules) {
        self.power = Power::Running;
        self.wake();
        self.boot += 1;
        let purpose = ["boot", self.name.as_str()];
        let takes = rules
            .chance
            .between(rules.latencies.boot, &purpose, self.boot);
        self.system = System::Boots(at + takes);
        self.notify();
    }

    fn wake(&mut self) {
        if self.outage == Outage::Paused {
            self.outage = Outage::None;
        }
    }

    /// Cuts the power.
    pub(super) fn power_off(&mut self, at: Instant, power: Power, ledger: &mut Ledger) {
        self.power = power;
        self.system = System::Down;
        self.wake();
        self.listeners.clear();
        let (engine, here) = self.engine_here();
        engine.lose_power(at, here, ledger);
        self.notify();
    }

    /// Removes the engine's program. Its containers end, and are there again after its installation.
    pub(super) fn lose_engine(&mut self, at: Instant, ledger: &mut Ledger) {
        let (engine, here) = self.engine_here();
        engine.lose_power(at, here, ledger);
        engine.installed = false;
        self.notify();
    }

    /// Starts a change, which replaces any change in progress.
    pub(super) fn begin(&mut self, transition: Transition, ledger: &mut Ledger) {
        if let Some(replaced) = self.transition.take() {
            ledger
                .operations
                .insert(replaced.token, (self.number, OperationStatus::Overtaken));
        }
        ledger.operations.insert(
            transition.token.clone(),
            (self.number, OperationStatus::UnderWay),
        );
        self.transition = Some(transition);
    }
}
