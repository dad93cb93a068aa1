//! Tests the agent's DNS server with real queries over UDP and TCP, for service names and for other
//! names.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use lifecycle_core::model::Protocol;
use lifecycle_core::network::Table;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::support::{DNS_PORT, Node, PATIENCE, With as _, name, table};

const PORT: (u16, Protocol) = (5432, Protocol::Tcp);

/// The port of the fake resolvers.
const RESOLVERS_PORT: u16 = 15354;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn over_udp(at: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    socket.connect(at).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    buffer.truncate(length);
    buffer
}

async fn over_tcp(stream: &mut TcpStream, query: &[u8]) -> Vec<u8> {
    stream
        .write_u16(query.len().try_into().unwrap())
        .await
        .unwrap();
    stream.write_all(query).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

pub(crate) async fn ask(
    at: SocketAddr,
    name: &str,
    kind: RecordType,
) -> (ResponseCode, Vec<String>) {
    let query = query(name, kind);
    let answer = over_udp(at, &query.to_vec().unwrap()).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    let records = answer.answers.iter().map(|record| record.data.to_string());
    (answer.metadata.response_code, records.collect())
}

pub(crate) fn at(table: &Table) -> SocketAddr {
    (table.block.agent(), DNS_PORT).into()
}

fn platform(block: u8) -> Table {
    let mut table = table(block, 1)
        .with("db", 5, PORT, vec![])
        .with("My_Web.v2", 6, PORT, vec![]);
    let db = table.services.get_mut(&name("db")).unwrap();
    db.aliases.insert("Postgres".into());
    table
}

/// Writes the node's `resolv.conf` and waits until the agent has read the file.
async fn resolvers(node: &Node, text: &str) {
    std::fs::write(
        &node.options.resolvers,
        format!("search read.example\n{text}"),
    )
    .unwrap();
    let ours = node.options.state.join("resolv.conf");
    let read = async {
        while !std::fs::read_to_string(&ours)
            .unwrap()
            .contains("read.example")
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, read).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn service_names_resolve_over_udp_and_tcp() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let table = platform(131);
    feeder.accept(&table).await;
    let found = |address: &str| (ResponseCode::NoError, vec![address.to_owned()]);
    for (name, address) in [
        ("db.", "127.131.0.5"),
        ("dB.DEMO.internal.", "127.131.0.5"),
        ("postgres.", "127.131.0.5"),
        ("my_web.v2.", "127.131.0.6"),
    ] {
        assert_eq!(
            ask(at(&table), name, RecordType::A).await,
            found(address),
            "{name}"
        );
        let aaaa = ask(at(&table), name, RecordType::AAAA).await;
        assert_eq!(aaaa, (ResponseCode::NoError, vec![]), "{name}");
    }
    let reverse = ask(at(&table), "5.0.131.127.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(reverse, found("db.demo.internal."));

    let mut stream = TcpStream::connect(at(&table)).await.unwrap();
    for _ in 0..2 {
        let query = query("db.", RecordType::A).to_vec().unwrap();
        let answer = Message::from_vec(&over_tcp(&mut stream, &query).await).unwrap();
        assert_eq!(answer.answers.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_forwarded_to_the_nodes_resolvers() {
    let node = Node::start_with(|options| options.resolvers_port = RESOLVERS_PORT);
    let mut feeder = node.feeder().await;
    let table = platform(132);
    feeder.accept(&table).await;
    // The node has no resolver yet.
    let failed = ask(at(&table), "example.org.", RecordType::A).await;
    assert_eq!(failed, (ResponseCode::ServFail, vec![]));

    // Start a fake resolver whose response is not valid DNS, to check that the agent forwards
    // responses unchanged.
    let there: SocketAddr = (
        "127.0.132.1".parse::<std::net::Ipv4Addr>().unwrap(),
        RESOLVERS_PORT,
    )
        .into();
    let datagrams = UdpSocket::bind(there).await.unwrap();
    let streams = TcpListener::bind(there).await.unwrap();
    let odd = |query: &[u8]| {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer.extend(b"and more");
        answer
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, client) = datagrams.recv_from(&mut buffer).await.unwrap();
            datagrams
                .send_to(&odd(&buffer[..length]), client)
                .await
                .unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = streams.accept().await.unwrap();
            let mut query = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut query).await.unwrap();
            let answer = odd(&query);
            stream
                .write_u16(answer.len().try_into().unwrap())
                .await
                .unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    // No resolver listens at the first of these addresses, so the agent must try the second.
    resolvers(&node, "nameserver 127.0.132.9\nnameserver 127.0.132.1\n").await;
    let query = query("example.org.", RecordType::HTTPS).to_vec().unwrap();
    assert_eq!(over_udp(at(&table), &query).await, odd(&query));
    let mut stream = TcpStream::connect(at(&table)).await.unwrap();
    assert_eq!(over_tcp(&mut stream, &query).await, odd(&query));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_resolv_conf_names_the_agent_and_the_nodes_domains() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    feeder.accept(&platform(133)).await;
    let ours = std::fs::read_to_string(node.options.state.join("resolv.conf")).unwrap();
    let lines: Vec<&str> = ours.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        [
            "nameserver 127.133.0.1",
            "search demo.internal corp.example",
            "options ndots:1"
        ]
    );
    resolvers(&node, "nameserver 127.0.0.1\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_block_of_a_new_table_immediately() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    feeder.accept(&platform(134)).await;
    let mut moved = platform(135);
    moved.version = 2;
    feeder.accept(&moved).await;
    let found = ask(at(&moved), "db.", RecordType::A).await;
    assert_eq!(
        found,
        (ResponseCode::NoError, vec!["127.135.0.5".to_owned()])
    );
    let before = TcpStream::connect(at(&platform(134))).await;
    assert!(before.is_err());
}
