//! Helpers: starts an agent, feeds it tables, and starts servers to which the agent forwards
//! connections.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lifecycle_core::agent::{self, AgentOptions, CONTROL_SOCKET, METRICS_SOCKET};
use lifecycle_core::model::{Epoch, InstanceId, Protocol, Replica, ServiceName};
use lifecycle_core::network::{Backend, Report, ReportKind, ServiceEntry, Table};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub(crate) const DNS_PORT: u16 = 15353;

/// Time limit for each wait in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An agent with its state directory.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) options: AgentOptions,
    agent: JoinHandle<()>,
    _state: TempDir,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut AgentOptions)) -> Self {
        let mut node = Self::without_agent(change);
        node.start_again();
        node
    }

    pub(crate) fn without_agent(change: impl FnOnce(&mut AgentOptions)) -> Self {
        let state = TempDir::new().unwrap();
        let mut options = AgentOptions::new(state.path().join("agent"));
        options.resolvers = state.path().join("node-resolv.conf");
        std::fs::write(&options.resolvers, "search corp.example\n").unwrap();
        options.dns_port = DNS_PORT;
        options.route = false;
        change(&mut options);
        Self {
            agent: tokio::spawn(async {}),
            options,
            _state: state,
        }
    }

    /// Kills the agent without a clean shutdown.
    pub(crate) async fn kill(&mut self) {
        self.agent.abort();
        (&mut self.agent).await.unwrap_err();
    }

    pub(crate) fn start_again(&mut self) {
        self.agent = spawn(self.options.clone());
    }

    pub(crate) async fn feeder(&self) -> Feeder {
        Feeder::connect(&self.options.state).await
    }

    /// Returns the metrics that the agent exports for Prometheus.
    pub(crate) async fn figures(&self) -> BTreeMap<String, u64> {
        let path = self.options.state.join(METRICS_SOCKET);
        let mut stream = UnixStream::connect(path).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(body.ends_with("# EOF\n"));
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.strip_prefix("lifecycle_agent_").unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    pub(crate) async fn figure(&self, name: &str) -> u64 {
        let figures = self.figures().await;
        *figures
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not among {figures:?}"))
    }

    /// Waits until a metric has this value.
    pub(crate) async fn until(&self, name: &str, value: u64) {
        let reached = async {
            while self.figure(name).await != value {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        let now = self.figure(name).await;
        assert!(reached.is_ok(), "{name} is {now}, expected {value}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

fn spawn(options: AgentOptions) -> JoinHandle<()> {
    tokio::spawn(async move {
        let error = agent::run(options).await.unwrap_err();
        panic!("the agent ended: {}", error.chain());
    })
}

/// Sends tables to an agent and receives its reports.
#[derive(Debug)]
pub(crate) struct Feeder {
    reports: Lines<BufReader<OwnedReadHalf>>,
    tables: OwnedWriteHalf,
    /// Unsolicited reports that arrived while the feeder waited for a response.
    buffered: Vec<Report>,
}

impl Feeder {
    pub(crate) async fn connect(state: &Path) -> Self {
        let path = state.join(CONTROL_SOCKET);
        let connected = async {
            loop {
                match UnixStream::connect(&path).await {
                    Ok(stream) => break stream,
                    Err(_) => sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let stream = timeout(PATIENCE, connected).await.unwrap();
        let (reports, tables) = stream.into_split();
        Self {
            reports: BufReader::new(reports).lines(),
            tables,
            buffered: Vec::new(),
        }
    }

    pub(crate) async fn accept(&mut self, table: &Table) {
        let report = self.send(table).await;
        assert_eq!(report.kind, ReportKind::Accepted);
        assert_eq!((report.epoch, report.version), (table.epoch, table.version));
    }

    pub(crate) async fn send(&mut self, table: &Table) -> Report {
        self.send_line(&serde_json::to_string(table).unwrap()).await
    }

    pub(crate) async fn send_line(&mut self, line: &str) -> Report {
        self.tables
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        loop {
            let report = self.next().await;
            match report.kind {
                ReportKind::Accepted | ReportKind::Refused { .. } => return report,
                _ => self.buffered.push(report),
            }
        }
    }

    /// Returns the content of the next unsolicited report.
    pub(crate) async fn next_report(&mut self) -> ReportKind {
        self.next_full_report().await.kind
    }

    /// Returns the next unsolicited report.
    pub(crate) async fn next_full_report(&mut self) -> Report {
        if self.buffered.is_empty() {
            self.next().await
        } else {
            self.buffered.remove(0)
        }
    }

    async fn next(&mut self) -> Report {
        let line = timeout(PATIENCE, self.reports.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    }
}

/// Returns a table without services, for the address block of one test.
pub(crate) fn table(block: u8, version: u64) -> Table {
    Table {
        epoch: Epoch(3),
        version,
        platform: "demo".parse().unwrap(),
        block: format!("127.{block}.0.0/16").parse().unwrap(),
        wait: Duration::from_secs(10),
        redirects: Vec::new(),
        lost: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

pub(crate) fn name(name: &str) -> ServiceName {
    ServiceName::try_from(name).unwrap()
}

pub(crate) trait With {
    fn with(self, service: &str, host: u8, port: (u16, Protocol), backends: Vec<Backend>) -> Self;
    fn waiting(self, wait: Duration) -> Self;
    fn next(&mut self) -> &mut Self;
}

impl With for Table {
    fn with(
        mut self,
        service: &str,
        host: u8,
        port: (u16, Protocol),
        backends: Vec<Backend>,
    ) -> Self {
        let block = self.block.base().octets()[1];
        let entry = ServiceEntry {
            address: Ipv4Addr::new(127, block, 0, host),
            aliases: [].into(),
            ports: [port].into(),
            backends,
        };
        self.services.insert(name(service), entry);
        self
    }

    fn waiting(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    fn next(&mut self) -> &mut Self {
        self.version += 1;
        self
    }
}

pub(crate) fn backend(
    service: &str,
    replica: u16,
    port: (u16, Protocol),
    at: SocketAddr,
) -> Backend {
    let instance = InstanceId {
        service: name(service),
        replica: Replica(replica),
    };
    Backend {
        container: format!("demo-{instance}-{}", at.port()),
        instance,
        endpoints: [(port, at)].into(),
        draining: false,
    }
}

pub(crate) fn drained(mut backend: Backend) -> Backend {
    backend.draining = true;
    backend
}

/// A server that sends its number to each client and then echoes what the client sends.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    pub(crate) connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(number: u16) -> Self {
        Self::start_at(number, (Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn start_at(number: u16, at: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(at).unwrap();
        // The queue must hold all connections of a test: a full queue delays connections by
        // seconds.
        let listener = socket.listen(4096).unwrap();
        let at = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(echo(number, stream));
            }
        });
        Self {
            at,
            connections,
            task,
        }
    }

    pub(crate) fn served(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Closes the listener and all connections, as if the server's process was killed.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        (&mut self.task).await.unwrap_err();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(number: u16, mut stream: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    if stream.write_all(&number.to_be_bytes()).await.is_err() {
        return;
    }
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Connects to a [`Server`] and reads its number.
pub(crate) async fn who(at: impl Into<SocketAddr>) -> std::io::Result<(u16, TcpStream)> {
    let mut stream = TcpStream::connect(at.into()).await?;
    let number = stream.read_u16().await?;
    Ok((number, stream))
}

pub(crate) fn address(table: &Table, service: &str) -> Ipv4Addr {
    table.services[&name(service)].address
}
