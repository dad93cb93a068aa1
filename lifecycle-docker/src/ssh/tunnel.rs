//! A node's connection inside the jump host's.
//!
//! The SSH client keeps a number of packets for each channel; while a channel's reader takes
//! none, it then stalls the whole connection, and with it every node behind the jump host. A
//! log that comes line by line and that nobody reads on is enough. So whatever comes for a node
//! is taken off the shared connection at once, into a buffer of bytes that holds more than the
//! node may send unasked ([`WINDOW`]): such a log stops its own connection, and no other. Should
//! the buffer fill all the same, its connection is ended, and the others go on.

use std::io;
use std::time::Duration;

use lifecycle_core::host::Duplex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::LeasedStream;

/// What a node may send on each channel before we have taken it, in bytes.
pub(super) const WINDOW: u32 = 2 << 20;
/// What is held for a reader that stalls, in bytes: the window of its channel, with room for
/// what the protocol adds to many small packets.
const HELD: usize = 8 << 20;
/// What may wait to be sent, in bytes. Little: what waits here is late.
const WAITING: usize = 256 << 10;
/// How long all other nodes may wait for a full buffer before its connection is ended.
const FULL: Duration = Duration::from_secs(10);
const PIECE: usize = 64 << 10;

/// The stream to use in the place of `carrier`. `silence` is how long the other side may take
/// nothing; such a connection is ended.
pub(super) fn through(carrier: LeasedStream, silence: Duration) -> Box<dyn Duplex> {
    let (near, far) = (tokio::io::duplex(HELD), tokio::io::duplex(WAITING));
    tokio::spawn(async move {
        let (from, to) = tokio::io::split(carrier);
        // When one direction ends, so does the connection: SSH has no use for half of one.
        let ended = tokio::select! {
            ended = carry(from, near.0, FULL) => ended,
            ended = carry(far.0, to, silence) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection through the jump host ended");
        }
    });
    Box::new(tokio::io::join(near.1, far.1))
}

/// Passes on all there is; fails when the receiver takes nothing for so long.
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
