//! Wraps connections to nodes behind a jump host. Each of them runs inside the connection to the
//! jump host.
//!
//! The SSH client buffers a limited number of packets per channel. If a channel's reader stalls and
//! the buffer is full, the client stalls the whole connection. A single log stream that nobody
//! reads could thus block all nodes behind the jump host.
//!
//! Data from a node is therefore immediately moved to a separate buffer. This buffer is larger than
//! a channel's [`WINDOW`], so a stalled log stream blocks only its own node's connection. If the
//! buffer fills anyway, that connection is closed, and the connections to other nodes continue.

use std::io;
use std::time::Duration;

use lifecycle_core::host::Duplex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::LeasedStream;

/// The SSH window per channel: the number of bytes that a node may send without acknowledgment.
pub(super) const WINDOW: u32 = 2 << 20;
/// The buffer size for a stalled reader, in bytes: a channel's window, plus room for the protocol's
/// overhead.
const HELD: usize = 8 << 20;
/// The buffer size for outgoing data, in bytes. It is small, to limit the delay of the data.
const WAITING: usize = 256 << 10;
/// How long a full buffer may delay the other nodes before its connection is closed.
const FULL: Duration = Duration::from_secs(10);
const PIECE: usize = 64 << 10;

/// Returns the stream to use in place of `carrier`. The connection is closed if the other side
/// accepts no data for `stall_limit`.
pub(super) fn through(carrier: LeasedStream, stall_limit: Duration) -> Box<dyn Duplex> {
    let (near, far) = (tokio::io::duplex(HELD), tokio::io::duplex(WAITING));
    tokio::spawn(async move {
        let (from, to) = tokio::io::split(carrier);
        // If one direction ends, close the connection, because SSH needs both directions.
        let ended = tokio::select! {
            ended = carry(from, near.0, FULL) => ended,
            ended = carry(far.0, to, stall_limit) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection through the jump host ended");
        }
    });
    Box::new(tokio::io::join(near.1, far.1))
}

/// Copies all data. Fails if the receiver accepts no data for `patience`.
async fn carry<R, W>(mut from: R, mut to: W, patience: Duration) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        let Some(mut rest) = piece.get(..length).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        while !rest.is_empty() {
            let taken = timeout(patience, to.write(rest)).await??;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}
