//! Tests the limits for connections, with real connections over TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use lifecycle_core::Result;
use lifecycle_core::agent::raise_file_limit;
use lifecycle_core::api::{ApiClient, Authority, Dial, ManagerApi as _};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::host::Duplex;
use lifecycle_core::model::{EventKind, PlatformId, TokenId};
use lifecycle_core::runtime::{ExecCommand, ExecOutput};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Served;
use crate::connections::{Limits, Server};
use crate::serve::certificate;

pub(super) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// The size of the clients' buffers, in bytes.
const RECEIVE_BUFFER: u32 = 64 << 10;

/// The time limit for events that must happen.
pub(super) const SOON: Duration = Duration::from_mins(1);

/// An address at which a server listens.
#[derive(Debug)]
pub(super) struct Endpoint {
    address: SocketAddr,
    platform: PlatformId,
    authority: String,
}

impl Endpoint {
    async fn bind(router: Router, limits: Limits) -> (Self, Server, TcpListener) {
        // Fails only if another test has installed the provider.
        drop(rustls::crypto::ring::default_provider().install_default());
        let platform = PlatformId::new(uuid::Uuid::from_u128(1 << 100));
        let authority = Authority::generate(platform, SystemClock.now()).unwrap();
        let tls = certificate(&authority, platform, IpAddr::V4(HERE), &SystemClock).unwrap();
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let endpoint = Self {
            address: listener.local_addr().unwrap(),
            platform,
            authority: authority.certificate,
        };
        let server = Server::new(router, watch::Sender::new(tls).subscribe(), limits);
        (endpoint, server, listener)
    }

    /// Serves until the test ends.
    pub(super) async fn serve(router: Router, limits: Limits) -> Self {
        let (endpoint, server, listener) = Self::bind(router, limits).await;
        tokio::spawn(async move { server.accept(&listener).await });
        endpoint
    }

    async fn tcp(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that the server notices soon if a test does not read.
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Opens a TLS connection that offers these protocols.
    async fn offering(&self, from: Ipv4Addr, protocols: &[&[u8]]) -> io::Result<Tls> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::from(IpAddr::V4(HERE));
        let tls = TlsConnector::from(Arc::new(config));
        tls.connect(name, self.tcp(from).await).await
    }

    pub(super) async fn tls(&self, from: Ipv4Addr) -> io::Result<Tls> {
        self.offering(from, &[]).await
    }

    /// Opens a connection, sends a request, and reads the response. Returns the open connection.
    async fn request(&self, from: Ipv4Addr) -> io::Result<Tls> {
        let mut stream = self.tls(from).await?;
        let request = b"GET /healthz HTTP/1.1\r\nHost: manager\r\n\r\n";
        stream.write_all(request).await?;
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\nok\n") {
            if stream.read_buf(&mut response).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        assert!(response.starts_with(b"HTTP/1.1 200 "), "{response:?}");
        Ok(stream)
    }
}

pub(super) type Tls = TlsStream<TcpStream>;

#[async_trait]
impl Dial for Endpoint {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        Ok(Box::new(self.tcp(HERE).await))
    }
}

/// Waits until the server has closed the connection.
pub(super) async fn closed(mut stream: impl AsyncRead + Unpin) {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

#[tokio::test]
async fn idle_connections_are_closed_while_others_are_served() {
    // The complete test uses the real limits.
    let is_whole = std::env::var_os("LIFECYCLE_TEST_WHOLE").is_some();
    let (of_each_kind, limits) = if is_whole {
        (500, Limits::default())
    } else {
        let short = Duration::from_secs(2);
        let limits = Limits {
            handshake: short,
            request: short,
            ..Limits::default()
        };
        (50, limits)
    };
    raise_file_limit();
    let endpoint = Endpoint::serve(Served::standby().router, limits).await;
    let [bare, secured, slow, kept] = [11, 12, 13, 14].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let mut ends: Vec<BoxFuture<'_, ()>> = Vec::new();
    for _ in 0..of_each_kind {
        ends.push(closed(endpoint.tcp(bare).await).boxed());
        ends.push(closed(endpoint.tls(secured).await.unwrap()).boxed());
        let mut stream = endpoint.tls(slow).await.unwrap();
        let part = b"GET /healthz HTTP/1.1\r\nHo";
        stream.write_all(part).await.unwrap();
        ends.push(closed(stream).boxed());
        ends.push(closed(endpoint.request(kept).await.unwrap()).boxed());
    }
    let others = async {
        for _ in 0..10 {
            let request = endpoint.request(HERE);
            let served = timeout(Duration::from_secs(1), request).await;
            served.unwrap().unwrap();
        }
    };
    let ((), ended) = tokio::join!(others, timeout(SOON, join_all(ends)));
    ended.unwrap();
}

#[tokio::test]
async fn an_address_at_its_limit_does_not_lock_out_others() {
    let limits = Limits {
        connections: 5,
        per_address: 3,
        ..Limits::default()
    };
    let endpoint = Endpoint::serve(Served::standby().router, limits).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(endpoint.tls(HERE).await.unwrap());
    }
    endpoint.tls(HERE).await.unwrap_err();
    timeout(SOON, closed(endpoint.tcp(HERE).await))
        .await
        .unwrap();

    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(endpoint.request(ELSEWHERE).await.unwrap());
    }
    endpoint.tls(THIRD).await.unwrap_err();
    open.pop();
    // The server notices the end of the connection a moment later.
    let served = async { while endpoint.request(THIRD).await.is_err() {} };
    timeout(SOON, served).await.unwrap();
}

#[tokio::test]
async fn only_http_1_is_spoken() {
    let endpoint = Endpoint::serve(Served::standby().router, Limits::default()).await;
    let both = endpoint.offering(HERE, &[b"h2", b"http/1.1"]).await;
    let both = both.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    endpoint.offering(HERE, &[b"h2"]).await.unwrap_err();

    // A client may also send the preface of HTTP/2 without a negotiation.
    let mut stream = endpoint.tls(HERE).await.unwrap();
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(settings).await.unwrap();
    let mut answer = Vec::new();
    // The server may end the connection without a TLS alert.
    drop(
        timeout(SOON, stream.read_to_end(&mut answer))
            .await
            .unwrap(),
    );
    let is_http_1 = answer.is_empty() || answer.starts_with(b"HTTP/1.1 ");
    assert!(is_http_1, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn commands_upgrade_their_connection_and_are_recorded() {
    let served = Served::ready().await;
    // Real connections need real time.
    tokio::time::resume();
    let endpoint = Endpoint::serve(served.router.clone(), Limits::default()).await;
    let (platform, authority) = (endpoint.platform, endpoint.authority.clone());
    let api = ApiClient::new(
        Arc::new(endpoint),
        platform,
        &authority,
        served.admin.clone(),
    );
    let api = api.unwrap();
    let command = ExecCommand::new(["echo", "hello"]);
    let mut session = api.exec("web", command).await.unwrap();
    let first = timeout(SOON, session.output.next()).await.unwrap();
    let Some(Ok(ExecOutput::Stdout(line))) = first else {
        panic!("{first:?}");
    };
    assert_eq!(&line[..], b"hello\n");
    let events = api.events(0).await.unwrap().events.into_iter();
    let audits: Vec<_> = { events.map(|event| event.event) }
        .filter(|event| event.kind == EventKind::Audit)
        .collect();
    let [audit] = audits.as_slice() else {
        panic!("{audits:?}");
    };
    let data = serde_json::json!({
        "request": "exec",
        "token": TokenId::of(&served.admin),
        "name": "bootstrapper",
        "peer": "127.0.0.1",
    });
    assert_eq!(audit.data, data);
    assert_eq!(audit.subject.to_string(), "instance web-1");
}

#[tokio::test]
async fn a_stopped_server_ends_idle_connections() {
    let limits = Limits::default();
    let (endpoint, server, listener) = Endpoint::bind(Served::standby().router, limits).await;
    let clients = async {
        let waits = endpoint.tcp(HERE).await;
        let idle = endpoint.request(HERE).await.unwrap();
        (closed(waits), closed(idle))
    };
    let (waits, idle) = tokio::select! {
        never = server.accept(&listener) => match never {},
        clients = clients => clients,
    };
    let started = tokio::time::Instant::now();
    server.finish(SOON).await;
    tokio::join!(waits, idle);
    assert!(
        started.elapsed() < limits.request,
        "{:?}",
        started.elapsed()
    );
}
