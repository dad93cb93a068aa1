//! The tokens of the manager's API, and what they permit.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ServiceClass, ServiceName, TokenId, TokenName};

/// The role of a token, which determines the permitted requests. A role includes the previous roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TokenRole {
    /// Reading the state, the events and the output of services.
    Viewer,
    /// Operations on declared services: restarts, retries, and requests about rollouts.
    Operator,
    /// Everything, including declarations, commands in containers, and tokens.
    Admin,
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// The services that a token is limited to: those of some classes, and those with some names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
// One of the lists contains something.
#[cfg_attr(feature = "schema", schemars(extend("anyOf" = [
    {"required": ["classes"], "properties": {"classes": {"minItems": 1}}},
    {"required": ["services"], "properties": {"services": {"minItems": 1}}},
])))]
#[non_exhaustive]
pub struct TokenScope {
    /// All services of these classes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<ServiceClass>"))]
    pub classes: BTreeSet<ServiceClass>,
    /// The services with these names.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<ServiceName>"))]
    pub services: BTreeSet<ServiceName>,
}

impl TokenScope {
    /// Limits a token to the services of these classes, and to those with these names.
    pub fn new(
        classes: impl IntoIterator<Item = ServiceClass>,
        services: impl IntoIterator<Item = ServiceName>,
    ) -> Self {
        Self {
            classes: classes.into_iter().collect(),
            services: services.into_iter().collect(),
        }
    }

    /// Returns whether the scope contains the service `name` of this class.
    pub fn includes(&self, name: &ServiceName, class: ServiceClass) -> bool {
        self.classes.contains(&class) || self.services.contains(name)
    }

    /// Returns whether `other` contains everything that this scope contains.
    pub fn is_within(&self, other: &Self) -> bool {
        self.classes.is_subset(&other.classes) && self.services.is_subset(&other.services)
    }

    /// Returns whether the scope contains no service.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty() && self.services.is_empty()
    }
}

impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.classes.iter().map(|class| format!("class {class}"));
        let services = self.services.iter().map(|name| format!("service {name}"));
        let all: Vec<String> = classes.chain(services).collect();
        f.write_str(&all.join(", "))
    }
}

/// A token as the registry stores it. The token itself is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// A member that only a later version knows may restrict the token, so it must not be ignored.
#[serde(deny_unknown_fields)]
pub struct ApiToken {
    pub id: TokenId,
    pub name: TokenName,
    pub role: TokenRole,
    /// The services that the token is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<TokenScope>,
    /// The service whose containers have the token; `None` for the tokens that operators created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The SHA-256 of the token, in hexadecimal.
    pub hash: String,
    pub created_at: DateTime<Utc>,
    /// When the token stops being valid by itself.
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// The hour in which the token was last used.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl ApiToken {
    /// Returns when the token stopped being valid, or `None` if it is still valid at `now`.
    pub fn ended_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let expired = self.expires_at.filter(|expiry| *expiry <= now);
        match (self.revoked_at, expired) {
            (Some(revoked), Some(expired)) => Some(revoked.min(expired)),
            (revoked, expired) => revoked.or(expired),
        }
    }

    /// Returns whether requests with the token are accepted at `now`.
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.ended_at(now).is_none()
    }
}
