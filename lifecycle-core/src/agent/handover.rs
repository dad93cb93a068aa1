//! The handover between two agents that use the same state directory. The running agent passes its
//! sockets to the next one, so no connection is lost when the manager's program is upgraded.
//!
//! 1. The next agent connects to the running agent's unix socket. Only the agent that the manager
//!    has named in the state directory does this.
//! 2. The running agent sends the descriptors of the state directory's lock, of its network namespace,
//!    and of its sockets ([`Offer::send`]). Until the next step, it continues to serve.
//! 3. The next agent starts to serve with these sockets, and confirms this. If it ends before, the
//!    running agent continues; the connections that the next one had accepted are lost.
//! 4. The running agent stops accepting, and confirms this.
//! 5. The previous agent finishes its open connections. Meanwhile, the connection between the two
//!    agents remains: the next agent sends tables, like a feeder, and the previous agent reports the
//!    open connections of draining containers ([`Previous`](super::previous::Previous)).

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::store::{Lock, Store};
use crate::error::{Error, Result};
use crate::model::Protocol;
use crate::network::Block;

/// The unix socket in the state directory on which the next agent requests the handover.
pub(super) const SOCKET: &str = "handover.sock";

/// How long the other agent may take for its part of the handover. Meanwhile, the running agent
/// accepts no tables, so this time is shorter than the manager's limit for the acceptance of a table.
const WITHIN: Duration = Duration::from_secs(5);

/// The maximum number of descriptors in a message. The kernel's limit is 253.
const TOGETHER: usize = 128;

/// The maximum length of [`Contents`] as JSON.
const LONGEST: usize = 4 << 10;

/// The delay after a failed `accept`, for example if no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// The answer of either agent when it has done its part.
const DONE: u8 = b'\n';

/// Describes the descriptors of an offer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// Whether the descriptor after the lock is a network namespace.
    has_namespace: bool,
    /// The block that is routed to the namespace.
    block: Option<Block>,
    /// The number of sockets.
    sockets: usize,
}

/// The descriptors that the running agent passes to the next one.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    /// The lock of the state directory.
    pub(super) lock: BorrowedFd<'a>,
    /// The network namespace, and the block that is routed to it.
    pub(super) namespace: Option<(BorrowedFd<'a>, Option<Block>)>,
    pub(super) sockets: Vec<BorrowedFd<'a>>,
}

/// The descriptors that the next agent has received.
#[derive(Debug)]
pub(super) struct Received {
    lock: Lock,
    pub(super) namespace: Option<(OwnedFd, Option<Block>)>,
    pub(super) sockets: Inherited,
    stream: UnixStream,
}

/// The sockets of the running agent, by address and type.
#[derive(Debug, Default)]
pub(super) struct Inherited(Mutex<HashMap<(SocketAddr, Protocol), OwnedFd>>);

impl Inherited {
    fn new(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut found = HashMap::new();
        for socket in sockets {
            let options = SockRef::from(&socket);
            let at = options.local_addr()?.as_socket();
            let at = at.ok_or_else(|| io::Error::other("a socket has no IP address"))?;
            let protocol = if options.r#type()? == Type::DGRAM {
                Protocol::Udp
            } else {
                Protocol::Tcp
            };
            found.insert((at, protocol), socket);
        }
        Ok(Self(Mutex::new(found)))
    }

    pub(super) fn listener(&self, at: SocketAddr) -> Option<TcpListener> {
        self.take(at, Protocol::Tcp).map(TcpListener::from)
    }

    pub(super) fn datagrams(&self, at: SocketAddr) -> Option<UdpSocket> {
        self.take(at, Protocol::Udp).map(UdpSocket::from)
    }

    /// Closes the sockets that were not used.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    fn take(&self, at: SocketAddr, protocol: Protocol) -> Option<OwnedFd> {
        self.all().remove(&(at, protocol))
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<(SocketAddr, Protocol), OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes each connection of a next agent to the engine.
pub(super) async fn serve(listener: UnixListener, requests: mpsc::Sender<UnixStream>) {
    loop {
        match listener.accept().await {
            // Sending fails only if the engine has ended.
            Ok((stream, _)) => drop(requests.send(stream).await),
            Err(error) => {
                tracing::debug!(%error, "cannot accept the connection of another agent");
                sleep(PAUSE).await;
            }
        }
    }
}

impl Offer<'_> {
    /// Sends the offer and waits until the next agent serves.
    pub(super) async fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let contents = Contents {
            has_namespace: self.namespace.is_some(),
            block: self.namespace.as_ref().and_then(|(_, block)| *block),
            sockets: self.sockets.len(),
        };
        let namespace = self.namespace.iter().map(|(namespace, _)| *namespace);
        let all = std::iter::once(self.lock).chain(namespace);
        let all: Vec<_> = all.chain(self.sockets.iter().copied()).collect();
        let exchange = async {
            for some in all.chunks(TOGETHER) {
                send_descriptors(stream, some).await?;
            }
            let mut line = serde_json::to_vec(&contents)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            expect_done(stream).await
        };
        timeout(WITHIN, exchange).await?
    }
}

impl Received {
    /// Requests the sockets of the running agent.
    pub(super) async fn request(store: &Store) -> io::Result<Self> {
        let exchange = async {
            let stream = UnixStream::connect(store.path(SOCKET)).await?;
            let (contents, mut descriptors) = receive(&stream).await?;
            let all = 1 + usize::from(contents.has_namespace) + contents.sockets;
            if descriptors.len() != all {
                return Err(io::Error::other(format!(
                    "{} of {all} descriptors arrived",
                    descriptors.len()
                )));
            }
            let sockets = descriptors.split_off(all - contents.sockets);
            let namespace = contents.has_namespace.then(|| descriptors.pop()).flatten();
            let lock = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
            Ok(Self {
                lock: Lock::passed(lock),
                namespace: namespace.map(|namespace| (namespace, contents.block)),
                sockets: Inherited::new(sockets)?,
                stream,
            })
        };
        timeout(WITHIN, exchange).await?
    }

    /// Confirms that this agent serves, and waits until the previous agent has stopped accepting.
    /// Returns the lock, and the connection to the previous agent.
    pub(super) async fn confirm(mut self) -> Result<(Lock, UnixStream)> {
        let exchange = async {
            self.stream.write_all(&[DONE]).await?;
            expect_done(&mut self.stream).await
        };
        let failed = |why: String| Error::failed("taking over from the running agent", why);
        let released = timeout(WITHIN, exchange).await;
        released
            .map_err(|passed| failed(passed.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        Ok((self.lock, self.stream))
    }
}

/// Confirms that this agent has stopped accepting.
pub(super) async fn stopped(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(&[DONE]).await
}

async fn expect_done(stream: &mut UnixStream) -> io::Result<()> {
    match stream.read_u8().await? {
        DONE => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends descriptors with a space, which JSON ignores: descriptors need at least one byte.
async fn send_descriptors(stream: &UnixStream, some: &[BorrowedFd<'_>]) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        let mut descriptors = SendAncillaryBuffer::new(&mut space);
        if !descriptors.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = [IoSlice::new(b" ")];
        sendmsg(
            stream.as_fd(),
            &bytes,
            &mut descriptors,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    };
    stream.async_io(Interest::WRITABLE, send).await
}

/// Receives descriptors up to the line that describes them.
async fn receive(stream: &UnixStream) -> io::Result<(Contents, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
            let mut received = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; LONGEST];
            let message = recvmsg(
                stream.as_fd(),
                &mut [IoSliceMut::new(&mut bytes)],
                &mut received,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            for part in received.drain() {
                if let RecvAncillaryMessage::ScmRights(some) = part {
                    descriptors.extend(some);
                }
            }
            Ok(bytes[..message.bytes].to_vec())
        };
        let bytes = stream.async_io(Interest::READABLE, receive).await?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend(bytes);
        if line.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((serde_json::from_slice(&line)?, descriptors))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn passes_more_sockets_than_fit_in_a_message() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let count = TOGETHER * 2 + 1;
        let any = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let sockets: Vec<_> = (0..count).map(|_| any()).collect();
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let block = Some("10.210.0.0/16".parse().unwrap());
        let lock = any();
        let offer = Offer {
            lock: lock.as_fd(),
            namespace: Some((namespace.as_fd(), block)),
            sockets: sockets.iter().map(AsFd::as_fd).collect(),
        };
        let receiving = async {
            let (contents, mut descriptors) = receive(&theirs).await.unwrap();
            assert!(contents.has_namespace);
            assert_eq!(contents.block, block);
            assert_eq!(descriptors.len(), count + 2);
            let inherited = Inherited::new(descriptors.split_off(2)).unwrap();
            for socket in &sockets {
                let at = socket.local_addr().unwrap();
                assert!(inherited.datagrams(at).is_none());
                let same = inherited.listener(at).unwrap();
                assert_eq!(same.local_addr().unwrap(), at);
                assert!(inherited.listener(at).is_none());
            }
            drop(theirs);
        };
        let (sent, ()) = tokio::join!(offer.send(&mut ours), receiving);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
