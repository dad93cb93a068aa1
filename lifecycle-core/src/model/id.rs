//! Ids and names. Each is a newtype that can only be created from a valid value.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::error::InvalidName;
use crate::secret::{Sensitive, api_token_id};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        ///
        /// Cloning is cheap.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $type(Arc<str>);

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": concat!("A ", $kind, ": ", $rule, "."),
                    "pattern": $pattern,
                    "minLength": 1,
                    "maxLength": 63,
                })
            }
        }

        impl $type {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(&value) {
                    Ok(Self(value.into()))
                } else {
                    Err(InvalidName {
                        what: $kind.into(),
                        value,
                        rule: concat!("use ", $rule).into(),
                    })
                }
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidName;
            fn try_from(value: &str) -> Result<Self, InvalidName> {
                Self::try_from(value.to_owned())
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::try_from(value)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

fn is_lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn bounded(value: &str, first: fn(char) -> bool, rest: fn(char) -> bool) -> bool {
    value.len() <= 63 && value.starts_with(first) && value.chars().all(rest)
}

name!(
    /// The name of a platform, also used as the Compose project name.
    PlatformName,
    "platform name",
    "lower-case letters, digits, `-` and `_`, starting with a letter or digit, at most 63 \
     characters",
    "^[a-z0-9][a-z0-9_-]*$",
    |v| bounded(v, is_lower_or_digit, |c| is_lower_or_digit(c) || c == '-' || c == '_')
);

name!(
    /// The name of a node: a host name with one label (RFC 1123).
    NodeName,
    "node name",
    "lower-case letters, digits and `-`, starting and ending with a letter or digit, at most \
     63 characters",
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
    |v| bounded(v, is_lower_or_digit, |c| is_lower_or_digit(c) || c == '-') && !v.ends_with('-')
);

name!(
    /// The name of a service (Compose Specification: `[a-zA-Z0-9._-]+`).
    ServiceName,
    "service name",
    "letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 63 characters",
    "^[a-zA-Z0-9][a-zA-Z0-9._-]*$",
    |v| bounded(v, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || "._-".contains(c))
);

name!(
    /// The name of a volume in the declaration, without the platform's prefix.
    VolumeName,
    "volume name",
    "letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 63 characters",
    "^[a-zA-Z0-9][a-zA-Z0-9._-]*$",
    |v| bounded(v, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || "._-".contains(c))
);

name!(
    /// The name of a token of the manager's API, chosen by the operator.
    TokenName,
    "token name",
    "letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 63 characters",
    "^[a-zA-Z0-9][a-zA-Z0-9._-]*$",
    |v| bounded(v, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || "._-".contains(c))
);

name!(
    /// The id of a token of the manager's API. It is a part of the token, but not secret.
    TokenId,
    "token id",
    "16 lower-case hexadecimal digits",
    "^[0-9a-f]{16}$",
    |v| v.len() == 16 && v.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
);

impl TokenId {
    /// Returns the id of a token. A token without an id, as previous versions created them, gets
    /// the first digits of its SHA-256.
    pub fn of(token: &Sensitive) -> Self {
        Self(api_token_id(token).into())
    }
}

/// The unique id of a platform. Two platforms may have the same name, but never the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct PlatformId(Uuid);

impl PlatformId {
    /// Wraps a UUID from an `IdSource`.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// Returns the first six hexadecimal digits, as used in the names of containers and networks.
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(6);
        text
    }
}

impl fmt::Display for PlatformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PlatformId {
    type Err = InvalidName;
    fn from_str(value: &str) -> Result<Self, InvalidName> {
        Uuid::parse_str(value).map(Self).map_err(|_| InvalidName {
            what: "platform id".into(),
            value: value.to_owned(),
            rule: "use a UUID".into(),
        })
    }
}

/// The number of a replica of a service, starting at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replica(pub u16);

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a replica, for example `db-1`. Serialized as a string, so that it can be a map key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    pub service: ServiceName,
    pub replica: Replica,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.replica)
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidName;
    fn try_from(value: String) -> Result<Self, InvalidName> {
        let parts = value
            .rsplit_once('-')
            .and_then(|(service, replica)| Some((service, replica.parse().ok()?)));
        match parts {
            Some((service, replica)) => Ok(Self {
                service: ServiceName::try_from(service)?,
                replica: Replica(replica),
            }),
            None => Err(InvalidName {
                what: "instance id".into(),
                value,
                rule: "use the name of a service, `-`, and the number of the replica".into(),
            }),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for InstanceId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InstanceId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "The id of a replica: `<service>-<replica>`.",
            "pattern": "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}-([0-9]{1,4}|10000)$",
        })
    }
}

/// The number of a declaration; each apply that changes something increments it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_host_names_with_one_label() {
        for good in ["a", "vm1", "node-1", "0"] {
            assert!(NodeName::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64)] {
            assert!(NodeName::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instance_id_can_be_a_json_key() {
        let id = InstanceId {
            service: ServiceName::try_from("a-b.2").unwrap(),
            replica: Replica(10),
        };
        let map = std::collections::BTreeMap::from([(id.clone(), 1)]);
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(text, r#"{"a-b.2-10":1}"#);
        let back: std::collections::BTreeMap<InstanceId, i32> =
            serde_json::from_str(&text).unwrap();
        assert_eq!(back, map);
        for bad in ["a", "a-", "-1", "a-x", "a-70000"] {
            assert!(InstanceId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn deserializing_an_invalid_name_fails() {
        let error = serde_json::from_str::<PlatformName>("\"Demo\"").unwrap_err();
        assert!(error.to_string().contains("lower-case"), "{error}");
    }
}
