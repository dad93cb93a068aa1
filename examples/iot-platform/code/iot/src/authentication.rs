//! Issues tokens to devices that know the secret, and checks tokens. Tokens are signed, so every
//! replica can check the tokens of all other replicas.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::routing::{get, post};
use axum::{Json, Router};
use hmac::{Hmac, KeyInit, Mac};
use lifecycle_core::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::failure::{Failure, Result};
use crate::peer::Call;
use crate::setting;

const VALID_FOR: i64 = 300;

/// A device's name and secret.
#[derive(Serialize, Deserialize)]
pub(crate) struct Credential {
    pub(crate) device: String,
    pub(crate) secret: String,
}

/// The token that a device receives.
#[derive(Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) token: String,
}

struct Keys {
    signing: String,
    device: String,
}

pub(crate) fn routes() -> Result<Router> {
    let keys = Keys {
        signing: setting("SIGNING_KEY")?,
        device: setting("DEVICE_SECRET")?,
    };
    Ok(Router::new()
        .route("/tokens", post(issue))
        .route("/tokens/check", get(check))
        .with_state(Arc::new(keys)))
}

async fn issue(
    State(keys): State<Arc<Keys>>,
    Json(credential): Json<Credential>,
) -> Result<Json<Token>> {
    // Compare signatures instead of secrets, so that the time of the comparison reveals nothing
    // about a secret.
    let expected = signature(&keys.signing, &keys.device)?.finalize();
    signature(&keys.signing, &credential.secret)?
        .verify(&expected.into_bytes())
        .map_err(|_| Failure::Unauthorized)?;
    let until = SystemClock.now().timestamp() + VALID_FOR;
    let claim = format!("{}/{until}", credential.device);
    let proof = signature(&keys.signing, &claim)?.finalize().into_bytes();
    let token = format!("{claim}/{}", hex::encode(proof));
    Ok(Json(Token { token }))
}

async fn check(State(keys): State<Arc<Keys>>, headers: HeaderMap) -> Result<&'static str> {
    let now = SystemClock.now().timestamp();
    let token = bearer(&headers).ok_or(Failure::Unauthorized)?;
    if is_valid(&keys.signing, token, now)? {
        Ok("ok\n")
    } else {
        Err(Failure::Unauthorized)
    }
}

fn is_valid(key: &str, token: &str, now: i64) -> Result<bool> {
    let Some((claim, proof)) = token.rsplit_once('/') else {
        return Ok(false);
    };
    let until = claim.rsplit_once('/').and_then(|(_, t)| t.parse().ok());
    let Ok(proof) = hex::decode(proof) else {
        return Ok(false);
    };
    let is_signed = signature(key, claim)?.verify_slice(&proof).is_ok();
    Ok(is_signed && until.is_some_and(|until: i64| now < until))
}

fn signature(key: &str, text: &str) -> Result<Hmac<Sha256>> {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes())
        .map_err(|_| Failure::Setting("SIGNING_KEY cannot be used".into()))?;
    Ok(mac.chain_update(text.as_bytes()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

/// Rejects requests without a valid token. The other services call this function, which asks the
/// authentication service.
pub(crate) async fn require_token(headers: &HeaderMap) -> Result<()> {
    let token = bearer(headers).ok_or(Failure::Unauthorized)?;
    Call::get("/tokens/check")
        .with_token(token)
        .to("authentication")
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> State<Arc<Keys>> {
        State(Arc::new(Keys {
            signing: "signing".into(),
            device: "device".into(),
        }))
    }

    async fn token(secret: &str) -> Result<String> {
        let credential = Credential {
            device: "garden.light".into(),
            secret: secret.into(),
        };
        Ok(issue(keys(), Json(credential)).await?.0.token)
    }

    #[tokio::test]
    async fn tokens_are_valid_until_they_expire_and_for_one_key() {
        let token = token("device").await.unwrap();
        let now = SystemClock.now().timestamp();
        assert!(is_valid("signing", &token, now).unwrap());
        assert!(!is_valid("signing", &token, now + VALID_FOR + 1).unwrap());
        assert!(!is_valid("another", &token, now).unwrap());
        let forged = token.replace("garden", "attic");
        assert!(!is_valid("signing", &forged, now).unwrap());
        assert!(!is_valid("signing", "", now).unwrap());
    }

    #[tokio::test]
    async fn wrong_secret_gets_no_token() {
        let refused = token("guess").await;
        assert!(matches!(refused, Err(Failure::Unauthorized)));
    }
}
