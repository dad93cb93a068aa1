//! Sends requests to Resource Manager, with timeouts and within the rate limits. Errors are
//! returned as structured data; the generated client's own errors contain only text.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core_legacy as legacy;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt as _};
use http::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use lifecycle_core::error::Retry;
use lifecycle_core::{Error, Result};
use tokio::time::sleep;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;
use url::{Origin, Url};

use super::budget::Budgets;
use super::failure::{Failure, Refusal};
use super::role_wait::RoleWait;
use crate::connection::CONNECT;
use crate::credential::Credential;
use crate::trust;

/// Timeout for a complete response.
const ANSWER: Duration = Duration::from_mins(1);
/// How long to wait after a throttled request if Azure does not specify a wait.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
/// The upper limit for a wait. Without a limit, a large number from a server could overflow the
/// clock.
const LONGEST: Duration = Duration::from_hours(24);
/// The maximum size of a response, in bytes. Large, because the list of a region's VM sizes alone
/// has several megabytes.
const LARGEST: usize = 64 << 20;
/// The maximum number of pages in a list. Without a limit, a server could keep returning links to
/// further pages forever.
pub(crate) const PAGES: usize = 1_000;

/// Sends HTTP requests to Resource Manager, with authentication and rate limits.
#[derive(Debug)]
pub(crate) struct Transport {
    client: reqwest::Client,
    budgets: Budgets,
    /// The only origin that tokens may be sent to.
    origin: Origin,
    credential: Arc<Credential>,
    role_wait: Option<RoleWait>,
}

/// A successful response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Transport {
    /// Creates the transport. `endpoint` is the URL of Resource Manager. `authority` is a
    /// certificate authority, in PEM, that replaces the public ones. `role_wait` repeats requests
    /// that a new role assignment will allow.
    pub(crate) fn new(
        endpoint: &Url,
        credential: Arc<Credential>,
        authority: Option<&str>,
        role_wait: Option<RoleWait>,
    ) -> Result<Self> {
        let client = reqwest::Client::builder()
            .use_preconfigured_tls(trust::client_config(authority)?)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // Never forward a token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::failed("creating the Azure client", error.to_string()))?;
        Ok(Self {
            client,
            budgets: Budgets::new(),
            origin: endpoint.origin(),
            credential,
            role_wait,
        })
    }

    /// Sends a request and reads the response. Repeats the request while a new role assignment may
    /// take effect.
    ///
    /// # Errors
    /// Returns [`Failure::Refused`] for every status other than 2xx.
    pub(crate) async fn send(&self, mut request: reqwest::Request) -> Result<Answer, Failure> {
        loop {
            let method = request.method().clone();
            let again = request.try_clone();
            let failure = match self.send_authenticated(request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let pause = { self.role_wait.as_ref().zip(failure.refusal()) }
                .and_then(|(wait, refusal)| wait.pause(&method, refusal));
            let (Some(mut again), Some(pause)) = (again, pause) else {
                return Err(failure);
            };
            sleep(pause).await;
            // A token contains the groups of the account, which may have got the role.
            self.credential.forget().await;
            let bearer = self.bearer_while_waiting(&method, &failure).await?;
            again.headers_mut().insert(AUTHORIZATION, bearer);
            request = again;
        }
    }

    /// Returns the value of the authorization header. Repeats a login that may succeed later, while
    /// the denied request may be repeated.
    async fn bearer_while_waiting(
        &self,
        method: &Method,
        denied: &Failure,
    ) -> Result<HeaderValue, Failure> {
        loop {
            let failure = match self.bearer().await {
                Ok(bearer) => return Ok(bearer),
                Err(failure) => failure,
            };
            let is_temporary = matches!(&failure, Failure::Login(error)
                if matches!(error.retry(), Retry::After(_)));
            let pause = { self.role_wait.as_ref().zip(denied.refusal()) }
                .and_then(|(wait, refusal)| wait.pause(method, refusal))
                .filter(|_| is_temporary);
            let Some(pause) = pause else {
                return Err(failure);
            };
            sleep(pause).await;
        }
    }

    /// Sends a request and reads the response. If Azure rejects the token, retries once with a new
    /// token.
    async fn send_authenticated(&self, request: reqwest::Request) -> Result<Answer, Failure> {
        let again = request.try_clone();
        let outcome = self.send_once(request).await;
        let is_refused = |failure: &Failure| {
            let refusal = failure.refusal();
            refusal.is_some_and(|refusal| refusal.status == Some(StatusCode::UNAUTHORIZED))
        };
        match (outcome, again) {
            (Err(failure), Some(mut again)) if is_refused(&failure) => {
                let bearer = self.bearer().await?;
                again.headers_mut().insert(AUTHORIZATION, bearer);
                self.send_once(again).await
            }
            (outcome, _) => outcome,
        }
    }

    /// Returns the value of the authorization header.
    pub(crate) async fn bearer(&self) -> Result<HeaderValue, Failure> {
        let token = self.credential.token().await;
        let token = token.map_err(|error| Failure::Login(Box::new(error)))?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| Failure::Unreadable("the token is not valid text".to_owned()))?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    async fn send_once(&self, request: reqwest::Request) -> Result<Answer, Failure> {
        // Check the origin here and not where links are parsed: the generated client follows links
        // by itself.
        if request.url().origin() != self.origin {
            return Err(Failure::Elsewhere(request.url().to_string()));
        }
        let method = request.method().clone();
        self.budgets.turn(&method).await.map_err(Failure::Held)?;
        let mut answer = self.client.execute(request).await?;
        let status = answer.status();
        let headers = answer.headers().clone();
        let mut body = BytesMut::new();
        while let Some(part) = answer.chunk().await? {
            if body.len() + part.len() > LARGEST {
                let why = format!("the response has more than {LARGEST} bytes");
                return Err(Failure::Unreadable(why));
            }
            body.extend_from_slice(&part);
        }
        let body = body.freeze();
        if status.is_success() {
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        let mut after = retry_after(&headers);
        if status == StatusCode::TOO_MANY_REQUESTS {
            after = after.or(Some(DEFAULT_WAIT));
        }
        if let (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(after)) =
            (status, after)
        {
            self.budgets.close(&method, after);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.credential.forget().await;
        }
        Err(Failure::Refused(Refusal::read(Some(status), after, &body)))
    }
}

/// Returns the wait that the response requests. Azure sends whole seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    waiting_time(headers.get(RETRY_AFTER)?.to_str().ok()?)
}

/// Parses the value of `Retry-After`.
pub(crate) fn waiting_time(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

/// Sends the requests of the generated client through this transport.
#[async_trait]
impl legacy::HttpClient for Transport {
    async fn execute_request(&self, request: &legacy::Request) -> legacy::Result<legacy::Response> {
        let answer = self.send(translate(request)?).await.map_err(hidden)?;
        let mut headers = legacy::headers::Headers::new();
        for (name, value) in &answer.headers {
            if let Ok(value) = value.to_str() {
                headers.insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        let status = legacy::StatusCode::try_from(answer.status.as_u16())
            .map_err(|_| hidden(Failure::Unreadable(format!("status {}", answer.status))))?;
        let body = futures_util::stream::once(async { Ok(answer.body) });
        Ok(legacy::Response::new(status, headers, Box::pin(body)))
    }
}

fn translate(request: &legacy::Request) -> legacy::Result<reqwest::Request> {
    let failed = |why: String| hidden(Failure::Unreadable(why));
    let method = Method::from_bytes(request.method().as_ref().as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    let mut translated = reqwest::Request::new(method, request.url().clone());
    for (name, value) in request.headers().iter() {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes())
            .map_err(|error| failed(error.to_string()))?;
        let mut value = http::HeaderValue::from_str(value.as_str())
            .map_err(|error| failed(error.to_string()))?;
        value.set_sensitive(name == AUTHORIZATION);
        translated.headers_mut().insert(name, value);
    }
    match request.body() {
        legacy::Body::Bytes(bytes) => *translated.body_mut() = Some(bytes.clone().into()),
        legacy::Body::SeekableStream(_) => {
            return Err(failed("a request body cannot be a stream".to_owned()));
        }
    }
    Ok(translated)
}

/// Wraps a failure in an error of the generated client.
pub(crate) fn hidden(failure: Failure) -> legacy::Error {
    legacy::Error::new(legacy::error::ErrorKind::Other, failure)
}

/// Sends a request of the generated client, and suppresses the client's log output. That output
/// would contain the token and the whole body, which may include a VM's private host key.
///
/// # Errors
/// Returns the failure that the transport wrapped in the generated client's error.
pub(crate) async fn sent<T>(
    request: impl Future<Output = legacy::Result<T>>,
) -> Result<T, Failure> {
    let outcome = request.with_subscriber(NoSubscriber::default()).await;
    outcome.map_err(revealed)
}

/// Returns all pages of a list from the generated client.
///
/// # Errors
/// Returns the errors of [`sent`], or [`Failure::Unreadable`] if the list has too many pages.
pub(crate) async fn pages<T>(
    pages: impl Stream<Item = legacy::Result<T>>,
) -> Result<Vec<T>, Failure> {
    sent(async {
        let mut pages = std::pin::pin!(pages);
        let mut all = Vec::new();
        while let Some(page) = pages.try_next().await? {
            if all.len() == PAGES {
                let why = format!("a list has more than {PAGES} pages");
                return Err(hidden(Failure::Unreadable(why)));
            }
            all.push(page);
        }
        Ok(all)
    })
    .await
}

/// Extracts the failure from an error of the generated client.
fn revealed(error: legacy::Error) -> Failure {
    match error.into_downcast::<Failure>() {
        Ok(failure) => failure,
        Err(other) => Failure::Unreadable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_the_wait() {
        let waits = |text: &str| {
            let value = http::HeaderValue::from_str(text).unwrap();
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(waits("17"), Some(Duration::from_secs(17)));
        assert_eq!(waits(&u64::MAX.to_string()), Some(LONGEST));
        for odd in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert_eq!(waits(odd), None, "{odd}");
        }
    }
}
