//! Measures how many lookups of endpoints per second the manager's API serves, as a ratio to a bare axum
//! handler that returns the same bytes. Prints the results without asserting them.
//!
//! `cargo bench -p benches --bench lookups`. Both servers run in this process, each on a thread of its
//! own, and log like the manager's program. Clients on another thread send requests with a token over
//! kept-alive connections, as HTTP/1.1 without TLS. The manager runs in a simulation. The rounds alternate
//! between the servers, so that other programs on the machine affect both. `-- --rounds N` sets the number
//! of rounds.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints to the terminal, and its numbers are small enough for `f64`"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::routing::get;
use clap::Parser;
use lifecycle_core::clock::Clock;
use lifecycle_core::cloud::CloudDeadlines;
use lifecycle_core::manager::{FirstToken, Manager, ManagerOptions, NewToken};
use lifecycle_core::model::{
    ImageSource, NodeName, NodeSpec, PlatformId, Protocol, ServiceName, ServiceSpec, TokenName,
    TokenRole,
};
use lifecycle_core::platform::{
    CloudSpec, Declaration, ManagerEndpoint, ManagerSpec, NetworkSpec, Overrides,
};
use lifecycle_core::reconcile::DriverOptions;
use lifecycle_core::registry::MemoryRegistry;
use lifecycle_core::runtime::{ImageLogins, Owner};
use lifecycle_core::secret::{PlatformKey, Sensitive, new_api_token};
use lifecycle_core::sim::{SimOptions, SimWorld};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

/// The path of the lookups.
const PATH: &str = "/v1/services/web/endpoints";

/// The number of replicas of the service, each with one endpoint.
const REPLICAS: u16 = 10;

/// The number of connections, each with one request at a time.
const CONNECTIONS: usize = 64;

/// The duration of each measurement.
const FOR: Duration = Duration::from_secs(1);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
struct Arguments {
    /// The number of rounds
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<(), Failure> {
    // Spans cost time only if a subscriber is interested in them.
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(EnvFilter::new("warn,lifecycle_manager=info"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = Runtime::new()?;
    let (manager, token) = runtime.block_on(manager())?;
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: manager\r\nAuthorization: Bearer {}\r\n\r\n",
        token.expose()
    );
    let request: Arc<[u8]> = request.into_bytes().into();
    let ours = serve(lifecycle_manager::router(manager))?;
    let clients = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let response = clients.block_on(one_response(ours, &request))?;
    let bare = serve(bare(&response)?)?;
    let same = clients.block_on(one_response(bare, &request))?;
    if without_date(&same) != without_date(&response) {
        let (same, response) = (without_date(&same), without_date(&response));
        return Err(format!("the responses differ:\n{response}\n{same}").into());
    }
    println!(
        "{} bytes per response, {CONNECTIONS} connections",
        response.len()
    );
    let mut rates = [Vec::new(), Vec::new()];
    for round in 1..=arguments.rounds {
        for (rates, address) in rates.iter_mut().zip([ours, bare]) {
            rates.push(clients.block_on(rate(address, &request, response.len()))?);
        }
        let [ours, bare] = [0, 1].map(|server: usize| rates[server].last().copied());
        let (ours, bare) = (ours.unwrap_or_default(), bare.unwrap_or_default());
        println!(
            "round {round}: manager {ours:.0}/s, bare handler {bare:.0}/s, ratio {:.2}",
            ours / bare
        );
    }
    let [ours, bare] = rates.map(|rates| rates.into_iter().fold(0.0, f64::max));
    println!(
        "highest: manager {ours:.0}/s, bare handler {bare:.0}/s, ratio {:.2}",
        ours / bare
    );
    Ok(())
}

/// Starts a manager in a simulation, and waits until the service has its endpoints. Returns a token.
async fn manager() -> Result<(Arc<Manager>, Sensitive), Failure> {
    let world = SimWorld::with_options(SimOptions {
        pace_percent: 1,
        ..SimOptions::seeded(1)
    });
    world.preload_image("base:1");
    let owner = Owner {
        id: PlatformId::new(uuid::Uuid::from_u128(1)),
        name: "demo".try_into()?,
    };
    let clock: Arc<dyn Clock> = Arc::new(world.clock());
    let backends = world.backends(&owner, Arc::new(MemoryRegistry::new(clock)));
    let node = NodeName::try_from("n1")?;
    let name = ServiceName::try_from("web")?;
    let mut web = ServiceSpec::new(name.clone(), ImageSource::Image("base:1".into()));
    web.replicas = REPLICAS;
    web.container.expose = vec![(8080, Protocol::Tcp)];
    let declaration = Declaration {
        name: owner.name.clone(),
        id: owner.id,
        manager: ManagerSpec {
            node: node.clone(),
            port: ManagerSpec::PORT,
        },
        cloud: CloudSpec::Local { subnet: None },
        nodes: BTreeMap::from([(node.clone(), NodeSpec::new(node.clone()))]),
        services: BTreeMap::from([(name, web)]),
        volumes: BTreeSet::new(),
        network: NetworkSpec::default(),
        deadlines: CloudDeadlines::default(),
        overrides: Overrides::default(),
    };
    let options = ManagerOptions {
        name: owner.name,
        platform: owner.id,
        key: PlatformKey::generate(),
        endpoint: ManagerEndpoint {
            node,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: ManagerSpec::PORT,
        },
        image: None,
        authority: String::new(),
        ssh_public: String::new(),
        admin_token: FirstToken::of(&new_api_token()),
        token_rotation: 0,
        read_token: None,
        image_logins: ImageLogins::new(),
        declaration: Some(declaration),
        holder: "a benchmark".into(),
        lease: Duration::from_secs(15),
        driver: DriverOptions::default(),
        mirrors: None,
    };
    let manager = Manager::new(backends, options);
    tokio::spawn(Arc::clone(&manager).run());
    let mut rounds = manager.rounds();
    rounds.wait_for(|round| round.settled).await?;
    let new = NewToken {
        name: TokenName::try_from("a-viewer")?,
        role: TokenRole::Viewer,
        scope: None,
        expires_in: None,
    };
    let (_, token) = manager.create_token(new).await?;
    Ok((manager, token))
}

/// Returns a router with one handler, which returns the same headers and body as `response`.
fn bare(response: &str) -> Result<Router, Failure> {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or("the response has no head")?;
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let tag = tag.ok_or("the response has no ETag")?.to_owned();
    let body = Bytes::from(body.to_owned());
    Ok(Router::new().route(
        PATH,
        get(async move || {
            (
                [(CONTENT_TYPE, "application/json".to_owned()), (ETAG, tag)],
                body,
            )
        }),
    ))
}

/// Serves a router on a thread of its own.
fn serve(router: Router) -> Result<SocketAddr, Failure> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        })
    });
    Ok(address)
}

/// Returns the whole response to one request.
async fn one_response(address: SocketAddr, request: &[u8]) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut received = Vec::new();
    while !received.ends_with(b"]") {
        if stream.read_buf(&mut received).await? == 0 {
            return Err("the connection was closed".into());
        }
    }
    Ok(String::from_utf8(received)?)
}

/// Returns a response without the header that depends on the time, in the order of the headers' names.
fn without_date(response: &str) -> String {
    let mut lines: Vec<&str> = response.lines().collect();
    lines.retain(|line| !line.starts_with("date: "));
    lines.sort_unstable();
    lines.join("\n")
}

/// Sends requests over all connections. Returns the number of responses per second.
async fn rate(address: SocketAddr, request: &Arc<[u8]>, length: usize) -> Result<f64, Failure> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for stream in streams {
        clients.spawn(lookup(stream, Arc::clone(request), length, begun + FOR));
    }
    let mut responses = 0;
    while let Some(client) = clients.join_next().await {
        responses += client??;
    }
    Ok(responses as f64 / begun.elapsed().as_secs_f64())
}

/// Sends one request after the other until `end`. Returns the number of responses.
async fn lookup(
    mut stream: TcpStream,
    request: Arc<[u8]>,
    length: usize,
    end: Instant,
) -> Result<u64, Failure> {
    let mut received = vec![0; length];
    let mut responses = 0;
    while Instant::now() < end {
        stream.write_all(&request).await?;
        stream.read_exact(&mut received).await?;
        if !received.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(&received).into());
        }
        responses += 1;
    }
    Ok(responses)
}
