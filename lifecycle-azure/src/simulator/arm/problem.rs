//! Represents Azure's errors: a code, a message, and optionally a target. Errors occur in responses
//! and in the results of operations.

use axum::http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::simulator::host::HostFailure;

/// An error in Azure's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            target: None,
        }
    }

    /// Sets the property that the error refers to.
    pub(crate) fn at(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    fn refuse(self, status: StatusCode) -> Refusal {
        Refusal {
            status,
            body: json!({ "error": self }),
            headers: Vec::new(),
        }
    }

    pub(crate) fn bad_request(self) -> Refusal {
        self.refuse(StatusCode::BAD_REQUEST)
    }

    pub(crate) fn conflict(self) -> Refusal {
        self.refuse(StatusCode::CONFLICT)
    }

    pub(crate) fn not_found(self) -> Refusal {
        self.refuse(StatusCode::NOT_FOUND)
    }

    pub(crate) fn with(self, status: StatusCode) -> Refusal {
        self.refuse(status)
    }
}

impl From<HostFailure> for Problem {
    fn from(failure: HostFailure) -> Self {
        Self::new(&failure.code, failure.message)
    }
}

/// An error response.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Returns the error for a missing required property.
pub(crate) fn required(property: &str) -> Refusal {
    Problem::new(
        "InvalidParameter",
        format!("Required parameter '{property}' is missing (null)."),
    )
    .at(property)
    .bad_request()
}

/// Returns the error for an invalid property.
pub(crate) fn invalid(property: &str, why: impl Into<String>) -> Refusal {
    Problem::new("InvalidParameter", why)
        .at(property)
        .bad_request()
}
