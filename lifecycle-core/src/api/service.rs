//! The API client for services of the platform. It connects directly to the manager, with the
//! credential from the files in the service's container. These files exist if the service declares
//! `x-lifecycle.api`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::client::{ApiClient, CredentialFiles, Dial};
use crate::error::{Error, Result};
use crate::host::Duplex;
use crate::reconcile::execute::{API_DIRECTORY, API_URL};

/// Time limit for opening a connection. Short, so that a service can soon continue with its
/// previous data.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Connects directly to an address in the platform's network.
#[derive(Debug)]
struct Direct(SocketAddr);

#[async_trait]
impl Dial for Direct {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        let unreachable = |source| Error::Unreachable {
            hint: None,
            what: format!("the manager at {}", self.0),
            source,
        };
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(self.0)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(unreachable(Some(Box::new(error)))),
            Err(_) => Err(unreachable(None)),
        }
    }
}

impl ApiClient {
    /// Creates a client with this container's credential. `x-lifecycle.api` determines what it permits.
    /// The client reads the credential again when it needs it, so that it can be replaced while the
    /// container runs.
    ///
    /// # Errors
    /// [`Error::Invalid`] in a container without a credential.
    pub fn of_this_service() -> Result<Self> {
        let url =
            std::env::var(API_URL).map_err(|_| no_credential(format!("{API_URL} is not set")))?;
        Self::with_credential(&url, Path::new(API_DIRECTORY))
    }

    /// Creates a client for the manager at `url`, with the files `token` and `ca.pem` from
    /// `directory`.
    fn with_credential(url: &str, directory: &Path) -> Result<Self> {
        let address: SocketAddr = url
            .strip_prefix("https://")
            .map(|rest| rest.trim_end_matches('/'))
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| {
                no_credential(format!("{API_URL} is {url:?}, not https://<ip>:<port>"))
            })?;
        let files = CredentialFiles {
            token: directory.join("token"),
            authority: directory.join("ca.pem"),
        };
        for path in [&files.token, &files.authority] {
            std::fs::metadata(path).map_err(|error| {
                no_credential(format!("cannot read {}: {error}", path.display()))
            })?;
        }
        let name = ServerName::IpAddress(address.ip().into());
        Ok(Self::with_files(Arc::new(Direct(address)), name, files))
    }
}

fn no_credential(why: String) -> Error {
    Error::Invalid {
        what: "the credential for the manager's API".into(),
        why,
        hint: "add `x-lifecycle: {api: read}` to the service in compose.yaml".into(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::api::ManagerApi as _;
    use crate::api::{Authority, ServerIdentity};
    use crate::clock::{Clock, IdSource, RandomIds, SystemClock};
    use crate::model::{PlatformId, ServiceName};

    fn acceptor(identity: &ServerIdentity) -> TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(identity.certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Sends one request to a manager whose certificate is for `address`. Returns the number of
    /// endpoints, and the received request (`None` if the client did not trust the manager).
    async fn request_endpoints(address: [u8; 4]) -> (Result<usize>, Option<String>) {
        let platform = PlatformId::new(RandomIds.uuid());
        let now = SystemClock.now();
        let authority = Authority::generate(platform, now).unwrap();
        let acceptor = acceptor(&authority.issue(platform, address.into(), now).unwrap());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.ok()?;
            let mut received = vec![0; 4096];
            let length = stream.read(&mut received).await.unwrap();
            let body = r#"[{"ip":"10.0.0.3","port":20001,"container_port":80,"protocol":"tcp"}]"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            received.truncate(length);
            Some(String::from_utf8(received).unwrap())
        });
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "let-me-read\n").unwrap();
        std::fs::write(directory.path().join("ca.pem"), &authority.certificate).unwrap();
        let client = ApiClient::with_credential(&url, directory.path()).unwrap();
        let service = ServiceName::try_from("db").unwrap();
        let endpoints = client.endpoints(&service).await.map(|found| found.len());
        (endpoints, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_service_reads_endpoints_through_the_managers_address() {
        let (endpoints, received) = request_endpoints([127, 0, 0, 1]).await;
        assert_eq!(endpoints.unwrap(), 1);
        let received = received.unwrap().to_lowercase();
        assert!(received.starts_with("get /v1/services/db/endpoints http/1.1\r\n"));
        assert!(received.contains("authorization: bearer let-me-read\r\n"));
    }

    /// Responds to one request, with a certificate of `authority`. Returns the request.
    async fn respond(
        listener: &TcpListener,
        authority: &Authority,
        platform: PlatformId,
    ) -> String {
        let now = SystemClock.now();
        let identity = authority
            .issue(platform, [127, 0, 0, 1].into(), now)
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor(&identity).accept(stream).await.unwrap();
        let mut received = vec![0; 4096];
        let length = stream.read(&mut received).await.unwrap();
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
        stream.write_all(response).await.unwrap();
        stream.shutdown().await.unwrap();
        received.truncate(length);
        String::from_utf8(received).unwrap().to_lowercase()
    }

    #[tokio::test]
    async fn a_service_uses_its_replaced_credential() {
        let platform = PlatformId::new(RandomIds.uuid());
        let generate = || Authority::generate(platform, SystemClock.now()).unwrap();
        let (old, new) = (generate(), generate());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let write = |token: &str, authorities: &[&Authority]| {
            let certificates = authorities.iter().map(|one| one.certificate.as_str());
            let certificates: Vec<&str> = certificates.collect();
            std::fs::write(directory.path().join("token"), token).unwrap();
            std::fs::write(directory.path().join("ca.pem"), certificates.join("\n")).unwrap();
        };
        write("first", &[&old]);
        let client = ApiClient::with_credential(&url, directory.path()).unwrap();
        let call = async |authority: &Authority| {
            let (nodes, request) =
                tokio::join!(client.nodes(), respond(&listener, authority, platform));
            nodes.unwrap();
            request
        };
        assert!(call(&old).await.contains("authorization: bearer first\r\n"));
        // Both authorities are trusted during the replacement.
        write("second", &[&old, &new]);
        assert!(
            call(&old)
                .await
                .contains("authorization: bearer second\r\n")
        );
        assert!(
            call(&new)
                .await
                .contains("authorization: bearer second\r\n")
        );
        write("second", &[&new]);
        assert!(
            call(&new)
                .await
                .contains("authorization: bearer second\r\n")
        );
        // The previous authority is not trusted any more.
        let identity = old
            .issue(platform, [127, 0, 0, 1].into(), SystemClock.now())
            .unwrap();
        let rejected = async {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor(&identity).accept(stream).await
        };
        let (nodes, accepted) = tokio::join!(client.nodes(), rejected);
        let error = nodes.unwrap_err();
        assert!(
            error.hint().unwrap().contains("bootstrapper rotate"),
            "{error:?}"
        );
        assert!(accepted.is_err());
    }

    #[tokio::test]
    async fn a_manager_with_a_certificate_for_another_address_is_not_trusted() {
        let (endpoints, received) = request_endpoints([127, 0, 0, 9]).await;
        assert!(matches!(endpoints, Err(Error::Unreachable { .. })));
        assert_eq!(received, None);
    }

    #[test]
    fn without_a_credential_the_hint_explains_how_to_get_one() {
        let empty = tempfile::tempdir().unwrap();
        for url in ["https://10.0.0.2:7443", "http://10.0.0.2:7443", "manager"] {
            let error = ApiClient::with_credential(url, empty.path()).unwrap_err();
            assert!(error.hint().unwrap().contains("api: read"), "{error:?}");
        }
    }
}
