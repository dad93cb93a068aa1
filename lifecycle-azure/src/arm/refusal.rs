//! Parses Azure's error responses, with the errors that are nested in them.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use thiserror::Error as ThisError;

/// How deeply nested an error may be. Without a limit, a malicious response could exhaust the
/// stack.
const DEEPEST: usize = 8;
/// How many nested errors are shown.
const SHOWN: usize = 8;

/// Azure's error response.
#[derive(Debug, Clone, ThisError)]
pub(crate) struct Refusal {
    /// The HTTP status, or `None` for an operation that failed after Azure had accepted it.
    pub(crate) status: Option<StatusCode>,
    pub(crate) code: String,
    pub(crate) message: String,
    /// The nested errors, the deepest first.
    causes: Vec<Cause>,
    pub(crate) retry_after: Option<Duration>,
}

/// An error inside another error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cause {
    code: Option<String>,
    message: Option<String>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, "{code}: {message}"),
            (Some(text), None) | (None, Some(text)) => f.write_str(text),
            (None, None) => Ok(()),
        }
    }
}

/// Shows the deepest cause first, because the outer errors often report only that something failed.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, message) = (&self.code, &self.message);
        if self.causes.is_empty() {
            return write!(f, "{code}: {message}");
        }
        let causes: Vec<String> = self.causes.iter().map(ToString::to_string).collect();
        write!(f, "{} (in {code}: {message})", causes.join("; "))
    }
}

impl Refusal {
    /// Parses the body of an error response or of a failed operation: `{"error": {…}}`, or the same
    /// members without `error`, as in Compute's 429. Each member is parsed separately, so that an
    /// unexpected type in one of them does not hide the others.
    pub(crate) fn read(
        status: Option<StatusCode>,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = value.get("error").unwrap_or(&value);
        let unnamed = || status.map_or_else(|| "Unknown".to_owned(), |status| status.to_string());
        let mut causes = Vec::new();
        let outer = nested(error, 0, &mut causes);
        Self::new(
            status,
            outer.code.unwrap_or_else(unnamed),
            outer.message,
            causes,
            retry_after,
        )
    }

    /// Creates the refusal of a VM that Azure could not create or change.
    pub(crate) fn for_vm(code: &str, message: &str) -> Self {
        let mut causes = Vec::new();
        let error = serde_json::json!({ "code": code, "message": message });
        let outer = nested(&error, 0, &mut causes);
        Self::new(None, code.to_owned(), outer.message, causes, None)
    }

    fn new(
        status: Option<StatusCode>,
        code: String,
        message: Option<String>,
        mut causes: Vec<Cause>,
        retry_after: Option<Duration>,
    ) -> Self {
        let outer = Cause {
            code: Some(code.clone()),
            message: message.clone(),
        };
        causes.retain(|cause| *cause != outer);
        causes.truncate(SHOWN);
        Self {
            status,
            code,
            message: message.unwrap_or_else(|| "Azure reports no reason".to_owned()),
            causes,
            retry_after,
        }
    }

    /// Returns the codes of the error and of all nested errors.
    pub(super) fn codes(&self) -> impl Iterator<Item = &str> {
        let nested = self.causes.iter().filter_map(|cause| cause.code.as_deref());
        std::iter::once(self.code.as_str()).chain(nested)
    }

    /// Returns the messages of the error and of all nested errors.
    pub(super) fn messages(&self) -> impl Iterator<Item = &str> {
        let nested = { self.causes.iter() }.filter_map(|cause| cause.message.as_deref());
        std::iter::once(self.message.as_str()).chain(nested)
    }

    /// Returns whether the error or a nested error has one of these codes.
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.codes()
            .any(|own| codes.iter().any(|code| own.eq_ignore_ascii_case(code)))
    }
}

/// Returns the error's own code and message. Adds the errors that are nested in it to `causes`, the
/// deepest first.
fn nested(error: &Value, depth: usize, causes: &mut Vec<Cause>) -> Cause {
    let text = |names: [&str; 2]| {
        let text = |name| error.get(name).and_then(Value::as_str);
        let mut texts = names.into_iter().filter_map(text).map(str::trim);
        // Compute's throttling has an empty object as message.
        let text = texts.find(|text| !text.is_empty() && *text != "{}");
        text.map(str::to_owned)
    };
    let mut own = Cause {
        code: text(["code", "exceptiontype"]),
        message: text(["message", "errordetail"]),
    };
    if depth == DEEPEST {
        return own;
    }
    let mut add = |error: &Value| {
        let error = error.get("error").unwrap_or(error);
        let cause = nested(error, depth + 1, causes);
        if cause != Cause::default() && !causes.contains(&cause) {
            causes.push(cause);
        }
    };
    let details = error.get("details").and_then(Value::as_array);
    for detail in details.into_iter().flatten() {
        add(detail);
    }
    if let Some(inner) = error.get("innererror").or_else(|| error.get("innerError")) {
        add(inner);
    }
    // The message of a failed deployment may be the JSON of another error.
    let message = own.message.as_deref().unwrap_or_default();
    if let Ok(inner @ Value::Object(_)) = serde_json::from_str(message) {
        add(&inner);
        own.message = None;
    }
    own
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(error: &Value) -> Refusal {
        let body = json!({ "error": error }).to_string();
        Refusal::read(None, None, body.as_bytes())
    }

    #[test]
    fn shows_nested_errors_the_deepest_first() {
        let details = json!({
            "code": "DeploymentFailed",
            "message": "At least one resource deployment operation failed.",
            "details": [{
                "code": "Conflict",
                "message": json!({ "error": {
                    "code": "ResourceDeploymentFailure",
                    "message": "The resource write operation failed.",
                    "details": [{ "code": "SubnetIsFull", "message": "Subnet nodes is full." }],
                }})
                .to_string(),
            }],
        });
        assert_eq!(
            read(&details).to_string(),
            "SubnetIsFull: Subnet nodes is full.; ResourceDeploymentFailure: The resource write \
             operation failed.; Conflict (in DeploymentFailed: At least one resource deployment \
             operation failed.)"
        );
        let inner = json!({
            "code": "VMExtensionError",
            "message": "Failed.",
            "innererror": {
                "exceptiontype": "Outer",
                "innererror": { "code": "DiskFull", "errordetail": "No space is left." },
            },
        });
        assert_eq!(
            read(&inner).to_string(),
            "DiskFull: No space is left.; Outer (in VMExtensionError: Failed.)"
        );
        assert!(read(&inner).is(&["diskfull"]));
    }

    #[test]
    fn a_repeated_error_is_shown_once() {
        let same = json!({ "code": "NicInUse", "message": "In use.", "details": [
            { "code": "NicInUse", "message": "In use." },
        ]});
        assert_eq!(read(&same).to_string(), "NicInUse: In use.");
    }

    #[test]
    fn bounds_the_depth() {
        let mut error = json!({ "code": "Deepest" });
        for _ in 0..100 {
            error = json!({ "code": "Outer", "message": "Failed.", "innererror": error });
        }
        assert!(!read(&error).is(&["Deepest"]));
    }

    #[test]
    fn unexpected_members_do_not_hide_the_code() {
        let refusal = read(&json!({ "code": "Odd", "message": null, "details": null }));
        assert_eq!(refusal.to_string(), "Odd: Azure reports no reason");
        let body = json!({ "error": "odd", "details": [1, { "code": 2 }] });
        let refusal = Refusal::read(None, None, body.to_string().as_bytes());
        assert_eq!(refusal.code, "Unknown");
    }

    #[test]
    fn reports_the_status_of_a_non_json_body() {
        let refusal = Refusal::read(Some(StatusCode::BAD_GATEWAY), None, b"<html>");
        assert_eq!(refusal.code, "502 Bad Gateway");
    }
}
