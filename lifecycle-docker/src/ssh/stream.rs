//! A forwarded connection, or a command's input and output, as one stream that keeps its
//! place in the pool until it is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::pool::Lease;

/// Dropping it closes the channel.
pub(crate) struct LeasedStream {
    // Before the lease, so that the channel's close is on its way when the place is free.
    stream: ChannelStream<Msg>,
    _lease: Lease,
    permit: Option<OwnedSemaphorePermit>,
}

impl LeasedStream {
    pub(super) fn new(stream: ChannelStream<Msg>, lease: Lease) -> Self {
        Self {
            stream,
            _lease: lease,
            permit: None,
        }
    }

    /// The same, giving `permit` back when it is dropped.
    pub(crate) fn holding(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.permit = Some(permit);
        self
    }
}

impl AsyncRead for LeasedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LeasedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
