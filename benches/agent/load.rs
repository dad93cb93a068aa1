//! Sends requests to an address and measures rates and latencies.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Failure;
use crate::server::{CLOSE, KEEP_ALIVE, REPLY, STREAM};

const CONNECTIONS: [usize; 3] = [1, 64, 1000];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    KeepAlive(usize),
    New(usize),
    Stream(usize),
}

/// The measurements of one load.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The number of completed requests, or of received bytes.
    pub(crate) done: f64,
    /// The number of requests or bytes per second.
    pub(crate) rate: f64,
    pub(crate) p99: Duration,
    /// The CPU time that the proxy used.
    pub(crate) processor: Duration,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepAlive(count) => write!(f, "small replies, keep-alive, {count} connections"),
            Self::New(count) => {
                write!(
                    f,
                    "small replies, a new connection for each, {count} clients"
                )
            }
            Self::Stream(count) => write!(f, "large streams, {count} connections"),
        }
    }
}

impl Load {
    pub(crate) fn all() -> Vec<Self> {
        let keep_alive = CONNECTIONS.map(Self::KeepAlive);
        let new = CONNECTIONS.map(Self::New);
        let stream = CONNECTIONS.map(Self::Stream);
        [keep_alive, new, stream].concat()
    }

    pub(crate) fn has_latency(self) -> bool {
        !matches!(self, Self::Stream(_))
    }

    pub(crate) fn rate(self, rate: f64) -> String {
        match self {
            Self::Stream(_) => format!("{:.2} GiB/s", rate / f64::from(1 << 30)),
            _ => format!("{rate:.0} per second"),
        }
    }

    pub(crate) fn each(self, seconds: f64) -> String {
        match self {
            Self::Stream(_) => format!("{:.0} ms per GiB", seconds * f64::from(1 << 30) * 1e3),
            _ => format!("{:.1} µs each", seconds * 1e6),
        }
    }

    /// Runs the load against an address for this time.
    pub(crate) async fn run(self, at: SocketAddr, time: Duration) -> Result<Measured, Failure> {
        let (Self::KeepAlive(count) | Self::New(count) | Self::Stream(count)) = self;
        let mut clients = JoinSet::new();
        let started = Instant::now();
        let until = started + time;
        for _ in 0..count {
            clients.spawn(async move {
                match self {
                    Self::KeepAlive(_) => keep_alive(at, until).await,
                    Self::New(_) => new(at, until).await,
                    Self::Stream(_) => stream(at, until).await,
                }
            });
        }
        let mut done = 0.0;
        let mut latencies = Vec::new();
        while let Some(client) = clients.join_next().await {
            let (did, took) = client??;
            done += did as f64;
            latencies.extend(took);
        }
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied();
        Ok(Measured {
            done,
            rate: done / started.elapsed().as_secs_f64(),
            p99: Duration::from_nanos(p99.unwrap_or(0)),
            processor: Duration::ZERO,
        })
    }
}

type Did = std::io::Result<(u64, Vec<u64>)>;

async fn keep_alive(at: SocketAddr, until: Instant) -> Did {
    let mut stream = connect(at).await?;
    let mut latencies = Vec::new();
    let mut reply = [0; REPLY.len()];
    loop {
        let asked = Instant::now();
        if asked >= until {
            return Ok((latencies.len() as u64, latencies));
        }
        stream.write_all(KEEP_ALIVE).await?;
        stream.read_exact(&mut reply).await?;
        latencies.push(nanoseconds(asked));
    }
}

async fn new(at: SocketAddr, until: Instant) -> Did {
    let mut latencies = Vec::new();
    let mut reply = Vec::with_capacity(REPLY.len() + 1);
    loop {
        let asked = Instant::now();
        if asked >= until {
            return Ok((latencies.len() as u64, latencies));
        }
        let mut stream = connect(at).await?;
        stream.write_all(CLOSE).await?;
        reply.clear();
        stream.read_to_end(&mut reply).await?;
        if reply != REPLY {
            return Err(std::io::Error::other("unexpected reply"));
        }
        latencies.push(nanoseconds(asked));
    }
}

async fn stream(at: SocketAddr, until: Instant) -> Did {
    let mut stream = connect(at).await?;
    stream.write_all(STREAM).await?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    while Instant::now() < until {
        bytes += stream.read(&mut buffer).await? as u64;
    }
    Ok((bytes, Vec::new()))
}

/// Opens idle connections. Each of them has received one reply.
pub(crate) async fn idle(at: SocketAddr, count: usize) -> Result<Vec<TcpStream>, Failure> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(at).await?;
        stream.write_all(KEEP_ALIVE).await?;
        stream.read_exact(&mut [0; REPLY.len()]).await?;
        idle.push(stream);
    }
    Ok(idle)
}

async fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
