//! Sends the table of service addresses to the agents and handles their reports.

use super::{Driver, Target};
use crate::model::{EventKind, NewEvent, NodeName, Subject};
use crate::network::{Report, ReportKind};
use crate::reconcile::observe::Observed;
use crate::reconcile::step::Step;
use crate::reconcile::traffic;

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
        let table = traffic::table(&target.declared, observed, &stopping, previous.as_deref());
        if let Some(table) = table {
            self.feeder.update(target.declared.owner.id, table);
        }
    }

    /// Records an agent's report as an event.
    pub(super) fn handle_report(&mut self, node: &NodeName, report: Report) {
        let (kind, subject, message, data) = match report.kind {
            ReportKind::NoReadyEndpoint {
                service,
                port,
                connections,
            } => {
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
            ReportKind::Accepted | ReportKind::Refused { .. } | ReportKind::Draining { .. } => {
                return;
            }
        };
        self.events.push(NewEvent {
            at: self.backends.clock.now(),
            kind,
            subject,
            message,
            data,
        });
    }
}
