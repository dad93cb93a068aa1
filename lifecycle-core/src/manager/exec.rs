//! Runs commands in a replica's container: chooses the container, and connects the caller with the
//! command until either side ends.

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

/// How many pieces of input are buffered for the command.
const BUFFERED: usize = 16;

/// Input for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandInput {
    /// A piece of the command's standard input.
    Data(Bytes),
    /// The end of the command's standard input.
    End,
    /// The new size of the command's terminal.
    Resize(TerminalSize),
}

/// The input and output of a running command. Dropping this value closes both.
pub struct Conversation {
    pub input: mpsc::Sender<CommandInput>,
    /// The last item is the exit code, or an error.
    pub output: BoxStream<'static, Result<ExecOutput>>,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").finish_non_exhaustive()
    }
}

impl Manager {
    /// Runs a command in the container of a replica. `name` is the name of a replica (`web-2`), or
    /// of a service. For a service, a ready replica is preferred.
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
        let is_named = |id: &InstanceId| match service {
            Some(service) => id.service == *service,
            None => replica.as_ref() == Some(id),
        };
        let records = snapshot.instances.into_values();
        let candidates = records.filter(|record| is_named(&record.id));
        let record = candidates
            .max_by_key(merit)
            .ok_or_else(|| Error::Conflict {
                what: format!("running a command in {name} failed"),
                why: "the replica has no container".into(),
            })?;
        let node = snapshot.nodes.get(&record.node);
        let recorded = node.and_then(|node| node.observed.clone());
        let container = Arc::clone(&record.container.0);
        let handle = Source::of(self, record, recorded).handle().await?;
        let session = handle.runtime.exec(&container, command).await?;
        Ok(converse(handle, session))
    }
}

/// Ranks containers: ready before starting, starting before all others, then by replica number.
fn merit(record: &InstanceRecord) -> (u8, std::cmp::Reverse<InstanceId>) {
    let runs = match record.state {
        InstanceState::Ready => 2,
        InstanceState::Starting => 1,
        _ => 0,
    };
    (runs, std::cmp::Reverse(record.id.clone()))
}

fn converse(handle: NodeHandle, session: ExecSession) -> Conversation {
    let (input, mut given) = mpsc::channel(BUFFERED);
    let ExecSession {
        id,
        input: mut stdin,
        output,
    } = session;
    // Dropping the set aborts the task.
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
                        tracing::debug!(error = %error.chain(), "cannot resize the terminal of a command");
                    }
                    Ok(())
                }
            };
            // A failed write means that the command reads no more input. Continue, because the
            // command can still write output.
            open &= done.is_ok();
        }
        // The caller may still read the output. Keep this task alive, because it owns the handle of
        // the node.
        drop(stdin);
        std::future::pending::<()>().await;
    });
    Conversation {
        input,
        output: output
            .inspect(move |_| {
                // Dropping the output aborts the task.
                let _ = &pump;
            })
            .boxed(),
    }
}
