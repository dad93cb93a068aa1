//! Interprets the failures of requests to Resource Manager. All of Azure's error codes are
//! interpreted in this module.

use std::time::Duration;

use http::StatusCode;
use lifecycle_core::Error;
use serde_json::Value;
use thiserror::Error as ThisError;

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
    #[error("the connection could not be opened")]
    Unreachable(#[source] reqwest::Error),
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
            Self::Unreachable(error)
        } else if error.is_timeout() {
            Self::TimedOut(error)
        } else {
            Self::Broken(error)
        }
    }
}

/// Azure's error response.
#[derive(Debug, Clone, ThisError)]
#[error("{code}: {message}")]
pub(crate) struct Refusal {
    /// The HTTP status, or `None` for an operation that failed after Azure had accepted it.
    pub(crate) status: Option<StatusCode>,
    pub(crate) code: String,
    pub(crate) message: String,
    /// The codes of the nested errors.
    details: Vec<String>,
    pub(crate) retry_after: Option<Duration>,
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
        let text = |of: &Value, name: &str| {
            let text = of.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let unnamed = || status.map_or_else(|| "Unknown".to_owned(), |status| status.to_string());
        let details = error.get("details").and_then(Value::as_array);
        Self {
            status,
            code: text(error, "code").unwrap_or_else(unnamed),
            message: text(error, "message").unwrap_or_else(|| "Azure reports no reason".to_owned()),
            details: details
                .into_iter()
                .flatten()
                .filter_map(|detail| text(detail, "code"))
                .collect(),
            retry_after,
        }
    }

    pub(crate) fn for_vm(code: &str, message: &str) -> Self {
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

    /// Returns whether the requested resource does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// Returns whether the resource already exists or is being changed by another request.
    pub(crate) fn is_taken(&self) -> bool {
        let in_conflict = matches!(
            self.status,
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT)
        );
        in_conflict && matches!(self.meaning(), Meaning::Taken | Meaning::InUse)
    }

    /// Returns whether a retry with another size or zone may succeed.
    pub(crate) fn may_try_alternative(&self) -> bool {
        matches!(
            self.meaning(),
            Meaning::Quota(Quota::Region | Quota::Family) | Meaning::NotSold | Meaning::Full
        )
    }

    /// Returns whether the operation failed because a later operation replaced it.
    pub(crate) fn is_preempted(&self) -> bool {
        self.is(&["OperationPreempted", "Canceled"])
    }

    /// Interprets the status, code, and message of the error. Checks the code before the status:
    /// errors about quotas, sizes, and locks have the same status as conflicts.
    fn meaning(&self) -> Meaning {
        let throttled = self.status == Some(StatusCode::TOO_MANY_REQUESTS)
            || (self.status == Some(StatusCode::SERVICE_UNAVAILABLE) && self.retry_after.is_some());
        if throttled || self.is(&["TooManyRequests", "SubscriptionRequestsThrottled"]) {
            return Meaning::Throttled;
        }
        if self.is(&["PublicIPCountLimitReached"]) {
            return Meaning::Quota(Quota::PublicAddresses);
        }
        // `OperationNotAllowed` has several causes. Only the message shows whether a quota is
        // exceeded.
        let message = self.message.to_lowercase();
        let is_quota = self.is(&["OperationNotAllowed"]) && message.contains("quota");
        if is_quota || self.is(&["QuotaExceeded"]) {
            return Meaning::Quota(if message.contains("total regional") {
                Quota::Region
            } else {
                Quota::Family
            });
        }
        if self.is(&["SkuNotAvailable", "NotAvailableForSubscription"]) {
            return Meaning::NotSold;
        }
        if self.is(&[
            "AllocationFailed",
            "ZonalAllocationFailed",
            "OverconstrainedAllocationRequest",
            "OverconstrainedZonalAllocationRequest",
        ]) {
            return Meaning::Full;
        }
        if self.is(&[
            "InUseSubnetCannotBeDeleted",
            "InUseNetworkSecurityGroupCannotBeDeleted",
            "NicInUse",
            // A NIC stays reserved for three minutes, according to Azure's message.
            "NicReservedForAnotherVm",
            "PublicIPAddressCannotBeDeleted",
        ]) {
            return Meaning::InUse;
        }
        let denials = [
            ("MissingSubscriptionRegistration", Denial::NotRegistered),
            ("RequestDisallowedByPolicy", Denial::Policy),
            ("ScopeLocked", Denial::Lock),
            ("ReadOnlyDisabledSubscription", Denial::Disabled),
        ];
        if let Some((_, denial)) = denials.iter().find(|(code, _)| self.is(&[code])) {
            return Meaning::Denied(*denial);
        }
        match self.status {
            Some(StatusCode::UNAUTHORIZED) => Meaning::Denied(Denial::Login),
            Some(StatusCode::FORBIDDEN) => Meaning::Denied(Denial::Role),
            Some(StatusCode::NOT_FOUND) => Meaning::Absent,
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT) => Meaning::Taken,
            Some(StatusCode::BAD_REQUEST) => Meaning::Invalid,
            Some(status) if status.is_server_error() => Meaning::ServerFailed,
            _ => Meaning::Failed,
        }
    }

    /// Converts the refusal to the core's error type. `what` describes the request.
    pub(crate) fn into_error(self, what: String) -> Error {
        let why = self.to_string();
        match self.meaning() {
            Meaning::Throttled => Error::throttled(what, self.retry_after),
            Meaning::Quota(quota) => {
                let other = match quota {
                    Quota::PublicAddresses => "disable public addresses (`cloud.public_ip`)",
                    Quota::Region => "choose a smaller `size` or another location",
                    Quota::Family => "choose a `size` of another family",
                };
                let hint = format!(
                    "request a higher quota (Azure portal: Subscriptions, Usage + quotas), or \
                     {other}"
                );
                Error::exhausted(what, why, hint)
            }
            Meaning::NotSold => Error::exhausted(
                what,
                why,
                "choose another `size` or location: `az vm list-skus --location <location>` lists \
                 the sizes that are available to this subscription",
            ),
            Meaning::Full => Error::exhausted(
                what,
                why,
                "list more sizes in `size` or more zones in `zones`, choose another location, or \
                 retry later",
            ),
            Meaning::InUse | Meaning::Taken => Error::conflict(what, why),
            Meaning::Denied(denial) => Error::denied(what, why, denial.hint()),
            Meaning::Absent => Error::not_found(format!("a resource required for {what}")),
            Meaning::Invalid => {
                Error::invalid(what, why, "correct the setting that Azure's message names")
            }
            Meaning::ServerFailed => Error::interrupted(what, Some(Box::new(self))),
            Meaning::Failed => Error::failed(what, why),
        }
    }
}

/// The interpretation of an error response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Throttled,
    Quota(Quota),
    /// This subscription cannot use the size in this region or zone.
    NotSold,
    /// Azure has no capacity left for this size.
    Full,
    /// The resource cannot be deleted: another resource uses it.
    InUse,
    Denied(Denial),
    Absent,
    /// The resource already exists, or another request is changing it.
    Taken,
    Invalid,
    ServerFailed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quota {
    PublicAddresses,
    /// The region's total quota, for all sizes together.
    Region,
    /// The quota for the sizes of one family.
    Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    NotRegistered,
    Policy,
    Lock,
    Disabled,
    Login,
    Role,
}

impl Denial {
    fn hint(self) -> &'static str {
        match self {
            Self::NotRegistered => {
                "register the resource provider that Azure's message names: `az provider register \
                 --namespace Microsoft.Compute` (or `Microsoft.Network`)"
            }
            Self::Policy => {
                "ask the administrator of the subscription's policies for an exemption, or choose \
                 values that the policies allow"
            }
            Self::Lock => "remove the lock (`az lock list` shows it)",
            Self::Disabled => "re-enable the subscription, or choose another subscription",
            Self::Login => "log in again (`az login`), or check the configured credential",
            Self::Role => {
                "assign the role Contributor to the account, on the resource group or, if the \
                 group does not exist, on the subscription"
            }
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

    fn into_core(status: u16, body: &Value) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        let after = Some(Duration::from_secs(7));
        let refusal = Refusal::read(Some(status), after, body.to_string().as_bytes());
        Failure::Refused(refusal).into_error("VM web")
    }

    #[test]
    fn distinguishes_throttling_from_quota() {
        let error = into_core(
            429,
            &json!({
                "code": "OperationNotAllowed",
                "message": "The server rejected the request because too many requests have been received.",
                "details": [{"code": "TooManyRequests", "target": "PutVM", "message": "{}"}],
            }),
        );
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
        let error = into_core(
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
    fn maps_each_error_code() {
        let error = |code: &str| json!({"error": {"code": code, "message": "so it is"}});
        let is = |status, code, expected: fn(&Error) -> bool| {
            let error = into_core(status, &error(code));
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
    fn quotas_sizes_and_locks_are_not_mistaken_for_existing_resources() {
        let refusal = |code: &str, message: &str| Refusal {
            status: Some(StatusCode::CONFLICT),
            ..Refusal::for_vm(code, message)
        };
        let quota = refusal(
            "OperationNotAllowed",
            "exceeding approved Total Regional Cores quota",
        );
        let addresses = refusal("PublicIPCountLimitReached", "no more");
        let locked = refusal("ScopeLocked", "locked");
        let in_use = refusal("NicInUse", "in use");
        let size = refusal("SkuNotAvailable", "not here");
        let exists = refusal("Conflict", "exists");
        for (refusal, is_taken, may_try_alternative) in [
            (&quota, false, true),
            (&addresses, false, false),
            (&locked, false, false),
            (&size, false, true),
            (&in_use, true, false),
            (&exists, true, false),
        ] {
            assert_eq!(refusal.is_taken(), is_taken, "{refusal}");
            assert_eq!(
                refusal.may_try_alternative(),
                may_try_alternative,
                "{refusal}"
            );
        }
    }

    #[test]
    fn honors_retry_after() {
        let error = into_core(
            503,
            &json!({"error": {"code": "ServerBusy", "message": "later"}}),
        );
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
    }

    #[test]
    fn unexpected_members_do_not_hide_the_code() {
        let body = json!({"error": {"code": "Odd", "message": null, "details": null}});
        let refusal = Refusal::read(None, None, body.to_string().as_bytes());
        assert_eq!(refusal.to_string(), "Odd: Azure reports no reason");
        let body = json!({"error": "odd", "details": [1, {"code": 2}]});
        let refusal = Refusal::read(None, None, body.to_string().as_bytes());
        assert_eq!(refusal.code, "Unknown");
    }

    #[test]
    fn reports_the_status_of_a_non_json_body() {
        let refusal = Refusal::read(Some(StatusCode::BAD_GATEWAY), None, b"<html>");
        assert_eq!(refusal.code, "502 Bad Gateway");
    }
}
