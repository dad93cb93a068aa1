//! A minimal HTTPS client for the manager's API, independent of the client under test.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Time limit for one response.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The API at one address.
#[derive(Debug, Clone)]
pub(crate) struct Https {
    address: SocketAddr,
    trust: Arc<ClientConfig>,
}

impl Https {
    /// Creates a client for the API at `ip`. `authority` is the certificate (PEM) of the CA that
    /// signed the API's certificate.
    pub(crate) fn new(ip: IpAddr, port: u16, authority: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address: SocketAddr::new(ip, port),
            trust: Arc::new(trust),
        }
    }

    /// Returns the response, or `None` if no server responds.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Option<Response> {
        let stream = TcpStream::connect_timeout(&self.address, TIMEOUT).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let name = ServerName::from(self.address.ip());
        let connection = ClientConnection::new(Arc::clone(&self.trust), name).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let credential = token.map(|t| format!("Authorization: Bearer {t}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            credential.unwrap_or_default(),
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = Vec::new();
        // Ignore an error: some servers close the connection without the `close_notify` alert of
        // TLS.
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Response {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: body.to_owned(),
        })
    }

    /// Returns the response. Panics if no server responds.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Response {
        self.try_request(method, path, token, body)
            .unwrap_or_else(|| panic!("{method} {path}: no response from {}", self.address))
    }
}

/// Sends `GET path` over plain HTTP. Returns the whole response, with its head.
pub(crate) fn plain_get(ip: &str, port: u64, path: &str) -> String {
    let address = format!("{ip}:{port}");
    let mut stream = TcpStream::connect(&address)
        .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
