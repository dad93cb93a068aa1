//! Validates the token of a request to Azure Resource Manager.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use chrono::{DateTime, SecondsFormat};

use super::{Claims, RESOURCE_MANAGER, Tokens};

/// The error for an invalid token, with Azure's texts.
#[derive(Debug)]
pub(crate) struct BearerProblem {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The value of the header `WWW-Authenticate`.
    pub(crate) challenge: String,
}

fn problem(tokens: &Tokens, code: &'static str, message: String, why: &str) -> BearerProblem {
    BearerProblem {
        code,
        message,
        challenge: format!(
            "Bearer authorization_uri=\"https://login.microsoftonline.com/{}\", \
             error=\"invalid_token\", error_description=\"{why}\"",
            tokens.tenant
        ),
    }
}

/// Validates the token of a request and returns its claims.
pub(crate) fn check(tokens: &Tokens, headers: &HeaderMap) -> Result<Claims, BearerProblem> {
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(problem(
            tokens,
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.".into(),
            "The authentication failed because of missing 'Authorization' header.",
        ));
    };
    let claims = header
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, token)| tokens.claims(token.trim()));
    let Some(claims) = claims else {
        return Err(problem(
            tokens,
            "InvalidAuthenticationToken",
            "The access token is invalid.".into(),
            "The access token is invalid.",
        ));
    };
    if !RESOURCE_MANAGER.contains(&claims.aud.trim_end_matches('/')) {
        return Err(problem(
            tokens,
            "InvalidAuthenticationTokenAudience",
            format!(
                "The access token has been obtained for wrong audience or resource '{}'. It should \
                 exactly match with one of the allowed audiences \
                 'https://management.core.windows.net/','https://management.core.windows.net',\
                 'https://management.azure.com/','https://management.azure.com'.",
                claims.aud
            ),
            "The access token has been obtained for wrong audience.",
        ));
    }
    let now = tokens.clock.now();
    if now.timestamp() >= claims.exp {
        let expiry = DateTime::from_timestamp(claims.exp, 0).unwrap_or(now);
        let written = |time: DateTime<_>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        return Err(problem(
            tokens,
            "ExpiredAuthenticationToken",
            format!(
                "The access token expiry UTC time '{}' is earlier than current UTC time '{}'.",
                written(expiry),
                written(now)
            ),
            "The access token expiry UTC time is earlier than current UTC time.",
        ));
    }
    Ok(claims)
}
