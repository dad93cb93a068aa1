//! Determines the scheme and authority with which a client sent its request. Links in responses use
//! the same scheme and authority.

use std::convert::Infallible;
use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::header::HOST;
use axum::http::request::Parts;

/// The origin that the client used, for example `http://127.0.0.1:1234`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin(String);

/// The scheme of a listener. Stored as an extension of the listener's requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scheme(pub(crate) &'static str);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Origin {
    pub(crate) fn of(parts: &Parts) -> Self {
        let scheme = parts.extensions.get::<Scheme>().map_or("http", |s| s.0);
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        Self(format!("{scheme}://{}", host.unwrap_or("localhost")))
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}
