//! Tests published ports that an agent forwards. Needs the capability `NET_ADMIN`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use lifecycle_core::model::{NodeName, Protocol};
use lifecycle_core::network::{Redirect, ReportKind, Table};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Node, PATIENCE, Server, With as _, backend, drained, name, table, who};

const PORT: (u16, Protocol) = (8000, Protocol::Tcp);

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn redirected(mut table: Table, port: u16) -> Table {
    table.redirects = vec![Redirect {
        node: NodeName::try_from("a").unwrap(),
        port,
        service: name("web"),
        container_port: PORT.0,
    }];
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_port_is_forwarded_while_a_replica_is_replaced() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let published = Server::start(1);
    let at = published.at;
    // The replica's own host port, which is never redirected.
    let first = backend("web", 1, PORT, Server::start(9).at);
    let before = table(150, 1).with("web", 9, PORT, vec![first.clone()]);
    feeder.accept(&before).await;
    assert_eq!(who(at).await.unwrap().0, 1, "the engine publishes the port");

    // The replica drains: new connections wait, and the open one is not affected.
    let (_, mut open) = who(at).await.unwrap();
    let mut draining = before.with("web", 9, PORT, vec![drained(first)]);
    draining = redirected(draining, at.port());
    feeder.accept(draining.next()).await;
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(who(at))).collect();
    node.until("waiting{service=\"web\"}", 20).await;
    let mut echo = [0];
    open.write_all(&[7]).await.unwrap();
    open.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, [7]);
    published.kill().await;

    // The next replica is ready on another node.
    let second = Server::start(2);
    let ready = draining.with("web", 9, PORT, vec![backend("web", 2, PORT, second.at)]);
    let mut ready = redirected(ready, at.port());
    feeder.accept(ready.next()).await;
    for connection in waiting {
        let served = timeout(PATIENCE, connection).await.unwrap().unwrap();
        assert_eq!(served.unwrap().0, 2);
    }

    // The next container has the port.
    let _next = Server::start_at(3, at);
    assert_eq!(who(at).await.unwrap().0, 2);
    ready.redirects.clear();
    feeder.accept(ready.next()).await;
    assert_eq!(who(at).await.unwrap().0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_forwards_the_ports_of_its_last_table() {
    let mut node = Node::start();
    let mut feeder = node.feeder().await;
    let server = Server::start(1);
    let port = free_port();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let forwarded = table(151, 1).with("web", 9, PORT, vec![backend("web", 1, PORT, server.at)]);
    let forwarded = redirected(forwarded, port);
    feeder.accept(&forwarded).await;
    assert_eq!(who(at).await.unwrap().0, 1);
    node.kill().await;
    // Nothing else listens on the port.
    TcpStream::connect(at).await.unwrap_err();
    node.start_again();
    node.feeder().await.accept(&forwarded).await;
    assert_eq!(who(at).await.unwrap().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_redirects_of_unknown_services_and_of_one_port_twice() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let with_web = |version| table(152, version).with("web", 9, PORT, vec![]);
    let mut twice = redirected(with_web(1), 8080);
    twice.redirects.extend(twice.redirects.clone());
    for table in [
        redirected(table(152, 1), 8080),
        redirected(with_web(1), 0),
        twice,
    ] {
        let report = feeder.send(&table).await;
        assert!(
            matches!(report.kind, ReportKind::Refused { .. }),
            "{report:?}"
        );
    }
}
