//! Runs the manager, serves the manager's API over TLS, and renews the API's certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use lifecycle_core::api::Authority;
use lifecycle_core::bootstrap::Handover;
use lifecycle_core::clock::Clock;
use lifecycle_core::manager::Manager;
use lifecycle_core::model::PlatformId;
use lifecycle_core::reconcile::DriverOptions;
use lifecycle_core::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::{config, routes};

/// The interval at which the certificate is renewed. A certificate is valid for 90 days.
const RENEWAL: Duration = Duration::from_hours(24 * 30);

/// Time limit for receiving the head of a request. It limits how long a client without a credential
/// can keep a connection open.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

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
    let tls = issue().await?;
    let handle = Handle::new();
    let mut server = axum_server::bind_rustls(address, tls.clone())
        .handle(handle.clone())
        .first_request_timeout(HEADERS_WITHIN);
    server
        .http_builder()
        .http1()
        .header_read_timeout(HEADERS_WITHIN);
    let server = server.serve(routes::router(Arc::clone(&manager).into()).into_make_service());
    let failed = |error| Error::io(format!("serving at {address}"), error);
    tokio::pin!(server);
    tracing::info!(%address, %platform, "the API is listening");
    let ended = tokio::select! {
        ended = &mut server => ended.map_err(failed),
        error = Arc::clone(&manager).run() => Err(error),
        error = renew(&tls, issue) => Err(error),
        stopped = stop_signal() => {
            handle.graceful_shutdown(Some(LAST_REQUESTS));
            // The connections of commands no longer belong to the server.
            let commands = tokio::time::timeout(LAST_REQUESTS, manager.end_commands());
            let (served, _) = tokio::join!(&mut server, commands);
            stopped.and(served.map_err(failed))
        }
    };
    // Release the lease, so that the next manager does not have to wait until the lease expires.
    if let Ok(Err(error)) = tokio::time::timeout(RELEASE_WITHIN, manager.resign()).await {
        tracing::warn!(error = %error.chain(), "cannot release the lease");
    }
    ended
}

async fn certificate(
    authority: &Authority,
    platform: PlatformId,
    ip: IpAddr,
    clock: &dyn Clock,
) -> Result<RustlsConfig> {
    let identity = authority.issue(platform, ip, clock.now())?;
    RustlsConfig::from_pem(
        identity.certificates.into_bytes(),
        identity.key.expose().as_bytes().to_vec(),
    )
    .await
    .map_err(|error| Error::io("using the API's certificate", error))
}

async fn renew(tls: &RustlsConfig, issue: impl AsyncFn() -> Result<RustlsConfig>) -> Error {
    loop {
        tokio::time::sleep(RENEWAL).await;
        match issue().await {
            Ok(new) => tls.reload_from_config(new.get_inner()),
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
