//! Represents resource ids: `/subscriptions/…/resourceGroups/…/providers/…`. An id keeps the case
//! with which it was created. Comparisons ignore case.

use std::fmt;

/// The id of a resource. Ids that differ only in case are equal.
#[derive(Debug, Clone)]
pub(crate) struct ResourceId {
    pub(crate) subscription: String,
    pub(crate) group: String,
    /// The resource type, for example `Microsoft.Compute/virtualMachines`.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

/// The key of a resource: its id in lower case.
pub(crate) type Key = String;

impl ResourceId {
    pub(crate) fn new(subscription: &str, group: &str, kind: &'static str, name: &str) -> Self {
        Self {
            subscription: subscription.to_owned(),
            group: group.to_owned(),
            kind,
            name: name.to_owned(),
        }
    }

    pub(crate) fn key(&self) -> Key {
        self.to_string().to_lowercase()
    }

    /// Returns the id of another resource in the same group.
    pub(crate) fn sibling(&self, kind: &'static str, name: &str) -> Self {
        Self::new(&self.subscription, &self.group, kind, name)
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "/subscriptions/{}/resourceGroups/{}/providers/{}/{}",
            self.subscription, self.group, self.kind, self.name
        )
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ResourceId {}

/// Returns the key of a resource group.
pub(crate) fn group_key(subscription: &str, group: &str) -> Key {
    format!("/subscriptions/{subscription}/resourcegroups/{group}").to_lowercase()
}

/// Returns the key for an id, regardless of the id's case.
pub(crate) fn key_of(id: &str) -> Key {
    id.trim_end_matches('/').to_lowercase()
}
