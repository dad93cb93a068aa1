//! Connects the API's client to a router, in memory, with HTTP over TLS.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lifecycle_core::Result;
use lifecycle_core::api::{ApiClient, Authority, Dial};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::host::Duplex;
use lifecycle_core::model::PlatformId;
use lifecycle_core::secret::Sensitive;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

struct Connections {
    router: Router,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connections to a router")
    }
}

#[async_trait]
impl Dial for Connections {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (router, tls) = (self.router.clone(), self.tls.clone());
        tokio::spawn(async move {
            let stream = tls.accept(far).await.unwrap();
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                router.clone().call(request.map(Body::new))
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(connection.with_upgrades().await);
        });
        Ok(Box::new(near))
    }
}

/// Creates a client of `router` with `token` as its credential.
pub(super) fn client(router: &Router, token: &Sensitive) -> ApiClient {
    let platform = PlatformId::new(uuid::Uuid::from_u128(1 << 100));
    let now = SystemClock.now();
    let authority = Authority::generate(platform, now).unwrap();
    let identity = authority
        .issue(platform, IpAddr::V4(Ipv4Addr::LOCALHOST), now)
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(identity.certificates.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(std::result::Result::unwrap).collect(), key)
        .unwrap();
    let connections = Connections {
        router: router.clone(),
        tls: TlsAcceptor::from(Arc::new(config)),
    };
    ApiClient::new(
        Arc::new(connections),
        platform,
        &authority.certificate,
        token.clone(),
    )
    .unwrap()
}
