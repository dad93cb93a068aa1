//! What can go wrong in a service, and how it answers then.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The environment is not as `compose.yaml` should make it.
    #[error("{0}")]
    Setting(String),
    /// Nobody is let in without a token that the authentication service issued.
    #[error("a valid token is required")]
    Unauthorized,
    /// The asked thing is not there.
    #[error("there is no {0}")]
    NotFound(String),
    /// Another service cannot be asked.
    #[error("{service} cannot be asked: {why}")]
    Unavailable { service: String, why: String },
    /// Another service said no.
    #[error("{service} answered {status}")]
    Refused { service: String, status: StatusCode },
    /// Reading, writing or listening failed.
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
