//! Sends HTTP requests to Azure Files, with timeouts. Does not trust the system's certificates.
//! Returns error responses as structured data; opendal's own errors contain only text.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, StatusCode};
use lifecycle_core::{Error, Result};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use rustls::ClientConfig;
use thiserror::Error as ThisError;

use crate::arm::transport::retry_after;
use crate::connection::Unopened;

/// Timeout for opening a connection. A refused connection, an untrusted certificate and an unknown name
/// are found at once.
const CONNECT: Duration = Duration::from_secs(20);
/// Timeout between two parts of a response.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why there is no usable response. Never contains the URL, which may include a
/// signature.
#[derive(Debug, ThisError)]
pub(super) enum Trouble {
    #[error("Azure returned {status} ({code}; request {request})")]
    Refused {
        status: StatusCode,
        code: String,
        request: String,
        retry_after: Option<Duration>,
    },
    #[error("the connection could not be opened: {}", .0.why())]
    Unreachable(Unopened),
    #[error("the connection broke")]
    Broken(#[source] reqwest_013::Error),
    #[error("no response in time")]
    TimedOut,
}

impl From<reqwest_013::Error> for Trouble {
    fn from(error: reqwest_013::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            Self::Unreachable(Unopened::of(&error))
        } else if error.is_timeout() {
            Self::TimedOut
        } else {
            Self::Broken(error)
        }
    }
}

impl From<Trouble> for opendal::Error {
    fn from(trouble: Trouble) -> Self {
        // opendal's error kind is unused: this crate creates its own errors from the source.
        Self::new(ErrorKind::Unexpected, "").set_source(trouble)
    }
}

/// The HTTP client for Azure Files.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: reqwest_013::Client,
}

impl Transport {
    pub(super) fn new(tls: ClientConfig, timeout: Duration) -> Result<Self> {
        let client = reqwest_013::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(timeout)
            .connect_timeout(CONNECT.min(timeout))
            .read_timeout(READ_TIMEOUT.min(timeout))
            // Follow no redirects: Azure sends none, and another server must not receive a
            // signature.
            .redirect(reqwest_013::redirect::Policy::none())
            .user_agent(concat!("lifecycle/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::failed("setting up the HTTP client", error.to_string()))?;
        Ok(Self { client })
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let url = reqwest_013::Url::parse(&parts.uri.to_string()).map_err(|error| {
            opendal::Error::new(ErrorKind::Unexpected, "invalid URL").set_source(error)
        })?;
        let mut sent = self
            .client
            .request(parts.method.clone(), url)
            .headers(parts.headers);
        if !body.is_empty() {
            sent = sent.body(body.to_bytes());
        }
        let answer = sent.send().await.map_err(Trouble::from)?;
        if let Some(refused) = refused(answer.status(), answer.headers()) {
            return Err(refused.into());
        }
        let (status, headers) = (answer.status(), answer.headers().clone());
        let size = match parts.method {
            http::Method::HEAD => None,
            _ => answer.content_length(),
        };
        let stream = answer.bytes_stream().map(|part| match part {
            Ok(bytes) => Ok(Buffer::from(bytes)),
            Err(error) => Err(opendal::Error::from(Trouble::from(error))),
        });
        let mut response = Response::new(HttpBody::new(stream, size));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// Parses an error response. Returns `None` for absent files and for files that already exist:
/// opendal handles these errors itself when it creates directories.
fn refused(status: StatusCode, headers: &HeaderMap) -> Option<Trouble> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let code = text("x-ms-error-code");
    let expected = match status {
        StatusCode::NOT_FOUND => code != "ShareNotFound",
        StatusCode::CONFLICT => code == "ResourceAlreadyExists",
        _ => status.is_success(),
    };
    if expected {
        return None;
    }
    Some(Trouble::Refused {
        status,
        code,
        request: text("x-ms-request-id"),
        retry_after: retry_after(headers),
    })
}
