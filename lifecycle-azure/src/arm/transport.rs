//! Sends requests to Resource Manager: within its budgets, with limits on their time, and with
//! refusals as data, which the generated client's errors hide.

use std::time::Duration;

use async_trait::async_trait;
use azure_core_legacy as legacy;
use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};
use lifecycle_core::{Error, Result};

use super::budget::Budgets;
use super::failure::{Failure, Refusal};
use crate::trust;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long an answer may take, whole.
const ANSWER: Duration = Duration::from_mins(1);
/// How long to wait where Azure refuses a request without saying how long.
const UNSAID: Duration = Duration::from_secs(10);

/// The way to Resource Manager.
#[derive(Debug)]
pub(crate) struct Transport {
    client: reqwest::Client,
    budgets: Budgets,
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Transport {
    /// `authority`: the certificate, in PEM, of whom to trust instead of the public authorities.
    pub(crate) fn new(authority: Option<&str>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .use_preconfigured_tls(trust::client_config(authority)?)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // A token goes to whom it is meant for.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::failed("making a client for Azure", error.to_string()))?;
        Ok(Self {
            client,
            budgets: Budgets::new(),
        })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// [`Failure::Refused`] for every status but 2xx.
    pub(crate) async fn send(&self, request: reqwest::Request) -> Result<Answer, Failure> {
        let method = request.method().clone();
        self.budgets.turn(&method).await.map_err(Failure::Held)?;
        let answer = self.client.execute(request).await?;
        let status = answer.status();
        let headers = answer.headers().clone();
        let body = answer.bytes().await?;
        if status.is_success() {
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        let mut after = retry_after(&headers);
        if status == StatusCode::TOO_MANY_REQUESTS {
            after = after.or(Some(UNSAID));
            self.budgets.close(&method, after.unwrap_or(UNSAID));
        }
        Err(Failure::Refused(Refusal::read(Some(status), after, &body)))
    }
}

/// How long to wait, in whole seconds as Azure writes it.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// For the generated client.
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
        value.set_sensitive(name == http::header::AUTHORIZATION);
        translated.headers_mut().insert(name, value);
    }
    match request.body() {
        legacy::Body::Bytes(bytes) => *translated.body_mut() = Some(bytes.clone().into()),
        legacy::Body::SeekableStream(_) => {
            return Err(failed("a stream as a request's body".to_owned()));
        }
    }
    Ok(translated)
}

/// A failure of ours inside an error of the generated client.
pub(crate) fn hidden(failure: Failure) -> legacy::Error {
    legacy::Error::new(legacy::error::ErrorKind::Other, failure)
}

/// The failure inside an error of the generated client.
pub(crate) fn revealed(error: legacy::Error) -> Failure {
    match error.into_downcast::<Failure>() {
        Ok(failure) => failure,
        Err(other) => Failure::Unreadable(other.to_string()),
    }
}
