//! Forwards queries to the node's own resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::{read_framed, write_framed};
use crate::agent::resolvers::ResolvConf;

/// How long to wait for a resolver's response before the next resolver is queried too.
const NEXT_AFTER: Duration = Duration::from_secs(1);

/// Time limit for all resolvers together. Shorter than clients' usual limit (5 s), so that a client
/// always receives an answer.
const WITHIN: Duration = Duration::from_millis(4500);

/// The length of a message's header: id, flags, counts.
const HEAD: usize = 12;

/// Response codes after which the next resolver is tried: `SERVFAIL`, `REFUSED`.
const TRY_NEXT: [u8; 2] = [2, 5];

/// Queries the resolvers in the node's `resolv.conf`.
#[derive(Debug)]
pub(in crate::agent) struct Forwarder {
    pub(in crate::agent) resolvers: watch::Receiver<Arc<ResolvConf>>,
    pub(in crate::agent) port: u16,
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Udp,
    Tcp,
}

impl Forwarder {
    /// Returns the first response that is not a failure; otherwise the first failure, or `None` if
    /// no resolver responds. If `tcp` is false, queries the resolvers over UDP first, and then over
    /// TCP. Returns a truncated response unchanged: the client repeats its query over TCP.
    pub(super) async fn ask(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + WITHIN;
        let servers = self.resolvers.borrow().servers.clone();
        let all = |over| servers.iter().map(move |server| (*server, over));
        let mut next = if tcp {
            all(Over::Tcp).chain(all(Over::Tcp))
        } else {
            all(Over::Udp).chain(all(Over::Tcp))
        };
        let mut asked = FuturesUnordered::new();
        let mut poor = None;
        let race = async {
            loop {
                match next.next() {
                    Some((server, over)) => {
                        asked.push(exchange(SocketAddr::new(server, self.port), over, query));
                    }
                    None if asked.is_empty() => return None,
                    None => {}
                }
                let later = sleep(NEXT_AFTER);
                tokio::select! {
                    Some(answer) = asked.next() => match answer {
                        Ok(answer) if TRY_NEXT.contains(&(answer[3] & 0x0f)) => {
                            poor.get_or_insert(answer);
                        }
                        Ok(answer) => return Some(answer),
                        Err(error) => tracing::debug!(%error, "a resolver does not respond"),
                    },
                    () = later => {}
                }
            }
        };
        let good = timeout_at(deadline, race).await.ok().flatten();
        good.or(poor)
    }
}

async fn exchange(server: SocketAddr, over: Over, query: &[u8]) -> io::Result<Vec<u8>> {
    match over {
        Over::Udp => {
            let any: IpAddr = if server.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            // Use a connected socket for each query, so that no other host can answer.
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(server).await?;
            socket.send(query).await?;
            let mut buffer = vec![0; usize::from(u16::MAX)];
            loop {
                let length = socket.recv(&mut buffer).await?;
                if answers(&buffer[..length], query) {
                    buffer.truncate(length);
                    buffer.shrink_to_fit();
                    return Ok(buffer);
                }
            }
        }
        Over::Tcp => {
            let mut stream = TcpStream::connect(server).await?;
            write_framed(&mut stream, query).await?;
            let answer = read_framed(&mut stream).await?;
            if answers(&answer, query) {
                Ok(answer)
            } else {
                Err(io::Error::other("the response is for a different query"))
            }
        }
    }
}

/// Returns whether `answer` is a response with the id of `query`.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= HEAD && answer[..2] == query[..2] && answer[2] & 0x80 != 0
}
