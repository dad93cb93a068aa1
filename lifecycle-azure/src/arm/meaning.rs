//! Interprets Azure's error codes. All error codes of Resource Manager are interpreted in this
//! module.

use http::StatusCode;
use lifecycle_core::Error;

use super::refusal::Refusal;

/// The interpretation of an error response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Throttled,
    Quota(Quota),
    /// This subscription cannot use the size in this region or zone.
    NotSold,
    Full(Full),
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
    /// Another resource of the network, for example interfaces.
    Network,
    ResourceGroups,
    /// The region's total quota, for all sizes together.
    Region,
    /// The quota for the sizes of one family.
    Family,
}

/// Azure has nothing left of a resource that has no quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    Region,
    Zone,
    /// No hardware meets all requirements at once.
    Overconstrained,
    Subnet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    NotRegistered,
    Policy,
    Lock,
    DenyAssignment,
    Disabled,
    Login,
    Role,
}

/// The codes of a denial that a role assignment can end.
const ROLE: [&str; 3] = [
    "AuthorizationFailed",
    "LinkedAuthorizationFailed",
    "LinkedAccessCheckFailed",
];

/// The codes with which Azure reports that it does not know a resource, which it may have created
/// a moment ago.
const UNKNOWN: [&str; 6] = [
    "InvalidResourceReference",
    "ReferencedResourceNotProvisioned",
    "ResourceNotFound",
    "ResourceGroupNotFound",
    "ParentResourceNotFound",
    "NotFound",
];

impl Refusal {
    /// Returns whether the requested resource does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// Returns whether a resource that the request refers to does not exist, or is not visible to
    /// all parts of Azure yet.
    pub(crate) fn may_be_too_early(&self) -> bool {
        let is_refused = self.status.is_some_and(|status| status.is_client_error());
        is_refused && self.is(&UNKNOWN)
    }

    /// Returns whether the login has no role that allows the request. A new role assignment takes
    /// effect after some minutes.
    pub(crate) fn lacks_role(&self) -> bool {
        self.status == Some(StatusCode::FORBIDDEN)
            && self.is(&ROLE)
            && self.meaning() == Meaning::Denied(Denial::Role)
    }

    /// Returns the action that the login must not perform, if Azure's message contains it.
    ///
    /// The message of `LinkedAuthorizationFailed` also contains the action that is allowed: "The client
    /// … has permission to perform action 'a' on scope …; however, it does not have permission to
    /// perform action(s) 'b' on the linked scope(s) …".
    pub(crate) fn denied_action(&self) -> Option<&str> {
        self.messages().find_map(|message| {
            let denied = message.split_once("it does not have permission");
            let (_, rest) = denied.unwrap_or(("", message));
            let starts = ["perform action(s) '", "perform action '"];
            { starts.iter() }.find_map(|start| between(rest, start, "'"))
        })
    }

    /// Returns whether the denied action concerns another resource that the request refers to.
    fn is_linked(&self) -> bool {
        self.is(&["LinkedAuthorizationFailed", "LinkedAccessCheckFailed"])
    }

    /// Returns whether the resource already exists or is being changed by another request.
    pub(crate) fn is_taken(&self) -> bool {
        let in_conflict = matches!(
            self.status,
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT)
        );
        in_conflict && matches!(self.meaning(), Meaning::Taken | Meaning::InUse)
    }

    /// Returns whether the request failed because the resource that it creates exists.
    pub(crate) fn shows_existence(&self) -> bool {
        self.status == Some(StatusCode::PRECONDITION_FAILED)
    }

    /// Returns whether a retry with another size or zone may succeed.
    pub(crate) fn may_try_alternative(&self) -> bool {
        matches!(
            self.meaning(),
            Meaning::Quota(Quota::Region | Quota::Family)
                | Meaning::NotSold
                | Meaning::Full(Full::Region | Full::Zone | Full::Overconstrained)
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
        if let Some(quota) = self.quota() {
            return Meaning::Quota(quota);
        }
        let capacities: [(&[&str], Meaning); 5] = [
            (
                &[
                    "SkuNotAvailable",
                    "NotAvailableForSubscription",
                    "AvailabilityZoneNotSupported",
                ],
                Meaning::NotSold,
            ),
            (
                &[
                    "OverconstrainedAllocationRequest",
                    "OverconstrainedZonalAllocationRequest",
                ],
                Meaning::Full(Full::Overconstrained),
            ),
            (&["ZonalAllocationFailed"], Meaning::Full(Full::Zone)),
            (&["AllocationFailed"], Meaning::Full(Full::Region)),
            (&["SubnetIsFull"], Meaning::Full(Full::Subnet)),
        ];
        if let Some((_, meaning)) = capacities.iter().find(|(codes, _)| self.is(codes)) {
            return *meaning;
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
        let denials: [(&[&str], Denial); 5] = [
            (
                &[
                    "MissingSubscriptionRegistration",
                    "SubscriptionNotRegistered",
                ],
                Denial::NotRegistered,
            ),
            (
                &["RequestDisallowedByPolicy", "RequestDisallowedByAzure"],
                Denial::Policy,
            ),
            (&["ScopeLocked"], Denial::Lock),
            (
                &["DenyAssignmentAuthorizationFailed"],
                Denial::DenyAssignment,
            ),
            (
                &[
                    "ReadOnlyDisabledSubscription",
                    "DisabledSubscription",
                    "SubscriptionDisabled",
                ],
                Denial::Disabled,
            ),
        ];
        if let Some((_, denial)) = denials.iter().find(|(codes, _)| self.is(codes)) {
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

    /// Returns the quota that the request exceeds.
    fn quota(&self) -> Option<Quota> {
        if self.is(&["ResourceGroupQuotaExceeded"]) {
            return Some(Quota::ResourceGroups);
        }
        // For example `PublicIPCountLimitReached`, `IPv4StandardSkuPublicIpCountLimitReached`, and
        // `NetworkSecurityGroupCountLimitReached`.
        let mut codes = self.codes().map(str::to_ascii_lowercase);
        if let Some(code) = codes.find(|code| code.ends_with("limitreached")) {
            let is_address = code.contains("publicip");
            return Some(if is_address {
                Quota::PublicAddresses
            } else {
                Quota::Network
            });
        }
        // `OperationNotAllowed` has several causes. Only the message shows whether a quota is
        // exceeded.
        let messages: Vec<String> = self.messages().map(str::to_lowercase).collect();
        let has = |part: &str| messages.iter().any(|message| message.contains(part));
        let is_quota = self.is(&["OperationNotAllowed"]) && has("quota");
        if !is_quota && !self.is(&["QuotaExceeded", "ResourceQuotaExceeded"]) {
            return None;
        }
        Some(if has("public ip") {
            Quota::PublicAddresses
        } else if has("total regional") {
            Quota::Region
        } else {
            Quota::Family
        })
    }

    /// Returns what quota to request and where, or how to do without it.
    fn quota_hint(&self, quota: Quota) -> String {
        let (service, other) = match quota {
            Quota::ResourceGroups => {
                return "remove unused resource groups, or use an existing one \
                        (`cloud.resource_group`)"
                    .to_owned();
            }
            Quota::PublicAddresses => {
                ("Networking", "disable public addresses (`cloud.public_ip`)")
            }
            Quota::Network => ("Networking", "remove unused resources of this type"),
            Quota::Region => ("Compute", "choose a smaller `size` or another location"),
            Quota::Family => ("Compute", "choose a `size` of another family"),
        };
        let find = |start: &str, end: &str| {
            self.messages()
                .find_map(|message| between(message, start, end))
        };
        let least = find("New Limit Required: ", ".")
            .filter(|least| !least.is_empty() && least.chars().all(|digit| digit.is_ascii_digit()));
        let request = match least {
            Some(least) => format!("request a quota of at least {least}"),
            None => "request a higher quota".to_owned(),
        };
        let of = find("exceeding approved ", " quota")
            .map_or_else(String::new, |name| format!(" for `{name}`"));
        let location =
            find("Location: ", ",").map_or_else(String::new, |location| format!(" in {location}"));
        format!("{request}{of}{location} (Azure portal: Quotas, {service}), or {other}")
    }

    /// Converts the refusal to the core's error type. `what` describes the request.
    pub(crate) fn into_error(self, what: String) -> Error {
        let why = self.to_string();
        match self.meaning() {
            Meaning::Throttled => Error::throttled(what, self.retry_after),
            Meaning::Quota(quota) => Error::exhausted(what, why, self.quota_hint(quota)),
            Meaning::NotSold => Error::exhausted(
                what,
                why,
                "choose another `size` or location (`az vm list-skus --location <location>` lists \
                 the sizes that are available to this subscription), or request access to this \
                 size (Azure portal: Quotas, Compute)",
            ),
            Meaning::Full(full) => Error::exhausted(what, why, full.hint()),
            Meaning::InUse | Meaning::Taken => Error::conflict(what, why),
            Meaning::Denied(Denial::Role) if self.is_linked() => {
                Error::denied(what, why, LINKED_ROLE)
            }
            Meaning::Denied(denial) => Error::denied(what, why, denial.hint()),
            Meaning::Absent => Error::not_found(format!("a resource required for {what} ({why})")),
            Meaning::Invalid => {
                Error::invalid(what, why, "correct the setting that Azure's message names")
            }
            Meaning::ServerFailed => Error::interrupted(what, Some(Box::new(self))),
            Meaning::Failed => Error::failed(what, why),
        }
    }
}

impl Full {
    fn hint(self) -> &'static str {
        match self {
            Self::Region => {
                "list more sizes in `size` or more zones in `zones`, choose another location, or \
                 retry later"
            }
            Self::Zone => {
                "list more zones in `zones`, or remove `zones`; list more sizes in `size`, or retry \
                 later"
            }
            Self::Overconstrained => {
                "remove `zones`, list more sizes in `size`, choose another location, or retry later"
            }
            Self::Subnet => {
                "remove unused resources from the subnet, or start a new platform with a larger \
                 `subnet`"
            }
        }
    }
}

/// The hint for a missing role on a resource that a request refers to.
const LINKED_ROLE: &str = "assign a role that allows this action on the linked scope that Azure's message \
                           names (for an identity: `Managed Identity Operator`), or correct the setting \
                           that names this scope (`cloud.identity` or the subnet); a new role \
                           assignment takes up to 10 minutes to take effect";

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
            Self::DenyAssignment => {
                "ask the owner of the deny assignment for an exclusion (`az rest` or the Azure \
                 portal shows it: Access control (IAM), Deny assignments)"
            }
            Self::Disabled => "re-enable the subscription, or choose another subscription",
            Self::Login => "log in again (`az login`), or check the configured credential",
            Self::Role => {
                "assign a role to the account that allows this action (docs/azure.md, Permissions), \
                 on the resource group or, if the group does not exist, on the subscription; a new \
                 role assignment takes up to 10 minutes to take effect"
            }
        }
    }
}

/// Returns the text between two parts of a text.
fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end).map_or(rest, |(found, _)| found))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lifecycle_core::error::Retry;
    use serde_json::{Value, json};

    use super::*;

    fn refusal(status: u16, body: &Value) -> Refusal {
        let status = StatusCode::from_u16(status).unwrap();
        let after = Some(Duration::from_secs(7));
        Refusal::read(Some(status), after, body.to_string().as_bytes())
    }

    fn into_core(status: u16, body: &Value) -> Error {
        refusal(status, body).into_error("VM web".to_owned())
    }

    fn error(code: &str, message: &str) -> Value {
        json!({ "error": { "code": code, "message": message } })
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
        let is = |status, code, expected: fn(&Error) -> bool| {
            let error = into_core(status, &error(code, "so it is"));
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
        is(
            403,
            "DenyAssignmentAuthorizationFailed",
            |e| matches!(e, Error::Denied { hint, .. } if hint.contains("deny assignment")),
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

    /// The messages are from public bug reports.
    #[test]
    fn a_quota_error_names_what_to_request_and_where() {
        let family = "Operation could not be completed as it results in exceeding approved \
             standardBSFamily Cores quota. Additional details - Deployment Model: Resource \
             Manager, Location: westeurope, Current Limit: 0, Current Usage: 0, Additional \
             Required: 2, (Minimum) New Limit Required: 2. Setup Alerts when Quota reaches \
             threshold.";
        let total = "Operation could not be completed as it results in exceeding approved Total \
             Regional Cores quota. Additional details - Location: eastus, (Minimum) New Limit \
             Required: 12.";
        let addresses = "Cannot create more than 10 public IP addresses for this subscription in \
             this region.";
        let groups = "Cannot create more than 5000 network security groups for this subscription \
             in this region.";
        let cases = [
            (
                409,
                "OperationNotAllowed",
                family,
                [
                    "at least 2 for `standardBSFamily Cores` in westeurope",
                    "Quotas, Compute",
                    "another family",
                ],
            ),
            (
                409,
                "QuotaExceeded",
                total,
                [
                    "at least 12 for `Total Regional Cores` in eastus",
                    "Quotas, Compute",
                    "smaller `size`",
                ],
            ),
            (
                400,
                "PublicIPCountLimitReached",
                addresses,
                ["a higher quota", "Quotas, Networking", "cloud.public_ip"],
            ),
            (
                400,
                "IPv4StandardSkuPublicIpCountLimitReached",
                addresses,
                ["a higher quota", "Quotas, Networking", "cloud.public_ip"],
            ),
            (
                400,
                "NetworkSecurityGroupCountLimitReached",
                groups,
                ["a higher quota", "Quotas, Networking", "unused"],
            ),
            (
                409,
                "ResourceGroupQuotaExceeded",
                "980 groups",
                ["unused resource groups", "cloud.resource_group", ""],
            ),
            (
                409,
                "SkuNotAvailable",
                "not here",
                ["another `size`", "Quotas, Compute", ""],
            ),
            (
                409,
                "AllocationFailed",
                "none",
                ["more sizes", "another location", ""],
            ),
            (
                409,
                "ZonalAllocationFailed",
                "none",
                ["remove `zones`", "more sizes", ""],
            ),
            (
                409,
                "OverconstrainedAllocationRequest",
                "none",
                ["remove `zones`", "later", ""],
            ),
            (
                409,
                "OverconstrainedZonalAllocationRequest",
                "none",
                ["remove `zones`", "later", ""],
            ),
            (
                400,
                "SubnetIsFull",
                "none",
                ["larger `subnet`", "unused", ""],
            ),
        ];
        for (status, code, message, parts) in cases {
            for body in [
                error(code, message),
                json!({ "error": { "code": "DeploymentFailed", "details": [
                    { "code": code, "message": message },
                ]}}),
            ] {
                let error = into_core(status, &body);
                assert!(
                    matches!(error, Error::Exhausted { .. }),
                    "{code}: {error:?}"
                );
                let hint = error.hint().unwrap();
                for part in parts {
                    assert!(hint.contains(part), "{code}: {part}: {hint}");
                }
            }
        }
    }

    #[test]
    fn quotas_sizes_and_locks_are_not_mistaken_for_existing_resources() {
        let refusal = |code: &str, message: &str| refusal(409, &error(code, message));
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
    fn only_a_missing_role_may_take_effect_later() {
        let message = "The client 'x' with object id 'y' does not have authorization to perform \
                       action 'Microsoft.Compute/virtualMachines/write' over scope '/z'.";
        for code in ["AuthorizationFailed", "LinkedAuthorizationFailed"] {
            let refusal = refusal(403, &error(code, message));
            assert!(refusal.lacks_role(), "{refusal}");
            let action = refusal.denied_action();
            assert_eq!(action, Some("Microsoft.Compute/virtualMachines/write"));
        }
        let linked = "The client 'x' has permission to perform action \
                      'Microsoft.Compute/virtualMachines/write' on scope '/z'; however, it does not have \
                      permission to perform action(s) \
                      'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked \
                      scope(s) '/i' or the linked scope(s) are invalid.";
        let refusal_of_linked = refusal(403, &error("LinkedAuthorizationFailed", linked));
        assert_eq!(
            refusal_of_linked.denied_action(),
            Some("Microsoft.ManagedIdentity/userAssignedIdentities/assign/action")
        );
        let denied = into_core(403, &error("LinkedAuthorizationFailed", linked));
        assert!(
            denied.hint().unwrap().contains("`cloud.identity`"),
            "{denied:?}"
        );
        for (status, code) in [
            (403, "RequestDisallowedByPolicy"),
            (403, "DisabledSubscription"),
            (403, "DenyAssignmentAuthorizationFailed"),
            (403, "Forbidden"),
            (409, "ReadOnlyDisabledSubscription"),
            (401, "InvalidAuthenticationToken"),
        ] {
            let refusal = refusal(status, &error(code, message));
            assert!(!refusal.lacks_role(), "{refusal}");
        }
    }

    #[test]
    fn only_a_missing_resource_may_appear_later() {
        for (status, code, expected) in [
            (400, "InvalidResourceReference", true),
            (404, "ResourceNotFound", true),
            (404, "ResourceGroupNotFound", true),
            (404, "NotFound", true),
            (404, "PlatformImageNotFound", false),
            (404, "SubscriptionNotFound", false),
            (400, "InvalidParameter", false),
        ] {
            let refusal = refusal(status, &error(code, "so it is"));
            assert_eq!(refusal.may_be_too_early(), expected, "{refusal}");
        }
    }

    #[test]
    fn honors_retry_after() {
        let error = into_core(503, &error("ServerBusy", "later"));
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
    }
}
