//! Sends requests to Resource Manager for the resources that the generated client does not cover:
//! groups, networks, interfaces, addresses, and operations.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderValue, Method, StatusCode};
use lifecycle_core::{Error, Result};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use url::Url;

use super::consistency::{VISIBLE_WITHIN, is_too_early};
use super::failure::{Failure, Refusal};
use super::transport::{Answer, PAGES, Transport, retry_after};

/// How long a resource that another resource refers to may be invisible. Short, because callers that
/// observe all nodes wait for it.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Url,
    transport: Arc<Transport>,
    /// The interval between polls.
    every: Duration,
}

#[derive(Debug)]
pub(crate) enum Progress {
    Running {
        after: Option<Duration>,
        /// Azure's status text.
        status: Option<String>,
    },
    Done,
    Failed(Refusal),
    /// Azure no longer knows the operation.
    Gone,
}

impl Client {
    pub(crate) fn new(endpoint: Url, transport: Arc<Transport>, every: Duration) -> Self {
        Self {
            endpoint,
            transport,
            every,
        }
    }

    /// Returns a resource, or `None` if it does not exist.
    pub(crate) async fn get(&self, path: &str, version: &str) -> Result<Option<Value>> {
        let what = format!("reading {path}");
        match self
            .request(Method::GET, self.url(path, version)?, None)
            .await
        {
            Ok(answer) => parsed(&answer).map(Some).map_err(|e| e.into_error(what)),
            Err(failure) if failure.refusal().is_some_and(Refusal::is_absent) => Ok(None),
            Err(failure) => Err(failure.into_error(what)),
        }
    }

    /// Returns all items of a list, from all of its pages.
    pub(crate) async fn list(&self, path: &str, version: &str) -> Result<Vec<Value>> {
        let what = || format!("listing {path}");
        let mut items = Vec::new();
        let mut next = Some(self.url(path, version)?);
        for _ in 0..PAGES {
            let Some(url) = next else { return Ok(items) };
            let answer = self.request(Method::GET, url, None).await;
            let page = answer.and_then(|answer| parsed(&answer));
            let mut page = page.map_err(|failure| failure.into_error(what()))?;
            if let Some(Value::Array(found)) = page.get_mut("value").map(Value::take) {
                items.extend(found);
            }
            next = match page.get("nextLink").and_then(Value::as_str) {
                Some(link) if !link.is_empty() => Some(given(link)?),
                _ => None,
            };
        }
        Err(Error::failed(
            what(),
            format!("the list has more than {PAGES} pages"),
        ))
    }

    /// Returns a resource that exists. Waits until Azure shows it, unless it was removed.
    pub(crate) async fn get_existing(&self, path: &str, version: &str) -> Result<Option<Value>> {
        let until = Instant::now() + SHOWN_WITHIN;
        loop {
            let found = self.get(path, version).await?;
            if found.is_some() || Instant::now() >= until {
                return Ok(found);
            }
            sleep(self.every).await;
        }
    }

    /// Creates or replaces a resource, and returns it. The creation may still be in progress.
    /// Repeats the request while Azure does not know a resource that `body` refers to.
    pub(crate) async fn put(&self, path: &str, version: &str, body: &Value) -> Result<Value> {
        let url = self.url(path, version)?;
        let answer = self.change(Method::PUT, url, body).await;
        answer
            .and_then(|answer| parsed(&answer))
            .map_err(|failure| failure.into_error(format!("creating {path}")))
    }

    /// Requests the creation of a resource. Fails if the resource exists. Returns how long to wait
    /// before the first poll.
    pub(crate) async fn create(
        &self,
        path: &str,
        version: &str,
        body: &Value,
    ) -> Result<Option<Duration>, Failure> {
        let url = self
            .url(path, version)
            .map_err(|error| Failure::Unreadable(error.to_string()))?;
        let mut request = self.prepared(Method::PUT, url, Some(body)).await?;
        let any = HeaderValue::from_static("*");
        request.headers_mut().insert(IF_NONE_MATCH, any);
        let answer = self.transport.send(request).await?;
        Ok(retry_after(&answer.headers))
    }

    /// Changes some properties of a resource. Repeats the request while Azure does not know the
    /// resource.
    pub(crate) async fn patch(&self, path: &str, version: &str, body: &Value) -> Result<()> {
        let url = self.url(path, version)?;
        let answer = self.change(Method::PATCH, url, body).await;
        answer
            .map(drop)
            .map_err(|failure| failure.into_error(format!("changing {path}")))
    }

    /// Starts the deletion of a resource. Succeeds if the resource is absent.
    pub(crate) async fn delete(&self, path: &str, version: &str) -> Result<()> {
        match self
            .request(Method::DELETE, self.url(path, version)?, None)
            .await
        {
            Ok(_) => Ok(()),
            Err(failure) if failure.refusal().is_some_and(Refusal::is_absent) => Ok(()),
            Err(failure) => Err(failure.into_error(format!("deleting {path}"))),
        }
    }

    /// Reads the progress of an operation. `url` is from the response that started the operation.
    pub(crate) async fn operation(&self, url: &str) -> Result<Progress> {
        let what = "polling an operation";
        let answer = match self.request(Method::GET, given(url)?, None).await {
            Ok(answer) => answer,
            Err(failure) if failure.refusal().is_some_and(Refusal::is_absent) => {
                return Ok(Progress::Gone);
            }
            Err(failure) => return Err(failure.into_error(what)),
        };
        let after = retry_after(&answer.headers);
        // The URL may come from a `Location` header. In that case the HTTP status is the result,
        // and the body may be empty.
        match answer.status {
            StatusCode::NO_CONTENT => return Ok(Progress::Done),
            StatusCode::ACCEPTED => {
                return Ok(Progress::Running {
                    after,
                    status: None,
                });
            }
            _ => {}
        }
        if answer.body.is_empty() {
            return Ok(Progress::Done);
        }
        let body = parsed(&answer).map_err(|failure| failure.into_error(what))?;
        Ok(match body.get("status").and_then(Value::as_str) {
            Some("Succeeded") => Progress::Done,
            Some("Failed" | "Canceled") => {
                Progress::Failed(Refusal::read(None, None, &answer.body))
            }
            Some(status) => Progress::Running {
                after,
                status: Some(status.to_owned()),
            },
            None => {
                let why = Failure::Unreadable("the response has no `status`".to_owned());
                return Err(why.into_error(what));
            }
        })
    }

    fn url(&self, path: &str, version: &str) -> Result<Url> {
        let text = format!("{}?api-version={version}", path.trim_start_matches('/'));
        self.endpoint.join(&text).map_err(|error| {
            Error::invalid(
                format!("the address of {path}"),
                error.to_string(),
                "check the names in the configuration",
            )
        })
    }

    /// Sends a request that changes a resource. Repeats it while Azure does not know a resource that
    /// the request refers to, for at most [`VISIBLE_WITHIN`].
    async fn change(&self, method: Method, url: Url, body: &Value) -> Result<Answer, Failure> {
        let until = Instant::now() + VISIBLE_WITHIN;
        loop {
            let answer = self.request(method.clone(), url.clone(), Some(body)).await;
            match answer {
                Err(failure) if is_too_early(&failure) && Instant::now() < until => {
                    tracing::debug!(%failure, "a resource is not visible yet");
                    sleep(self.every).await;
                }
                answer => return answer,
            }
        }
    }

    async fn request(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let request = self.prepared(method, url, body).await?;
        self.transport.send(request).await
    }

    async fn prepared(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<reqwest::Request, Failure> {
        let bearer = self.transport.bearer().await?;
        let mut request = reqwest::Request::new(method, url);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        if let Some(body) = body {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
            *request.body_mut() = Some(body.to_string().into());
        }
        Ok(request)
    }
}

/// Parses a URL that Azure returned or that was stored. The transport checks that the URL belongs
/// to Azure.
fn given(url: &str) -> Result<Url> {
    url.parse().map_err(|error: url::ParseError| {
        Error::invalid(
            format!("the URL `{url}` in Azure's response"),
            error.to_string(),
            "check `cloud.endpoint`",
        )
    })
}

fn parsed(answer: &Answer) -> Result<Value, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| Failure::Unreadable(error.to_string()))
}
