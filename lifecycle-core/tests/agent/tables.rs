//! Which tables are accepted, and what becomes of them.

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
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_epochs_and_versions_are_refused() {
    let node = Node::start();
    let mut leader = node.feeder().await;
    let one = Server::start(1);
    let first = table(81, 5).with("web", 9, PORT, vec![backend("web", 1, PORT, one.at)]);
    leader.accept(&first).await;

    let mut former = node.feeder().await;
    let mut old = table(81, 9);
    old.epoch = Epoch(2);
    let report = former.tell(&old).await;
    assert_eq!((report.epoch, report.version), (Epoch(3), 5));
    assert!(why(report).contains("epoch 2, version 9 is older than epoch 3, version 5"));
    let report = former.tell(&table(81, 4)).await;
    assert!(why(report).contains("older"));
    // The same again changes nothing, whatever it says.
    former.accept(&table(81, 5)).await;
    assert_eq!(who((address(&first, "web"), 8000)).await.unwrap().0, 1);

    let mut next = table(81, 1);
    next.epoch = Epoch(4);
    leader.accept(&next).await;
    assert!(why(leader.tell(&table(81, 6)).await).contains("older"));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_lines_are_refused_and_the_next_one_counts() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    assert!(why(feeder.say("").await).contains("no table is in force"));
    assert!(agent::check(&node.options.state).await.is_err());
    for line in ["{", "[]", "{\"epoch\":1}", "\u{0}", &"x".repeat(100_000)] {
        assert!(
            why(feeder.say(line).await).contains("no table"),
            "{line:.10}"
        );
    }
    assert!(why(feeder.say(&"x".repeat(40 << 20)).await).contains("longer than"));
    let mut clash = table(82, 1)
        .with("a", 2, PORT, vec![])
        .with("b", 2, PORT, vec![]);
    assert!(why(feeder.tell(&clash).await).contains("same address"));
    clash = table(82, 1).with("a", 1, PORT, vec![]);
    assert!(why(feeder.tell(&clash).await).contains("agent's own"));
    feeder.accept(&table(82, 1)).await;
    assert_eq!(feeder.say("").await.version, 1);
    agent::check(&node.options.state).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_put_in_force_and_taken_back() {
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
async fn a_new_table_leaves_open_connections_alone() {
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
    // Even without the service.
    feeder.accept(&table(84, at.version + 1)).await;
    open.write_all(b"!").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'!');
    assert!(who(to).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_feeder_hears_how_many_connections_a_draining_instance_has() {
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
    assert_eq!(feeder.hear().await, said(2));
    let mut other = node.feeder().await;
    other.accept(&at).await;
    assert_eq!(other.hear().await, said(2));
    drop(first);
    let counts = |reports: Vec<ReportKind>| reports.contains(&said(0));
    drop(second);
    for feeder in [&mut feeder, &mut other] {
        let mut heard = Vec::new();
        while !counts(heard.clone()) {
            heard.push(feeder.hear().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_said_and_tried_again() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let one = Server::start(1);
    let at = table(86, 1).with("web", 9, PORT, vec![backend("web", 1, PORT, one.at)]);
    let to = (address(&at, "web"), 8000);
    let taken = tokio::net::TcpListener::bind(to).await.unwrap();
    feeder.accept(&at).await;
    let heard = feeder.hear().await;
    assert!(matches!(heard, ReportKind::CannotListen { address, .. } if address == to.into()));
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
