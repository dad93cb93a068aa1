//! The tokens of the manager's API, and what they permit.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{TokenId, TokenName};

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

/// A token as the registry stores it. The token itself is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// A member that only a later version knows may restrict the token, so it must not be ignored.
#[serde(deny_unknown_fields)]
pub struct ApiToken {
    pub id: TokenId,
    pub name: TokenName,
    pub role: TokenRole,
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
