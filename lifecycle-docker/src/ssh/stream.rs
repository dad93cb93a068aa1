//! Provides a forwarded connection, or a command's input and output, as one stream. The stream
//! keeps its slot in the pool until its channel is closed.
//!
//! The host must close a channel first: russh 0.65.1 otherwise keeps the channel's buffers until
//! the connection ends (`client/encrypted.rs`). On a shared connection, a dropped stream therefore
//! only ends its input, and waits for the host to close the channel. If the host does not close the
//! channel in time, the stream closes it, and no further channels are opened on the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::ReusableBoxFuture;

use super::pool::Lease;

/// Time limit for the host to close a channel whose input has ended.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);
/// The number of bytes that a host may still send on a channel whose input has ended.
const SENDS_AT_MOST: usize = 1 << 20;

type Next = ReusableBoxFuture<'static, (ChannelReadHalf, Option<ChannelMsg>)>;

/// A stream over an SSH channel. Dropping it closes the channel.
pub(crate) struct LeasedStream {
    /// Received data that has not been read yet.
    unread: Bytes,
    /// Whether the host has ended its output.
    ended: bool,
    writer: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    /// `None` only while the stream is being dropped.
    channel: Option<OpenChannel>,
}

struct OpenChannel {
    next: Next,
    write: ChannelWriteHalf<Msg>,
    lease: Lease,
    permit: Option<OwnedSemaphorePermit>,
}

impl LeasedStream {
    pub(super) fn new(channel: Channel<Msg>, lease: Lease) -> Self {
        let (read, write) = channel.split();
        Self {
            unread: Bytes::new(),
            ended: false,
            writer: Box::new(write.make_writer()),
            channel: Some(OpenChannel {
                next: ReusableBoxFuture::new(next(read)),
                write,
                lease,
                permit: None,
            }),
        }
    }

    /// Keeps `permit` until the channel is closed.
    pub(crate) fn holding(mut self, permit: OwnedSemaphorePermit) -> Self {
        if let Some(channel) = &mut self.channel {
            channel.permit = Some(permit);
        }
        self
    }
}

async fn next(mut read: ChannelReadHalf) -> (ChannelReadHalf, Option<ChannelMsg>) {
    let message = read.wait().await;
    (read, message)
}

impl OpenChannel {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<ChannelMsg>> {
        let (read, message) = ready!(self.next.poll(cx));
        self.next.set(next(read));
        Poll::Ready(message)
    }

    /// Ends the input and reads until the host closes the channel.
    async fn finish(mut self) {
        let closed = timeout(CLOSES_WITHIN, async {
            // Errors are ignored: an error means that the connection and its channels are gone.
            let _ = self.write.eof().await;
            let mut sent = 0;
            loop {
                match std::future::poll_fn(|cx| self.poll_next(cx)).await {
                    None | Some(ChannelMsg::Close) => return true,
                    Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => {
                        sent += data.len();
                        if sent > SENDS_AT_MOST {
                            return false;
                        }
                    }
                    Some(_) => {}
                }
            }
        })
        .await;
        if closed != Ok(true) {
            self.lease.retire();
            let _ = self.write.close().await;
        }
    }
}

impl Drop for LeasedStream {
    fn drop(&mut self) {
        let Some(channel) = self.channel.take() else {
            return;
        };
        // If the runtime no longer exists, neither does the connection.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if channel.lease.is_alone() {
                // The connection is not shared and ends with the channel.
                let _ = channel.write.close().await;
            } else {
                channel.finish().await;
            }
        });
    }
}

impl AsyncRead for LeasedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() && !this.ended {
            let Some(channel) = &mut this.channel else {
                break;
            };
            match ready!(channel.poll_next(cx)) {
                Some(ChannelMsg::Data { data }) => this.unread = data,
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => this.ended = true,
                // A command's stderr and exit status are not part of the stream.
                Some(_) => {}
            }
        }
        let length = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LeasedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
