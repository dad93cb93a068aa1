//! Provides a managed identity over the protocols of the VMs' instance metadata service (IMDS) and
//! of App Service (`IDENTITY_ENDPOINT`, `IDENTITY_HEADER`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use lifecycle_core::secret::Sensitive;
use serde_json::{Value, json};

use super::entra::{Issued, Tokens};

/// The path for the IMDS protocol.
pub(crate) const METADATA_PATH: &str = "/metadata/identity/oauth2/token";
/// The path for the App Service protocol.
pub(crate) const APP_SERVICE_PATH: &str = "/msi/token";

/// The identity, and the secret that callers must send over the App Service protocol.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) client: String,
    pub(crate) header: Sensitive,
    pub(crate) tokens: Arc<Tokens>,
}

type Parameters = Query<BTreeMap<String, String>>;

pub(crate) fn router(identity: Identity) -> Router {
    Router::new()
        .route(METADATA_PATH, get(metadata))
        .route(APP_SERVICE_PATH, get(app_service))
        .with_state(Arc::new(identity))
}

fn refused(status: StatusCode, error: &str, text: &str) -> Response {
    let body = json!({"error": error, "error_description": text});
    (status, Json(body)).into_response()
}

/// The reason why a request receives no token.
struct Denied(StatusCode, &'static str);

impl Denied {
    fn into_response(self) -> Response {
        refused(self.0, "invalid_request", self.1)
    }
}

impl Identity {
    /// Issues a token if the parameters refer to this identity and contain a resource. Returns the
    /// token and the resource.
    fn issue<'q>(&self, query: &'q BTreeMap<String, String>) -> Result<(Issued, &'q str), Denied> {
        let bad = |text| Denied(StatusCode::BAD_REQUEST, text);
        if !query.contains_key("api-version") {
            return Err(bad("Required query variable 'api-version' is missing"));
        }
        let Some(resource) = query.get("resource") else {
            return Err(bad("Required query variable 'resource' is missing"));
        };
        if query
            .get("client_id")
            .is_some_and(|id| !id.eq_ignore_ascii_case(&self.client))
        {
            return Err(bad("Identity not found"));
        }
        // A caller may specify a user-assigned identity. Only the format of the identity's id is
        // checked, because every simulated VM has all identities.
        let named = ["mi_res_id", "msi_res_id"];
        let resources = named.into_iter().filter_map(|name| query.get(name));
        if !resources.into_iter().all(|id| is_identity(id)) {
            return Err(bad("Identity not found"));
        }
        match self.tokens.issue(&self.client, resource) {
            Some(issued) => Ok((issued, resource)),
            None => Err(Denied(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The token cannot be signed",
            )),
        }
    }
}

/// Returns whether `id` is the path of a user-assigned identity.
fn is_identity(id: &str) -> bool {
    let parts: Vec<&str> = id.trim_matches('/').split('/').collect();
    let kind = parts.get(5).zip(parts.get(6));
    parts.len() == 8
        && kind.is_some_and(|(namespace, kind)| {
            namespace.eq_ignore_ascii_case("Microsoft.ManagedIdentity")
                && kind.eq_ignore_ascii_case("userAssignedIdentities")
        })
}

/// Returns the body of the response. Unlike in Entra's own responses, the numbers in the body are
/// strings.
fn body(identity: &Identity, issued: &Issued, resource: &str) -> Value {
    json!({
        "access_token": issued.token,
        "client_id": identity.client,
        "expires_on": issued.expires.timestamp().to_string(),
        "resource": resource,
        "token_type": "Bearer",
    })
}

async fn metadata(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    Query(query): Parameters,
) -> Response {
    // IMDS requires this header, so that attackers cannot trick a server into requesting tokens.
    let asked = headers
        .get("metadata")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    if !asked || headers.contains_key("x-forwarded-for") {
        let text = "Required metadata header not specified";
        return refused(StatusCode::BAD_REQUEST, "invalid_request", text);
    }
    match identity.issue(&query) {
        Err(denied) => denied.into_response(),
        Ok((issued, resource)) => {
            let mut answer = body(&identity, &issued, resource);
            let seconds = issued.life.as_secs();
            answer["expires_in"] = seconds.to_string().into();
            answer["ext_expires_in"] = seconds.to_string().into();
            answer["not_before"] = (issued.expires - issued.life)
                .timestamp()
                .to_string()
                .into();
            Json(answer).into_response()
        }
    }
}

async fn app_service(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    Query(query): Parameters,
) -> Response {
    let known = headers
        .get("x-identity-header")
        .is_some_and(|value| value.as_bytes() == identity.header.expose().as_bytes());
    if !known {
        let body = json!({"statusCode": 401, "message": "Invalid or missing X-IDENTITY-HEADER"});
        return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    match identity.issue(&query) {
        Err(denied) => denied.into_response(),
        Ok((issued, resource)) => Json(body(&identity, &issued, resource)).into_response(),
    }
}
