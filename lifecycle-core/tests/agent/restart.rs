//! Tests that a restarted agent continues from its state on disk.

use std::time::{Duration, Instant};

use lifecycle_core::model::Protocol;
use lifecycle_core::network::{ReportKind, Table};

use crate::support::{Node, Server, With as _, address, backend, table, who};

const PORT: (u16, Protocol) = (8000, Protocol::Tcp);

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_serves_from_disk_within_a_second() {
    let mut node = Node::start();
    let mut feeder = node.feeder().await;
    let one = Server::start(1);
    let at = table(101, 7).with("web", 9, PORT, vec![backend("web", 1, PORT, one.at)]);
    feeder.accept(&at).await;
    let to = (address(&at, "web"), 8000);
    for _ in 0..3 {
        // Keep a connection open while the agent is killed. The open connection must not prevent
        // the restarted agent from listening at the same address.
        let open = who(to).await.unwrap();
        node.kill().await;
        let killed = Instant::now();
        node.start_again();
        while who(to).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
        drop(open);
    }
    // The restarted agent must still reject older tables.
    let mut feeder = node.feeder().await;
    let refused = feeder.send(&table(101, 6)).await;
    assert!(matches!(refused.kind, ReportKind::Refused { .. }));
    feeder.accept(&table(101, 8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ignores_a_damaged_table_on_disk() {
    let mut node = Node::start();
    let mut feeder = node.feeder().await;
    feeder.accept(&table(102, 7)).await;
    node.kill().await;
    let file = node.options.state.join("table.json");
    let whole: Table = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(whole, table(102, 7));
    std::fs::write(&file, "{").unwrap();
    node.start_again();
    let mut feeder = node.feeder().await;
    feeder.accept(&table(102, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_waits_for_the_first_one_to_end() {
    let mut node = Node::start();
    let mut feeder = node.feeder().await;
    feeder.accept(&table(103, 1)).await;
    let options = node.options.clone();
    let second = tokio::spawn(lifecycle_core::agent::run(options));
    feeder.accept(&table(103, 2)).await;
    assert!(!second.is_finished());
    node.kill().await;
    let mut feeder = node.feeder().await;
    feeder.accept(&table(103, 2)).await;
    second.abort();
}
