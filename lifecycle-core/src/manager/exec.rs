//! Runs commands in a replica's container: chooses the container, and connects the caller with the
//! command until either side ends. When the caller ends first, the command's processes are ended.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::output::Source;
use super::{Accepted, KeyedRequest, Manager, scope};
use crate::error::{Error, Result};
use crate::host::NodeHandle;
use crate::model::{InstanceId, InstanceRecord, InstanceState, ServiceName, Subject};
use crate::registry::Batch;
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

/// The input and output of a running command. Dropping this value closes both, and ends the
/// command's processes.
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
    ///
    /// # Errors
    /// - [`Error::NotFound`] if there is no such replica or service
    /// - [`Error::Forbidden`] if the request is limited to some services, and the container has a token
    ///   for more
    /// - [`Error::Invalid`] if the request has a key: it cannot be answered again
    pub async fn exec(&self, name: &str, command: &ExecCommand) -> Result<Conversation> {
        if KeyedRequest::is_current() {
            return Err(Error::invalid(
                "the Idempotency-Key",
                "a command cannot be answered again",
                "omit the header",
            ));
        }
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
        let named = service.or(replica.as_ref().map(|id| &id.service));
        let spec = named.and_then(|name| declaration?.services.get(name));
        if let Some(scope) = scope::current()
            && let Some(access) = spec.and_then(|spec| spec.container.api.as_ref())
            && !access.scope().is_some_and(|own| own.is_within(&scope))
        {
            return Err(Error::forbidden(
                format!("running a command in {name}"),
                format!("its token for the API permits more than {scope}"),
                "use an admin token without a scope",
            ));
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
        // The command may contain secrets, so it is not recorded.
        let write = self.begin_write(Accepted::Always).await?;
        let audit = self.audit("exec", Subject::Instance(record.id.clone()));
        let registry = &self.backends.registry;
        registry
            .commit(write.epoch, Batch::default().event(audit))
            .await?;
        drop(write);
        let handle = Source::of(self, record, recorded).handle().await?;
        let session = handle.runtime.exec(&container, command).await?;
        Ok(converse(handle, session, self.stopping.subscribe()))
    }

    /// Ends all running commands, and waits until their processes were signaled. Call this method
    /// when the process is about to exit: later, nothing could end them.
    pub async fn end_commands(&self) {
        self.stopping.send_replace(true);
        self.stopping.closed().await;
    }
}

/// Ranks containers: ready before starting, starting before all others, then by replica number.
fn merit(record: &InstanceRecord) -> (u8, std::cmp::Reverse<InstanceId>) {
    let runs = match record.state {
        InstanceState::Ready => 2,
        InstanceState::Starting | InstanceState::Unhealthy { .. } => 1,
        _ => 0,
    };
    (runs, std::cmp::Reverse(record.id.clone()))
}

/// A running command. Dropping it before the command has ended ends the command's processes.
struct Running {
    /// Writes the input. Dropping the set aborts the task.
    _pump: JoinSet<()>,
    output: BoxStream<'static, Result<ExecOutput>>,
    session: Session,
    /// Whether the last item was returned.
    is_over: bool,
}

/// The engine's session of a command.
struct Session {
    handle: NodeHandle,
    id: String,
    /// Becomes true when the manager is about to stop, which waits until all receivers are gone.
    stopping: watch::Receiver<bool>,
    has_ended: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let Self {
            handle,
            id,
            stopping,
            ..
        } = self;
        let (handle, id, stopping) = (handle.clone(), std::mem::take(id), stopping.clone());
        if let Ok(tasks) = tokio::runtime::Handle::try_current() {
            tasks.spawn(async move {
                if let Err(error) = handle.runtime.end_exec(&id).await {
                    tracing::warn!(error = %error.chain(), "cannot end a command whose client is gone");
                }
                drop(stopping);
            });
        }
    }
}

impl Running {
    async fn next(mut self) -> Option<(Result<ExecOutput>, Self)> {
        if self.is_over {
            return None;
        }
        let piece = tokio::select! {
            // A command may write without a pause, so check first whether the manager is stopping.
            biased;
            _ = self.session.stopping.wait_for(|stopping| *stopping) => {
                Some(Err(Error::interrupted("the command", Some("the manager is stopping".into()))))
            }
            piece = self.output.next() => piece,
        };
        self.session.has_ended |= matches!(piece, Some(Ok(ExecOutput::Exit(_))));
        self.is_over = !matches!(
            piece,
            Some(Ok(ExecOutput::Stdout(_) | ExecOutput::Stderr(_)))
        );
        piece.map(|piece| (piece, self))
    }
}

fn converse(
    handle: NodeHandle,
    session: ExecSession,
    stopping: watch::Receiver<bool>,
) -> Conversation {
    let (input, given) = mpsc::channel(BUFFERED);
    let ExecSession {
        id,
        input: stdin,
        output,
    } = session;
    let mut pump = JoinSet::new();
    pump.spawn(feed(handle.clone(), id.clone(), stdin, given));
    let running = Running {
        _pump: pump,
        output,
        session: Session {
            handle,
            id,
            stopping,
            has_ended: false,
        },
        is_over: false,
    };
    Conversation {
        input,
        output: stream::unfold(running, Running::next).boxed(),
    }
}

/// Passes the input to a command.
async fn feed(
    handle: NodeHandle,
    id: String,
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    mut given: mpsc::Receiver<CommandInput>,
) {
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
        // If writing fails, the command reads no more input. Continue, because the command can
        // still write output, and its terminal can change.
        open &= done.is_ok();
    }
}
