//! Simulates Microsoft Entra: issues and validates tokens.

mod bearer;
mod endpoint;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use lifecycle_core::clock::{Clock, IdSource};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;

pub(crate) use bearer::check;

/// The audiences that Azure Resource Manager accepts, without the optional trailing slash.
pub(crate) const RESOURCE_MANAGER: [&str; 2] = [
    "https://management.azure.com",
    "https://management.core.windows.net",
];

/// The claims of a token. Tokens are JSON Web Tokens, because some clients parse them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: String,
    pub(crate) iss: String,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) tid: String,
    pub(crate) appid: String,
    /// The principal. Requests count against the principal's rate limits.
    pub(crate) oid: String,
    pub(crate) ver: String,
}

/// Signs and validates tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    tenant: String,
    life: Duration,
    clock: Arc<dyn Clock>,
    key: [u8; 16],
}

/// A token and its lifetime.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires: DateTime<Utc>,
    pub(crate) life: Duration,
}

impl Tokens {
    pub(crate) fn new(
        tenant: &str,
        life: Duration,
        clock: Arc<dyn Clock>,
        ids: &dyn IdSource,
    ) -> Self {
        Self {
            tenant: tenant.to_owned(),
            life,
            clock,
            key: ids.uuid().into_bytes(),
        }
    }

    fn signature(&self, signed: &str) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(signed.as_bytes());
        Some(mac)
    }

    /// Issues a token for `client` and the resource `audience`.
    pub(crate) fn issue(&self, client: &str, audience: &str) -> Option<Issued> {
        let now = self.clock.now();
        let expires = now + self.life;
        let claims = Claims {
            aud: audience.to_owned(),
            iss: format!("https://sts.windows.net/{}/", self.tenant),
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: expires.timestamp(),
            tid: self.tenant.clone(),
            appid: client.to_owned(),
            oid: client.to_owned(),
            ver: "1.0".into(),
        };
        let header = json!({"typ": "JWT", "alg": "HS256", "kid": "simulator"}).to_string();
        let claims = serde_json::to_string(&claims).ok()?;
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.signature(&signed)?.finalize().into_bytes();
        Some(Issued {
            token: format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)),
            expires,
            life: self.life,
        })
    }

    /// Returns the claims of a token, or `None` if this simulator did not issue the token.
    fn claims(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.signature(signed)?.verify_slice(&signature).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        serde_json::from_slice(&claims).ok()
    }
}

/// Returns the routes of the token endpoints and of the discovery documents.
pub(crate) fn router(entra: endpoint::Entra) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(endpoint::token))
        .route("/{tenant}/oauth2/token", post(endpoint::token))
        .route(
            "/{tenant}/v2.0/.well-known/openid-configuration",
            get(endpoint::discovery),
        )
        .route(
            "/{tenant}/.well-known/openid-configuration",
            get(endpoint::discovery),
        )
        .with_state(Arc::new(entra))
}

pub(crate) use endpoint::Entra;
