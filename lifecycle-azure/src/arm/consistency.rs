//! Recognizes requests that fail because a part of Azure does not know a new resource yet.

use std::time::Duration;

use super::failure::{Failure, Refusal};

/// How long Azure may report that a resource does not exist after it was created.
pub(crate) const VISIBLE_WITHIN: Duration = Duration::from_mins(2);

/// Returns whether a resource that a request refers to may become visible later.
pub(crate) fn is_too_early(failure: &Failure) -> bool {
    failure.refusal().is_some_and(Refusal::may_be_too_early)
}
