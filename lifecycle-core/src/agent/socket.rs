//! Sockets with the options that forwarding needs.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// The longest queue of connections that were not accepted yet; the kernel has its own limit.
const BACKLOG: i32 = 4096;

/// How long an idle connection is silent before the kernel asks whether the other side is there,
/// how long it waits for the answer, and how often it asks.
const IDLE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK: u32 = 3;

/// As many open files as the process may have: each connection takes two.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
}

/// How many connections can be open at once: each takes two files, and some are left for all
/// else.
pub(super) fn most_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    (files.saturating_sub(256) / 2).clamp(16, tokio::sync::Semaphore::MAX_PERMITS)
}

/// Listens for connections. What is accepted inherits the options, which saves setting them
/// again for each.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // No time-out for what the client does not acknowledge: one that reads nothing for an hour
    // is its own master, and it is on this node.
    socket.set_tcp_keepalive(&asked_when_idle().with_retries(ASK))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Receives datagrams.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // The sessions of a former one may still bring what is on its way.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Connects to a backend within about `within`. What is carried for longer than a moment is to be
/// watched.
pub(super) async fn connect(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    // The kernel's timer: one of the runtime's for each connection costs as much as sending a
    // small request.
    SockRef::from(&socket).set_tcp_user_timeout(Some(within))?;
    socket.connect(address).await
}

/// A node that vanishes sends no reset: what stays unacknowledged for longer than
/// `vanished_after`, data or the kernel's question, ends the connection.
pub(super) fn watch(stream: &TcpStream, vanished_after: Duration) -> io::Result<()> {
    let options = SockRef::from(stream);
    // The time-out is also the kernel's limit of how often it asks.
    options.set_tcp_keepalive(&asked_when_idle())?;
    options.set_tcp_user_timeout(Some(vanished_after))
}

fn asked_when_idle() -> TcpKeepalive {
    TcpKeepalive::new().with_time(IDLE).with_interval(ASK_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn vanished_ones_are_noticed_on_both_sides() {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let at = listener.local_addr().unwrap();
        let minute = Duration::from_mins(1);
        let ours = connect(at, Duration::from_secs(2)).await.unwrap();
        watch(&ours, minute).unwrap();
        let ours = SockRef::from(&ours);
        assert_eq!(ours.tcp_user_timeout().unwrap(), Some(minute));
        listener.set_nonblocking(false).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let theirs = SockRef::from(&theirs);
        assert_eq!(theirs.tcp_user_timeout().unwrap(), None);
        assert_eq!(theirs.tcp_keepalive_retries().unwrap(), ASK);
        for side in [ours, theirs] {
            assert!(side.keepalive().unwrap() && side.tcp_nodelay().unwrap());
            assert_eq!(side.tcp_keepalive_time().unwrap(), IDLE);
            assert_eq!(side.tcp_keepalive_interval().unwrap(), ASK_EVERY);
        }
    }
}
