//! Builds a handler's answer and converts it to a response.

use axum::Json;
use axum::http::header::{HeaderName, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::call::Call;
use super::operation::OperationId;
use super::problem::Refusal;
use super::state::ArmState;

const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");

#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Option<Value>,
    operation: Option<OperationId>,
    location: Option<String>,
    wait: bool,
}

impl Answer {
    pub(crate) fn new(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            operation: None,
            location: None,
            wait: false,
        }
    }

    pub(crate) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK).body(body)
    }

    pub(crate) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds the operation that the client must poll.
    pub(crate) fn following(mut self, operation: OperationId) -> Self {
        self.operation = Some(operation);
        self.wait = true;
        self
    }

    /// Adds a path that the client must poll instead of an operation.
    pub(crate) fn again_at(mut self, path: String) -> Self {
        self.location = Some(path);
        self.wait = true;
        self
    }

    /// Adds `Retry-After`, if the simulator is configured to send it.
    pub(crate) fn waiting(mut self) -> Self {
        self.wait = true;
        self
    }

    pub(crate) fn into_response(self, call: &Call<'_>, arm: &ArmState) -> Response {
        let mut response = match self.body {
            Some(body) => (self.status, Json(body)).into_response(),
            None => self.status.into_response(),
        };
        let headers = response.headers_mut();
        let mut link = |name: HeaderName, url: String| {
            if let Ok(value) = HeaderValue::from_str(&url) {
                headers.insert(name, value);
            }
        };
        let origin = call.origin;
        let version = call.version();
        if let Some(id) = self.operation
            && let Some(operation) = arm.operations.get(id)
        {
            let url = format!(
                "{origin}/subscriptions/{}/providers/{}/locations/{}/operations/{id}?api-version={version}",
                operation.subscription, operation.namespace, operation.location
            );
            // Only a 202 needs a `Location`: other responses already contain the result or its
            // path.
            if self.status == StatusCode::ACCEPTED {
                link(LOCATION, format!("{url}&monitor=true"));
            }
            link(ASYNC_OPERATION, url);
        }
        if let Some(path) = self.location {
            link(LOCATION, format!("{origin}{path}?api-version={version}"));
        }
        if self.wait
            && let Some(after) = call.cloud.options.poll_after
        {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

impl Refusal {
    pub(crate) fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
