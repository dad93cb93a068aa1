//! Merges the output of a service's instances. An unresponsive node delays only its own instances.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::{Manager, follow};
use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::host::{NodeConnector, NodeHandle};
use crate::model::{ContainerId, InstanceRecord, NodeName, ServiceName};
use crate::reconcile::{EngineView, Observed, Round};
use crate::registry::Registry;
use crate::runtime::{LogLine, LogOptions, ObservedContainer};

/// How long a node may take before it starts to send an instance's output.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);

/// A piece of an instance's output, or the reason why there is no more output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Line(LogLine),
    /// Something happened to the instance. Its output continues.
    Changed {
        what: String,
    },
    /// The rest of the output is unavailable.
    Unavailable {
        why: String,
    },
}

/// A piece of the output of one instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceOutput {
    /// `<service>-<replica>`.
    pub instance: String,
    /// The container that wrote the output. An instance may have several containers, for example
    /// during a replacement.
    pub container: ContainerId,
    pub output: Output,
}

/// Connects to the node of a container, and reads the container's output.
pub(super) struct Source {
    node: NodeName,
    container: ContainerId,
    observed: Arc<Observed>,
    /// The machine as the leader recorded it, for a standby manager, which observes nothing itself.
    recorded: Option<ObservedNode>,
    connector: Arc<dyn NodeConnector>,
}

/// What [`follow`] needs from the manager.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) rounds: watch::Receiver<Arc<Round>>,
    connector: Arc<dyn NodeConnector>,
}

impl Sources {
    fn of(manager: &Manager) -> Self {
        Self {
            registry: Arc::clone(&manager.backends.registry),
            rounds: manager.rounds(),
            connector: Arc::clone(&manager.backends.connector),
        }
    }

    /// Returns the source of a recorded container.
    pub(super) async fn source(&self, node: &NodeName, container: &ContainerId) -> Result<Source> {
        let observed = self.rounds.borrow().observed();
        let recorded = if observed.nodes.contains_key(node) {
            None
        } else {
            let mut snapshot = self.registry.snapshot().await?;
            snapshot
                .nodes
                .remove(node)
                .and_then(|record| record.observed)
        };
        Ok(Source {
            node: node.clone(),
            container: container.clone(),
            observed,
            recorded,
            connector: Arc::clone(&self.connector),
        })
    }
}

impl Manager {
    /// Returns the output of all instances of a service, interleaved as it arrives. If the output
    /// of an instance becomes unavailable, the last item of that instance is the reason; the other
    /// instances continue. A followed output goes on through restarts, replacements and moves of
    /// instances, and through outages of nodes; it ends when all instances have completed.
    pub async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, InstanceOutput>> {
        let snapshot = self.backends.registry.snapshot().await?;
        let declared = snapshot
            .declaration
            .as_ref()
            .is_some_and(|(_, d)| d.services.contains_key(service));
        if !declared {
            let services = snapshot.declaration.iter();
            let known = services.flat_map(|(_, d)| d.services.keys());
            return Err(Error::unknown_name(
                format!("service {service}"),
                service.as_str(),
                known.map(ServiceName::as_str),
            ));
        }
        if options.follow {
            let sources = Sources::of(self);
            return Ok(follow::output(sources, service.clone(), options, &snapshot));
        }
        let records = snapshot.instances.into_values();
        let of_service = records.filter(|record| record.id.service == *service);
        let nodes = &snapshot.nodes;
        let streams = of_service.map(|record| {
            let node = nodes.get(&record.node);
            let recorded = node.and_then(|node| node.observed.clone());
            self.output_of(record, recorded, options.clone())
        });
        Ok(stream::select_all(streams).boxed())
    }

    fn output_of(
        &self,
        record: InstanceRecord,
        recorded: Option<ObservedNode>,
        options: LogOptions,
    ) -> BoxStream<'static, InstanceOutput> {
        let instance = record.id.to_string();
        let container = record.container.clone();
        let source = Source::of(self, record, recorded);
        stream::once(source.lines(options))
            .try_flatten()
            .map(move |line| InstanceOutput {
                instance: instance.clone(),
                container: container.clone(),
                output: match line {
                    Ok(line) => Output::Line(line),
                    Err(error) => Output::Unavailable { why: error.chain() },
                },
            })
            .boxed()
    }
}

impl Source {
    pub(super) fn of(
        manager: &Manager,
        record: InstanceRecord,
        recorded: Option<ObservedNode>,
    ) -> Self {
        Self {
            node: record.node,
            container: record.container,
            observed: manager.round().observed(),
            recorded,
            connector: Arc::clone(&manager.backends.connector),
        }
    }

    /// Connects to the node.
    pub(super) async fn handle(&self) -> Result<NodeHandle> {
        let view = self.observed.nodes.get(&self.node);
        let machine = view
            .map(|view| &view.machine)
            .or(self.recorded.as_ref())
            .ok_or_else(|| Error::not_found(format!("node {}", self.node)))?;
        if let Some(EngineView::Unknown(unknown)) = view.map(|view| &view.engine) {
            // This node does not respond; do not wait for it again.
            return Err(Error::failed(
                format!("the connection to node {}", self.node),
                unknown.why.clone(),
            ));
        }
        tokio::time::timeout(BEGINS_WITHIN, self.connector.connect(machine))
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    pub(super) async fn lines(
        self,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let first = async {
            let handle = self.handle().await?;
            handle.runtime.logs(&self.container.0, options).await
        };
        tokio::time::timeout(BEGINS_WITHIN, first)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    /// Returns the container's current state; `None` if it was removed.
    pub(super) async fn container(self) -> Result<Option<ObservedContainer>> {
        let seen = async {
            let handle = self.handle().await?;
            handle.runtime.container(&self.container.0).await
        };
        tokio::time::timeout(BEGINS_WITHIN, seen)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> Error {
        Error::TimedOut {
            what: format!("the connection to node {}", self.node),
            after: BEGINS_WITHIN,
        }
    }
}
