//! Simulates Azure Resource Manager: authorization, routing of requests to resources, and rate
//! limits.

pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod budget;
pub(crate) mod call;
pub(crate) mod disk;
pub(crate) mod group;
pub(crate) mod id;
pub(crate) mod image;
pub(crate) mod inbound;
mod interface;
pub(crate) mod network;
pub(crate) mod operation;
mod page;
pub(crate) mod problem;
pub(crate) mod resource;
mod route;
pub(crate) mod security_group;
pub(crate) mod sku;
pub(crate) mod state;
mod subscription;
pub(crate) mod usage;
pub(crate) mod vm;

use std::collections::BTreeMap;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::Value;
use url::form_urlencoded;

use self::budget::{ComputeRequest, Spent};
use self::call::Call;
use self::problem::{Problem, Refusal};
use self::resource::Resource as _;
use super::cloud::Cloud;
use super::entra::{self, Claims};
use super::fault::{Injected, throttled_body};
use super::origin::Origin;

/// The maximum size of a request body.
const BODY: usize = 4 << 20;

/// Handles every request except requests for tokens.
pub(crate) async fn handle(State(cloud): State<Cloud>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY).await.map_err(|_| {
        let message = "The request content size exceeds the maximum size of 4 MB.";
        Problem::new("RequestContentTooLarge", message).with(StatusCode::PAYLOAD_TOO_LARGE)
    });
    let mut headers = HeaderMap::new();
    let answered = body.and_then(|body| answer(&cloud, &parts, &body, &mut headers));
    let mut response = answered.unwrap_or_else(Refusal::into_response);
    let id = cloud.ids.uuid().to_string();
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("x-ms-request-id", &id);
    add("x-ms-correlation-request-id", &id);
    add("x-ms-routing-request-id", &format!("SIMULATOR:{id}"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().extend(headers);
    response
}

fn answer(
    cloud: &Cloud,
    parts: &Parts,
    body: &[u8],
    headers: &mut HeaderMap,
) -> Result<Response, Refusal> {
    let claims = authenticate(cloud, &parts.headers)?;
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let versioned = query
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("api-version") && !value.is_empty());
    if !versioned {
        let message =
            "The api-version query parameter (?api-version=) is required for all requests.";
        return Err(Problem::new("MissingApiVersionParameter", message).bad_request());
    }
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|error| {
            let message = format!(
                "The request content was invalid and could not be deserialized: '{error}'."
            );
            Problem::new("InvalidRequestContent", message).bad_request()
        })?
    };
    let origin = Origin::of(parts);
    let injected = parts.extensions.get::<Injected>().cloned();
    let call = Call {
        cloud,
        method: &parts.method,
        path: parts.uri.path(),
        query: &query,
        headers: &parts.headers,
        body: &body,
        origin: &origin,
        injected: &injected.unwrap_or_default(),
    };
    let mut arm = cloud.arm();
    let spent = spend(&call, &arm, &claims);
    for (name, value) in &spent.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if cloud.options.enforce_budgets
        && let Some(wait) = spent.wait
    {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        return Err(Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            body: throttled_body(spent.compute, wait),
            headers: Vec::new(),
        });
    }
    let answer = route::dispatch(&call, &mut arm)?;
    Ok(answer.into_response(&call, &arm))
}

fn authenticate(cloud: &Cloud, headers: &HeaderMap) -> Result<Claims, Refusal> {
    entra::check(&cloud.tokens, headers).map_err(|problem| {
        let mut refusal =
            Problem::new(problem.code, problem.message).with(StatusCode::UNAUTHORIZED);
        if let Ok(challenge) = HeaderValue::from_str(&problem.challenge) {
            refusal.headers.push((WWW_AUTHENTICATE, challenge));
        }
        refusal
    })
}

/// Counts a request against its rate limits.
fn spend(call: &Call<'_>, arm: &state::ArmState, claims: &Claims) -> Spent {
    let segments = route::segments(call.path);
    let lower: Vec<String> = segments.iter().map(|one| one.to_lowercase()).collect();
    let subscription = lower.get(1).map_or("", String::as_str);
    let is_machine = lower
        .get(4..7)
        .is_some_and(|kind| kind == ["providers", "microsoft.compute", "virtualmachines"]);
    let vm = segments
        .get(..8)
        .filter(|_| is_machine && *call.method != Method::GET)
        .map(|path| format!("/{}", path.join("/")));
    let compute = vm.as_ref().map(|vm| {
        let there = arm.vms.get(&id::key_of(vm));
        let asked = call.body.get("location").and_then(Value::as_str);
        let location = there.map(|found| found.head().location.as_str());
        ComputeRequest {
            operation: match *call.method {
                Method::PUT | Method::PATCH => "PutVM",
                _ => "VMActions",
            },
            vm,
            location: location.or(asked).unwrap_or_default(),
        }
    });
    call.cloud.budgets.spend(
        arm.now,
        call.method,
        subscription,
        &claims.oid,
        compute.as_ref(),
    )
}
