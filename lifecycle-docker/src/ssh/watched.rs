//! Adds timeouts that the SSH client lacks.
//!
//! The client sends no keepalives while it writes, so a host that accepts no more data would block
//! the client forever. After a login is canceled during the key exchange, the client would keep
//! waiting for the host, with an open socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lifecycle_core::host::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// A connection that ends when its host accepts no data for too long, or when its login is
/// canceled.
pub(super) struct Watched {
    stream: Box<dyn Duplex>,
    stall_limit: Duration,
    waits: Option<Pin<Box<Sleep>>>,
    login: Option<oneshot::Receiver<()>>,
}

/// A login in progress. Dropping this value cancels the login and ends the connection.
pub(super) struct Login(oneshot::Sender<()>);

impl Login {
    /// Marks the login as successful. From then on, the caller is responsible for ending the
    /// connection.
    pub(super) fn succeeded(self) {
        // Ignore the error: sending fails only if the connection has already ended.
        let _ = self.0.send(());
    }
}

impl Watched {
    /// Wraps a connection, which then fails if its host accepts no data for `stall_limit`.
    pub(super) fn new(stream: Box<dyn Duplex>, stall_limit: Duration) -> (Self, Login) {
        let (sender, receiver) = oneshot::channel();
        let watched = Self {
            stream,
            stall_limit,
            waits: None,
            login: Some(receiver),
        };
        (watched, Login(sender))
    }

    /// Returns the result of a write, or an error if no write has made progress for too long.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waits = None;
            return wrote;
        }
        let stall_limit = self.stall_limit;
        let waits = self
            .waits
            .get_or_insert_with(|| Box::pin(sleep(stall_limit)));
        ready!(waits.as_mut().poll(cx));
        self.waits = None;
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "the host accepted no data for {} s",
                stall_limit.as_secs_f32()
            ),
        )))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(login) = &mut self.login
            && let Poll::Ready(succeeded) = Pin::new(login).poll(cx)
        {
            self.login = None;
            if succeeded.is_err() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use lifecycle_core::model::NodeName;
    use lifecycle_core::secret::Sensitive;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::ssh::{SshAccess, SshCredential, SshTarget, SshTimings};

    const TIMEOUT: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn disconnects_a_stalled_host_but_not_a_slow_one() {
        let (near, mut far) = tokio::io::duplex(10);
        let (mut watched, _login) = Watched::new(Box::new(near), TIMEOUT);
        let slow = async {
            for _ in 0..10 {
                sleep(TIMEOUT * 9 / 10).await;
                far.read_exact(&mut [0; 10]).await.unwrap();
            }
        };
        let (wrote, ()) = tokio::join!(watched.write_all(&[0; 110]), slow);
        wrote.unwrap();
        let since = Instant::now();
        let error = watched.write_all(&[0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(since.elapsed() >= TIMEOUT, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn a_canceled_login_closes_its_socket() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = SshTarget {
            node: NodeName::try_from("vm1").unwrap(),
            address: listener.local_addr().unwrap().ip(),
            port: listener.local_addr().unwrap().port(),
            user: "ops".into(),
            host_keys: Vec::new(),
        };
        let timings = SshTimings {
            connect: Duration::from_millis(300),
            ..SshTimings::default()
        };
        let credential = SshCredential::Password(Sensitive::new("x"));
        let access = SshAccess::new(target, &credential, timings).unwrap();
        // The server sends its greeting, and then does not respond to the key exchange.
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
            let mut received = Vec::new();
            let ended = timeout(Duration::from_mins(1), stream.read_to_end(&mut received)).await;
            assert!(ended.is_ok(), "the socket is still open");
            assert!(received.len() > 100, "no key exchange was started");
        };
        let (checked, ()) = tokio::join!(access.check(), server);
        assert!(checked.is_err());
    }
}
