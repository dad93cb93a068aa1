//! Parses a request to Azure Files into its share, path, and parameters.

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::answer::Refusal;

/// The maximum size of a request body, which is the limit of Put Range.
pub(super) const MOST_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// The path as the client sent and signed it.
    pub(super) raw_path: String,
    /// The share, if the path names one.
    pub(super) share: Option<String>,
    /// The path in the share, decoded.
    pub(super) path: Vec<String>,
    /// The parameters, decoded, in their original order.
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) async fn read(request: Request) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let raw_path = parts.uri.path().to_owned();
        // Decode the path before splitting it: Azure treats an escaped slash as a slash, and
        // clients rely on that.
        let mut path: Vec<String> = decoded(&raw_path)?
            .split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        let share = (!path.is_empty()).then(|| path.remove(0));
        let query = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decoded(name)?, decoded(value)?))
            })
            .collect::<Result<_, Refusal>>()?;
        let body = to_bytes(body, MOST_BYTES).await.map_err(|_| {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestBodyTooLarge",
                "The request body is too large and exceeds the maximum permissible limit.",
            )
        })?;
        Ok(Self {
            method: parts.method,
            raw_path,
            share,
            path,
            query,
            headers: parts.headers,
            body,
        })
    }

    /// Returns the value of a parameter. Parameter names are case-insensitive.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(one, _)| one.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns a header's value as a number of bytes.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.header(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Refusal::bad_header(name)),
        }
    }

    /// Returns the metadata in the headers `x-ms-meta-…`.
    pub(super) fn metadata(&self) -> std::collections::BTreeMap<String, String> {
        self.headers
            .iter()
            .filter_map(|(name, value)| {
                let name = name.as_str().strip_prefix("x-ms-meta-")?;
                Some((name.to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect()
    }

    /// Returns the byte range of the request, as its start (inclusive) and its end (exclusive).
    pub(super) fn range(&self) -> Result<Option<(u64, Option<u64>)>, Refusal> {
        let Some(text) = self.header("x-ms-range").or_else(|| self.header("range")) else {
            return Ok(None);
        };
        let bad = || Refusal::bad_header("Range");
        let (first, last) = text
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
            .ok_or_else(bad)?;
        let first: u64 = first.parse().map_err(|_| bad())?;
        let end = match last {
            "" => None,
            last => {
                let last: u64 = last.parse().map_err(|_| bad())?;
                Some(last.checked_add(1).ok_or_else(bad)?)
            }
        };
        if end.is_some_and(|end| end <= first) {
            return Err(Refusal::bad_range());
        }
        Ok(Some((first, end)))
    }
}

fn decoded(text: &str) -> Result<String, Refusal> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "InvalidUri",
            "The requested URI does not represent any resource on the server.",
        )),
    }
}
