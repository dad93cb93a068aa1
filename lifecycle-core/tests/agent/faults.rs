//! Runs a thousand clients while backends are killed, added, and drained at random. Only
//! connections to killed backends may fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifecycle_core::model::Protocol;
use lifecycle_core::network::{Backend, Table};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{
    Feeder, Node, PATIENCE, Server, With as _, address, backend, drained, table, who,
};

const PORT: (u16, Protocol) = (8000, Protocol::Tcp);

/// The number of concurrent connections.
const CLIENTS: usize = 1000;

/// The longest pause between two connections of a client. Without pauses, the closed connections
/// fill the kernel's connection tracking table, and the kernel drops packets.
const PAUSE: Duration = Duration::from_millis(500);

/// The number of random changes to the backends.
const EVENTS: usize = 40;

/// Records when each server was killed or drained. `now` advances by one with each accepted table.
#[derive(Debug, Default)]
struct Fates {
    now: AtomicU64,
    killed: Mutex<BTreeMap<u16, u64>>,
    drained: Mutex<BTreeMap<u16, u64>>,
    over: AtomicBool,
}

struct World {
    feeder: Feeder,
    table: Table,
    servers: BTreeMap<u16, (Server, Backend)>,
    leaving: BTreeMap<u16, (Server, Backend)>,
    next: u16,
    fates: Arc<Fates>,
}

impl World {
    async fn add(&mut self) {
        let server = Server::start(self.next);
        let backend = backend("web", self.next, PORT, server.at);
        self.servers.insert(self.next, (server, backend));
        self.next += 1;
        self.send().await;
    }

    async fn drain(&mut self, number: u16) {
        if let Some((server, backend)) = self.servers.remove(&number) {
            self.leaving.insert(number, (server, drained(backend)));
            self.send().await;
            let now = self.fates.now.load(Ordering::SeqCst);
            self.fates.drained.lock().unwrap().insert(number, now);
        }
    }

    /// Kills a backend. The agent's table still contains the backend for a short time.
    async fn kill(&mut self, number: u16) {
        let killed = self
            .servers
            .remove(&number)
            .or_else(|| self.leaving.remove(&number));
        if let Some((server, _)) = killed {
            let now = self.fates.now.load(Ordering::SeqCst);
            self.fates.killed.lock().unwrap().insert(number, now);
            server.kill().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.send().await;
        }
    }

    async fn send(&mut self) {
        let all = self.servers.values().chain(self.leaving.values());
        let backends = all.map(|(_, backend)| backend.clone()).collect();
        self.table = self.table.clone().with("web", 9, PORT, backends);
        self.table.version += 1;
        self.feeder.accept(&self.table).await;
        self.fates.now.fetch_add(1, Ordering::SeqCst);
    }
}

/// Connects to the service and exchanges data, repeatedly until the test ends. Only a killed server
/// may cause a failure. Returns the number of served connections.
async fn client(to: std::net::SocketAddr, seed: u64, fates: Arc<Fates>) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut served = 0;
    while !fates.over.load(Ordering::SeqCst) {
        let began = fates.now.load(Ordering::SeqCst);
        let connected = timeout(PATIENCE, who(to)).await;
        let (number, mut stream) =
            match connected.expect("a connection was neither served nor reset in time") {
                Ok(connected) => connected,
                Err(error) => {
                    // Accept the failure if any server was killed recently: the client cannot know
                    // which server had this connection.
                    let killed = fates.killed.lock().unwrap();
                    let lately = killed.values().any(|at| *at >= began.saturating_sub(1));
                    assert!(
                        lately,
                        "seed {seed}: a connection failed although no server was killed: {error}"
                    );
                    continue;
                }
            };
        if let Some(drained) = fates.drained.lock().unwrap().get(&number) {
            assert!(
                began <= *drained,
                "seed {seed}: server {number} was drained at {drained}, but a connection reached it at {began}"
            );
        }
        for _ in 0..random.random_range(1..8) {
            let text = vec![random.random::<u8>(); random.random_range(1..5_000)];
            let mut echo = vec![0; text.len()];
            let echoed = async {
                stream.write_all(&text).await?;
                stream.read_exact(&mut echo).await
            };
            match timeout(PATIENCE, echoed)
                .await
                .expect("neither an echo nor the end of the connection arrived in time")
            {
                Ok(_) => assert_eq!(echo, text),
                Err(error) => {
                    let killed = fates.killed.lock().unwrap().contains_key(&number);
                    assert!(
                        killed,
                        "seed {seed}: server {number} was not killed: {error}"
                    );
                    break;
                }
            }
        }
        served += 1;
        tokio::time::sleep(PAUSE.mul_f64(random.random())).await;
    }
    served
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

async fn faults(block: u8, seed: u64) {
    let node = Node::start();
    let mut feeder = node.feeder().await;
    let empty = table(block, 1).with("web", 9, PORT, vec![]);
    feeder.accept(&empty).await;
    let before = open_files();
    let fates = Arc::new(Fates::default());
    let mut world = World {
        feeder,
        table: empty,
        servers: BTreeMap::new(),
        leaving: BTreeMap::new(),
        next: 1,
        fates: Arc::clone(&fates),
    };
    let mut random = StdRng::seed_from_u64(seed);
    let to = (address(&world.table, "web"), PORT.0).into();
    for _ in 0..3 {
        world.add().await;
    }
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(
            to,
            seed * 10_000 + number as u64,
            Arc::clone(&fates),
        ));
    }
    let mut memory_half_way = 0;
    for event in 0..EVENTS {
        let pick = |random: &mut StdRng, among: &BTreeMap<u16, (Server, Backend)>| {
            among
                .keys()
                .nth(random.random_range(0..among.len().max(1)))
                .copied()
        };
        let ready = world.servers.len();
        match random.random_range(0..4) {
            0 | 1 if ready > 1 => {
                if let Some(number) = pick(&mut random, &world.servers) {
                    if random.random() {
                        world.kill(number).await;
                    } else {
                        world.drain(number).await;
                    }
                }
            }
            2 if !world.leaving.is_empty() => {
                if let Some(number) = pick(&mut random, &world.leaving) {
                    world.kill(number).await;
                }
            }
            _ if ready < 6 => world.add().await,
            _ => {}
        }
        if event == EVENTS / 2 {
            memory_half_way = memory();
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        // If a client has failed, fail the test now, with the client's message.
        while let Some(ended) = clients.try_join_next() {
            ended.unwrap();
        }
    }
    let memory_at_end = memory();
    fates.over.store(true, Ordering::SeqCst);
    let mut served = 0;
    while let Some(ended) = timeout(PATIENCE, clients.join_next()).await.unwrap() {
        served += ended.unwrap();
    }
    assert!(served >= CLIENTS as u64, "seed {seed}: {served}");
    node.until("open{service=\"web\"}", 0).await;
    node.until("waiting{service=\"web\"}", 0).await;
    drop(world);
    let all_closed = async {
        while open_files() > before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let closed = timeout(PATIENCE, all_closed).await;
    assert!(
        closed.is_ok(),
        "seed {seed}: {} files are open, but only {before} were open at the start",
        open_files()
    );
    // The limit is generous, because this process also contains the test's clients and servers.
    let grown = memory_at_end.saturating_sub(memory_half_way);
    assert!(
        grown < 64 << 10,
        "seed {seed}: memory grew by {grown} KiB in the second half"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_connections_of_a_killed_backend_are_lost_seed_1() {
    faults(141, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_connections_of_a_killed_backend_are_lost_seed_2() {
    faults(142, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_connections_of_a_killed_backend_are_lost_seed_3() {
    faults(143, 3).await;
}
