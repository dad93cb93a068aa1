//! The scheme and authority that a client used for its request. Links in responses use the same
//! scheme and authority.

use std::convert::Infallible;
use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::header::HOST;
use axum::http::request::Parts;

/// The origin as the client wrote it, for example `http://127.0.0.1:1234`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin(String);

/// The scheme of a listener, as an extension of its requests.
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
