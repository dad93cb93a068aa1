//! Identifies a step by typed parts, which are written on one line, such as
//! `node/vm1/start/shop-web-1`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::IntoDeserializer;
use serde::de::value::{Error as DeError, StrDeserializer};
use serde::{Deserialize, Serialize, Serializer};

use super::action::Verb;
use crate::error::InvalidName;
use crate::model::NodeName;

/// The identity of a step: the same step in two plans has the same id.
///
/// An id is written as `node/<node>/<verb>` for a step on the node itself, and as
/// `node/<node>/<verb>/<object>` for a step on an image or a container of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct StepId {
    node: NodeName,
    verb: Verb,
    object: Option<Arc<str>>,
}

impl StepId {
    pub(super) fn new(node: NodeName, verb: Verb, object: Option<&str>) -> Self {
        Self {
            node,
            verb,
            object: object.map(Arc::from),
        }
    }

    /// Returns the node that the step works on.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Returns whether the step opens and closes ports in the cloud's firewall.
    pub fn opens_ports(&self) -> bool {
        self.verb == Verb::PublicPorts
    }

    /// Returns whether the step stops its node or a container.
    pub(crate) fn stops(&self) -> bool {
        self.verb == Verb::Stop
    }

    /// Returns the image that the step brings to its node, if it brings one.
    pub fn image(&self) -> Option<&str> {
        self.object.as_deref().filter(|_| self.verb == Verb::Image)
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, verb, object } = self;
        match object {
            Some(object) => write!(f, "node/{node}/{verb}/{object}"),
            None => write!(f, "node/{node}/{verb}"),
        }
    }
}

impl FromStr for StepId {
    type Err = InvalidName;

    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName {
            what: "step id".into(),
            value: value.to_owned(),
            rule: "use `node/<node>/<verb>`, or `node/<node>/<verb>/<object>` for a change to an \
                   image or a container"
                .into(),
        };
        let rest = value.strip_prefix("node/").ok_or_else(invalid)?;
        let (node, rest) = rest.split_once('/').ok_or_else(invalid)?;
        let (verb, object) = match rest.split_once('/') {
            Some((_, "")) => return Err(invalid()),
            Some((verb, object)) => (verb, Some(object)),
            None => (rest, None),
        };
        let verb: StrDeserializer<'_, DeError> = verb.into_deserializer();
        let verb = Verb::deserialize(verb).map_err(|_| invalid())?;
        Ok(Self::new(NodeName::try_from(node)?, verb, object))
    }
}

impl TryFrom<String> for StepId {
    type Error = InvalidName;

    fn try_from(value: String) -> Result<Self, InvalidName> {
        value.parse()
    }
}

impl Serialize for StepId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for StepId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StepId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "The identity of a step: the same step in two plans has the same id.",
            "pattern": "^node/[^/]+/[a-z-]+(/.+)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{ContainerId, InstanceId, PublicPorts};
    use crate::reconcile::Action;

    fn action() -> impl Strategy<Value = Action> {
        let node = || "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?";
        let object = "[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,20}";
        (0_usize..17, node(), node(), object, "[a-z]{1,5}").prop_map(
            |(which, node, from, object, service)| {
                let node = NodeName::try_from(node).unwrap();
                let from = NodeName::try_from(from).unwrap();
                let instance = InstanceId::try_from(format!("{service}-1")).unwrap();
                let (image, container) = (object.clone(), object);
                let id = ContainerId("0123".into());
                match which {
                    0 => Action::ProvisionNode { node },
                    1 => Action::StartNode { node },
                    2 => Action::PrepareNode {
                        node,
                        operation: None,
                    },
                    3 => Action::DeleteNode { node },
                    4 => Action::BuildImage {
                        image,
                        service: instance.service,
                        node,
                    },
                    5 => Action::CopyImage { image, from, node },
                    6 => Action::PullImage { image, node },
                    7 => Action::EnsureAgent { container, node },
                    8 => Action::RemoveAgent { container, node },
                    9 => Action::StartInstance {
                        instance,
                        container,
                        node,
                        joins: None,
                    },
                    12 => Action::RemoveImage { image, node },
                    13 => Action::ReleaseNode { node },
                    14 => Action::SetPublicPorts {
                        ports: PublicPorts::default(),
                        node,
                    },
                    15 => Action::RestartNode {
                        node,
                        boot_id: image,
                    },
                    16 => Action::StopNode { node },
                    10 => Action::StopInstance {
                        instance,
                        container,
                        id,
                        node,
                    },
                    _ => Action::RemoveInstance {
                        instance,
                        container,
                        id,
                        node,
                    },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn an_id_survives_formatting_and_parsing(action in action()) {
            let id = action.id();
            prop_assert_eq!(id.to_string().parse::<StepId>().unwrap(), id.clone());
            let map = BTreeMap::from([(id, 1)]);
            let json = serde_json::to_string(&map).unwrap();
            prop_assert_eq!(serde_json::from_str::<BTreeMap<StepId, i32>>(&json).unwrap(), map);
        }

        #[test]
        fn a_valid_text_survives_parsing_and_formatting(text in "(node/)?[a-z0-9/.-]{0,30}") {
            if let Ok(id) = text.parse::<StepId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn ids_are_written_on_one_line() {
        for (text, image) in [
            ("node/vm1/provision", None),
            ("node/vm1/start", None),
            ("node/vm1/start/shop-ab12cd-web-1-0123", None),
            ("node/vm1/remove-agent/agent", None),
            (
                "node/vm1/image/localhost:5000/x:1",
                Some("localhost:5000/x:1"),
            ),
        ] {
            let id: StepId = text.parse().unwrap();
            assert_eq!((id.to_string().as_str(), id.image()), (text, image));
            assert_eq!(id.node().as_str(), "vm1");
        }
        for text in [
            "",
            "node/vm1",
            "node/vm1/",
            "node/VM1/start",
            "service/web/start",
            "node/vm1/dance",
            "node/vm1/start/",
        ] {
            assert!(text.parse::<StepId>().is_err(), "{text}");
        }
    }
}
