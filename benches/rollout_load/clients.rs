//! Sends requests until the program is killed: some clients open a new connection for each request,
//! others keep their connection. A request is not repeated, with one exception: a keep-alive client
//! repeats a request once if its connection was closed before the first byte of the response.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::http::{Connection, Reply, response};
use crate::ledger::{Happened, Kind, LONGEST, Ledger};

/// How many clients open a new connection for each request, and how many keep their connection.
const NEW: u32 = 40;
const KEEP_ALIVE: u32 = 10;

/// How long a client waits between two requests.
const PAUSE: Duration = Duration::from_millis(60);

/// Sends requests to `targets`, separated by commas, and serves reports on `port`.
pub(crate) async fn run(targets: &str, port: u16) -> Outcome {
    let mut targets = targets.split(',').cycle();
    let ledger = Rc::new(Ledger::new());
    let reports = TcpListener::bind(("0.0.0.0", port)).await?;
    let clients = LocalSet::new();
    for number in 0..NEW + KEEP_ALIVE {
        let mut client = Client {
            kind: if number < NEW {
                Kind::New
            } else {
                Kind::KeepAlive
            },
            target: targets.next().unwrap_or_default().to_owned(),
            ledger: Rc::clone(&ledger),
            kept: None,
            port: None,
        };
        let delay = PAUSE * number / (NEW + KEEP_ALIVE);
        clients.spawn_local(async move {
            sleep(delay).await;
            client.run().await
        });
    }
    clients.run_until(report(&ledger, &reports)).await
}

/// Answers each connection with a report.
async fn report(ledger: &Rc<Ledger>, reports: &TcpListener) -> Outcome {
    loop {
        let (stream, _) = reports.accept().await?;
        let ledger = Rc::clone(ledger);
        tokio::task::spawn_local(async move {
            // An error means that the reader has closed the connection.
            drop(answer(&ledger, Connection::new(stream)).await);
        });
    }
}

async fn answer(ledger: &Ledger, mut reader: Connection) -> io::Result<()> {
    let head = loop {
        if let Some(head) = reader.take_head() {
            break head;
        }
        if !reader.receive().await? {
            return Ok(());
        }
    };
    let body = if head.starts_with("GET /report ") {
        ledger.report().await.to_string()
    } else {
        String::new()
    };
    let reply = response("200 OK", true, &body);
    reader.stream.write_all(reply.as_bytes()).await
}

struct Client {
    kind: Kind,
    target: String,
    ledger: Rc<Ledger>,
    /// The connection of a keep-alive client.
    kept: Option<Connection>,
    /// The local port of the latest connection, once it is open.
    port: Option<u16>,
}

/// Why a request failed.
struct Broken {
    error: io::Error,
    /// Whether the server closed the connection before the first byte of the response.
    is_closed: bool,
}

impl Client {
    async fn run(&mut self) -> Infallible {
        loop {
            let begun = self.ledger.begin(self.kind);
            let outcome = timeout(LONGEST, self.request()).await;
            let outcome = outcome.unwrap_or_else(|_| Err(self.late()));
            self.ledger.end(&begun, outcome);
            sleep(PAUSE).await;
        }
    }

    /// Returns the error of a request that took too long.
    fn late(&self) -> io::Error {
        let target = &self.target;
        let text = match self.port {
            Some(port) => format!("no response from {target} at port {port}"),
            None => format!("cannot connect to {target}"),
        };
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    /// Sends a request. Returns the version of the server that answered it.
    async fn request(&mut self) -> io::Result<String> {
        let kept = self.kept.take();
        let kept = kept.filter(|connection| {
            let is_closed = matches!(connection.stream.try_read(&mut [0]), Ok(0));
            if is_closed {
                self.ledger.count(self.kind, Happened::Closed);
            }
            !is_closed
        });
        let reply = match kept {
            None => self.connect_and_ask().await,
            Some(connection) => match self.ask(connection).await {
                Err(broken) if broken.is_closed => {
                    self.ledger.count(self.kind, Happened::Repeated);
                    self.connect_and_ask().await
                }
                reply => reply,
            },
        };
        let reply = reply.map_err(|broken| broken.error)?;
        if reply.status == 200 {
            Ok(reply.body)
        } else {
            Err(io::Error::other(format!("status {}", reply.status)))
        }
    }

    /// Sends a request over a new connection.
    async fn connect_and_ask(&mut self) -> Result<Reply, Broken> {
        self.port = None;
        match TcpStream::connect(&self.target).await {
            Ok(stream) => {
                self.port = stream.local_addr().ok().map(|address| address.port());
                self.ledger.count(self.kind, Happened::Connected);
                self.ask(Connection::new(stream)).await
            }
            Err(error) => Err(Broken {
                error: context("connecting", &error),
                is_closed: false,
            }),
        }
    }

    async fn ask(&mut self, mut connection: Connection) -> Result<Reply, Broken> {
        let close = match self.kind {
            Kind::New => "Connection: close\r\n",
            Kind::KeepAlive => "",
        };
        let request = format!("GET / HTTP/1.1\r\nHost: web\r\n{close}\r\n");
        let sent = connection.stream.write_all(request.as_bytes()).await;
        sent.map_err(|error| Broken {
            is_closed: is_closed(&error),
            error: context("sending", &error),
        })?;
        let reply = receive(&mut connection).await.map_err(|error| Broken {
            is_closed: is_closed(&error) && connection.received.is_empty(),
            error: context("receiving", &error),
        })?;
        let is_kept = self.kind == Kind::KeepAlive && !reply.closes;
        self.kept = is_kept.then_some(connection);
        Ok(reply)
    }
}

async fn receive(connection: &mut Connection) -> io::Result<Reply> {
    loop {
        if let Some(reply) = connection.take_reply()? {
            return Ok(reply);
        }
        if !connection.receive().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
