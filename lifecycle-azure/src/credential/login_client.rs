//! The HTTP client for logins. It keeps the reason why a connection could not be opened, because
//! the identity library reports it only as text, and only after many attempts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error as AzureError, ErrorKind};
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use lifecycle_core::{Error, Result};

use crate::connection::{CONNECT, Unopened};
use crate::trust;

#[derive(Debug)]
pub(super) struct LoginClient {
    client: reqwest_013::Client,
    /// The host of the latest connection that could not be opened, and the reason.
    unopened: Mutex<Option<(String, Unopened)>>,
}

impl LoginClient {
    /// Creates the client. `authority` is the only trusted certificate authority, in PEM, if it is
    /// set; `limit` is the timeout for a response.
    pub(super) fn new(authority: Option<&str>, limit: Duration) -> Result<Self> {
        let client = reqwest_013::Client::builder()
            .tls_backend_preconfigured(trust::client_config(authority)?)
            .connect_timeout(CONNECT)
            .timeout(limit)
            // Never forward a secret to another host.
            .redirect(reqwest_013::redirect::Policy::none())
            .build()
            .map_err(|error| Error::failed("creating the login client", error.to_string()))?;
        Ok(Self {
            client,
            unopened: Mutex::default(),
        })
    }

    /// Forgets the connections of earlier logins.
    pub(super) fn forget(&self) {
        self.set(None);
    }

    /// Returns the host to which no connection could be opened, and the reason.
    pub(super) fn unopened(&self) -> Option<(String, Unopened)> {
        let unopened = self.unopened.lock();
        unopened.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, unopened: Option<(String, Unopened)>) {
        let mut kept = self.unopened.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = unopened;
    }
}

#[async_trait]
impl HttpClient for LoginClient {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let outcome = self.client.execute_request(request).await;
        let error = match outcome {
            Err(error) if *error.kind() == ErrorKind::Connection => error,
            outcome => {
                self.set(None);
                return outcome;
            }
        };
        let host = request.url().host_str().unwrap_or_default().to_owned();
        self.set(Some((host, Unopened::of(&error))));
        // The library repeats a request after any error of the kind `Connection`, for longer than a
        // user would wait.
        let text = "the connection could not be opened";
        Err(AzureError::with_message(ErrorKind::Other, text))
    }
}
