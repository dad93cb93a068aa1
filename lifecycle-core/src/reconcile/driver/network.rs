//! What the agents are told after each look, and what they tell.

use super::{Driver, Target};
use crate::model::{EventKind, NewEvent, Subject};
use crate::network::{Report, ReportKind};
use crate::reconcile::observe::Observed;
use crate::reconcile::step::{Action, Step};
use crate::reconcile::traffic;

impl Driver {
    /// Tells the agents where connections go now. What `launches` stop gets no new ones.
    pub(super) fn tell_agents(&mut self, target: &Target, observed: &Observed, launches: &[Step]) {
        let mut stopping = self.stopping();
        for step in launches {
            if let Action::StopInstance { id, .. } | Action::RemoveInstance { id, .. } =
                &step.action
            {
                stopping.insert(id.clone());
            }
        }
        if let Some(table) = traffic::table(&target.declared, observed, &stopping) {
            self.feeder.tell(target.declared.owner.id, table);
        }
    }

    /// Takes in what an agent says.
    pub(super) fn hear(&mut self, report: Report) {
        let ReportKind::NoReadyEndpoint {
            service,
            port,
            connections,
        } = report.kind
        else {
            return;
        };
        let times = if connections == 1 {
            "a connection".to_owned()
        } else {
            format!("{connections} connections")
        };
        self.events.push(NewEvent {
            at: self.backends.clock.now(),
            kind: EventKind::NoReadyEndpoint,
            message: format!(
                "{times} to {service}:{port} were given up: it had no ready endpoint in time"
            ),
            data: serde_json::json!({ "port": port, "connections": connections }),
            subject: Subject::Service(service),
        });
    }
}
