//! Lists the reasons why a request to Resource Manager has no usable response.

use std::time::Duration;

use lifecycle_core::Error;
use thiserror::Error as ThisError;

pub(crate) use super::refusal::Refusal;
use crate::connection::Unopened;

/// The reason why a request has no usable response.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    /// Azure refused the request, or an operation failed.
    #[error("{0}")]
    Refused(Refusal),
    /// The request was not sent: this URL does not belong to Azure and must not receive a token.
    #[error("{0} is not an address of Azure")]
    Elsewhere(String),
    /// The request was not sent: Azure would have throttled it. Contains the required wait.
    #[error("the rate limit is used up")]
    Held(Duration),
    #[error("the connection to {host} could not be opened: {}", .unopened.why())]
    Unreachable { host: String, unopened: Unopened },
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    #[error("no response in time")]
    TimedOut(#[source] reqwest::Error),
    #[error("the login failed")]
    Login(#[source] Box<Error>),
    /// A response that violates the protocol.
    #[error("the response cannot be parsed: {0}")]
    Unreadable(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        if error.is_connect() {
            let host = error.url().and_then(|url| url.host_str());
            let host = host.unwrap_or("the endpoint").to_owned();
            let unopened = Unopened::of(&error.without_url());
            Self::Unreachable { host, unopened }
        } else if error.is_timeout() {
            Self::TimedOut(error)
        } else {
            Self::Broken(error)
        }
    }
}

impl Failure {
    /// Returns Azure's error response, or `None` if the failure has another cause.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Converts the failure to the core's error type. `what` describes the request.
    pub(crate) fn into_error(self, what: impl Into<String>) -> Error {
        let what = what.into();
        match self {
            Self::Refused(refusal) => refusal.into_error(what),
            Self::Held(after) => Error::throttled(what, Some(after)),
            Self::Elsewhere(ref url) => Error::denied(
                what,
                format!(
                    "the request was not sent: {url} is not an address of Azure Resource Manager, \
                     and must not receive the token"
                ),
                "check `cloud.endpoint`",
            ),
            Self::Unreachable { host, unopened } => unopened.into_error(
                format!("Azure Resource Manager at {host}"),
                "cloud.endpoint",
            ),
            Self::Broken(source) | Self::TimedOut(source) => {
                Error::interrupted(what, Some(Box::new(source)))
            }
            Self::Login(error) => *error,
            Self::Unreadable(why) => Error::interrupted(what, Some(why.into())),
        }
    }
}
