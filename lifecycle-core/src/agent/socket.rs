//! Opens sockets with the options that forwarding needs.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// The maximum number of connections that wait to be accepted. The kernel may apply a lower limit.
const BACKLOG: i32 = 4096;

/// Keepalive settings: idle time before the first probe, interval between probes, number of probes.
const IDLE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK: u32 = 3;

/// Raises this process's limit on open files to the maximum. Each forwarded connection needs two
/// files.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

/// Returns how many connections can be open at the same time. Each connection needs two files.
pub(super) fn most_connections() -> u32 {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = u32::try_from(files.saturating_sub(256) / 2).unwrap_or(u32::MAX);
    // Below the limits of a semaphore, also on 32-bit machines.
    connections.clamp(16, u32::MAX >> 4)
}

/// Listens for connections. Accepted connections inherit the options that are set here.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Set no timeout for unacknowledged data: a client on this node may legitimately read nothing
    // for an hour.
    socket.set_tcp_keepalive(&asked_when_idle().with_retries(ASK))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Opens a socket for datagrams.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // Sessions of a removed service may still use this address, to deliver data in flight.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Connects to a backend, with a time limit of about `within`. If the connection stays in use for
/// longer, pass it to [`watch`].
pub(super) async fn connect(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    // Use the kernel's timer: a tokio timer for each connection would cost as much as sending a
    // small request.
    SockRef::from(&socket).set_tcp_user_timeout(Some(within))?;
    socket.connect(address).await
}

/// Ends the connection when data or keepalive probes stay unacknowledged for longer than
/// `vanished_after`: a node that disappears sends no reset.
pub(super) fn watch(stream: &TcpStream, vanished_after: Duration) -> io::Result<()> {
    let options = SockRef::from(stream);
    // The timeout also limits the number of keepalive probes.
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
    async fn detects_vanished_peers_on_both_sides() {
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
