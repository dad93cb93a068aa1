//! Redirects ports of the node with nftables, through netlink. For new connections, the rules are
//! evaluated before those that the container engine makes with `iptables`, with either of its back
//! ends.
//!
//! The constants are from the kernel's `linux/netfilter/nf_tables.h` and `nfnetlink.h`. Numbers in
//! attributes are big-endian; values that rules compare are as in the packet.

use std::io;

use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u8 = 0;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`
const IPV4: u32 = 2;
const IPV6: u32 = 10;
/// `NFT_TABLE_F_OWNER`, since Linux 5.12: the kernel deletes the table when its socket is closed.
const OWNED: u32 = 2;
/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;
/// `NLMSG_ERROR`
const ERROR: u16 = 2;
const MSG_DONTWAIT: i32 = 0x40;

/// The chains for connections from other hosts and from containers, and for connections from the node
/// itself. They precede the engine's rules, which have the priority -100.
const ARRIVING: [Chain; 2] = [
    Chain {
        name: "prerouting",
        hook: 0,
        priority: -110,
    },
    Chain {
        name: "output",
        hook: 3,
        priority: -110,
    },
];
/// The chain for the packets of listeners. It precedes the engine's rules, which have the priority 100.
const LEAVING: Chain = Chain {
    name: "postrouting",
    hook: 4,
    priority: 90,
};

/// `NFT_NAT_SNAT` and `NFT_NAT_DNAT`
const SOURCE: u32 = 0;
const DESTINATION: u32 = 1;

/// A register of the rules' virtual machine.
const REGISTER: u32 = 1;
const TCP: u8 = 6;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;

#[derive(Debug, Clone, Copy)]
struct Chain {
    name: &'static str,
    hook: u32,
    priority: i32,
}

/// Where the connections of a port of the node go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) port: u16,
    /// The port of the listener, which no other redirect has.
    pub(super) listener: u16,
    /// Whether new connections go to the listener. If not, only its open connections continue.
    pub(super) takes_new: bool,
}

/// A table with this process's redirects. The kernel deletes it when this value is dropped or the
/// process is killed.
#[derive(Debug)]
pub(super) struct Rules {
    socket: Socket,
    table: String,
}

impl Rules {
    /// Creates an empty table. Its name must be unique.
    pub(super) fn new(table: String) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        let rules = Self { socket, table };
        let mut batch = Batch::default();
        batch.add(
            NEW_TABLE,
            NLM_F_CREATE,
            &[text(1, &rules.table), number(2, OWNED)],
        );
        for chain in ARRIVING.into_iter().chain([LEAVING]) {
            let priority = chain.priority.to_be_bytes().to_vec();
            batch.add(
                NEW_CHAIN,
                NLM_F_CREATE,
                &[
                    text(1, &rules.table),
                    text(3, chain.name),
                    nested(4, &[number(1, chain.hook), DefaultNla::new(2, priority)]),
                    text(7, "nat"),
                ],
            );
        }
        rules.send(batch)?;
        Ok(rules)
    }

    /// Replaces all redirects in one transaction.
    ///
    /// The kernel normally restores the port in a listener's packets by itself. It cannot after its
    /// entry for the connection was deleted: when a container starts or ends, the engine lists the
    /// entries of the container's connections and deletes them by the addresses of the clients, which
    /// may be those of a newer connection.
    pub(super) fn set(&self, redirects: &[Redirect]) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.add(DELETE_RULE, 0, &[text(1, &self.table)]);
        for redirect in redirects.iter().copied() {
            if redirect.takes_new {
                for chain in ARRIVING {
                    batch.rule(&self.table, chain, &to_listener(redirect));
                }
            }
            batch.rule(&self.table, LEAVING, &from_listener(redirect));
        }
        self.send(batch)
    }

    /// Sends a batch. The kernel handles it before the call returns, and replies only to messages
    /// that fail.
    fn send(&self, batch: Batch) -> io::Result<()> {
        self.socket.send(&batch.end(), 0)?;
        let mut failed = None;
        loop {
            let mut reply = Vec::with_capacity(8192);
            match self.socket.recv(&mut reply, MSG_DONTWAIT) {
                Ok(_) => failed = failed.or(error_in(&reply)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Returns the error that a reply reports.
fn error_in(reply: &[u8]) -> Option<io::Error> {
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(reply.get(16..20)?.try_into().ok()?);
    (kind == ERROR && code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// Returns the expressions of a rule: if the destination is an address of the node and the port
/// matches, replace the port with that of the listener.
fn to_listener(redirect: Redirect) -> Vec<DefaultNla> {
    // NFTA_FIB_F_DADDR, and the offset of the destination port.
    let mut rule = tcp_of_node(2, 2, redirect.port);
    rule.push(port(redirect.listener));
    rule.extend(replace_port(DESTINATION));
    rule
}

/// Returns the expressions of a rule: if the source is the listener, replace its port.
fn from_listener(redirect: Redirect) -> Vec<DefaultNla> {
    // NFTA_FIB_F_SADDR, and the offset of the source port.
    let mut rule = tcp_of_node(1, 0, redirect.listener);
    rule.push(port(redirect.port));
    rule.extend(replace_port(SOURCE));
    rule
}

/// Returns expressions that replace the port with that in the register, and keep the address. An
/// expression for the other version of IP has no effect. Some kernels ignore one for both versions.
fn replace_port(of: u32) -> [DefaultNla; 2] {
    // NFTA_NAT_TYPE, NFTA_NAT_FAMILY, NFTA_NAT_REG_PROTO_MIN
    [IPV4, IPV6].map(|family| {
        let port = number(5, REGISTER);
        expression("nat", &[number(1, of), number(2, family), port])
    })
}

/// Returns expressions that match only if the address is one of the node, the protocol is TCP, and the port at
/// this offset of the header matches.
fn tcp_of_node(address: u32, offset: u32, port: u16) -> Vec<DefaultNla> {
    vec![
        // NFT_FIB_RESULT_ADDRTYPE
        expression(
            "fib",
            &[number(1, REGISTER), number(2, 3), number(3, address)],
        ),
        equals(&LOCAL.to_ne_bytes()),
        // NFT_META_L4PROTO
        expression("meta", &[number(1, REGISTER), number(2, 16)]),
        equals(&[TCP]),
        // Two bytes of NFT_PAYLOAD_TRANSPORT_HEADER
        expression(
            "payload",
            &[
                number(1, REGISTER),
                number(2, 2),
                number(3, offset),
                number(4, 2),
            ],
        ),
        equals(&port.to_be_bytes()),
    ]
}

/// Writes a port to the register.
fn port(port: u16) -> DefaultNla {
    expression(
        "immediate",
        &[number(1, REGISTER), value(2, &port.to_be_bytes())],
    )
}

fn expression(name: &str, data: &[DefaultNla]) -> DefaultNla {
    nested(1, &[text(1, name), nested(2, data)])
}

/// Returns an expression that matches only if the register has this value.
fn equals(data: &[u8]) -> DefaultNla {
    // NFT_CMP_EQ
    expression("cmp", &[number(1, REGISTER), number(2, 0), value(3, data)])
}

fn value(kind: u16, data: &[u8]) -> DefaultNla {
    nested(kind, &[DefaultNla::new(1, data.to_vec())])
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn text(kind: u16, text: &str) -> DefaultNla {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nested(kind: u16, parts: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NESTED, emitted(parts))
}

fn emitted(parts: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; parts.buffer_len()];
    parts.emit(&mut bytes);
    bytes
}

/// Messages that the kernel carries out in one transaction.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
        };
        batch.message(BATCH_BEGIN, 0, [0, 0, 0, SUBSYSTEM], &[]);
        batch
    }
}

impl Batch {
    fn add(&mut self, kind: u8, flags: u16, attributes: &[DefaultNla]) {
        let kind = u16::from_be_bytes([SUBSYSTEM, kind]);
        self.message(kind, flags, [INET, 0, 0, 0], &emitted(attributes));
    }

    fn rule(&mut self, table: &str, chain: Chain, expressions: &[DefaultNla]) {
        self.add(
            NEW_RULE,
            NLM_F_CREATE | NLM_F_APPEND,
            &[text(1, table), text(2, chain.name), nested(4, expressions)],
        );
    }

    fn message(&mut self, kind: u16, flags: u16, family: [u8; 4], attributes: &[u8]) {
        self.sequence += 1;
        // The header of netlink and that of nfnetlink.
        let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(family);
        self.bytes.extend(attributes);
    }

    fn end(mut self) -> Vec<u8> {
        self.message(BATCH_END, 0, [0, 0, 0, SUBSYSTEM], &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::packet_core::NLM_F_ACK;

    use super::*;

    /// Answers each connection with one byte, and returns the port.
    fn serve(at: &str, answer: u8) -> u16 {
        let listener = TcpListener::bind(at).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                client.unwrap().write_all(&[answer]).unwrap();
            }
        });
        port
    }

    fn asked(at: (&str, u16)) -> u8 {
        let mut answer = [0];
        let mut stream = TcpStream::connect(at).unwrap();
        stream.read_exact(&mut answer).unwrap();
        answer[0]
    }

    fn redirect(port: u16, listener: u16) -> Redirect {
        Redirect {
            port,
            listener,
            takes_new: true,
        }
    }

    /// Moves this thread, and threads that it starts, to a new network namespace.
    fn enter_namespace() {
        unshare(CloneFlags::CLONE_NEWNET).expect("run the tests as root");
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap()
            .block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
                handle.link().set(up).execute().await.unwrap();
            });
    }

    #[test]
    fn redirects_new_connections_until_the_rules_are_dropped() {
        enter_namespace();
        let (direct, other) = (serve("[::]:0", 1), serve("[::]:0", 1));
        let forwarder = serve("[::]:0", 2);
        let hosts = ["127.0.0.1", "127.1.2.3", "::1"];
        let rules = Rules::new("lifecycle-1".into()).unwrap();
        assert!(hosts.iter().all(|host| asked((host, direct)) == 1));
        let mut open = TcpStream::connect(("127.0.0.1", direct)).unwrap();
        rules.set(&[redirect(direct, forwarder)]).unwrap();
        assert!(hosts.iter().all(|host| asked((host, direct)) == 2));
        assert!(hosts.iter().all(|host| asked((host, other)) == 1));
        let mut answer = [0];
        open.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [1], "an open connection was redirected");
        // A second process takes over, for example after an upgrade.
        let second = Rules::new("lifecycle-2".into()).unwrap();
        second.set(&[redirect(direct, forwarder)]).unwrap();
        drop(rules);
        assert_eq!(asked(("127.0.0.1", direct)), 2);
        second.set(&[redirect(other, forwarder)]).unwrap();
        assert_eq!(asked(("127.0.0.1", direct)), 1);
        assert_eq!(asked(("127.0.0.1", other)), 2);
        drop(second);
        assert_eq!(asked(("127.0.0.1", other)), 1);
    }

    /// Deletes the kernel's entries for all connections of the namespace.
    fn forget_connections() {
        let mut batch = Batch {
            bytes: Vec::new(),
            sequence: 0,
        };
        // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
        batch.message(0x0102, NLM_F_ACK, [0; 4], &[]);
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        socket.send(&batch.bytes, 0).unwrap();
        let mut reply = Vec::with_capacity(8192);
        socket.recv(&mut reply, 0).unwrap();
        assert_eq!(reply[4..6], ERROR.to_ne_bytes());
        assert!(error_in(&reply).is_none(), "{reply:?}");
    }

    #[test]
    fn open_connections_continue_when_the_kernel_forgets_them() {
        enter_namespace();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let at = listener.local_addr().unwrap().port();
        let rules = Rules::new("lifecycle-1".into()).unwrap();
        let hosts = ["127.0.0.1", "127.1.2.3", "::1"].map(|host| (host, true));
        for (host, takes_new) in hosts.into_iter().chain([("127.0.0.1", false)]) {
            rules.set(&[redirect(80, at)]).unwrap();
            let mut client = TcpStream::connect((host, 80)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            for end in [&client, &server] {
                end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            }
            let open = Redirect {
                takes_new,
                ..redirect(80, at)
            };
            rules.set(&[open]).unwrap();
            forget_connections();
            let mut received = [0];
            server.write_all(&[1]).unwrap();
            client.read_exact(&mut received).unwrap();
            client.write_all(&[2]).unwrap();
            server.read_exact(&mut received).unwrap();
            assert_eq!(received, [2]);
            forget_connections();
            // Without a redirect, nothing shows where a packet of the client belongs.
            if takes_new {
                client.write_all(&[3]).unwrap();
                server.read_exact(&mut received).unwrap();
                assert_eq!(received, [3]);
            }
        }
    }

    #[test]
    fn only_packets_of_the_listener_get_another_source_port() {
        enter_namespace();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let rules = Rules::new("lifecycle-1".into()).unwrap();
        let other = TcpStream::connect(at).unwrap();
        let own = other.local_addr().unwrap();
        rules.set(&[redirect(80, at.port())]).unwrap();
        let (server, from) = listener.accept().unwrap();
        assert_eq!(from, own);
        // A connection from another port of the node to another listener.
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
        let (_, from) = elsewhere.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        drop(server);
    }

    #[test]
    fn reports_errors_of_the_kernel() {
        enter_namespace();
        let rules = Rules::new("lifecycle-1".into()).unwrap();
        let again = Rules::new("lifecycle-1".into()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::PermissionDenied, "{again}");
        drop(rules);
        Rules::new("lifecycle-1".into()).unwrap();
    }
}
