//! The tokens of the API.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::manager::NewToken;
use crate::model::{ApiToken, ServiceName, TokenId, TokenName, TokenRole, TokenScope};
use crate::secret::Sensitive;

/// A token, without the token itself, in the responses to `GET /v1/tokens` and
/// `DELETE /v1/tokens/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TokenV1 {
    /// The id, which is a part of the token.
    pub id: TokenId,
    /// The name that the operator has chosen, or the name of the service.
    pub name: TokenName,
    /// The role of the token.
    pub role: TokenRole,
    /// The services that the token is limited to; absent if it is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<TokenScope>,
    /// The service whose containers have the token; absent for other tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// When the token was created.
    pub created_at: DateTime<Utc>,
    /// When the token expires by itself; `null` if it does not.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the token was revoked; `null` if it was not.
    pub revoked_at: Option<DateTime<Utc>>,
    /// The hour in which the token was last used; `null` if it was never used.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl From<ApiToken> for TokenV1 {
    fn from(token: ApiToken) -> Self {
        Self {
            id: token.id,
            name: token.name,
            role: token.role,
            scope: token.scope,
            service: token.service,
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
            last_used_at: token.last_used_at,
        }
    }
}

/// The body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewTokenV1 {
    pub name: TokenName,
    pub role: TokenRole,
    /// The services that the token is limited to; without it, the token is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<TokenScope>,
    /// The number of seconds until the token expires, at most ten years; without it, the token does not
    /// expire.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::whole::optional"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 315_360_000)))]
    pub expires_in: Option<u64>,
}

impl NewTokenV1 {
    /// Creates a body for a token that does not expire.
    pub fn new(name: TokenName, role: TokenRole) -> Self {
        Self {
            name,
            role,
            scope: None,
            expires_in: None,
        }
    }

    /// Limits the token to these services.
    #[must_use]
    pub fn limited_to(mut self, scope: TokenScope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Sets the time after which the token expires, in whole seconds.
    #[must_use]
    pub fn expiring_in(mut self, after: Duration) -> Self {
        self.expires_in = Some(after.as_secs());
        self
    }
}

impl From<NewTokenV1> for NewToken {
    fn from(new: NewTokenV1) -> Self {
        Self {
            name: new.name,
            role: new.role,
            scope: new.scope,
            expires_in: new.expires_in.map(Duration::from_secs),
        }
    }
}

/// The response to `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CreatedTokenV1 {
    /// The token itself. No other response contains it.
    pub token: Sensitive,
    #[serde(flatten)]
    pub stored: TokenV1,
}

impl From<(ApiToken, Sensitive)> for CreatedTokenV1 {
    fn from((stored, token): (ApiToken, Sensitive)) -> Self {
        Self {
            token,
            stored: stored.into(),
        }
    }
}
