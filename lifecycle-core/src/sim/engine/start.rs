//! Creates and starts containers: determines their command, when they become ready, and when they
//! exit.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Container, Engine, Here, Phase, Run, service_in};
use crate::error::{Error, Result};
use crate::model::{ContainerId, HealthcheckTest, PlatformId, VolumeName};
use crate::runtime::{ContainerSpec, LogLine, ObservedContainer, Role, vanished};
use crate::sim::behaviour::simulate;
use crate::sim::ledger::{ContainerOnNode, Ledger, Violation};
use crate::sim::world::Rules;

/// The time after which a health check that never passes reports "unhealthy".
const UNHEALTHY_AFTER: Duration = Duration::from_secs(30);

impl Engine {
    pub(in crate::sim) fn ensure(
        &mut self,
        spec: &ContainerSpec,
        now: Instant,
        here: Here<'_>,
        rules: &Rules,
        ledger: &mut Ledger,
    ) -> Result<(ObservedContainer, bool)> {
        let owner = spec.owner.id;
        let name = &spec.name;
        match self.owned(name, owner)? {
            Some(container) if container.spec.digest != spec.digest => {
                return Err(Error::Conflict {
                    what: format!("container {name}"),
                    why: "it already exists with a different specification digest".into(),
                });
            }
            Some(_) => {}
            None => {
                let container = self.create(spec, here, rules)?;
                // Check the ports first, so that no container remains if a port is in use.
                self.ports_for(&container)?;
                let exists = |volume| self.volumes.contains(&(owner, VolumeName::clone(volume)));
                if let Some(volume) = spec.used_volumes.iter().find(|volume| !exists(volume)) {
                    return Err(vanished(volume));
                }
                for mount in &spec.template.volumes {
                    self.volumes.insert((owner, mount.volume.clone()));
                }
                let id = container.id.clone();
                self.containers.insert(name.clone(), container);
                self.record_event(owner, id, "create");
            }
        }
        let changed = self.start(name, now, here, rules, ledger)?;
        self.take_over(name, now);
        let container = self
            .containers
            .get(name)
            .ok_or_else(|| Error::not_found(format!("container {name}")))?;
        Ok((container.observed(now, rules), changed))
    }

    fn create(&mut self, spec: &ContainerSpec, here: Here<'_>, rules: &Rules) -> Result<Container> {
        let image = self
            .images
            .get(&spec.image)
            .ok_or_else(|| Error::not_found(format!("image {}", spec.image)))?;
        let template = &spec.template;
        let mut exposed = image.exposed.clone();
        exposed.extend(template.expose.iter().copied());
        exposed.extend(
            template
                .ports
                .iter()
                .map(|p| (p.container_port, p.protocol)),
        );
        let mut has_healthcheck = image.has_healthcheck;
        if let Some(behaviour) = rules.behaviours.get(service_in(&spec.role)) {
            exposed.extend(behaviour.exposed.iter().copied());
            has_healthcheck |= behaviour.has_healthcheck;
        }
        if let Some(healthcheck) = &template.healthcheck {
            has_healthcheck = healthcheck.test != HealthcheckTest::None;
        }
        let mut command = template.entrypoint.clone().unwrap_or_default();
        match (&template.command, &image.command) {
            (Some(given), _) => command.extend(given.iter().cloned()),
            (None, Some(own)) if command.is_empty() => command.clone_from(own),
            (None, _) => {}
        }
        let joins = match &spec.joins {
            Some(name) => {
                let joined = self.owned(name, spec.owner.id)?;
                let missing = || Error::not_found(format!("container {name}"));
                Some(joined.ok_or_else(missing)?.id.clone())
            }
            None => None,
        };
        self.created_count += 1;
        let purpose = ["container", here.node.as_str(), &spec.name];
        Ok(Container {
            id: ContainerId(rules.chance.hex(&purpose, self.created_count).into()),
            image: image.id.clone(),
            spec: spec.clone(),
            exposed,
            has_healthcheck,
            command,
            phase: Phase::Created,
            started: None,
            starts: 0,
            host_ports: BTreeSet::new(),
            stop_requested: false,
            restart_at: None,
            joins,
            joined_run: 0,
            log: Vec::new(),
        })
    }

    /// Starts a stopped container; returns whether it was stopped.
    pub(in crate::sim) fn start(
        &mut self,
        name: &str,
        at: Instant,
        here: Here<'_>,
        rules: &Rules,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        let container = self
            .containers
            .get(name)
            .ok_or_else(|| Error::not_found(format!("container {name}")))?;
        if container.is_running() {
            return Ok(false);
        }
        let joined_run = match &container.joins {
            Some(id) => {
                let joined = self.containers.values().find(|other| other.id == *id);
                let joined = joined.filter(|joined| joined.is_running());
                let without = || {
                    Error::failed(
                        format!("starting container {name}"),
                        format!("container {id}, whose network it joins, is not running"),
                    )
                };
                joined.ok_or_else(without)?.starts
            }
            None => 0,
        };
        let ports = self.ports_for(container)?;
        for (_, protocol, host) in &ports {
            self.bound.insert((*host, *protocol), name.to_owned());
        }
        let Some(container) = self.containers.get_mut(name) else {
            return Ok(false);
        };
        container.joined_run = joined_run;
        container.host_ports = ports;
        container.starts += 1;
        container.started = Some(at);
        container.stop_requested = false;
        container.restart_at = None;
        let service = service_in(&container.spec.role);
        let behaviour = rules.behaviours.get(service);
        let performance = simulate(&container.command);
        let (exit, unhealthy_after, never_ready) = match behaviour {
            Some(b) => (b.exits, b.unhealthy_after, b.never_ready),
            None => (performance.exit, None, false),
        };
        let ready_after = behaviour.and_then(|b| b.ready_after).unwrap_or_else(|| {
            let purpose = ["ready", here.node.as_str(), name];
            let span = rules.latencies.ready;
            rules.chance.between(span, &purpose, container.starts)
        });
        if performance.lines.is_empty() {
            container.log.push(LogLine {
                at: Some(rules.date(at)),
                text: format!("{service}: start {} on {}", container.starts, here.node),
                ..LogLine::default()
            });
        } else {
            let written = performance.lines.into_iter().map(|line| LogLine {
                at: Some(rules.date(at)),
                ..line
            });
            container.log.extend(written);
        }
        let unready_after = if never_ready {
            Some(UNHEALTHY_AFTER)
        } else {
            unhealthy_after
        };
        container.phase = Phase::Running(Run {
            ready_at: (!never_ready).then(|| at + ready_after),
            unready_at: unready_after.map(|after| at + after),
            ends: exit.map(|exit| (at + exit.after, exit.code)),
            health_reported: at,
        });
        let (owner, id) = (container.owner(), container.id.clone());
        let digest = container.spec.digest.clone();
        if let Some(key) = container.key() {
            ledger.started(
                key,
                (here.number, name.to_owned()),
                here.node.clone(),
                digest,
            );
            if here.fenced {
                ledger.violations.push(Violation::StartedWhileFenced {
                    at: rules.date(at),
                    container: ContainerOnNode {
                        node: here.node.clone(),
                        container: name.to_owned(),
                    },
                });
            }
        }
        let is_agent = container.spec.role == Role::Agent;
        self.record_event(owner, id, "start");
        if is_agent {
            self.agent_started(name, owner);
        }
        Ok(true)
    }

    /// Starts a container of this platform.
    pub(in crate::sim) fn start_owned(
        &mut self,
        name: &str,
        owner: PlatformId,
        now: Instant,
        here: Here<'_>,
        rules: &Rules,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        self.owned(name, owner)?
            .ok_or_else(|| Error::not_found(format!("container {name}")))?;
        self.start(name, now, here, rules, ledger)
    }
}
