//! Commands in a replica's container: which container is meant, and a conversation with the
//! command that ends when either side goes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Manager;
use super::output::Source;
use crate::error::{Error, Result};
use crate::host::NodeHandle;
use crate::model::{InstanceId, InstanceRecord, InstanceState, ServiceName};
use crate::runtime::{ExecCommand, ExecOutput, ExecSession, TerminalSize};

/// How many pieces of input wait for the command to read them.
const WAITING: usize = 16;

/// What a command is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandInput {
    /// A piece of its standard input.
    Data(Bytes),
    /// The end of its standard input.
    End,
    /// Its terminal's new size.
    Resize(TerminalSize),
}

/// A conversation with a command. Dropped, it closes the command's input and output.
pub struct Conversation {
    /// What the command is given.
    pub input: mpsc::Sender<CommandInput>,
    /// What it says, up to its exit code.
    pub output: BoxStream<'static, Result<ExecOutput>>,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").finish_non_exhaustive()
    }
}

impl Manager {
    /// Runs a command in a container of a service: of the replica that is named (`web-2`), or
    /// of one that is ready.
    pub async fn exec(&self, name: &str, command: &ExecCommand) -> Result<Conversation> {
        let snapshot = self.backends.registry.snapshot().await?;
        let declaration = snapshot.declaration.as_ref().map(|(_, d)| d);
        let services = || declaration.iter().flat_map(|d| d.services.keys());
        let service = services().find(|service| service.as_str() == name);
        let replica = declaration.and_then(|d| d.replica_named(name));
        if service.is_none() && replica.is_none() {
            let known = services().map(ServiceName::as_str);
            let what = format!("service or replica {name}");
            return Err(Error::unknown_name(what, name, known));
        }
        let is_meant = |id: &InstanceId| match service {
            Some(service) => id.service == *service,
            None => replica.as_ref() == Some(id),
        };
        let records = snapshot.instances.into_values();
        let meant = records.filter(|record| is_meant(&record.id));
        let record = meant.max_by_key(merit).ok_or_else(|| Error::Conflict {
            what: format!("a command in {name}"),
            why: "no container of it exists".into(),
        })?;
        let node = snapshot.nodes.get(&record.node);
        let recorded = node.and_then(|node| node.observed.clone());
        let container = Arc::clone(&record.container.0);
        let handle = Source::of(self, record, recorded).handle().await?;
        let session = handle.runtime.exec(&container, command).await?;
        Ok(converse(handle, session))
    }
}

/// One that is ready before one that runs, and the first of them before the others.
fn merit(record: &InstanceRecord) -> (u8, std::cmp::Reverse<InstanceId>) {
    let runs = match record.state {
        InstanceState::Ready => 2,
        InstanceState::Starting => 1,
        _ => 0,
    };
    (runs, std::cmp::Reverse(record.id.clone()))
}

fn converse(handle: NodeHandle, session: ExecSession) -> Conversation {
    let (input, mut given) = mpsc::channel(WAITING);
    let ExecSession {
        id,
        input: mut stdin,
        output,
    } = session;
    // Dropped, it ends its task.
    let mut pump = JoinSet::new();
    pump.spawn(async move {
        let mut open = true;
        while let Some(piece) = given.recv().await {
            let done = match piece {
                CommandInput::Data(bytes) if open => match stdin.write_all(&bytes).await {
                    Ok(()) => stdin.flush().await,
                    failed => failed,
                },
                CommandInput::End if open => {
                    open = false;
                    stdin.shutdown().await
                }
                CommandInput::Data(_) | CommandInput::End => Ok(()),
                CommandInput::Resize(size) => {
                    if let Err(error) = handle.runtime.resize_exec(&id, size).await {
                        tracing::debug!(error = %error.chain(), "a terminal keeps its size");
                    }
                    Ok(())
                }
            };
            // A command that reads no more still says something.
            open &= done.is_ok();
        }
        // Whoever gives nothing more still hears what the command says.
        drop(stdin);
        std::future::pending::<()>().await;
    });
    Conversation {
        input,
        output: output
            .inspect(move |_| {
                // It ends with the output.
                let _ = &pump;
            })
            .boxed(),
    }
}
