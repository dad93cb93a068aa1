//! Defines the validated request that handlers receive.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method};
use serde_json::Value;

use crate::simulator::cloud::Cloud;
use crate::simulator::fault::Injected;
use crate::simulator::origin::Origin;

/// A request with a valid token and an API version.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a BTreeMap<String, String>,
    pub(crate) headers: &'a HeaderMap,
    /// The body as JSON, or null if the request has no body.
    pub(crate) body: &'a Value,
    pub(crate) origin: &'a Origin,
    pub(crate) injected: &'a Injected,
}

impl Call<'_> {
    /// Returns the value of a query parameter. Parameter names are case-insensitive.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn version(&self) -> &str {
        self.parameter("api-version").unwrap_or_default()
    }
}
