//! Tests that a new agent takes over from a running one without cutting connections.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use lifecycle_core::agent::{self, AgentOptions};
use lifecycle_core::model::Protocol;
use lifecycle_core::network::{Backend, ReportKind, Table};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::support::{Node, PATIENCE, Server, With as _, address, backend, drained, table, who};
use crate::{names, udp};

const PORT: (u16, Protocol) = (8000, Protocol::Tcp);
const DATAGRAMS: (u16, Protocol) = (5353, Protocol::Udp);

/// How many requests each client sends before and after each handover.
const REQUESTS: u64 = 50;

type Agent = JoinHandle<lifecycle_core::Result<()>>;

/// Declares the agent with this name, and starts it.
fn start(node: &Node, name: &str) -> Agent {
    std::fs::write(node.options.state.join("current"), name).unwrap();
    start_undeclared(node, name)
}

fn start_undeclared(node: &Node, name: &str) -> Agent {
    tokio::spawn(agent::run(options(node, name)))
}

fn options(node: &Node, name: &str) -> AgentOptions {
    AgentOptions {
        name: Some(name.to_owned()),
        ..node.options.clone()
    }
}

/// A node without a running agent.
fn node() -> Node {
    let node = Node::without_agent(|options| options.udp_idle = Duration::from_secs(1));
    std::fs::create_dir(&node.options.state).unwrap();
    node
}

async fn serves(node: &Node, name: &str) {
    let state = &node.options.state;
    agent::serves(state, name, PATIENCE).await.unwrap();
}

/// Waits until an agent has ended by itself.
async fn ends(agent: Agent) {
    let ended = timeout(PATIENCE, agent).await;
    ended.expect("the agent has not ended").unwrap().unwrap();
}

/// A client that sends requests until it is stopped.
#[derive(Clone, Default)]
struct Client {
    stopped: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
}

impl Client {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn succeeded(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens a new connection for each request.
    async fn connect(self, to: SocketAddr) {
        while !self.is_stopped() {
            let (_, mut stream) = who(to).await.unwrap();
            echo(&mut stream).await;
            self.succeeded();
        }
    }

    /// Sends all requests over one connection.
    async fn keep_alive(self, to: SocketAddr) {
        let (_, mut stream) = who(to).await.unwrap();
        while !self.is_stopped() {
            echo(&mut stream).await;
            self.succeeded();
            // Let the other clients run.
            tokio::task::yield_now().await;
        }
    }

    async fn datagrams(self, to: SocketAddr) {
        let socket = udp::client(to).await;
        while !self.is_stopped() {
            udp::ask(&socket, b"x").await.expect("a datagram was lost");
            self.succeeded();
        }
    }

    async fn names(self, at: SocketAddr) {
        while !self.is_stopped() {
            let (code, _) = names::ask(at, "web", RecordType::A).await;
            assert_eq!(code, ResponseCode::NoError);
            self.succeeded();
        }
    }
}

/// Clients of all kinds.
struct Load {
    clients: Vec<Client>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(to: &Table) -> Self {
        let web = (address(to, "web"), PORT.0).into();
        let echo = (address(to, "echo"), DATAGRAMS.0).into();
        let mut load = Self {
            clients: Vec::new(),
            tasks: JoinSet::new(),
        };
        for _ in 0..8 {
            let client = load.client();
            load.tasks.spawn(client.connect(web));
        }
        for _ in 0..4 {
            let client = load.client();
            load.tasks.spawn(client.keep_alive(web));
        }
        for _ in 0..2 {
            let client = load.client();
            load.tasks.spawn(client.datagrams(echo));
        }
        let client = load.client();
        load.tasks.spawn(client.names(names::at(to)));
        load
    }

    fn client(&mut self) -> Client {
        let client = Client::default();
        self.clients.push(client.clone());
        client
    }

    /// Waits until each client has sent more requests. Fails if a request has failed.
    async fn goes_on(&mut self) {
        let count = |client: &Client| client.requests.load(Ordering::Relaxed);
        let goals: Vec<_> = self.clients.iter().map(|c| count(c) + REQUESTS).collect();
        let reached = async {
            while self
                .clients
                .iter()
                .zip(&goals)
                .any(|(c, goal)| count(c) < *goal)
            {
                if let Some(ended) = self.tasks.try_join_next() {
                    panic!("a client has failed: {ended:?}");
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("a client hangs");
    }

    async fn stop(mut self) {
        for client in &self.clients {
            client.stopped.store(true, Ordering::Relaxed);
        }
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

/// A table with a TCP and a UDP service.
fn services(block: u8, web: Vec<Backend>, echo: Vec<Backend>) -> Table {
    let table = table(block, 1).with("web", 9, PORT, web);
    table.with("echo", 10, DATAGRAMS, echo)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_loses_no_request() {
    let node = node();
    let servers = [Server::start(1), Server::start(2)];
    let echo = udp::server(3).await;
    let web = servers.iter().zip(1..);
    let web = web.map(|(server, number)| backend("web", number, PORT, server.at));
    let table = services(
        171,
        web.collect(),
        vec![backend("echo", 1, DATAGRAMS, echo.0)],
    );
    let mut old = start(&node, "a");
    node.feeder().await.accept(&table).await;
    let mut load = Load::start(&table);
    load.goes_on().await;
    let mut finishing = Vec::new();
    for name in ["b", "c", "d"] {
        let new = start(&node, name);
        serves(&node, name).await;
        load.goes_on().await;
        finishing.push(std::mem::replace(&mut old, new));
        // The keep-alive connections are still open through the first agent.
        assert!(!finishing[0].is_finished());
    }
    // Only the last agent serves new clients.
    assert!(node.figure("accepted_total{service=\"web\"}").await > 0);
    load.stop().await;
    for agent in finishing {
        ends(agent).await;
    }
    // The previous agents have left nothing behind that the next agent needs.
    drop(who((address(&table, "web"), PORT.0)).await.unwrap());
    assert!(!old.is_finished());
    old.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_during_the_handover_changes_nothing() {
    let node = node();
    let server = Server::start(1);
    let echo = udp::server(3).await;
    let web = vec![backend("web", 1, PORT, server.at)];
    let mut table = services(172, web, vec![backend("echo", 1, DATAGRAMS, echo.0)]);
    let old = start(&node, "a");
    let mut feeder = node.feeder().await;
    feeder.accept(&table).await;
    let mut load = Load::start(&table);
    load.goes_on().await;
    let current = node.options.state.join("current");
    std::fs::write(&current, "b").unwrap();
    for _ in 0..3 {
        // Receives the descriptors, and ends without confirming.
        let next = UnixStream::connect(node.options.state.join("handover.sock"))
            .await
            .unwrap();
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            timeout(PATIENCE, next.readable()).await.unwrap().unwrap();
            // `read` would wait after the first message, because that message ends early.
            match next.try_read_buf(&mut line) {
                Ok(length) => assert!(length > 0, "the running agent has not offered its sockets"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        drop(next);
        load.goes_on().await;
        feeder.accept(table.next()).await;
    }
    serves(&node, "a").await;
    // The next attempt succeeds.
    let new = start(&node, "b");
    serves(&node, "b").await;
    load.goes_on().await;
    load.stop().await;
    ends(old).await;
    new.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_declared_agent_takes_over() {
    let node = node();
    let server = Server::start(1);
    let table = table(173, 1).with("web", 9, PORT, vec![backend("web", 1, PORT, server.at)]);
    let old = start(&node, "a");
    node.feeder().await.accept(&table).await;
    let new = start(&node, "b");
    serves(&node, "b").await;
    ends(old).await;
    // The engine starts the previous agent again. It waits, and its request would be rejected.
    let mut again = start_undeclared(&node, "a");
    let to = (address(&table, "web"), PORT.0);
    let (_, mut stream) = who(to).await.unwrap();
    for _ in 0..20 {
        echo(&mut stream).await;
        sleep(Duration::from_millis(20)).await;
    }
    serves(&node, "b").await;
    let mut request = UnixStream::connect(node.options.state.join("handover.sock"))
        .await
        .unwrap();
    let refused = timeout(PATIENCE, request.read_u8()).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    // It serves if no other agent runs.
    new.abort();
    new.await.unwrap_err();
    tokio::select! {
        ended = &mut again => panic!("{ended:?}"),
        () = serves(&node, "a") => {}
    }
    // An agent that is declared takes over from it, too.
    let newest = start(&node, "c");
    serves(&node, "c").await;
    ends(again).await;
    newest.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_handover_is_waited_for() {
    let mut node = Node::start();
    let table = table(174, 1);
    node.feeder().await.accept(&table).await;
    // As an older version, which has no such socket.
    std::fs::remove_file(node.options.state.join("handover.sock")).unwrap();
    let new = start(&node, "b");
    let still = agent::serves(&node.options.state, "b", Duration::from_millis(100)).await;
    assert!(still.is_err());
    node.kill().await;
    serves(&node, "b").await;
    node.feeder().await.accept(&table).await;
    new.abort();
}

/// The open connections of both agents count, and end with the agents' connections.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_the_previous_agent_are_reported() {
    let node = node();
    let (one, two) = (Server::start(1), Server::start(2));
    let first = backend("web", 1, PORT, one.at);
    let mut table = table(175, 1).with("web", 9, PORT, vec![first.clone()]);
    let mut agents = vec![start(&node, "a")];
    node.feeder().await.accept(&table).await;
    let to = (address(&table, "web"), PORT.0);
    let mut open = Vec::new();
    for name in ["b", "c"] {
        open.push(who(to).await.unwrap());
        agents.push(start(&node, name));
        serves(&node, name).await;
    }
    open.push(who(to).await.unwrap());
    let mut feeder = node.feeder().await;
    let second = backend("web", 2, PORT, two.at);
    table = table.with("web", 9, PORT, vec![drained(first.clone()), second]);
    feeder.accept(table.next()).await;
    let mut counts = Vec::new();
    while counts.last() != Some(&0) {
        let report = feeder.next_full_report().await;
        let ReportKind::Draining {
            container,
            open: count,
            ..
        } = report.kind
        else {
            panic!("{report:?}");
        };
        assert_eq!((container, report.version), (first.container.clone(), 2));
        if counts.last() != Some(&count) {
            // The first report is complete.
            assert_eq!(count, open.len() as u64);
            counts.push(count);
            open.pop();
        }
    }
    assert_eq!(counts, [3, 2, 1, 0]);
    agents.pop().unwrap().abort();
    for agent in agents {
        ends(agent).await;
    }
}

/// A connection that waits for an endpoint in the previous agent is forwarded once there is one.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_connections_reach_a_later_endpoint() {
    let node = node();
    let mut table = table(176, 1).with("web", 9, PORT, vec![]);
    let old = start(&node, "a");
    node.feeder().await.accept(&table).await;
    let waiting = tokio::spawn(who((address(&table, "web"), PORT.0)));
    node.until("waiting{service=\"web\"}", 1).await;
    let new = start(&node, "b");
    serves(&node, "b").await;
    let server = Server::start(1);
    table = table.with("web", 9, PORT, vec![backend("web", 1, PORT, server.at)]);
    node.feeder().await.accept(table.next()).await;
    let answered = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(answered.unwrap().0, 1);
    ends(old).await;
    new.abort();
}

/// Otherwise, an agent that waits for the lock could start between the two agents.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_never_free_during_a_handover() {
    let node = node();
    let table = table(177, 1).with("web", 9, PORT, vec![]);
    let mut agent = start(&node, "0");
    node.feeder().await.accept(&table).await;
    let lock = std::fs::File::open(node.options.state.join("lock")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let waits = std::thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            if lock.try_lock().is_ok() {
                return true;
            }
        }
        false
    });
    for number in 1..=5 {
        let name = number.to_string();
        let next = start(&node, &name);
        serves(&node, &name).await;
        ends(agent).await;
        agent = next;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(!waits.join().unwrap(), "the lock was free");
    agent.abort();
}
