//! Defines the tags that mark all of the platform's resources in Azure. The tags are set when a
//! resource is created.

use std::collections::BTreeMap;

use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Owner;
use serde_json::Value;

/// The platform's name, for display only.
pub(crate) const PLATFORM: &str = "lifecycle.platform";
/// The platform's id, which identifies the owner of the resource.
pub(crate) const PLATFORM_ID: &str = "lifecycle.platform-id";
pub(crate) const NODE: &str = "lifecycle.node";
/// `yes` on VMs that this program created, and may therefore delete.
pub(crate) const CREATED: &str = "lifecycle.created";
/// The id of the attempt that created the VM, which also appears in the log.
pub(crate) const RUN: &str = "lifecycle.run";
/// The failed alternatives of a node that has several. The tag is on the node's VM. From the
/// removal of a failed VM until the next attempt, the tag is on the network, with the node's name
/// appended to the key.
pub(crate) const TRIED: &str = "lifecycle.tried";
/// The public part of the VM's SSH host key.
pub(crate) const HOST_KEY: &str = "lifecycle.host-key";
/// The user account on the VM.
pub(crate) const ACCOUNT: &str = "lifecycle.account";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Returns the tags of a resource that this program creates for an owner.
    pub(crate) fn of(owner: &Owner) -> Self {
        Self::default()
            .with(PLATFORM, owner.name.as_str())
            .with(PLATFORM_ID, &owner.id.to_string())
            .with(CREATED, "yes")
    }

    /// Sets a tag. Replaces a tag whose key differs only in case: Azure treats such keys as equal
    /// and rejects duplicates.
    pub(crate) fn with(self, key: &str, value: &str) -> Self {
        let mut tags = self.without(key);
        tags.0.insert(key.to_owned(), value.to_owned());
        tags
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.0.retain(|known, _| !known.eq_ignore_ascii_case(key));
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Parses the `tags` of a resource.
    pub(crate) fn read(tags: Option<&Value>) -> Self {
        let tags = tags.and_then(Value::as_object).into_iter().flatten();
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        Self(tags.filter_map(text).collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        // Azure preserves the case of tag keys but compares them case-insensitively.
        let mut tags = self.0.iter();
        let found = tags.find(|(known, _)| known.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns whether the resource belongs to `owner`.
    pub(crate) fn are_of(&self, owner: &Owner) -> bool {
        self.get(PLATFORM_ID) == Some(owner.id.to_string().as_str())
    }

    pub(crate) fn node(&self) -> Option<NodeName> {
        NodeName::try_from(self.get(NODE)?).ok()
    }

    pub(crate) fn to_value(&self) -> Value {
        self.0
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tag_keys_ignore_case() {
        let there = json!({ "Lifecycle.Node": "old", "other": "stays", "odd": 1 });
        let tags = Tags::read(Some(&there)).with(NODE, "new");
        assert_eq!(
            tags.to_value(),
            json!({ "lifecycle.node": "new", "other": "stays" })
        );
        assert_eq!(tags.get("LIFECYCLE.NODE"), Some("new"));
    }
}
