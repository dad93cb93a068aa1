//! Sends the table of service addresses to the agents and handles their reports.

use super::{Driver, Target};
use crate::error::{Error, Result};
use crate::model::{Epoch, EventKind, NewEvent, NodeName, Subject};
use crate::network::{Report, ReportKind};
use crate::reconcile::observe::Observed;
use crate::reconcile::step::Step;
use crate::reconcile::traffic;
use crate::registry::{Batch, Change};

impl Driver {
    /// Sends the agents the current table. Containers that `launches` stop or remove get no new
    /// connections.
    pub(super) fn update_agents(
        &mut self,
        target: &Target,
        observed: &Observed,
        launches: &[Step],
    ) {
        let mut stopping = self.stopping();
        for step in launches {
            stopping.extend(step.action.ended_container().cloned());
        }
        let previous = self.feeder.table();
        traffic::note_served(&mut self.served, observed);
        let table = traffic::table(
            &target.declared,
            observed,
            &stopping,
            &self.served,
            previous.as_deref(),
        );
        if let Some(table) = table {
            self.feeder.update(target.declared.owner.id, table);
        }
    }

    /// Records an agent's report as an event. Raises the epoch if the agent has a later table than this
    /// loop's.
    pub(super) async fn handle_report(&mut self, node: &NodeName, report: Report) -> Result<()> {
        let (kind, subject, message, data) = match report.kind {
            ReportKind::NoReadyEndpoint {
                service,
                port,
                connections,
            } => {
                self.count_resets(&service, node, connections);
                let times = if connections == 1 {
                    "a connection".to_owned()
                } else {
                    format!("{connections} connections")
                };
                (
                    EventKind::NoReadyEndpoint,
                    Subject::Service(service.clone()),
                    format!(
                        "{times} from {node} to {service}:{port} failed: no endpoint was ready in \
                         time"
                    ),
                    serde_json::json!({ "node": node, "port": port, "connections": connections }),
                )
            }
            ReportKind::CannotListen {
                service,
                address,
                protocol,
                why,
            } => (
                EventKind::CannotListen,
                service.map_or_else(|| Subject::Node(node.clone()), Subject::Service),
                if address.ip().is_unspecified() {
                    let port = address.port();
                    format!("the agent on {node} cannot redirect port {port}: {why}")
                } else {
                    format!("the agent on {node} cannot listen at {address}/{protocol}: {why}")
                },
                serde_json::json!({ "node": node, "address": address, "protocol": protocol }),
            ),
            ReportKind::Refused { .. } if report.epoch >= self.epoch => {
                return Err(self.raise_epoch(node, report.epoch).await?);
            }
            ReportKind::Accepted | ReportKind::Refused { .. } | ReportKind::Draining { .. } => {
                return Ok(());
            }
        };
        self.events.push(NewEvent {
            at: self.backends.clock.now(),
            kind,
            subject,
            message,
            data,
        });
        Ok(())
    }

    /// Raises the epoch above the one of an agent's table that is later than this loop's. The commit fails if another manager leads with this registry. Returns the
    /// error with which this loop ends; the manager then continues with the new epoch.
    async fn raise_epoch(&self, node: &NodeName, of_agent: Epoch) -> Result<Error> {
        let next = of_agent.next();
        let event = NewEvent {
            at: self.backends.clock.now(),
            kind: EventKind::EpochRaised,
            subject: Subject::Platform,
            message: format!(
                "the agent on {node} has later service addresses (epoch {of_agent}) than this \
                 manager (epoch {}), for example because the registry was lost or replaced; the \
                 manager continues with epoch {next}",
                self.epoch
            ),
            data: serde_json::json!({ "node": node, "from": self.epoch, "to": next }),
        };
        let raise = Batch::of(Change::RaiseEpoch { above: of_agent }).event(event);
        self.backends.registry.commit(self.epoch, raise).await?;
        Ok(Error::stale_epoch(self.epoch, next))
    }
}
