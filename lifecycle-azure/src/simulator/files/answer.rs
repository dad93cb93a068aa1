//! Builds responses in Azure's format: errors as XML with a code, and the headers of every
//! response.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use quick_xml::escape::escape;
use uuid::Uuid;

/// An error response.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The details of a failed authentication.
    detail: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: None,
        }
    }

    pub(super) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "AuthenticationFailed",
            "Server failed to authenticate the request. Make sure the value of Authorization \
             header is formed correctly including the signature.",
        )
    }

    pub(super) fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(super) fn forbidden(code: &'static str, what: &str) -> Self {
        let message = format!("This request is not authorized to perform this operation{what}.");
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    pub(super) fn not_found(what: &str) -> Self {
        match what {
            "share" => Self::new(
                StatusCode::NOT_FOUND,
                "ShareNotFound",
                "The specified share does not exist.",
            ),
            "parent" => Self::new(
                StatusCode::NOT_FOUND,
                "ParentNotFound",
                "The specified parent path does not exist.",
            ),
            _ => Self::new(
                StatusCode::NOT_FOUND,
                "ResourceNotFound",
                "The specified resource does not exist.",
            ),
        }
    }

    pub(super) fn conflict(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn type_mismatch() -> Self {
        Self::conflict(
            "ResourceTypeMismatch",
            "The specified resource type does not match the type of the existing resource.",
        )
    }

    pub(super) fn bad_name() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidResourceName",
            "The specified resource name contains invalid characters.",
        )
    }

    pub(super) fn bad_header(name: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidHeaderValue",
            format!("The value for one of the HTTP headers is not in the correct format: {name}."),
        )
    }

    pub(super) fn missing_header(name: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "MissingRequiredHeader",
            format!("An HTTP header that's mandatory for this request is not specified: {name}."),
        )
    }

    pub(super) fn bad_parameter(name: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidQueryParameterValue",
            format!(
                "Value for one of the query parameters specified in the request URI is invalid: \
                 {name}."
            ),
        )
    }

    pub(super) fn bad_range() -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "InvalidRange",
            "The range specified is invalid for the current size of the resource.",
        )
    }

    pub(super) fn not_simulated(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "NotImplemented",
            format!("The simulator does not support this: {what}."),
        )
    }
}

/// The values for the headers that every response has.
#[derive(Debug)]
pub(super) struct Stamp {
    id: Uuid,
    client_id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    head: bool,
    now: DateTime<Utc>,
}

impl Stamp {
    pub(super) fn new(request: &Request, id: Uuid, now: DateTime<Utc>) -> Self {
        let header = |name: &str| request.headers().get(name).cloned();
        Self {
            id,
            client_id: header("x-ms-client-request-id"),
            version: header("x-ms-version"),
            head: request.method() == Method::HEAD,
            now,
        }
    }

    pub(super) fn put_on(self, outcome: Result<Response, Refusal>) -> Response {
        let mut response = outcome.unwrap_or_else(|refusal| self.refused(&refusal));
        let headers = response.headers_mut();
        let mut put = |name: &'static str, value: Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put(
            "server",
            Some(HeaderValue::from_static("Windows-Azure-File/1.0")),
        );
        put("x-ms-request-id", text(&self.id.to_string()));
        put("x-ms-client-request-id", self.client_id);
        put("x-ms-version", self.version);
        put("date", text(&http_date(self.now)));
        response
    }

    fn refused(&self, refusal: &Refusal) -> Response {
        let mut body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code>\
             <Message>{}\nRequestId:{}\nTime:{}</Message>",
            refusal.code,
            escape(&refusal.message),
            self.id,
            file_time(self.now)
        );
        if let Some(detail) = &refusal.detail {
            body.push_str("<AuthenticationErrorDetail>");
            body.push_str(&escape(detail));
            body.push_str("</AuthenticationErrorDetail>");
        }
        body.push_str("</Error>");
        let body = if self.head {
            Body::empty()
        } else {
            Body::from(body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.insert("x-ms-error-code", HeaderValue::from_static(refusal.code));
        headers.insert("content-type", HeaderValue::from_static("application/xml"));
        response
    }
}

/// Converts text to the value of a header. Returns `None` if a header cannot contain the text.
fn text(value: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(value).ok()
}

/// A response under construction.
#[derive(Debug)]
pub(super) struct Answer(Response);

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        Self(response)
    }

    pub(super) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        if let (Ok(name), Some(value)) = (name.parse::<HeaderName>(), text(value.as_ref())) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    pub(super) fn body(self, body: impl Into<Body>) -> Response {
        self.0.map(|_| body.into())
    }

    pub(super) fn xml(self, body: String) -> Response {
        self.header("content-type", "application/xml").body(body)
    }

    /// Completes the response to a write, which has no body.
    pub(super) fn written(self) -> Response {
        self.header("x-ms-request-server-encrypted", "true").empty()
    }

    pub(super) fn empty(self) -> Response {
        self.0
    }
}

/// Formats a time for HTTP headers.
pub(super) fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Formats a time for file system properties, which have a resolution of 100 ns.
pub(super) fn file_time(time: DateTime<Utc>) -> String {
    format!("{}0Z", time.format("%Y-%m-%dT%H:%M:%S%.6f"))
}
