//! Copies bytes between a client and a backend.
//!
//! An idle connection holds no buffer. All connections of a thread share one buffer, and a
//! connection keeps only those bytes that its receiver has not accepted yet. A connection reads
//! more bytes only after writing the kept ones, so a slow receiver slows its sender and not the
//! agent.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::service::{Backend, Figures};
use super::socket;

/// The maximum number of bytes per read.
const SCRATCH: usize = 64 << 10;

/// The number of reads after which a connection lets other tasks of the thread run.
const TURN: u32 = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Runs a function with the thread's buffer.
pub(super) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// Copies bytes in both directions until both have ended. If one connection breaks or the backend is
/// lost, resets both.
pub(super) async fn carry(
    mut client: TcpStream,
    (mut backend, container): (TcpStream, &Backend),
    vanished_after: Duration,
    figures: &Figures,
) {
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let mut is_watched = false;
    let mut lost = pin!(container.lost());
    let mut waits = false;
    let carried = poll_fn(|cx| {
        // Each poll locks the list of waiting connections, so only the first one adds this one.
        if !waits {
            waits = true;
            let _ = lost.as_mut().poll(cx);
        }
        if container.is_lost() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let is_there = there.poll(
            cx,
            (&mut client, &mut backend),
            back.passed_on,
            &figures.bytes_in,
        )?;
        let is_back = back.poll(
            cx,
            (&mut backend, &mut client),
            there.passed_on,
            &figures.bytes_out,
        )?;
        if is_there.is_ready() && is_back.is_ready() {
            return Poll::Ready(io::Result::Ok(()));
        }
        // Set the options only after the first request was forwarded, so that the backend can
        // process the request meanwhile.
        if !is_watched {
            socket::watch(&backend, vanished_after)?;
            is_watched = true;
        }
        Poll::Pending
    })
    .await;
    if carried.is_err() {
        // Reset both connections. After a normal close, a receiver would assume that it has all
        // data.
        drop(client.set_zero_linger());
        drop(backend.set_zero_linger());
    }
}

#[derive(Debug, Default)]
struct Direction {
    /// Bytes that were read, but that the receiver has not accepted yet.
    kept: Bytes,
    ended: bool,
    passed_on: bool,
}

impl Direction {
    /// Copies the available bytes. Returns `Ready` once the end of the input was passed on.
    /// `is_last` is true if the other direction has already ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut TcpStream, &mut TcpStream),
        is_last: bool,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            while !self.kept.is_empty() {
                let taken = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept))?;
                self.kept.advance(taken);
            }
            if self.passed_on {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                // If the other direction has ended, skip the shutdown: the socket is closed next.
                if !is_last {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                }
                self.passed_on = true;
                return Poll::Ready(Ok(()));
            }
            // Release the memory of the previous bytes.
            self.kept = Bytes::new();
            let carried = with_buffer(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                let mut read: &[u8] = buffer.filled();
                self.ended = read.is_empty();
                count.fetch_add(read.len() as u64, Ordering::Relaxed);
                while !read.is_empty() {
                    match Pin::new(&mut *to).poll_write(cx, read) {
                        Poll::Ready(taken) => read = &read[taken?..],
                        Poll::Pending => {
                            self.kept = Bytes::copy_from_slice(read);
                            break;
                        }
                    }
                }
                Poll::Ready(io::Result::Ok(()))
            });
            ready!(carried)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
