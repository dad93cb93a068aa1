//! Authorizes requests by an account's key or by a shared access signature.

mod sas;
mod shared_key;

use std::collections::BTreeMap;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Account;
use super::answer::Refusal;
use super::call::Call;
use super::operations::Operation;

pub use sas::{AccountSas, ShareSas};

/// Returns the account that a request belongs to. Fails if the request is not authorized.
pub(super) fn authorize(
    call: &Call,
    operation: Operation,
    accounts: &BTreeMap<String, Account>,
    secure: bool,
    now: DateTime<Utc>,
) -> Result<String, Refusal> {
    if let Some(authorization) = call.header("authorization") {
        return shared_key::check(call, authorization, accounts, now);
    }
    if call.parameter("sig").is_some() {
        return sas::check(call, operation, accounts, secure, now);
    }
    Err(Refusal::new(
        StatusCode::UNAUTHORIZED,
        "NoAuthenticationInformation",
        "Server failed to authenticate the request. Please refer to the information in the \
         www-authenticate header.",
    ))
}

/// Signs a text with an account's key. Returns the HMAC-SHA256 in Base64.
fn signature(key: &[u8], text: &str) -> String {
    mac(key, text).map_or_else(String::new, |mac| {
        STANDARD.encode(mac.finalize().into_bytes())
    })
}

/// Returns whether `claimed` is the signature of `text`.
fn is_signature(key: &[u8], text: &str, claimed: &str) -> bool {
    let Ok(claimed) = STANDARD.decode(claimed) else {
        return false;
    };
    mac(key, text).is_some_and(|mac| mac.verify_slice(&claimed).is_ok())
}

/// Computes the HMAC of a text. Always returns `Some`, because HMAC accepts keys of any length.
fn mac(key: &[u8], text: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    Some(mac)
}
