//! The protocol that transfers a command's input and output over one connection. The data is split
//! into frames, each with its length, one byte for its type, and the payload.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::manager::{CommandInput, Conversation};
use crate::runtime::{ExecCommand, ExecOutput, TerminalSize};

/// The name of the protocol, for the `Upgrade` header.
pub const PROTOCOL: &str = "lifecycle-exec/1";

/// The maximum size of a received frame. Frames that this program sends are smaller.
const LARGEST_FRAME: usize = 1 << 20;

/// How long a command may write nothing before the manager checks that its client is still connected. The
/// first check after a disconnection may still succeed.
const CLIENT_CHECKED_EVERY: Duration = Duration::from_secs(1);

/// How many pieces of input are buffered for the connection.
const BUFFERED: usize = 16;

const STDIN: u8 = 0;
const END: u8 = 1;
const RESIZE: u8 = 2;
const STDOUT: u8 = 16;
const STDERR: u8 = 17;
const EXIT: u8 = 18;
const BROKEN: u8 = 19;

/// The body of `POST /v1/services/{name}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExecV1 {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The user in the container; if absent, the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The size of the command's terminal; if absent, the command has no terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

impl From<ExecV1> for ExecCommand {
    fn from(wire: ExecV1) -> Self {
        Self {
            command: wire.command,
            user: wire.user,
            working_dir: wire.working_dir,
            terminal: wire.terminal,
        }
    }
}

impl From<ExecCommand> for ExecV1 {
    fn from(command: ExecCommand) -> Self {
        Self {
            command: command.command,
            user: command.user,
            working_dir: command.working_dir,
            terminal: command.terminal,
        }
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(LARGEST_FRAME)
        .new_codec()
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 1);
    frame.put_u8(kind);
    frame.put_slice(payload);
    frame.freeze()
}

fn input_frame(input: &CommandInput) -> Bytes {
    match input {
        CommandInput::Data(bytes) => frame(STDIN, bytes),
        CommandInput::End => frame(END, &[]),
        CommandInput::Resize(size) => {
            let [c1, c2] = size.columns.to_be_bytes();
            let [r1, r2] = size.rows.to_be_bytes();
            frame(RESIZE, &[c1, c2, r1, r2])
        }
    }
}

fn read_input(mut frame: Bytes) -> Option<CommandInput> {
    let kind = *frame.first()?;
    let payload = frame.split_off(1);
    match (kind, payload.as_ref()) {
        (STDIN, _) => Some(CommandInput::Data(payload)),
        (END, []) => Some(CommandInput::End),
        (RESIZE, [c1, c2, r1, r2]) => Some(CommandInput::Resize(TerminalSize {
            columns: u16::from_be_bytes([*c1, *c2]),
            rows: u16::from_be_bytes([*r1, *r2]),
        })),
        _ => None,
    }
}

fn output_frame(output: &Result<ExecOutput>) -> Bytes {
    match output {
        Ok(ExecOutput::Stdout(bytes)) => frame(STDOUT, bytes),
        Ok(ExecOutput::Stderr(bytes)) => frame(STDERR, bytes),
        Ok(ExecOutput::Exit(code)) => frame(EXIT, &code.to_be_bytes()),
        Err(error) => frame(BROKEN, &serde_json::to_vec(error).unwrap_or_default()),
    }
}

fn read_output(mut frame: Bytes) -> Result<ExecOutput> {
    let kind = frame.first().copied().unwrap_or(u8::MAX);
    let payload = if frame.is_empty() {
        frame
    } else {
        frame.split_off(1)
    };
    match kind {
        STDOUT => Ok(ExecOutput::Stdout(payload)),
        STDERR => Ok(ExecOutput::Stderr(payload)),
        EXIT => match payload.as_ref().try_into() {
            Ok(code) => Ok(ExecOutput::Exit(i64::from_be_bytes(code))),
            Err(_) => Err(broken("the response contains an invalid exit code")),
        },
        BROKEN => Err(serde_json::from_slice(&payload)
            .unwrap_or_else(|_| broken("the response contains an unknown error"))),
        _ => Err(broken("the response contains a frame of an unknown type")),
    }
}

fn broken(why: &str) -> Error {
    Error::Interrupted {
        what: "the connection to the command".into(),
        source: Some(why.to_owned().into()),
    }
}

/// Runs the manager's side: transfers input and output over a connection, until the command has
/// ended or the client has disconnected.
pub async fn serve(io: impl AsyncRead + AsyncWrite + Send, conversation: Conversation) {
    let (mut sink, mut frames) = Framed::new(io, codec()).split();
    let Conversation { input, mut output } = conversation;
    let send = async {
        loop {
            // While the command accepts no input, only a failed write shows that the client is gone.
            let piece = match timeout(CLIENT_CHECKED_EVERY, output.next()).await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_) => Ok(ExecOutput::Stdout(Bytes::new())),
            };
            let is_last = !matches!(piece, Ok(ExecOutput::Stdout(_) | ExecOutput::Stderr(_)));
            if sink.send(output_frame(&piece)).await.is_err() || is_last {
                break;
            }
        }
        // A disconnected client cannot receive the close frame; ignore the error.
        drop(sink.close().await);
    };
    let receive = async {
        while let Some(Ok(frame)) = frames.next().await {
            let Some(piece) = read_input(frame.freeze()) else {
                return;
            };
            // A command that reads no more input may still write output; ignore the error.
            drop(input.send(piece).await);
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
}

/// Runs the client's side: transfers input and output over a connection.
pub(super) fn converse<T>(io: T) -> Conversation
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (sink, frames) = Framed::new(io, codec()).split();
    let (input, given) = mpsc::channel(BUFFERED);
    let pump = AbortOnDropHandle::new(tokio::spawn(send_all(sink, given)));
    Conversation {
        input,
        output: receive(frames, pump).boxed(),
    }
}

async fn send_all<T: AsyncRead + AsyncWrite>(
    mut sink: SplitSink<Framed<T, LengthDelimitedCodec>, Bytes>,
    mut given: mpsc::Receiver<CommandInput>,
) {
    while let Some(piece) = given.recv().await {
        if sink.send(input_frame(&piece)).await.is_err() {
            return;
        }
    }
    // Keep the connection open after the end of the input, for the command's output.
    std::future::pending::<()>().await;
}

fn receive<T: AsyncRead + AsyncWrite + Send + 'static>(
    frames: SplitStream<Framed<T, LengthDelimitedCodec>>,
    pump: AbortOnDropHandle<()>,
) -> impl futures_util::Stream<Item = Result<ExecOutput>> + Send {
    stream::unfold(Some((frames, pump)), |state| async move {
        let (mut frames, pump) = state?;
        let output = match frames.next().await {
            Some(Ok(frame)) => read_output(frame.freeze()),
            Some(Err(error)) => Err(broken(&error.to_string())),
            None => Err(broken(
                "the manager, or the connection to it, ended before the command finished",
            )),
        };
        let goes_on = matches!(output, Ok(ExecOutput::Stdout(_) | ExecOutput::Stderr(_)));
        Some((output, goes_on.then_some((frames, pump))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_that_reads_and_writes_nothing_ends_with_its_client() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (input, _unread) = mpsc::channel(1);
        let output = stream::pending().boxed();
        let manager = tokio::spawn(serve(theirs, Conversation { input, output }));
        let client = converse(ours);
        let second = Duration::from_secs(1);
        let data = || CommandInput::Data(Bytes::from_static(b"a line\n"));
        while timeout(second, client.input.send(data())).await.is_ok() {}
        assert!(!manager.is_finished());
        drop(client);
        timeout(3 * CLIENT_CHECKED_EVERY, manager)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn input_reaches_the_command_and_its_output_and_exit_code_come_back() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (input, mut given) = mpsc::channel(4);
        let (output, mut written) = mpsc::channel(4);
        let conversation = Conversation {
            input,
            output: stream::poll_fn(move |context| written.poll_recv(context)).boxed(),
        };
        let manager = tokio::spawn(serve(theirs, conversation));
        let mut client = converse(ours);
        let size = TerminalSize {
            columns: 80,
            rows: 24,
        };
        let long = Bytes::from(vec![7; 10_000]);
        for piece in [
            CommandInput::Resize(size),
            CommandInput::Data(long.clone()),
            CommandInput::End,
        ] {
            client.input.send(piece.clone()).await.unwrap();
            assert_eq!(given.recv().await, Some(piece));
        }
        for piece in [
            ExecOutput::Stdout(long.clone()),
            ExecOutput::Stderr(Bytes::from_static(b"oh")),
            ExecOutput::Exit(-3),
        ] {
            output.send(Ok(piece.clone())).await.unwrap();
            assert_eq!(client.output.next().await.unwrap().unwrap(), piece);
        }
        assert!(client.output.next().await.is_none());
        manager.await.unwrap();
    }

    #[test]
    fn an_error_after_the_upgrade_keeps_its_kind_and_fields() {
        let sent = Err(Error::conflict("the terminal", "another command has it"));
        let read = read_output(output_frame(&sent)).unwrap_err();
        assert!(
            matches!(&read, Error::Conflict { what, why }
                if what == "the terminal" && why == "another command has it"),
            "{read:?}"
        );
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_the_command_is_an_error() {
        let (ours, theirs) = tokio::io::duplex(64);
        let mut client = converse(ours);
        drop(theirs);
        let error = client.output.next().await.unwrap().unwrap_err();
        assert!(
            error.chain().contains("before the command finished"),
            "{error}"
        );
        assert!(client.output.next().await.is_none());
    }

    #[test]
    fn an_invalid_frame_is_rejected() {
        for frame in [&b""[..], &[9], &[RESIZE, 1], &[END, 1]] {
            assert_eq!(read_input(Bytes::copy_from_slice(frame)), None, "{frame:?}");
        }
        for frame in [&b""[..], &[9], &[EXIT, 1]] {
            assert!(
                read_output(Bytes::copy_from_slice(frame)).is_err(),
                "{frame:?}"
            );
        }
    }
}
