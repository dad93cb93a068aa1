//! Tests which tables an agent accepts, and what a new table changes.

use std::time::Duration;

use lifecycle_core::agent;
use lifecycle_core::model::{Epoch, Protocol};
use lifecycle_core::network::{Report, ReportKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::support::{Node, PATIENCE, Server, With as _, address, backend, drained, table, who};

const PORT: (u16, Protocol) = (8000, Protocol::Tcp);

fn why(report: Report) -> String {
    match report.kind {
        ReportKind::Refused { why } => why,
        other => panic!("the table was not rejected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_older_epochs_and_versions() {
    let node = Node::start();
    let mut leader = node.feeder().await;
    let one = Server::start(1);
    let first = table(81, 5).with("web", 9, PORT, vec![backend("web", 1, PORT, one.at)]);
    leader.accept(&first).await;

    let mut previous = node.feeder().await;
    let mut old = table(81, 9);
    old.epoch = Epoch(2);
    let report = previous.send(&old).await;
    assert_eq!((report.epoch, report.version), (Epoch(3), 5));
    assert!(why(report).contains(
        "the table (epoch 2, version 9) is older than the active table \
                                  (epoch 3, version 5)"
    ));
    let report = previous.send(&table(81, 4)).await;
    assert!(why(report).contains("older"));
    // A table with a known version changes nothing, even if its contents differ.
    previous.accept(&table(81, 5)).await;
    assert_eq!(who((address(&first, "web"), 8000)).await.unwrap().0, 1);

    let mut next = table(81, 1);
    next.epoch = Epoch(4);
    leader.accept(&next).await;
    assert!(why(leader.send(&table(81, 6)).await).contains("older"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_malformed_lines_and_accepts_the_next() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    assert!(why(feeder.send_line("").await).contains("no table is active"));
    assert!(agent::check(&node.options.state).await.is_err());
    for line in ["{", "[]", "{\"epoch\":1}", "\u{0}", &"x".repeat(100_000)] {
        assert!(
            why(feeder.send_line(line).await).contains("not a valid table"),
            "{line:.10}"
        );
    }
    assert!(why(feeder.send_line(&"x".repeat(40 << 20)).await).contains("longer than"));
    let mut clash = table(82, 1)
        .with("a", 2, PORT, vec![])
        .with("b", 2, PORT, vec![]);
    assert!(why(feeder.send(&clash).await).contains("same address"));
    clash = table(82, 1).with("a", 1, PORT, vec![]);
    assert!(why(feeder.send(&clash).await).contains("agent's own"));
    feeder.accept(&table(82, 1)).await;
    assert_eq!(feeder.send_line("").await.version, 1);
    agent::check(&node.options.state).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_and_removes_a_large_table() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let mut large = table(83, 1);
    for number in 0..1000_u16 {
        let service = format!("service-{number}");
        let at = std::net::SocketAddr::from(([10, 0, 0, 4], 20000 + number));
        let backends = (1..=10)
            .map(|replica| backend(&service, replica, PORT, at))
            .collect();
        large = large.with(&service, 2, PORT, backends);
        let [high, low] = (number + 256).to_be_bytes();
        let entry = large
            .services
            .get_mut(&crate::support::name(&service))
            .unwrap();
        entry.address = [127, 83, high, low].into();
    }
    feeder.accept(&large).await;
    assert!(
        tokio::net::TcpStream::connect("127.83.4.0:8000")
            .await
            .is_ok()
    );
    feeder.accept(&table(83, 2)).await;
    assert!(
        tokio::net::TcpStream::connect("127.83.4.0:8000")
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_keeps_open_connections() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let (one, two) = (Server::start(1), Server::start(2));
    let ones = backend("web", 1, PORT, one.at);
    let mut at = table(84, 1).with("web", 9, PORT, vec![ones.clone()]);
    feeder.accept(&at).await;
    let to = (address(&at, "web"), 8000);
    let (number, mut open) = who(to).await.unwrap();
    assert_eq!(number, 1);

    let twos = backend("web", 2, PORT, two.at);
    for backends in [vec![drained(ones), twos.clone()], vec![twos]] {
        at = at.with("web", 9, PORT, backends);
        feeder.accept(at.next()).await;
        assert_eq!(who(to).await.unwrap().0, 2);
        open.write_all(b"still here").await.unwrap();
        let mut echo = [0; 10];
        timeout(PATIENCE, open.read_exact(&mut echo))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&echo, b"still here");
    }
    // The open connection survives even when the service is removed.
    feeder.accept(&table(84, at.version + 1)).await;
    open.write_all(b"!").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'!');
    assert!(who(to).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_connections_of_draining_instances_to_every_feeder() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let one = Server::start(1);
    let ones = backend("web", 1, PORT, one.at);
    let mut at = table(85, 1).with("web", 9, PORT, vec![ones.clone()]);
    feeder.accept(&at).await;
    let to = (address(&at, "web"), 8000);
    let first = who(to).await.unwrap();
    let second = who(to).await.unwrap();
    at = at.with("web", 9, PORT, vec![drained(ones.clone())]);
    feeder.accept(at.next()).await;
    let said = |open| ReportKind::Draining {
        instance: ones.instance.clone(),
        container: ones.container.clone(),
        open,
    };
    assert_eq!(feeder.next_report().await, said(2));
    let mut other = node.feeder().await;
    other.accept(&at).await;
    assert_eq!(other.next_report().await, said(2));
    drop(first);
    let counts = |reports: Vec<ReportKind>| reports.contains(&said(0));
    drop(second);
    for feeder in [&mut feeder, &mut other] {
        let mut reports = Vec::new();
        while !counts(reports.clone()) {
            reports.push(feeder.next_report().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_an_idle_draining_instance_after_every_table() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let one = Server::start(1);
    let ones = drained(backend("web", 1, PORT, one.at));
    let mut at = table(88, 1).with("web", 9, PORT, vec![ones.clone()]);
    for version in 1..=3 {
        feeder.accept(&at).await;
        let report = loop {
            // The agent may repeat reports about the previous table.
            let report = feeder.next_full_report().await;
            if report.version == version {
                break report;
            }
        };
        let said = ReportKind::Draining {
            instance: ones.instance.clone(),
            container: ones.container.clone(),
            open: 0,
        };
        assert_eq!((report.epoch, report.kind), (at.epoch, said));
        at.next();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_and_retries_an_address_in_use() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let one = Server::start(1);
    let at = table(86, 1).with("web", 9, PORT, vec![backend("web", 1, PORT, one.at)]);
    let to = (address(&at, "web"), 8000);
    let taken = tokio::net::TcpListener::bind(to).await.unwrap();
    feeder.accept(&at).await;
    let reports = feeder.next_report().await;
    assert!(matches!(reports, ReportKind::CannotListen { address, .. } if address == to.into()));
    drop(taken);
    let served = async {
        while who(to).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, served).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn feeding_copies_lines_both_ways_and_ends_with_its_input() {
    let node = Node::start();
    let (first, second) = (table(87, 1), table(87, 0));
    let lines = [&first, &second].map(|table| serde_json::to_string(table).unwrap() + "\n");
    let mut answers = Vec::new();
    let input = lines.concat();
    let fed = agent::feed(&node.options.state, input.as_bytes(), &mut answers);
    timeout(PATIENCE, fed).await.unwrap().unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let answers: Vec<Report> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers[0].kind, ReportKind::Accepted);
    assert!(matches!(answers[1].kind, ReportKind::Refused { .. }));
}
