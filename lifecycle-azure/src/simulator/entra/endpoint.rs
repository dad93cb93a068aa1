//! Simulates the token endpoints: version 2 (`scope`) and version 1 (`resource`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Form;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::SecondsFormat;
use lifecycle_core::clock::IdSource;
use serde_json::{Value, json};

use super::Tokens;
use crate::simulator::options::Client;
use crate::simulator::origin::Origin;

/// The registered clients and the token signer.
#[derive(Debug)]
pub(crate) struct Entra {
    pub(crate) tenant: String,
    pub(crate) clients: Vec<Client>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) ids: Arc<dyn IdSource>,
}

impl Entra {
    fn refused(&self, status: StatusCode, error: &str, number: u32, text: &str) -> Response {
        let (trace, correlation) = (self.ids.uuid(), self.ids.uuid());
        let time = self.tokens.clock.now();
        let body = json!({
            "error": error,
            "error_description": format!(
                "AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {}",
                time.format("%Y-%m-%d %H:%M:%SZ")
            ),
            "error_codes": [number],
            "timestamp": time.to_rfc3339_opts(SecondsFormat::Secs, true),
            "trace_id": trace,
            "correlation_id": correlation,
        });
        (status, Json(body)).into_response()
    }

    fn unknown_tenant(&self, tenant: &str) -> Response {
        self.refused(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            90002,
            &format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and \
                 are signing into the correct cloud."
            ),
        )
    }
}

/// Issues a token to a client that sends its secret or an assertion. Does not verify the signature
/// of an assertion.
pub(crate) async fn token(
    State(entra): State<Arc<Entra>>,
    Path(tenant): Path<String>,
    Form(form): Form<BTreeMap<String, String>>,
) -> Response {
    if !tenant.eq_ignore_ascii_case(&entra.tenant) {
        return entra.unknown_tenant(&tenant);
    }
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let grant = field("grant_type");
    if grant != "client_credentials" {
        return entra.refused(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            70003,
            &format!("The app requested an unsupported grant type '{grant}'."),
        );
    }
    let id = field("client_id");
    let Some(client) = entra
        .clients
        .iter()
        .find(|client| client.id.eq_ignore_ascii_case(id))
    else {
        return entra.refused(
            StatusCode::BAD_REQUEST,
            "unauthorized_client",
            700_016,
            &format!(
                "Application with identifier '{id}' was not found in the directory '{tenant}'."
            ),
        );
    };
    let asserted = !field("client_assertion").is_empty();
    if !asserted && field("client_secret") != client.secret.expose() {
        return entra.refused(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            7_000_215,
            &format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the \
                 client secret value, not the client secret ID, for a secret added to app '{id}'."
            ),
        );
    }
    let resource = match (field("resource"), field("scope")) {
        ("", scope) => scope.strip_suffix("/.default").unwrap_or_default(),
        (resource, _) => resource,
    };
    if resource.is_empty() {
        return entra.refused(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            70011,
            &format!(
                "The provided request must include a 'scope' input parameter. The provided value for \
                 the input parameter 'scope' is not valid. The scope {} is not valid.",
                field("scope")
            ),
        );
    }
    match entra.tokens.issue(&client.id, resource) {
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some(issued) => {
            let seconds = issued.life.as_secs();
            Json(json!({
                "token_type": "Bearer",
                "expires_in": seconds,
                "ext_expires_in": seconds,
                "access_token": issued.token,
            }))
            .into_response()
        }
    }
}

/// Returns the discovery document, which contains a tenant's endpoints.
pub(crate) async fn discovery(
    State(entra): State<Arc<Entra>>,
    Path(tenant): Path<String>,
    origin: Origin,
) -> Response {
    if !tenant.eq_ignore_ascii_case(&entra.tenant) {
        return entra.unknown_tenant(&tenant);
    }
    let at = |path: &str| -> Value { format!("{origin}/{tenant}/{path}").into() };
    Json(json!({
        "issuer": at("v2.0"),
        "authorization_endpoint": at("oauth2/v2.0/authorize"),
        "token_endpoint": at("oauth2/v2.0/token"),
        "device_authorization_endpoint": at("oauth2/v2.0/devicecode"),
        "jwks_uri": at("discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "response_types_supported": ["code", "id_token", "token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "tenant_region_scope": "EU",
        "cloud_instance_name": "simulator",
    }))
    .into_response()
}
