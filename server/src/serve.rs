//! Runs the manager, serves the manager's API over TLS, and renews the API's certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::agent::raise_file_limit;
use lifecycle_core::api::Authority;
use lifecycle_core::bootstrap::Handover;
use lifecycle_core::clock::Clock;
use lifecycle_core::manager::Manager;
use lifecycle_core::model::PlatformId;
use lifecycle_core::reconcile::DriverOptions;
use lifecycle_core::{Error, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::connections::{Limits, PROTOCOL, Server};
use crate::{config, routes};

/// The interval at which the certificate is renewed. A certificate is valid for 90 days.
const RENEWAL: Duration = Duration::from_hours(24 * 30);

/// How long open requests may continue after a stop signal.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Time limit for releasing the lease.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// Runs the manager until the process receives a stop signal.
pub(crate) async fn run(directory: &Path) -> Result<()> {
    let handover = Handover::read(directory)?;
    let (backends, mirrors) = tokio::select! {
        opened = config::backends(&handover, directory) => opened?,
        stopped = stop_signal() => return stopped,
    };
    let authority = handover.authority.clone();
    let platform = handover.config.platform;
    let ip = handover.config.endpoint.ip;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, handover.config.endpoint.port));
    let clock = Arc::clone(&backends.clock);
    let driver = DriverOptions::default();
    let options = handover.into_options(backends.ids.as_ref(), driver, mirrors);
    let manager = Manager::new(backends, options);
    let issue = || certificate(&authority, platform, ip, clock.as_ref());
    let tls = watch::Sender::new(issue()?);
    raise_file_limit();
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Error::io(format!("serving at {address}"), error))?;
    let router = routes::router(Arc::clone(&manager).into());
    let server = Server::new(router, tls.subscribe(), Limits::default());
    tracing::info!(%address, %platform, "the API is listening");
    let ended = tokio::select! {
        never = server.accept(&listener) => match never {},
        error = Arc::clone(&manager).run() => Err(error),
        error = renew(&tls, issue) => Err(error),
        stopped = stop_signal() => {
            drop(listener);
            // The connections of commands no longer belong to the server.
            let commands = tokio::time::timeout(LAST_REQUESTS, manager.end_commands());
            let ((), _) = tokio::join!(server.finish(LAST_REQUESTS), commands);
            stopped
        }
    };
    // Release the lease, so that the next manager does not have to wait until the lease expires.
    if let Ok(Err(error)) = tokio::time::timeout(RELEASE_WITHIN, manager.resign()).await {
        tracing::warn!(error = %error.chain(), "cannot release the lease");
    }
    ended
}

/// Issues a certificate for the API.
pub(crate) fn certificate(
    authority: &Authority,
    platform: PlatformId,
    ip: IpAddr,
    clock: &dyn Clock,
) -> Result<Arc<ServerConfig>> {
    const WHAT: &str = "using the API's certificate";
    let identity = authority.issue(platform, ip, clock.now())?;
    let unusable = |error: String| Error::failed(WHAT, error);
    let chain = CertificateDer::pem_slice_iter(identity.certificates.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())
        .map_err(|error| unusable(error.to_string()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

async fn renew(
    tls: &watch::Sender<Arc<ServerConfig>>,
    issue: impl Fn() -> Result<Arc<ServerConfig>>,
) -> Error {
    loop {
        tokio::time::sleep(RENEWAL).await;
        match issue() {
            Ok(new) => drop(tls.send_replace(new)),
            Err(error) => return error,
        }
    }
}

pub(crate) async fn stop_signal() -> Result<()> {
    let failed = |error| Error::io("waiting for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("received a stop signal");
    Ok(())
}
