//! Serves a router on an address of this machine, over HTTP or HTTPS. All services of the simulator
//! use this listener.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lifecycle_core::{Error, Result};
use tokio::task::JoinHandle;
use tower_service::Service;

use super::authority::ServerIdentity;

/// How long requests in progress may continue after a call of [`Listener::stop`].
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Serves a router until the listener is dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    secure: bool,
    handle: Handle<SocketAddr>,
    served: JoinHandle<()>,
}

impl Listener {
    /// Serves `router` at `address`, over HTTPS if `identity` is specified and over HTTP otherwise.
    /// Port 0 selects a free port.
    ///
    /// # Errors
    /// Returns an error if the address cannot be bound.
    pub async fn start(
        address: SocketAddr,
        router: Router,
        identity: Option<&ServerIdentity>,
    ) -> Result<Self> {
        let failed = |error| Error::io(format!("listening at {address}"), error);
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        let handle = Handle::new();
        let service = Connections(router);
        let served = match identity {
            None => {
                let server = axum_server::from_tcp(socket).map_err(failed)?;
                tokio::spawn(ended(server.handle(handle.clone()).serve(service), bound))
            }
            Some(identity) => {
                let tls = RustlsConfig::from_config(identity.server_config()?);
                let server = axum_server::from_tcp_rustls(socket, tls).map_err(failed)?;
                tokio::spawn(ended(server.handle(handle.clone()).serve(service), bound))
            }
        };
        // Wait until the server accepts connections, so that no client connects too early.
        handle.listening().await;
        Ok(Self {
            address: bound,
            secure: identity.is_some(),
            handle,
            served,
        })
    }

    /// Returns the address that the listener is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the listener's URL, without a path or trailing slash.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address)
    }

    /// Returns the listener's URL with another name or address of this machine.
    pub fn url_at(&self, host: &str) -> String {
        format!("{}://{host}:{}", self.scheme(), self.address.port())
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Stops the listener. Requests in progress may continue for another second; then their
    /// connections are closed.
    pub async fn stop(mut self) {
        self.handle.graceful_shutdown(Some(LAST_REQUESTS));
        if let Err(error) = (&mut self.served).await {
            tracing::debug!(%error, "the simulator's listener ended");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

async fn ended(server: impl Future<Output = io::Result<()>>, address: SocketAddr) {
    if let Err(error) = server.await {
        tracing::warn!(%address, %error, "the simulator's listener failed");
    }
}

/// Marks a response that must not be sent: the connection is closed instead. Stored as an extension
/// of the response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BreakConnection;

/// Returns a response that closes the connection.
pub(crate) fn broken() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(BreakConnection);
    response
}

/// Adapts the router to hyper. Only at this layer can a connection be closed without a response.
#[derive(Debug, Clone)]
struct Connections(Router);

impl Service<SocketAddr> for Connections {
    type Response = Self;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: SocketAddr) -> Self::Future {
        std::future::ready(Ok(self.clone()))
    }
}

impl<B> Service<axum::http::Request<B>> for Connections
where
    B: axum::body::HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<B>) -> Self::Future {
        let request: Request = request.map(Body::new);
        let answer = self.0.call(request);
        async move {
            let Ok(response) = answer.await;
            match response.extensions().get::<BreakConnection>() {
                None => Ok(response),
                Some(BreakConnection) => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            }
        }
        .boxed()
    }
}
