//! Tests which clients receive a token, and which requests accept the token.

use std::time::Duration;

use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, CLIENT_SECRET, MANAGED_IDENTITY, SUBSCRIPTION, SimulatorOptions, TENANT,
};
use serde_json::Value;

use super::azure::{Azure, Reply, client, reply, token_request};

const MANAGEMENT: &str = "https://management.azure.com/";

async fn started() -> (AzureSimulator, reqwest::Client) {
    let simulator = AzureSimulator::start(SimulatorOptions::default())
        .await
        .unwrap();
    let client = client(&simulator);
    (simulator, client)
}

async fn subscriptions(client: &reqwest::Client, endpoint: &str, token: Option<&str>) -> Reply {
    let mut request = client.get(format!("{endpoint}/subscriptions?api-version=2022-12-01"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    reply(request).await
}

fn token(reply: &Reply) -> String {
    reply.body["access_token"].as_str().unwrap().to_owned()
}

async fn token_of(
    simulator: &AzureSimulator,
    client: &reqwest::Client,
    form: &[(&str, &str)],
) -> Reply {
    let endpoint = simulator.endpoint();
    let tenant = form.iter().find(|(name, _)| *name == "tenant");
    let tenant = tenant.map_or(TENANT, |(_, value)| value);
    let url = format!("{endpoint}/{tenant}/oauth2/v2.0/token");
    reply(client.post(url).form(form)).await
}

#[tokio::test]
async fn a_client_receives_a_token_that_is_valid_over_http_and_https() {
    let (simulator, client) = started().await;
    for endpoint in [simulator.endpoint(), simulator.secure_endpoint()] {
        let answer = reply(token_request(&client, &endpoint)).await.is(200);
        assert_eq!(answer.body["token_type"], "Bearer");
        assert_eq!(answer.body["expires_in"], 3600);
        let listed = subscriptions(&client, &endpoint, Some(&token(&answer)))
            .await
            .is(200);
        assert_eq!(listed.body["value"][0]["subscriptionId"], SUBSCRIPTION);
    }
}

#[tokio::test]
async fn rejects_requests_without_a_valid_token() {
    let (simulator, client) = started().await;
    let endpoint = simulator.endpoint();
    let none = subscriptions(&client, &endpoint, None)
        .await
        .refused(401, "AuthenticationFailed");
    assert!(
        none.header("www-authenticate")
            .starts_with("Bearer authorization_uri=")
    );
    let forged = subscriptions(&client, &endpoint, Some("a.b.c")).await;
    forged.refused(401, "InvalidAuthenticationToken");
    let other = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("client_secret", CLIENT_SECRET),
        ("scope", "https://storage.azure.com/.default"),
    ];
    let other = token_of(&simulator, &client, &other).await.is(200);
    let wrong = subscriptions(&client, &endpoint, Some(&token(&other))).await;
    wrong.refused(401, "InvalidAuthenticationTokenAudience");
    // A token from another simulator must be rejected.
    let (another, _) = started().await;
    let foreign = reply(token_request(&client, &another.endpoint())).await;
    let foreign = subscriptions(&client, &endpoint, Some(&token(&foreign))).await;
    foreign.refused(401, "InvalidAuthenticationToken");
}

#[tokio::test]
async fn a_token_expires_by_the_simulated_clock() {
    let azure = Azure::start().await;
    azure.get("/locations").await.is(200);
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    azure
        .get("/locations")
        .await
        .refused(401, "ExpiredAuthenticationToken");
}

#[tokio::test]
async fn entra_rejects_invalid_token_requests() {
    let (simulator, client) = started().await;
    let asked = async |tenant: &str, id: &str, secret: &str, scope: &str| {
        let form = [
            ("tenant", tenant),
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
            ("scope", scope),
        ];
        let answer = token_of(&simulator, &client, &form).await;
        let number = answer.body["error_codes"][0].as_u64().unwrap_or_default();
        (answer.status.as_u16(), number)
    };
    let scope = "https://management.azure.com/.default";
    assert_eq!(
        asked(TENANT, CLIENT, "wrong", scope).await,
        (401, 7_000_215)
    );
    assert_eq!(
        asked(TENANT, "nobody", CLIENT_SECRET, scope).await,
        (400, 700_016)
    );
    assert_eq!(
        asked("elsewhere", CLIENT, CLIENT_SECRET, scope).await,
        (400, 90002)
    );
    assert_eq!(
        asked(TENANT, CLIENT, CLIENT_SECRET, "nonsense").await,
        (400, 70011)
    );
    assert_eq!(asked(TENANT, CLIENT, CLIENT_SECRET, scope).await.0, 200);
}

#[tokio::test]
async fn the_metadata_service_issues_tokens_for_the_managed_identity() {
    let (simulator, client) = started().await;
    let ask = |query: &str| {
        let endpoint = simulator.endpoint();
        client.get(format!("{endpoint}/metadata/identity/oauth2/token?{query}"))
    };
    let query = format!("api-version=2018-02-01&resource={MANAGEMENT}");
    let bare = reply(ask(&query)).await.is(400);
    assert_eq!(bare.body["error"], "invalid_request");
    let given = reply(ask(&query).header("Metadata", "true")).await.is(200);
    assert_eq!(given.body["client_id"], MANAGED_IDENTITY);
    assert_eq!(
        given.body["expires_in"], "3600",
        "the number must be a string"
    );
    let listed = subscriptions(&client, &simulator.endpoint(), Some(&token(&given))).await;
    assert_eq!(listed.status, 200);
    let path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/\
                userAssignedIdentities/x";
    for named in [
        format!("client_id={MANAGED_IDENTITY}"),
        format!("mi_res_id={path}"),
        "object_id=77777777-7777-7777-7777-777777777777".to_owned(),
    ] {
        let named = ask(&format!("{query}&{named}"));
        reply(named.header("Metadata", "true")).await.is(200);
    }
    let none = ask(&format!("{query}&mi_res_id=/subscriptions/s"));
    reply(none.header("Metadata", "true")).await.is(400);
    let other = format!("{query}&client_id=another");
    let other = reply(ask(&other).header("Metadata", "true")).await.is(400);
    assert_eq!(other.body["error_description"], "Identity not found");
    let forwarded = ask(&query)
        .header("Metadata", "true")
        .header("X-Forwarded-For", "a");
    reply(forwarded).await.is(400);
}

#[tokio::test]
async fn app_service_issues_tokens_for_the_managed_identity() {
    let (simulator, client) = started().await;
    let url = format!(
        "{}?api-version=2019-08-01&resource={MANAGEMENT}",
        simulator.identity_endpoint()
    );
    let header = simulator.options().identity_header.expose();
    reply(client.get(&url)).await.is(401);
    reply(client.get(&url).header("X-IDENTITY-HEADER", "wrong"))
        .await
        .is(401);
    let given = reply(client.get(&url).header("X-IDENTITY-HEADER", header))
        .await
        .is(200);
    assert!(
        given.body["expires_on"]
            .as_str()
            .unwrap()
            .parse::<i64>()
            .is_ok()
    );
    let listed = subscriptions(&client, &simulator.endpoint(), Some(&token(&given))).await;
    assert_eq!(listed.status, 200);
}

#[tokio::test]
async fn the_token_endpoint_can_be_discovered() {
    let (simulator, client) = started().await;
    let endpoint = simulator.secure_endpoint();
    let url = format!("{endpoint}/{TENANT}/v2.0/.well-known/openid-configuration");
    let found = reply(client.get(url)).await.is(200);
    let wanted = format!("{endpoint}/{TENANT}/oauth2/v2.0/token");
    assert_eq!(found.body["token_endpoint"], Value::from(wanted));
}

#[test]
fn options_show_no_secret() {
    let shown = format!("{:?}", SimulatorOptions::default());
    assert!(!shown.contains(CLIENT_SECRET), "{shown}");
    assert!(!shown.contains("the-simulators-identity-header"), "{shown}");
}
