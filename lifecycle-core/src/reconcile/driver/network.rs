//! What the agents are told after each look, and what they tell.

use super::{Driver, Target};
use crate::model::{EventKind, NewEvent, NodeName, Subject};
use crate::network::{Report, ReportKind};
use crate::reconcile::observe::Observed;
use crate::reconcile::step::Step;
use crate::reconcile::traffic;

impl Driver {
    /// Tells the agents where connections go now. What `launches` stop gets no new ones.
    pub(super) fn tell_agents(&mut self, target: &Target, observed: &Observed, launches: &[Step]) {
        let mut stopping = self.stopping();
        for step in launches {
            stopping.extend(step.action.ended_container().cloned());
        }
        if let Some(table) = traffic::table(&target.declared, observed, &stopping) {
            self.feeder.tell(target.declared.owner.id, table);
        }
    }

    /// Takes in what a node's agent says.
    pub(super) fn hear(&mut self, node: &NodeName, report: Report) {
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
                        "{times} from {node} to {service}:{port} were given up: it had no ready \
                         endpoint in time"
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
                format!("the agent of {node} cannot listen at {address}/{protocol}: {why}"),
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
