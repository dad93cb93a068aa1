//! Resolves names that a user enters.

use std::collections::BTreeSet;

use super::Snapshot;
use crate::error::{Error, Result};
use crate::model::{NodeName, ServiceName, Subject};

impl Snapshot {
    /// Resolves the name of a service, of a replica (`web-2`), or of a node. A service takes
    /// precedence over a replica or node with the same name. The prefix `node:` or `service:`
    /// selects a node or a service explicitly.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing has this name. The hint suggests a similar name.
    pub fn subject_named(&self, name: &str) -> Result<Subject> {
        let declaration = self.declaration.as_ref().map(|(_, d)| d);
        let services = || declaration.into_iter().flat_map(|d| d.services.keys());
        let declared = declaration.into_iter().flat_map(|d| d.nodes.keys());
        let nodes: BTreeSet<&NodeName> = declared.chain(self.nodes.keys()).collect();
        let (kind, rest) = match name.split_once(':') {
            Some((kind @ ("node" | "service"), rest)) => (Some(kind), rest),
            _ => (None, name),
        };
        if kind != Some("node") {
            if let Some(service) = services().find(|s| s.as_str() == rest) {
                return Ok(Subject::Service(service.clone()));
            }
            if let Some(id) = declaration.and_then(|d| d.replica_named(rest)) {
                return Ok(Subject::Instance(id));
            }
        }
        if kind != Some("service")
            && let Some(node) = nodes.iter().find(|n| n.as_str() == rest)
        {
            return Ok(Subject::Node((*node).clone()));
        }
        let candidates = services()
            .map(ServiceName::as_str)
            .chain(nodes.iter().map(|n| n.as_str()));
        let what = match kind {
            Some(kind) => format!("{kind} {rest}"),
            None => format!("service, replica or node {rest}"),
        };
        Err(Error::unknown_name(what, rest, candidates))
    }
}
