//! Tests TCP connections through an agent: waiting for a server, load balancing, both directions,
//! and slow or broken peers.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lifecycle_core::model::Protocol;
use lifecycle_core::network::{ReportKind, Table};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{
    Feeder, Node, PATIENCE, Server, With as _, address, backend, name, table, who,
};

const PORT: (u16, Protocol) = (8000, Protocol::Tcp);

fn to(table: &Table) -> SocketAddr {
    (address(table, "web"), PORT.0).into()
}

/// Starts an agent. Returns a listener that receives the connections to the service `web`.
async fn before(block: u8) -> (Node, Feeder, Table, TcpListener) {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let table = table(block, 1).with("web", 9, PORT, vec![backend("web", 1, PORT, at)]);
    feeder.accept(&table).await;
    (node, feeder, table, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_waits_for_its_server() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let mut at = table(111, 1).with("web", 9, PORT, vec![]);
    feeder.accept(&at).await;
    let waiting: Vec<_> = (0..50).map(|_| tokio::spawn(who(to(&at)))).collect();
    node.until("waiting{service=\"web\"}", 50).await;
    // The table may contain a server that does not listen yet. Connections must wait for the server
    // and not be rejected.
    let one = Server::start(1);
    let place = one.at;
    one.kill().await;
    at = at.with("web", 9, PORT, vec![backend("web", 1, PORT, place)]);
    feeder.accept(at.next()).await;
    let _one = Server::start_at(1, place);
    for connection in waiting {
        let served = timeout(PATIENCE, connection).await.unwrap().unwrap();
        assert_eq!(served.unwrap().0, 1);
    }
    node.until("waiting{service=\"web\"}", 0).await;
    assert_eq!(node.figure("reset_total{service=\"web\"}").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_and_reports_after_the_limit() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let limit = Duration::from_secs(1);
    let mut at = table(112, 1).waiting(limit).with("web", 9, PORT, vec![]);
    feeder.accept(&at).await;
    let started = Instant::now();
    let connections: Vec<_> = (0..3).map(|_| tokio::spawn(who(to(&at)))).collect();
    for connection in connections {
        let error = connection.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(started.elapsed() >= limit);
    let mut reported = 0;
    while reported < 3 {
        match feeder.next_report().await {
            ReportKind::NoReadyEndpoint {
                service,
                port,
                connections,
            } => {
                assert_eq!((service, port), (name("web"), 8000));
                reported += connections;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(node.figure("reset_total{service=\"web\"}").await, 3);

    at = at.waiting(Duration::ZERO);
    feeder.accept(at.next()).await;
    let started = Instant::now();
    let error = who(to(&at)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(started.elapsed() < limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_the_number_of_waiting_connections() {
    let node = Node::start_with(|options| options.waiting = 2);
    let mut feeder = node.feeder().await;
    let at = table(113, 1).with("web", 9, PORT, vec![]);
    feeder.accept(&at).await;
    let _waiting = [who(to(&at)), who(to(&at))].map(tokio::spawn);
    node.until("waiting{service=\"web\"}", 2).await;
    let error = timeout(Duration::from_secs(5), who(to(&at)))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_stops_waiting() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let at = table(114, 1)
        .waiting(PATIENCE * 2)
        .with("web", 9, PORT, vec![]);
    feeder.accept(&at).await;
    let client = TcpStream::connect(to(&at)).await.unwrap();
    node.until("waiting{service=\"web\"}", 1).await;
    client.set_zero_linger().unwrap();
    drop(client);
    node.until("waiting{service=\"web\"}", 0).await;
    assert_eq!(node.figure("reset_total{service=\"web\"}").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_distributed_over_replicas() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let servers = [Server::start(1), Server::start(2)];
    let backends = vec![
        backend("web", 1, PORT, servers[0].at),
        backend("web", 2, PORT, servers[1].at),
    ];
    let at = table(115, 1).with("web", 9, PORT, backends);
    feeder.accept(&at).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(who(to(&at)).await.unwrap());
    }
    assert_eq!(servers.each_ref().map(Server::served), [10, 10]);
    drop(open);
    node.until("open{service=\"web\"}", 0).await;
    for _ in 0..20 {
        drop(who(to(&at)).await.unwrap());
    }
    let served = servers.each_ref().map(Server::served);
    assert!(served.iter().all(|count| *count >= 15), "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn skips_backends_that_refuse_or_do_not_respond() {
    let node = Node::start_with(|options| options.connect_within = Duration::from_millis(300));
    let mut feeder = node.feeder().await;
    let good = Server::start(3);
    let refusing = Server::start(1);
    let refuses_at = refusing.at;
    refusing.kill().await;
    // A listener with a full queue does not answer connection attempts.
    let unresponsive = TcpSocket::new_v4().unwrap();
    unresponsive.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let unresponsive = unresponsive.listen(1).unwrap();
    let unresponsive_at = unresponsive.local_addr().unwrap();
    let mut fill = Vec::new();
    while let Ok(queued) = timeout(
        Duration::from_millis(200),
        TcpStream::connect(unresponsive_at),
    )
    .await
    {
        fill.push(queued);
    }
    let backends = vec![
        backend("web", 1, PORT, refuses_at),
        backend("web", 2, PORT, unresponsive_at),
        backend("web", 3, PORT, good.at),
    ];
    let at = table(116, 1).with("web", 9, PORT, backends);
    feeder.accept(&at).await;
    for _ in 0..20 {
        assert_eq!(who(to(&at)).await.unwrap().0, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_ends_separately() {
    let (node, _feeder, at, listener) = before(117).await;
    let mut client = TcpStream::connect(to(&at)).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"all I have").await.unwrap();
    client.shutdown().await.unwrap();
    let mut reports = String::new();
    timeout(PATIENCE, server.read_to_string(&mut reports))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reports, "all I have");
    // The client has closed its direction. The server must still be able to send.
    for _ in 0..3 {
        server.write_all(b"answer").await.unwrap();
        let mut part = [0; 6];
        timeout(PATIENCE, client.read_exact(&mut part))
            .await
            .unwrap()
            .unwrap();
    }
    drop(server);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    node.until("open{service=\"web\"}", 0).await;
    let figures = node.figures().await;
    assert_eq!(figures["in_bytes_total{service=\"web\"}"], 10);
    assert_eq!(figures["out_bytes_total{service=\"web\"}"], 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_passed_on() {
    let (node, _feeder, at, listener) = before(118).await;
    let mut client = TcpStream::connect(to(&at)).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    // After this byte, the agent can no longer move the connection to another backend.
    server.write_u8(1).await.unwrap();
    client.read_u8().await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let error = timeout(PATIENCE, client.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let client = TcpStream::connect(to(&at)).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let error = timeout(PATIENCE, server.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    node.until("open{service=\"web\"}", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_its_sender_without_data_loss() {
    const SENT: usize = 64 << 20;
    let (node, _feeder, at, listener) = before(119).await;
    let mut client = TcpStream::connect(to(&at)).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let pattern: Vec<u8> = (0..1_000_003_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    let send = pattern.clone();
    let sender = tokio::spawn(async move {
        let mut left = SENT;
        while left > 0 {
            let part = &send[..send.len().min(left)];
            server.write_all(part).await.unwrap();
            left -= part.len();
        }
    });
    // Wait until the sender stalls: while the client does not read, the agent must stop reading
    // from the server.
    let mut before = u64::MAX;
    loop {
        let now = node.figure("out_bytes_total{service=\"web\"}").await;
        if now == before {
            break;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before < SENT as u64 && !sender.is_finished(), "{before}");
    let mut buffer = vec![0; 300_007];
    let mut got = 0;
    while got < SENT {
        let length = timeout(PATIENCE, client.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(length, 0, "the connection ended after {got} bytes");
        for (index, byte) in buffer[..length].iter().enumerate() {
            assert_eq!(
                *byte,
                pattern[(got + index) % pattern.len()],
                "at {}",
                got + index
            );
        }
        got += length;
    }
    sender.await.unwrap();
    assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_lost_backend_are_reset() {
    let (node, mut feeder, mut at, listener) = before(89).await;
    let mut client = TcpStream::connect(to(&at)).await.unwrap();
    client.write_all(b"request").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut request = [0; 7];
    server.read_exact(&mut request).await.unwrap();
    // The node of the backend does not respond: no packet arrives from it any more.
    let backends = std::mem::take(&mut at.services.get_mut(&name("web")).unwrap().backends);
    let lost = backends[0].container.clone();
    at.lost.insert(lost, "n1".parse().unwrap());
    feeder.accept(at.next()).await;
    let read = timeout(PATIENCE, client.read(&mut request)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    node.until("open{service=\"web\"}", 0).await;
    // The node responds again.
    at.lost.clear();
    at.services.get_mut(&name("web")).unwrap().backends = backends;
    feeder.accept(at.next()).await;
    let mut client = TcpStream::connect(to(&at)).await.unwrap();
    client.write_all(b"request").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_exact(&mut request).await.unwrap();
    server.write_all(&request).await.unwrap();
    client.read_exact(&mut request).await.unwrap();
}
