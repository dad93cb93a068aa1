//! Reads the events of the kernel's process connector: every fork, exec, and exit on this machine,
//! in order. Polling `/proc` would miss processes that exit within a millisecond.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// `CN_IDX_PROC` and `CN_VAL_PROC` of `linux/connector.h`.
const PROCESSES: u32 = 1;
/// `PROC_CN_MCAST_LISTEN` of `linux/cn_proc.h`.
const LISTEN: u32 = 1;
/// The sizes of the headers in a message: `nlmsghdr`, `cn_msg`, and `proc_event` without its data.
const NETLINK_HEADER: usize = 16;
const CONNECTOR_HEADER: usize = 20;
const EVENT_HEADER: usize = 16;
/// The size of the socket's receive buffer, in bytes: large enough for several seconds of events on
/// a busy machine.
const BUFFER: usize = 32 << 20;
/// The longest time that [`Events::receive`] waits.
const PACE: Duration = Duration::from_millis(100);
/// Time limit for the kernel to confirm the subscription.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// An event of a process. Events of threads are not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Fork { parent: u32, child: u32 },
    Exec { process: u32 },
    Exit { process: u32 },
}

/// The result of one read from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Event(Event),
    /// An event of a thread, or an event of a type that is not counted.
    Other,
    Nothing,
}

/// A subscription to the kernel's process events.
#[derive(Debug)]
pub(crate) struct Events {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// For each processor, the expected number of its next event.
    expected: BTreeMap<u32, u32>,
    /// The number of events that were lost because the buffer was full.
    pub(crate) lost: u64,
}

impl Events {
    /// Subscribes to all events from now on.
    pub(crate) fn subscribe() -> Result<Self, String> {
        let socket = open().map_err(|error| {
            format!(
                "subscribing to process events: {error}; run it as root, on a kernel with \
                 CONFIG_PROC_EVENTS"
            )
        })?;
        let mut events = Self {
            socket,
            buffer: vec![0; 4096],
            expected: BTreeMap::new(),
            lost: 0,
        };
        let deadline = Instant::now() + CONFIRMED_WITHIN;
        while Instant::now() < deadline {
            // Every message on this socket is an event. The first one confirms the subscription.
            if events.receive(true)? != Received::Nothing {
                return Ok(events);
            }
        }
        Err("subscribing to process events: the kernel does not confirm it; run it as root outside \
             of containers, on a kernel with CONFIG_PROC_EVENTS"
            .into())
    }

    /// Returns the kernel's next message. If `wait` is set, waits up to [`PACE`] for a message.
    pub(crate) fn receive(&mut self, wait: bool) -> Result<Received, String> {
        let flags = if wait {
            RecvFlags::empty()
        } else {
            RecvFlags::DONTWAIT
        };
        match recv(&self.socket, &mut self.buffer[..], flags) {
            Ok((length, _)) => {
                let Some(message) = Message::parse(&self.buffer[..length]) else {
                    return Ok(Received::Other);
                };
                self.note_gap(&message);
                Ok(message.event.map_or(Received::Other, Received::Event))
            }
            // The buffer was full. The numbers of later events show how many events were lost.
            Err(Errno::NOBUFS) => Ok(Received::Other),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(format!("reading process events: {error}")),
        }
    }

    fn note_gap(&mut self, message: &Message) {
        if message.confirms {
            return;
        }
        let next = message.number.wrapping_add(1);
        if let Some(expected) = self.expected.insert(message.processor, next) {
            self.lost += u64::from(message.number.wrapping_sub(expected));
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(CONNECTOR),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, PROCESSES))?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        // Only root may exceed the system's limit. Without root, the kernel reduces the size.
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PACE))?;
    send(&socket, &subscription(), SendFlags::empty())?;
    Ok(socket)
}

fn subscription() -> Vec<u8> {
    /// `NLMSG_DONE` of `linux/netlink.h`.
    const DONE: u16 = 3;
    const DATA: u16 = 4;
    const LENGTH: u32 = 40;
    let mut message = Vec::new();
    // struct nlmsghdr: length, type and flags, number, sender.
    message.extend(LENGTH.to_ne_bytes());
    message.extend(DONE.to_ne_bytes());
    message.extend(0_u16.to_ne_bytes());
    message.extend([0; 8]);
    // struct cn_msg: idx and val, seq and ack, len and flags.
    message.extend(PROCESSES.to_ne_bytes());
    message.extend(PROCESSES.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(DATA.to_ne_bytes());
    message.extend(0_u16.to_ne_bytes());
    message.extend(LISTEN.to_ne_bytes());
    message
}

/// One message from the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    processor: u32,
    /// The event's number. Each processor counts its own events.
    number: u32,
    /// True if the message confirms the subscription.
    confirms: bool,
    event: Option<Event>,
}

impl Message {
    fn parse(bytes: &[u8]) -> Option<Self> {
        const NONE: u32 = 0;
        const FORK: u32 = 1;
        const EXEC: u32 = 2;
        const EXIT: u32 = 0x8000_0000;
        let connector = bytes.get(NETLINK_HEADER..)?;
        if word(connector, 0)? != PROCESSES || word(connector, 4)? != PROCESSES {
            return None;
        }
        let event = connector.get(CONNECTOR_HEADER..)?;
        let data = event.get(EVENT_HEADER..)?;
        let kind = word(event, 0)?;
        Some(Self {
            processor: word(event, 4)?,
            number: word(connector, 8)?,
            confirms: kind == NONE,
            event: match kind {
                FORK => {
                    let (thread, child) = (word(data, 8)?, word(data, 12)?);
                    let parent = word(data, 4)?;
                    (thread == child).then_some(Event::Fork { parent, child })
                }
                EXEC => Some(Event::Exec {
                    process: word(data, 4)?,
                }),
                EXIT => {
                    let (thread, process) = (word(data, 0)?, word(data, 4)?);
                    (thread == process).then_some(Event::Exit { process })
                }
                _ => None,
            },
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u32, words: [u32; 8]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER];
        for word in [PROCESSES, PROCESSES, number, 0, 40] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in words {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_fork_is_a_new_process_and_a_thread_is_not() {
        let event = |words| Message::parse(&message(7, words)).unwrap().event;
        // The words: event type, processor, time (two words), then thread id and process id, first
        // of the parent, then of the child.
        let fork = event([1, 0, 0, 0, 11, 10, 20, 20]);
        assert_eq!(
            fork,
            Some(Event::Fork {
                parent: 10,
                child: 20
            })
        );
        let thread = event([1, 0, 0, 0, 11, 10, 21, 20]);
        assert_eq!(thread, None);
        let exit = event([0x8000_0000, 0, 0, 0, 20, 20, 0, 17]);
        assert_eq!(exit, Some(Event::Exit { process: 20 }));
        let thread = event([0x8000_0000, 0, 0, 0, 21, 20, 0, 17]);
        assert_eq!(thread, None);
        assert_eq!(Message::parse(&[0; 30]), None);
    }
}
