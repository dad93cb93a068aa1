//! Tests that an agent forwards datagrams.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lifecycle_core::model::Protocol;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Node, PATIENCE, With as _, address, backend, drained, table};

const PORT: (u16, Protocol) = (5353, Protocol::Udp);

/// Starts a server that echoes each datagram, with the server's number as a prefix.
pub(crate) async fn server(number: u8) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        loop {
            let (length, client) = socket.recv_from(&mut buffer[1..]).await.unwrap();
            buffer[0] = number;
            socket.send_to(&buffer[..=length], client).await.unwrap();
        }
    });
    (at, task)
}

pub(crate) async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    // A connected socket ignores datagrams from other addresses. Responses must therefore come from
    // the service's address.
    socket.connect(to).await.unwrap();
    socket
}

pub(crate) async fn ask(client: &UdpSocket, text: &[u8]) -> Option<(u8, Vec<u8>)> {
    client.send(text).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = timeout(Duration::from_millis(500), client.recv(&mut buffer))
        .await
        .ok()?
        .unwrap();
    Some((buffer[0], buffer[1..length].to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_from_the_service_and_sessions_are_sticky() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let (one, two) = (server(1).await, server(2).await);
    let backends = vec![
        backend("dns", 1, PORT, one.0),
        backend("dns", 2, PORT, two.0),
    ];
    let at = table(121, 1).with("dns", 9, PORT, backends);
    feeder.accept(&at).await;
    let to = (address(&at, "dns"), PORT.0).into();
    let mut first = Vec::new();
    let clients = [client(to).await, client(to).await];
    for client in &clients {
        first.push(ask(client, b"hello").await.unwrap());
    }
    let mut numbers: Vec<_> = first.iter().map(|answer| answer.0).collect();
    for (client, number) in clients.iter().zip(&numbers) {
        let long = vec![7; 60_000];
        assert_eq!(ask(client, &long).await.unwrap(), (*number, long));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(node.figure("open{service=\"dns\"}").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_when_idle_and_are_limited() {
    let node = Node::start_with(|options| {
        options.udp_idle = Duration::from_secs(1);
        options.udp_sessions = 8;
    });
    let mut feeder = node.feeder().await;
    let one = server(1).await;
    let at = table(122, 1).with("dns", 9, PORT, vec![backend("dns", 1, PORT, one.0)]);
    feeder.accept(&at).await;
    let to = (address(&at, "dns"), PORT.0).into();
    for _ in 0..100 {
        assert!(ask(&client(to).await, b"x").await.is_some());
        assert!(node.figure("open{service=\"dns\"}").await <= 9);
    }
    node.until("open{service=\"dns\"}", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_continues_with_another_server() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let (one, two) = (server(1).await, server(2).await);
    let ones = backend("dns", 1, PORT, one.0);
    let twos = backend("dns", 2, PORT, two.0);
    let mut at = table(123, 1).with("dns", 9, PORT, vec![ones.clone()]);
    feeder.accept(&at).await;
    let client = client((address(&at, "dns"), PORT.0).into()).await;
    assert_eq!(ask(&client, b"a").await.unwrap().0, 1);
    at = at.with("dns", 9, PORT, vec![drained(ones.clone()), twos.clone()]);
    feeder.accept(at.next()).await;
    assert_eq!(ask(&client, b"b").await.unwrap().0, 2);
    // Kill a backend that is still in the table. The kernel reports the killed backend to the agent
    // with an ICMP error.
    at = at.with("dns", 9, PORT, vec![ones, twos]);
    feeder.accept(at.next()).await;
    two.1.abort();
    let found = async { while ask(&client, b"c").await.is_none_or(|answer| answer.0 != 1) {} };
    timeout(PATIENCE, found).await.unwrap();
    // Without a backend, the agent drops datagrams and counts them.
    at = at.with("dns", 9, PORT, vec![]);
    feeder.accept(at.next()).await;
    let other = crate::udp::client((address(&at, "dns"), PORT.0).into()).await;
    assert!(ask(&other, b"d").await.is_none());
    assert!(
        node.figure("dropped_datagrams_total{service=\"dns\"}")
            .await
            >= 1
    );
}
