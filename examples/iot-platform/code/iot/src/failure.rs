//! The errors of a service and the responses to them.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A variable that `compose.yaml` should set is missing or invalid.
    #[error("{0}")]
    Setting(String),
    /// The request has no token from the authentication service.
    #[error("a valid token is required")]
    Unauthorized,
    /// The requested object does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Another service does not respond.
    #[error("{service} does not respond: {why}")]
    Unavailable { service: String, why: String },
    /// Another service rejected the request.
    #[error("{service} answered {status}")]
    Refused { service: String, status: StatusCode },
    /// Reading, writing, or listening failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The manager's API cannot be used.
    #[error(transparent)]
    Manager(#[from] lifecycle_core::Error),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Refused { status, .. } => *status,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Setting(_) | Self::Io(_) | Self::Manager(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!("{self}");
        (status, format!("{self}\n")).into_response()
    }
}
