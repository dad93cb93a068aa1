//! What is written on all that is ours in Azure, before it is used: whose it is.

use std::collections::BTreeMap;

use lifecycle_core::model::NodeName;
use lifecycle_core::runtime::Owner;
use serde_json::Value;

/// The platform's name, for people.
pub(crate) const PLATFORM: &str = "lifecycle.platform";
/// The platform's id: whose it is.
pub(crate) const PLATFORM_ID: &str = "lifecycle.platform-id";
/// The node's name.
pub(crate) const NODE: &str = "lifecycle.node";
/// `yes` on what we made, and so may delete.
pub(crate) const CREATED: &str = "lifecycle.created";
/// The attempt that made it: the log of whoever made it names it too.
pub(crate) const RUN: &str = "lifecycle.run";
/// On a VM that is one of several alternatives: what could not be had before it was made. Followed
/// by a node's name, on the network: the same, between the removal of what could not be made and
/// the next attempt.
pub(crate) const TRIED: &str = "lifecycle.tried";
/// The public half of the key that its SSH server identifies itself with.
pub(crate) const HOST_KEY: &str = "lifecycle.host-key";
/// The account that its SSH server knows.
pub(crate) const ACCOUNT: &str = "lifecycle.account";

/// The tags of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Those of what is an owner's and was made by us.
    pub(crate) fn of(owner: &Owner) -> Self {
        Self::default()
            .with(PLATFORM, owner.name.as_str())
            .with(PLATFORM_ID, &owner.id.to_string())
            .with(CREATED, "yes")
    }

    /// Takes the place of one in other capitals too: to Azure they are one, and two are refused.
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

    /// The `tags` of a resource.
    pub(crate) fn read(tags: Option<&Value>) -> Self {
        let tags = tags.and_then(Value::as_object).into_iter().flatten();
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        Self(tags.filter_map(text).collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        // Azure's tags keep their case and are found in any.
        let mut tags = self.0.iter();
        let found = tags.find(|(known, _)| known.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether they are those of an owner.
    pub(crate) fn are_of(&self, owner: &Owner) -> bool {
        self.get(PLATFORM_ID) == Some(owner.id.to_string().as_str())
    }

    /// The node that they name.
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
    fn a_tag_is_one_in_any_capitals() {
        let there = json!({ "Lifecycle.Node": "old", "other": "stays", "odd": 1 });
        let tags = Tags::read(Some(&there)).with(NODE, "new");
        assert_eq!(
            tags.to_value(),
            json!({ "lifecycle.node": "new", "other": "stays" })
        );
        assert_eq!(tags.get("LIFECYCLE.NODE"), Some("new"));
    }
}
