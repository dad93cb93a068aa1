//! Answers each request with the server's version (`$VERSION`). On SIGTERM, the server accepts the
//! connections that are already in its backlog, answers the requests that it has received, and exits.
//! With `SERVER=ends-at-once`, it exits on SIGTERM without answering; with `SERVER=never-ready`, its
//! readiness check fails.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Outcome;
use crate::http::{Connection, closes, response};

/// How long a request takes. A server that is stopped under load has open requests.
const WORK: Duration = Duration::from_millis(10);

/// How long a request takes if the server ends at once. A container that is stopped without waiting
/// for its open connections takes less time to end.
const LONG_WORK: Duration = Duration::from_millis(500);

pub(crate) async fn run(port: u16) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let version = std::env::var("VERSION").unwrap_or_default();
    let server = std::env::var("SERVER").unwrap_or_default();
    let is_ready = server != "never-ready";
    let ends_at_once = server == "ends-at-once";
    if !is_ready {
        println!("version {version} cannot read its cache");
    }
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let (draining, is_draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut serve = |stream: TcpStream| {
        let mut client = Client {
            connection: Connection::new(stream),
            version: version.clone(),
            is_ready,
            work: if ends_at_once { LONG_WORK } else { WORK },
            is_draining: is_draining.clone(),
        };
        // An error means that the client has closed the connection.
        connections.spawn(async move { drop(client.serve().await) });
        while connections.try_join_next().is_some() {}
    };
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            accepted = listener.accept() => serve(accepted?.0),
        }
    }
    if ends_at_once {
        return Ok(());
    }
    draining.send_replace(true);
    // The socket itself shows whether a connection is left; tokio may not have been notified yet.
    let listener = listener.into_std()?;
    let mut accepted = 0;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        serve(TcpStream::from_std(stream)?);
        accepted += 1;
    }
    drop(listener);
    let open = connections.len();
    println!("stopping; open connections: {open}, of which in the backlog: {accepted}");
    while connections.join_next().await.is_some() {}
    println!("stopped");
    Ok(())
}

struct Client {
    connection: Connection,
    version: String,
    is_ready: bool,
    work: Duration,
    is_draining: watch::Receiver<bool>,
}

impl Client {
    async fn serve(&mut self) -> io::Result<()> {
        let mut has_served = false;
        while let Some(head) = self.request(has_served).await? {
            has_served = true;
            let status = if self.is_ready {
                "200 OK"
            } else {
                "503 Service Unavailable"
            };
            if !head.starts_with("GET /ready ") {
                sleep(self.work).await;
            }
            let closes = closes(&head) || *self.is_draining.borrow();
            let reply = response(status, closes, &self.version);
            self.connection.stream.write_all(reply.as_bytes()).await?;
            if closes {
                return self.connection.stream.shutdown().await;
            }
        }
        Ok(())
    }

    /// Returns the next request, or `None` if the client or a draining server closes the connection.
    /// A draining server closes only connections that are idle after a response.
    async fn request(&mut self, has_served: bool) -> io::Result<Option<String>> {
        loop {
            if let Some(head) = self.connection.take_head() {
                return Ok(Some(head));
            }
            let is_idle = has_served && self.connection.received.is_empty();
            tokio::select! {
                biased;
                received = self.connection.receive() => if !received? {
                    return Ok(None);
                },
                _ = self.is_draining.wait_for(|is_draining| *is_draining), if is_idle => {
                    return Ok(None);
                }
            }
        }
    }
}
