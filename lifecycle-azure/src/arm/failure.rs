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
        let in_conflict = matches!(
            self.status,
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT)
        );
        in_conflict && matches!(self.meaning(), Meaning::Taken | Meaning::InUse)
    }

    /// Whether another size or zone may be available instead.
    pub(crate) fn may_try_alternative(&self) -> bool {
        matches!(
            self.meaning(),
            Meaning::Quota(Quota::Region | Quota::Family) | Meaning::NotSold | Meaning::Full
        )
    }

    /// Whether a later operation replaced one that was in progress.
    pub(crate) fn is_preempted(&self) -> bool {
        self.is(&["OperationPreempted", "Canceled"])
    }

    /// The one place that interprets Azure's statuses, codes and messages. Codes come before the
    /// status, since quotas, sizes and locks share the status of a conflict.
    fn meaning(&self) -> Meaning {
        let throttled = self.status == Some(StatusCode::TOO_MANY_REQUESTS)
            || (self.status == Some(StatusCode::SERVICE_UNAVAILABLE) && self.retry_after.is_some());
        if throttled || self.is(&["TooManyRequests", "SubscriptionRequestsThrottled"]) {
            return Meaning::Throttled;
        }
        if self.is(&["PublicIPCountLimitReached"]) {
            return Meaning::Quota(Quota::PublicAddresses);
        }
        // This code has several causes; only the message tells a quota from the others.
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
            // For three minutes, as its message says.
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

    /// The error of a request for `what`.
    pub(crate) fn into_error(self, what: String) -> Error {
        let why = self.to_string();
        match self.meaning() {
            Meaning::Throttled => Error::throttled(what, self.retry_after),
            Meaning::Quota(quota) => {
                let other = match quota {
                    Quota::PublicAddresses => "do without public addresses (`cloud.public_ip`)",
                    Quota::Region => "choose a smaller `size` or another location",
                    Quota::Family => "choose a `size` of another family",
                };
                let hint = format!(
                    "ask for a higher quota (Azure portal: Subscriptions, Usage + quotas), or \
                     {other}"
                );
                Error::exhausted(what, why, hint)
            }
            Meaning::NotSold => Error::exhausted(
                what,
                why,
                "choose another `size` or location: `az vm list-skus --location <location>` \
                 lists what this subscription can have",
            ),
            Meaning::Full => Error::exhausted(
                what,
                why,
                "Azure has no room for this size there now: list further ones in `size`, \
                 or `zones`, choose another location, or try again later",
            ),
            Meaning::InUse | Meaning::Taken => Error::conflict(what, why),
            Meaning::Denied(denial) => Error::denied(what, why, denial.hint()),
            Meaning::Absent => Error::not_found(what),
            Meaning::Invalid => Error::invalid(what, why, "change what Azure names"),
            Meaning::ServerFailed => Error::interrupted(what, Some(Box::new(self))),
            Meaning::Failed => Error::failed(what, why),
        }
    }
}

/// What a refusal means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Throttled,
    Quota(Quota),
    /// This subscription cannot have such a VM there.
    NotSold,
    /// All such VMs are taken.
    Full,
    /// Another resource uses it, so it cannot be deleted.
    InUse,
    Denied(Denial),
    Absent,
    /// It exists already, or another request changes it.
    Taken,
    Invalid,
    ServerFailed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quota {
    PublicAddresses,
    /// All sizes of the region together.
    Region,
    /// The sizes of one family.
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
                "register what Azure names: `az provider register --namespace \
                 Microsoft.Compute`, and the same for Microsoft.Network"
            }
            Self::Policy => {
                "ask whoever keeps the subscription's policies for an exemption, or choose what \
                 they allow"
            }
            Self::Lock => "remove the lock (`az lock list` shows it)",
            Self::Disabled => "enable the subscription again, or choose another",
            Self::Login => "log in again (`az login`), or check the configured credential",
            Self::Role => {
                "give the account the role Contributor on the resource group, or on the \
                 subscription if the group is to be made"
            }
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
    fn quotas_sizes_and_locks_are_not_taken_for_existing_resources() {
        let refusal = |code: &str, message: &str| Refusal {
            status: Some(StatusCode::CONFLICT),
            ..Refusal::of_machine(code, message)
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
