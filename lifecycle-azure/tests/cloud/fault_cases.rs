//! Lists Azure's faults, the steps of a node's lifecycle in which they can occur, and their
//! expected results.

use std::time::Duration;

use http::StatusCode;
use lifecycle_azure::simulator::Fault;
use lifecycle_core::Error;
use serde_json::json;

use crate::steps::{self, Step};

/// A fault and the steps in which it can occur.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The description of the fault on the generated page.
    pub(crate) about: &'static str,
    pub(crate) fault: fn() -> Fault,
    pub(crate) steps: Vec<Step>,
    pub(crate) expected: Expected,
}

/// The expected result of a run.
pub(crate) enum Expected {
    /// The node is always running at the end of the run.
    Usable,
    /// The run either recovers, or fails with an error that satisfies the function and contains the
    /// text.
    Error(fn(&Error) -> bool, &'static str),
    /// The change reports this progress until the change is abandoned.
    Lasts(&'static str),
}

/// Returns all steps in which a request can be rejected or lost.
fn all_steps() -> Vec<Step> {
    let mut all = vec![steps::TOKEN];
    all.extend(asked_of_azure());
    all
}

fn asked_of_azure() -> Vec<Step> {
    vec![
        steps::VM,
        steps::VMS,
        steps::GROUP,
        steps::MAKE_GROUP,
        steps::RULES,
        steps::MAKE_RULES,
        steps::POLL_RULES,
        steps::NETWORK,
        steps::MAKE_NETWORK,
        steps::POLL_NETWORK,
        steps::MAKE_VM,
        steps::POLL_VM,
        steps::NIC,
        steps::FIX_NIC,
        steps::POLL_NIC,
        steps::PUBLIC,
        steps::TAG_PUBLIC,
        steps::DISK,
        steps::START,
        steps::POLL_START,
    ]
}

/// Returns the steps that start an asynchronous operation.
fn operations() -> Vec<Step> {
    vec![
        steps::MAKE_RULES,
        steps::MAKE_NETWORK,
        steps::MAKE_VM,
        steps::FIX_NIC,
        steps::START,
    ]
}

fn fails(code: &str, message: &str) -> Fault {
    Fault::OperationFails {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

/// Returns all cases, in the order in which the generated page lists them.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = of_requests();
    all.extend(of_capacity());
    all.extend(of_permissions());
    all.extend(of_operations());
    all
}

/// Returns the faults of a single request, which can occur in any step.
fn of_requests() -> Vec<Case> {
    vec![
        Case {
            name: "Connection dropped",
            about: "The connection closes before the request has an effect.",
            fault: || Fault::Dropped,
            steps: all_steps(),
            expected: Expected::Error(|e| matches!(e, Error::Interrupted { .. }), "interrupted"),
        },
        Case {
            name: "Response lost",
            about: "The request takes effect, and the connection closes before the response.",
            fault: || Fault::AnswerLost,
            steps: all_steps(),
            expected: Expected::Error(|e| matches!(e, Error::Interrupted { .. }), "interrupted"),
        },
        Case {
            name: "429 with Retry-After",
            about: "Too many requests.",
            fault: || Fault::Throttled {
                retry_after: Duration::from_secs(1),
            },
            steps: all_steps(),
            expected: Expected::Error(|e| matches!(e, Error::Throttled { .. }), "throttled"),
        },
        Case {
            name: "503",
            about: "Azure is briefly unavailable.",
            fault: || {
                let message = "The service is unavailable now, retry the request later.";
                Fault::error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "ServiceUnavailable",
                    message,
                )
            },
            steps: all_steps(),
            expected: Expected::Error(
                |e| matches!(e, Error::Interrupted { .. }),
                "ServiceUnavailable",
            ),
        },
        Case {
            name: "Expired token",
            about: "401: Azure rejects the token before its expiry.",
            fault: || {
                Fault::error(
                    StatusCode::UNAUTHORIZED,
                    "ExpiredAuthenticationToken",
                    "The access token expiry UTC time is earlier than current UTC time.",
                )
            },
            steps: asked_of_azure(),
            expected: Expected::Error(
                |e| matches!(e, Error::Denied { .. }),
                "ExpiredAuthenticationToken",
            ),
        },
        Case {
            name: "Login refused",
            about: "The client secret has expired, or is wrong.",
            fault: || {
                Fault::json(
                    StatusCode::UNAUTHORIZED,
                    &json!({
                        "error": "invalid_client",
                        "error_description": "AADSTS7000215: Invalid client secret provided.",
                    }),
                )
            },
            steps: vec![steps::TOKEN],
            expected: Expected::Error(|e| matches!(e, Error::Denied { .. }), "AADSTS7000215"),
        },
        Case {
            name: "Another operation in progress",
            about: "Another client is changing the same network.",
            fault: || {
                Fault::error(
                    StatusCode::CONFLICT,
                    "AnotherOperationInProgress",
                    "Another operation on this or dependent resource is in progress.",
                )
            },
            steps: vec![steps::MAKE_RULES, steps::MAKE_NETWORK, steps::FIX_NIC],
            expected: Expected::Error(
                |e| matches!(e, Error::Conflict { .. }),
                "AnotherOperationInProgress",
            ),
        },
    ]
}

/// Returns the faults that are caused by missing capacity or an exceeded quota.
fn of_capacity() -> Vec<Case> {
    let exhausted: fn(&Error) -> bool = |e| matches!(e, Error::Exhausted { .. });
    let vms = || vec![steps::MAKE_VM, steps::START];
    vec![
        Case {
            name: "AllocationFailed",
            about: "The region has no capacity for a VM of this size now.",
            fault: || Fault::AllocationFailed,
            steps: vms(),
            expected: Expected::Error(exhausted, "AllocationFailed"),
        },
        Case {
            name: "ZonalAllocationFailed",
            about: "The zone has no capacity for a VM of this size now.",
            fault: || {
                let message = "Allocation failed. We do not have sufficient capacity for the \
                               requested VM size in this zone.";
                fails("ZonalAllocationFailed", message)
            },
            steps: vms(),
            expected: Expected::Error(exhausted, "ZonalAllocationFailed"),
        },
        Case {
            name: "SkuNotAvailable",
            about: "VMs of this size are not available to this subscription in this region.",
            fault: || {
                Fault::error(
                    StatusCode::CONFLICT,
                    "SkuNotAvailable",
                    "The requested VM size Standard_B2s is currently not available in location \
                     'westeurope'. Please try another size or deploy to a different location.",
                )
            },
            steps: vms(),
            expected: Expected::Error(exhausted, "SkuNotAvailable"),
        },
        Case {
            name: "Quota of the family",
            about: "The subscription's quota for cores of this family in this region is used up.",
            fault: || Fault::QuotaExceeded,
            steps: vec![steps::MAKE_VM],
            expected: Expected::Error(exhausted, "standardBSFamily Cores quota"),
        },
        Case {
            name: "Quota of the region",
            about: "The subscription's quota for cores in this region is used up.",
            fault: || {
                Fault::error(
                    StatusCode::CONFLICT,
                    "OperationNotAllowed",
                    "Operation could not be completed as it results in exceeding approved Total \
                     Regional Cores quota. Additional details - Current Limit: 10, Current Usage: \
                     10, Additional Required: 2, (Minimum) New Limit Required: 12.",
                )
            },
            steps: vec![steps::MAKE_VM],
            expected: Expected::Error(exhausted, "Total Regional Cores quota"),
        },
        Case {
            name: "Quota of public addresses",
            about: "The subscription's quota for public addresses in this region is used up.",
            fault: || {
                Fault::error(
                    StatusCode::BAD_REQUEST,
                    "PublicIPCountLimitReached",
                    "Cannot create more than 10 public IP addresses for this subscription in this \
                     region.",
                )
            },
            steps: vec![steps::MAKE_VM],
            expected: Expected::Error(exhausted, "PublicIPCountLimitReached"),
        },
        Case {
            name: "NIC reservation",
            about: "An interface is reserved for a VM whose creation was rejected shortly before.",
            fault: || {
                Fault::error(
                    StatusCode::BAD_REQUEST,
                    "NicReservedForAnotherVm",
                    "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. \
                     Please provide another nic(s) or retry after 180 seconds.",
                )
            },
            steps: vec![steps::MAKE_VM],
            expected: Expected::Error(
                |e| matches!(e, Error::Conflict { .. }),
                "retry after 180 seconds",
            ),
        },
    ]
}

/// Returns the faults that a person must resolve.
fn of_permissions() -> Vec<Case> {
    let denied: fn(&Error) -> bool = |e| matches!(e, Error::Denied { .. });
    let case = |name, about, fault, code| Case {
        name,
        about,
        fault,
        steps: vec![
            steps::MAKE_GROUP,
            steps::MAKE_RULES,
            steps::MAKE_NETWORK,
            steps::MAKE_VM,
            steps::FIX_NIC,
            steps::START,
        ],
        expected: Expected::Error(denied, code),
    };
    vec![
        case(
            "Missing role",
            "The login lacks the permission.",
            || {
                let message = "The client does not have authorization to perform the action.";
                Fault::error(StatusCode::FORBIDDEN, "AuthorizationFailed", message)
            },
            "AuthorizationFailed",
        ),
        case(
            "Lock",
            "A lock on the group or the subscription forbids the operation.",
            || {
                let message = "The scope is locked. Please remove the lock and try again.";
                Fault::error(StatusCode::CONFLICT, "ScopeLocked", message)
            },
            "ScopeLocked",
        ),
        case(
            "Policy",
            "A policy of the organization forbids the operation.",
            || {
                let message = "Resource was disallowed by policy.";
                Fault::error(StatusCode::FORBIDDEN, "RequestDisallowedByPolicy", message)
            },
            "RequestDisallowedByPolicy",
        ),
        case(
            "Disabled subscription",
            "The subscription is unpaid, or was disabled.",
            || {
                let message = "The subscription is disabled and therefore marked as read only.";
                Fault::error(
                    StatusCode::CONFLICT,
                    "ReadOnlyDisabledSubscription",
                    message,
                )
            },
            "ReadOnlyDisabledSubscription",
        ),
        case(
            "Unregistered provider",
            "The subscription has never used this part of Azure.",
            || {
                let message = "The subscription is not registered to use namespace \
                               'Microsoft.Network'.";
                Fault::error(
                    StatusCode::CONFLICT,
                    "MissingSubscriptionRegistration",
                    message,
                )
            },
            "MissingSubscriptionRegistration",
        ),
    ]
}

/// Returns the faults of operations that Azure has already accepted.
fn of_operations() -> Vec<Case> {
    vec![
        Case {
            name: "Slow operation",
            about: "The operation takes longer than usual.",
            fault: || Fault::SlowOperation(Duration::from_millis(300)),
            steps: operations(),
            expected: Expected::Usable,
        },
        Case {
            name: "Operation that fails",
            about: "Azure accepts the operation, which then fails.",
            fault: || {
                let message = "An internal execution error occurred. Please retry later.";
                fails("InternalExecutionError", message)
            },
            steps: operations(),
            expected: Expected::Error(|e| matches!(e, Error::Failed { .. }), "failed"),
        },
        Case {
            name: "Boot that fails",
            about: "The VM is created, but its operating system does not boot.",
            fault: || {
                let message = "OS Provisioning for VM 'one' did not finish in the allotted time.";
                fails("OSProvisioningTimedOut", message)
            },
            steps: vec![steps::MAKE_VM],
            expected: Expected::Error(
                |e| matches!(e, Error::Failed { .. }),
                "OSProvisioningTimedOut",
            ),
        },
        Case {
            name: "VM that stays `Creating`",
            about: "The operation never completes.",
            fault: || Fault::NeverEnds,
            steps: vec![steps::MAKE_VM],
            expected: Expected::Lasts("Azure reports Creating"),
        },
        Case {
            name: "Interface that stays `Updating`",
            about: "The operation never completes.",
            fault: || Fault::NeverEnds,
            steps: vec![steps::FIX_NIC],
            expected: Expected::Lasts("Azure is making the VM's address static"),
        },
        Case {
            name: "Start that never completes",
            about: "The operation never completes.",
            fault: || Fault::NeverEnds,
            steps: vec![steps::START],
            expected: Expected::Lasts(""),
        },
    ]
}
