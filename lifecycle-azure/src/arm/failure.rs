//! What goes wrong between us and Resource Manager, and what it means: all codes of Azure are told
//! apart here.

use std::time::Duration;

use http::StatusCode;
use lifecycle_core::Error;
use serde_json::Value;
use thiserror::Error as ThisError;

/// Why a request has no answer that could be used.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    /// Azure refused it, or an operation failed.
    #[error("{0}")]
    Refused(Refusal),
    /// It was not sent, since a token is for Azure alone; the address that was meant.
    #[error("{0} is not Azure's")]
    Elsewhere(String),
    /// It was not sent, since Azure would have refused it.
    #[error("the budget of requests is used up")]
    Held(Duration),
    #[error("the connection was not made")]
    Unreachable(#[source] reqwest::Error),
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    #[error("no answer came in time")]
    TimedOut(#[source] reqwest::Error),
    /// The login failed; in the words of an error of ours.
    #[error("the login failed")]
    Login(#[source] Box<Error>),
    /// An answer that is not what the protocol says.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        if error.is_connect() {
            Self::Unreachable(error)
        } else if error.is_timeout() {
            Self::TimedOut(error)
        } else {
            Self::Broken(error)
        }
    }
}

/// What Azure says when it refuses.
#[derive(Debug, Clone, ThisError)]
#[error("{code}: {message}")]
pub(crate) struct Refusal {
    /// The status of the answer; of an operation that failed there is none.
    pub(crate) status: Option<StatusCode>,
    pub(crate) code: String,
    pub(crate) message: String,
    /// The codes of what lies behind it.
    details: Vec<String>,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads the body of a refusal, or the `error` of an operation: `{"error": {…}}`, or the same
    /// flat, as Compute writes its 429. Member by member, so that one that is odd hides no other.
    pub(crate) fn read(
        status: Option<StatusCode>,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = value.get("error").unwrap_or(&value);
        let text = |of: &Value, name: &str| {
            let text = of.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let unnamed = || status.map_or_else(|| "Unknown".to_owned(), |status| status.to_string());
        let details = error.get("details").and_then(Value::as_array);
        Self {
            status,
            code: text(error, "code").unwrap_or_else(unnamed),
            message: text(error, "message").unwrap_or_else(|| "Azure gives no reason".to_owned()),
            details: details
                .into_iter()
                .flatten()
                .filter_map(|detail| text(detail, "code"))
                .collect(),
            retry_after,
        }
    }

    pub(crate) fn of_machine(code: &str, message: &str) -> Self {
        Self {
            status: None,
            code: code.to_owned(),
            message: message.to_owned(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    fn is(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| {
            self.code.eq_ignore_ascii_case(code)
                || self
                    .details
                    .iter()
                    .any(|detail| detail.eq_ignore_ascii_case(code))
        })
    }

    /// Whether what was asked for is absent.
    pub(crate) fn is_absent(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// Whether something is there already, or being changed by another request.
    pub(crate) fn is_taken(&self) -> bool {
        // Quotas, sizes and locks have the same status, and another meaning.
        matches!(
            self.status,
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT)
        ) && matches!(
            self.clone().into_error(String::new()),
            Error::Conflict { .. }
        )
    }

    /// Whether another size or zone may be had instead.
    pub(crate) fn is_no_room(&self) -> bool {
        let addresses = self.is(&["PublicIPCountLimitReached"]);
        (self.is_quota() && !addresses) || self.is_not_sold() || self.is_full()
    }

    /// Whether this subscription cannot have such a VM there.
    fn is_not_sold(&self) -> bool {
        self.is(&["SkuNotAvailable", "NotAvailableForSubscription"])
    }

    /// Whether all such VMs are taken.
    fn is_full(&self) -> bool {
        self.is(&[
            "AllocationFailed",
            "ZonalAllocationFailed",
            "OverconstrainedAllocationRequest",
            "OverconstrainedZonalAllocationRequest",
        ])
    }

    /// A quota has the code of much else; its message tells it ("…exceeding approved … quota").
    fn is_quota(&self) -> bool {
        self.is(&["QuotaExceeded", "PublicIPCountLimitReached"])
            || (self.is(&["OperationNotAllowed"]) && self.message.to_lowercase().contains("quota"))
    }

    /// Whether a later operation took the place of one that was under way.
    pub(crate) fn is_preempted(&self) -> bool {
        self.is(&["OperationPreempted", "Canceled"])
    }

    fn is_throttled(&self) -> bool {
        self.status == Some(StatusCode::TOO_MANY_REQUESTS)
            || (self.status == Some(StatusCode::SERVICE_UNAVAILABLE) && self.retry_after.is_some())
            || self.is(&["TooManyRequests", "SubscriptionRequestsThrottled"])
    }

    /// What it means for who asked for `what`.
    pub(crate) fn into_error(self, what: String) -> Error {
        if self.is_throttled() {
            return Error::throttled(what, self.retry_after);
        }
        let why = self.to_string();
        let exhausted = |what: String, why: String, hint: &str| Error::exhausted(what, why, hint);
        if self.is_quota() {
            let other = if self.is(&["PublicIPCountLimitReached"]) {
                "do without public addresses (`cloud.public_ip`)"
            } else if why.to_lowercase().contains("total regional") {
                "choose a smaller `size` or another location"
            } else {
                "choose a `size` of another family"
            };
            let hint = format!(
                "ask for a higher quota (Azure portal: Subscriptions, Usage + quotas), or {other}"
            );
            return exhausted(what, why, &hint);
        }
        if self.is_not_sold() {
            let hint = "choose another `size` or location: `az vm list-skus --location <location>` \
                        lists what this subscription can have";
            return exhausted(what, why, hint);
        }
        if self.is_full() {
            let hint = "Azure has no room for this size there now: list further ones in `size`, \
                        or `zones`, choose another location, or try again later";
            return exhausted(what, why, hint);
        }
        let in_use = [
            "InUseSubnetCannotBeDeleted",
            "InUseNetworkSecurityGroupCannotBeDeleted",
            "NicInUse",
            // For three minutes, as its message says.
            "NicReservedForAnotherVm",
            "PublicIPAddressCannotBeDeleted",
        ];
        if self.is(&in_use) {
            return Error::conflict(what, why);
        }
        let denials = [
            (
                "MissingSubscriptionRegistration",
                "register what Azure names: `az provider register --namespace Microsoft.Compute`, \
                 and the same for Microsoft.Network",
            ),
            (
                "RequestDisallowedByPolicy",
                "ask whoever keeps the subscription's policies for an exemption, or choose what \
                 they allow",
            ),
            ("ScopeLocked", "remove the lock (`az lock list` shows it)"),
            (
                "ReadOnlyDisabledSubscription",
                "enable the subscription again, or choose another",
            ),
        ];
        if let Some((_, hint)) = denials.iter().find(|(code, _)| self.is(&[code])) {
            return Error::denied(what, why, *hint);
        }
        match self.status {
            Some(StatusCode::UNAUTHORIZED) => Error::denied(
                what,
                why,
                "log in again (`az login`), or check the configured credential",
            ),
            Some(StatusCode::FORBIDDEN) => Error::denied(
                what,
                why,
                "give the account the role Contributor on the resource group, or on the \
                       subscription if the group is to be made",
            ),
            Some(StatusCode::NOT_FOUND) => Error::not_found(what),
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT) => {
                Error::conflict(what, why)
            }
            Some(StatusCode::BAD_REQUEST) => Error::invalid(what, why, "change what Azure names"),
            Some(status) if status.is_server_error() => {
                Error::interrupted(what, Some(Box::new(self)))
            }
            _ => Error::failed(what, why),
        }
    }
}

impl Failure {
    /// Azure's own refusal, if it is one.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What it means for who asked for `what`.
    pub(crate) fn into_error(self, what: impl Into<String>) -> Error {
        let what = what.into();
        match self {
            Self::Refused(refusal) => refusal.into_error(what),
            Self::Held(after) => Error::throttled(what, Some(after)),
            Self::Elsewhere(ref url) => Error::denied(
                what,
                format!("it leads to {url}, which is not Resource Manager"),
                "check `cloud.endpoint`",
            ),
            Self::Unreachable(source) => {
                Error::unreachable("Azure Resource Manager", Some(Box::new(source)))
            }
            Self::Broken(source) | Self::TimedOut(source) => {
                Error::interrupted(what, Some(Box::new(source)))
            }
            Self::Login(error) => *error,
            Self::Unreadable(why) => Error::interrupted(what, Some(why.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use lifecycle_core::error::Retry;
    use serde_json::json;

    use super::*;

    fn meant(status: u16, body: &Value) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        let after = Some(Duration::from_secs(7));
        let refusal = Refusal::read(Some(status), after, body.to_string().as_bytes());
        Failure::Refused(refusal).into_error("VM web")
    }

    #[test]
    fn throttling_and_quota_have_one_code_and_are_told_apart() {
        let error = meant(
            429,
            &json!({
                "code": "OperationNotAllowed",
                "message": "The server rejected the request because too many requests have been received.",
                "details": [{"code": "TooManyRequests", "target": "PutVM", "message": "{}"}],
            }),
        );
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
        let error = meant(
            409,
            &json!({"error": {
                "code": "OperationNotAllowed",
                "message": "Operation could not be completed as it results in exceeding approved \
                            standardDSv5Family Cores quota.",
            }}),
        );
        assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("quota")));
    }

    #[test]
    fn each_refusal_has_its_meaning() {
        let error = |code: &str| json!({"error": {"code": code, "message": "so it is"}});
        let is = |status, code, expected: fn(&Error) -> bool| {
            let error = meant(status, &error(code));
            assert!(expected(&error), "{status} {code}: {error:?}");
        };
        is(409, "SkuNotAvailable", |e| {
            matches!(e, Error::Exhausted { .. })
        });
        is(200, "AllocationFailed", |e| {
            matches!(e, Error::Exhausted { .. })
        });
        is(401, "ExpiredAuthenticationToken", |e| {
            matches!(e, Error::Denied { .. })
        });
        is(403, "AuthorizationFailed", |e| {
            matches!(e, Error::Denied { .. })
        });
        is(404, "ResourceNotFound", |e| {
            matches!(e, Error::NotFound { .. })
        });
        is(
            409,
            "MissingSubscriptionRegistration",
            |e| matches!(e, Error::Denied { hint, .. } if hint.contains("az provider register")),
        );
        is(
            403,
            "RequestDisallowedByPolicy",
            |e| matches!(e, Error::Denied { hint, .. } if hint.contains("exemption")),
        );
        is(412, "PreconditionFailed", |e| {
            matches!(e, Error::Conflict { .. })
        });
        is(400, "InvalidParameter", |e| {
            matches!(e, Error::Invalid { .. })
        });
        is(500, "InternalServerError", |e| {
            matches!(e, Error::Interrupted { .. })
        });
        is(200, "OSProvisioningTimedOut", |e| {
            matches!(e, Error::Failed { .. })
        });
    }

    #[test]
    fn a_server_that_names_a_time_is_left_alone_until_then() {
        let error = meant(
            503,
            &json!({"error": {"code": "ServerBusy", "message": "later"}}),
        );
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
    }

    #[test]
    fn odd_members_do_not_hide_the_code() {
        let body = json!({"error": {"code": "Odd", "message": null, "details": null}});
        let refusal = Refusal::read(None, None, body.to_string().as_bytes());
        assert_eq!(refusal.to_string(), "Odd: Azure gives no reason");
        let body = json!({"error": "odd", "details": [1, {"code": 2}]});
        let refusal = Refusal::read(None, None, body.to_string().as_bytes());
        assert_eq!(refusal.code, "Unknown");
    }

    #[test]
    fn what_is_no_json_still_says_the_status() {
        let refusal = Refusal::read(Some(StatusCode::BAD_GATEWAY), None, b"<html>");
        assert_eq!(refusal.code, "502 Bad Gateway");
    }
}
