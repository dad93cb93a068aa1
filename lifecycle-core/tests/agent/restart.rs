//! Tests that a restarted agent continues from its state on disk.

use std::time::{Duration, Instant};

use lifecycle_core::agent::RESOLV_CONF;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_resolv_conf_is_restored() {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    feeder.accept(&table(106, 1)).await;
    let path = node.options.state.join(RESOLV_CONF);
    let whole = std::fs::read_to_string(&path).unwrap();
    assert!(whole.contains("nameserver 127.106."), "{whole}");
    let emptied = || std::fs::write(&path, "").unwrap();
    let removed = || std::fs::remove_file(&path).unwrap();
    for damage in [&emptied as &dyn Fn(), &removed] {
        damage();
        let restored = async {
            while std::fs::read_to_string(&path).is_ok_and(|text| text != whole) || !path.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let restored = tokio::time::timeout(Duration::from_secs(20), restored).await;
        restored.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ends_if_its_state_is_removed() {
    let node = Node::without_agent(|_| {});
    let agent = tokio::spawn(lifecycle_core::agent::run(node.options.clone()));
    let mut feeder = node.feeder().await;
    feeder.accept(&table(107, 1)).await;
    std::fs::remove_dir_all(&node.options.state).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), agent).await;
    let error = ended.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("state directory"), "{error}");
}
