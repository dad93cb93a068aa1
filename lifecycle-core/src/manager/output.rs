//! What a service's instances write, all of them together: each is asked apart from the others,
//! so that a node that hangs keeps back its own lines alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::Manager;
use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::host::{NodeConnector, NodeHandle};
use crate::model::{ContainerId, InstanceRecord, NodeName, ServiceName};
use crate::reconcile::{EngineView, Observed};
use crate::runtime::{LogLine, LogOptions};

/// How long a node may take to begin with an instance's output.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);

/// What is to be told of an instance's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The instance wrote it.
    Line(LogLine),
    /// No more can be had of it now.
    Unavailable {
        /// Why.
        why: String,
    },
}

/// A piece of the output of one of a service's instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceOutput {
    /// `<service>-<replica>`.
    pub instance: String,
    /// Which of its containers: the former one and one that was given up may both be there.
    pub container: ContainerId,
    /// The piece.
    pub output: Output,
}

/// Where an instance's output is.
pub(super) struct Source {
    node: NodeName,
    container: ContainerId,
    observed: Arc<Observed>,
    /// The machine as the leader recorded it, for who does not lead and so observes nothing.
    recorded: Option<ObservedNode>,
    connector: Arc<dyn NodeConnector>,
}

impl Manager {
    /// The output of all instances of a service, as it comes. An instance that cannot be asked,
    /// or not any longer, ends with the reason; the others go on.
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

    /// A connection to its node.
    pub(super) async fn handle(&self) -> Result<NodeHandle> {
        let view = self.observed.nodes.get(&self.node);
        let machine = view
            .map(|view| &view.machine)
            .or(self.recorded.as_ref())
            .ok_or_else(|| Error::not_found(format!("node {}", self.node)))?;
        if let Some(EngineView::Unknown(unknown)) = view.map(|view| &view.engine) {
            // What is known to hang is not waited for once more.
            return Err(Error::failed(
                format!("asking node {}", self.node),
                unknown.why.clone(),
            ));
        }
        tokio::time::timeout(BEGINS_WITHIN, self.connector.connect(machine))
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    async fn lines(self, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        let begin = async {
            let handle = self.handle().await?;
            handle.runtime.logs(&self.container.0, options).await
        };
        tokio::time::timeout(BEGINS_WITHIN, begin)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> Error {
        Error::TimedOut {
            what: format!("asking node {}", self.node),
            after: BEGINS_WITHIN,
        }
    }
}
