//! Calls other services by name, over plain HTTP with JSON. The platform chooses the replica. A
//! failed call is repeated once, because the chosen replica may just have stopped.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::PORT;
use crate::failure::{Failure, Result};

/// Time limit for a call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The number of attempts before a call fails.
const ATTEMPTS: usize = 2;

#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    token: Option<String>,
    body: Bytes,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            token: None,
            body: Bytes::new(),
        }
    }

    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(std::io::Error::other)?;
        Ok(Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(path)
        })
    }

    #[must_use]
    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Makes the call. Returns the body of the response.
    pub(crate) async fn to(&self, service: &str) -> Result<Bytes> {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            match self.at((service, PORT)).await {
                Ok((status, body)) if status.is_success() => return Ok(body),
                Ok((status, _)) => {
                    return Err(Failure::Refused {
                        service: service.to_owned(),
                        status,
                    });
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(Failure::Unavailable {
            service: service.to_owned(),
            why,
        })
    }

    /// Makes the call and parses the response.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, service: &str) -> Result<T> {
        let body = self.to(service).await?;
        serde_json::from_slice(&body).map_err(|error| Failure::Unavailable {
            service: service.to_owned(),
            why: error.to_string(),
        })
    }

    /// Makes the call to an address instead of a name.
    pub(crate) async fn at(
        &self,
        address: impl ToSocketAddrs,
    ) -> std::io::Result<(StatusCode, Bytes)> {
        match tokio::time::timeout(TIMEOUT, self.exchange(address)).await {
            Ok(answer) => answer,
            Err(late) => Err(late.into()),
        }
    }

    async fn exchange(&self, address: impl ToSocketAddrs) -> std::io::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(address).await?;
        let mut request = Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header(HOST, stream.peer_addr()?.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(self.body.clone()))
            .map_err(std::io::Error::other)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let answer = sender
            .send_request(request)
            .await
            .map_err(std::io::Error::other)?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        Ok((status, body.map_err(std::io::Error::other)?.to_bytes()))
    }
}

/// Checks that the service in this container is healthy.
pub(crate) async fn check_health(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (status, _) = Call::get("/health").at(address).await?;
    if status.is_success() {
        Ok(())
    } else {
        let service = "this service".to_owned();
        Err(Failure::Refused { service, status })
    }
}
