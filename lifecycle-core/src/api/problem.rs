//! Converts errors to problem documents (RFC 9457) and back. A document contains the error's `kind`
//! and fields, so that the client can re-create the same error.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Retry};

/// The body of every response that is not a success.
///
/// `kind` and the fields of the [`Error`] are members of the document; `docs/api.md` lists them. A
/// client that knows the kind can re-create the error. Other clients can use the members that are
/// declared here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProblemV1 {
    /// The name of the HTTP status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The error and its causes in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// `kind` and the error's other fields.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schemars(with = "Kind"))]
    fields: Map<String, Value>,
}

/// The member of every problem that determines the others.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "describes the members in the schema")]
struct Kind {
    /// The kind of the error.
    kind: String,
}

impl ProblemV1 {
    /// Creates the document that describes `error`.
    pub fn new(status: StatusCode, error: &Error) -> Self {
        let mut fields = match serde_json::to_value(error) {
            Ok(Value::Object(fields)) => fields,
            // Not reached: an error always serializes to an object.
            _ => Map::new(),
        };
        fields.remove("hint");
        Self {
            title: title(status),
            status: status.as_u16(),
            detail: Some(error.chain()),
            hint: error.hint().map(str::to_owned),
            fields,
        }
    }

    /// Returns the error that the document describes; [`None`] if its kind is unknown, for example
    /// because the manager is newer.
    pub fn error(&self) -> Option<Error> {
        let mut fields = self.fields.clone();
        if let Some(hint) = &self.hint {
            fields.insert("hint".into(), hint.clone().into());
        }
        serde_json::from_value(Value::Object(fields)).ok()
    }
}

fn title(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("problem").to_owned()
}

/// Returns the HTTP status for an error of the manager. A temporary error has the status 503, so
/// that clients repeat the request.
pub fn status(error: &Error) -> StatusCode {
    match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Conflict { .. } => StatusCode::CONFLICT,
        Error::Invalid { .. } | Error::Name(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Forbidden { .. } => StatusCode::FORBIDDEN,
        Error::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
        Error::NotReady { .. }
        | Error::Throttled { .. }
        | Error::StaleEpoch { .. }
        | Error::Unreachable { .. }
        | Error::TimedOut { .. }
        | Error::Overdue { .. }
        | Error::Interrupted { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::Denied { .. }
        | Error::Exhausted { .. }
        | Error::Failed { .. }
        | Error::Build { .. }
        | Error::Corrupt { .. }
        | Error::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns the error that a client that is not an admin receives instead of `error`; `None` if the
/// client may receive `error` itself. The replacement hides the platform's internals, because any
/// service may have a token.
pub fn without_details(error: &Error) -> Option<Error> {
    match error {
        Error::NotFound { .. }
        | Error::Conflict { .. }
        | Error::Invalid { .. }
        | Error::Name(_)
        | Error::Forbidden { .. }
        | Error::Unsupported { .. }
        | Error::NotReady { .. }
        | Error::Throttled { .. }
        | Error::StaleEpoch { .. } => None,
        Error::Unreachable { .. }
        | Error::TimedOut { .. }
        | Error::Overdue { .. }
        | Error::Interrupted { .. }
        | Error::Denied { .. }
        | Error::Exhausted { .. }
        | Error::Failed { .. }
        | Error::Build { .. }
        | Error::Corrupt { .. }
        | Error::Io { .. } => Some(match error.retry() {
            Retry::After(_) => Error::not_ready(
                "the manager",
                "it cannot reach a required resource; see the manager's log for the cause",
            ),
            Retry::Replan | Retry::Never => {
                Error::failed("the request", "see the manager's log for the cause")
            }
        }),
    }
}

/// Converts a response to an error. Uses the status if the body is not a problem document or has an
/// unknown kind.
pub(super) fn read(path: &str, status: StatusCode, body: &[u8]) -> Error {
    let problem: Option<ProblemV1> = serde_json::from_slice(body).ok();
    if let Some(error) = problem.as_ref().and_then(ProblemV1::error) {
        return error;
    }
    let (detail, hint) = match problem {
        Some(problem) => (problem.detail.unwrap_or(problem.title), problem.hint),
        None => (title(status), None),
    };
    let why = format!("the response has status {}: {detail}", status.as_u16());
    let hint_or = |general: &str| hint.clone().unwrap_or_else(|| general.to_owned());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let general = "check the token; if it was replaced (`bootstrapper rotate`), use the new one: \
                           copy the platform's directory from the machine that replaced it";
            Error::denied(path, why, hint_or(general))
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound {
            what: format!("{path} ({why})"),
            hint,
        },
        StatusCode::CONFLICT => Error::conflict(path, why),
        StatusCode::TOO_MANY_REQUESTS => Error::throttled(path, None),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Error::not_ready("the manager", why)
        }
        status if status.is_client_error() => Error::invalid(
            path,
            why,
            hint_or("check that this program and the manager have the same version"),
        ),
        _ => Error::failed(path, why),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(status: u16, body: &Value) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        read("/v1/x", status, body.to_string().as_bytes())
    }

    #[test]
    fn an_unknown_kind_becomes_an_error_by_its_status() {
        let problem = |status: u16| {
            json!({
                "title": "t", "status": status, "kind": "haunted", "what": "w", "ghosts": 3,
                "detail": "the attic is haunted", "hint": "call an exorcist",
            })
        };
        let denied = response(403, &problem(403));
        assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
        let gone = response(410, &problem(410));
        assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
        let refused = response(422, &problem(422));
        assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
        let later = response(503, &problem(503));
        assert!(matches!(later.retry(), Retry::After(_)), "{later:?}");
        let failed = response(500, &problem(500));
        assert!(matches!(failed, Error::Failed { .. }), "{failed:?}");
        for error in [&denied, &gone, &refused, &later, &failed] {
            let shown = error.to_string();
            assert!(shown.contains("the attic is haunted"), "{shown}");
        }
        for error in [&denied, &gone, &refused] {
            assert_eq!(error.hint(), Some("call an exorcist"));
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let body = json!({
            "title": "Conflict", "status": 409, "kind": "conflict", "what": "generation 3",
            "why": "it is 4 now", "since": "2026-01-02T03:04:05Z",
        });
        let error = response(409, &body);
        assert_eq!(error.to_string(), "generation 3: it is 4 now");
    }

    #[test]
    fn a_response_without_a_problem_document_becomes_an_error_by_its_status() {
        let read = |status: StatusCode| read("/v1/x", status, b"<html>");
        let later = read(StatusCode::BAD_GATEWAY);
        assert!(matches!(later.retry(), Retry::After(_)), "{later:?}");
        let failed = read(StatusCode::INTERNAL_SERVER_ERROR);
        assert!(failed.to_string().contains("500"), "{failed}");
    }
}
