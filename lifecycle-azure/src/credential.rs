//! Authenticates with Azure: requests a token with one of several login methods, and caches the
//! token until shortly before it expires.

mod azure_cli;
mod login_client;

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::ClientOptions;
use azure_core_legacy as legacy;
use azure_identity::{
    AzureCliCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use chrono::{DateTime, TimeDelta, Utc};
use lifecycle_core::clock::{Clock, SystemClock};
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};
use tokio::sync::Mutex;

use self::login_client::LoginClient;
use crate::arm::failure::Failure;
use crate::arm::transport::hidden;
use crate::connection::Unopened;

/// A token is replaced this long before it expires.
const SPARE: TimeDelta = TimeDelta::minutes(5);
/// Timeout for one login method. Outside Azure, the managed identity endpoint never responds.
const LOGIN: Duration = Duration::from_secs(20);
/// The setting with the address of Entra.
const AUTHORITY: &str = "cloud.authority";
/// The address of Azure's instance metadata service, which every Azure VM can reach.
/// `azure_identity` requests managed identity tokens from this service.
const METADATA: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 169, 254), 80);
/// Timeout for a connection to the metadata service. The service responds quickly to Azure VMs, so
/// a machine that cannot connect within this time is not an Azure VM.
const PROBE: Duration = Duration::from_secs(1);
/// The environment variables with which `azure_identity` finds managed identities outside VMs.
const OTHER_SOURCES: [&str; 2] = ["IDENTITY_ENDPOINT", "MSI_ENDPOINT"];

/// A login method.
#[derive(Clone, Default)]
pub enum Login {
    /// The first method that works: workload identity, managed identity, or Azure CLI.
    #[default]
    InOrder,
    /// The account that is logged in with `az login`. Requires `az` 2.54 or newer.
    AzureCli,
    /// The identity of the VM that this process runs on.
    ManagedIdentity {
        /// The client id of a user-assigned identity. If `None`, Azure uses the system-assigned
        /// identity or, if there is none, the VM's only user-assigned identity.
        client: Option<String>,
    },
    /// A user-assigned identity of the VM that this process runs on, selected by its resource id.
    AssignedIdentity {
        /// The identity's resource id: `/subscriptions/…/userAssignedIdentities/…`.
        id: String,
    },
    /// An application that authenticates with a secret.
    ClientSecret {
        tenant: String,
        client: String,
        secret: Sensitive,
    },
    /// A federated token from Kubernetes or GitHub, located by the variables `AZURE_TENANT_ID`,
    /// `AZURE_CLIENT_ID` and `AZURE_FEDERATED_TOKEN_FILE`.
    WorkloadIdentity,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Login {
    fn name(&self) -> &'static str {
        match self {
            Self::InOrder => "in order",
            Self::AzureCli => "Azure CLI",
            Self::ManagedIdentity { .. } | Self::AssignedIdentity { .. } => "managed identity",
            Self::ClientSecret { .. } => "client secret",
            Self::WorkloadIdentity => "workload identity",
        }
    }

    /// Returns the name with its article, for sentences.
    fn article(&self) -> &'static str {
        match self {
            Self::InOrder => "any login",
            Self::AzureCli => "the Azure CLI",
            Self::ManagedIdentity { .. } | Self::AssignedIdentity { .. } => "a managed identity",
            Self::ClientSecret { .. } => "a client secret",
            Self::WorkloadIdentity => "a workload identity",
        }
    }

    /// Returns whether the token comes from the VM that this process runs on.
    fn is_of_vm(&self) -> bool {
        matches!(
            self,
            Self::ManagedIdentity { .. } | Self::AssignedIdentity { .. }
        )
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::InOrder | Self::AzureCli => {
                "run `az login` (Azure CLI 2.54 or newer), or configure another login"
            }
            Self::ManagedIdentity { .. } | Self::AssignedIdentity { .. } => {
                "give the VM an identity (`az vm identity assign`) that has access to the \
                 subscription"
            }
            Self::ClientSecret { .. } => {
                "check the tenant, the client and the secret; the secret may have expired, or its \
                 id may be configured instead of its value"
            }
            Self::WorkloadIdentity => {
                "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE"
            }
        }
    }
}

/// The reason why a login method returned no token.
enum Why {
    /// The server was reached, or the method is not available here.
    Refused(String),
    /// No connection to this host could be opened.
    Unopened(String, Unopened),
    /// The Azure CLI could not reach Azure. Contains its error, and a hint.
    Offline(String, &'static str),
    NoAnswer,
}

/// Provides tokens for Resource Manager.
pub(crate) struct Credential {
    login: Login,
    client: Arc<LoginClient>,
    options: ClientOptions,
    scope: String,
    token: Mutex<Option<(Sensitive, DateTime<Utc>)>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("login", &self.login)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Creates a credential. `authority_host` is the URL of Entra, if not the public one;
    /// `authority` is the trusted certificate authority, in PEM; `scope` is the scope of the
    /// tokens.
    pub(crate) fn new(
        login: Login,
        authority_host: Option<&str>,
        authority: Option<&str>,
        scope: &str,
    ) -> Result<Self> {
        let client = Arc::new(LoginClient::new(authority, LOGIN)?);
        Ok(Self {
            login,
            options: client_options(authority_host, Arc::clone(&client)),
            client,
            scope: scope.to_owned(),
            token: Mutex::default(),
        })
    }

    /// Returns a token that is valid for at least a few minutes.
    ///
    /// # Errors
    /// Returns [`Error::Unreachable`] or [`Error::TimedOut`] if a method did not reach its server.
    /// Otherwise, returns [`Error::Denied`]. Both contain each attempted method and its error.
    pub(crate) async fn token(&self) -> Result<Sensitive> {
        // Hold the lock while a token is requested, so that concurrent callers share one request.
        let mut kept = self.token.lock().await;
        let now = SystemClock.now();
        if let Some((token, expires)) = kept.as_ref()
            && *expires > now + SPARE
        {
            return Ok(token.clone());
        }
        let ways = match &self.login {
            Login::InOrder => vec![
                Login::WorkloadIdentity,
                Login::ManagedIdentity { client: None },
                Login::AzureCli,
            ],
            one => vec![one.clone()],
        };
        let is_alone = ways.len() == 1;
        let mut tried = Vec::new();
        for way in ways {
            let is_probed = matches!(way, Login::ManagedIdentity { .. }) && !is_alone;
            if is_probed && !may_be_azure().await {
                let why = "this is not an Azure VM: 169.254.169.254 does not respond";
                tried.push((way, Why::Refused(why.to_owned())));
                continue;
            }
            // Create the credential for each request: a cached credential would return a token that
            // Azure has rejected.
            let asked = async {
                open(&way, &self.options)?
                    .get_token(&[&self.scope], None)
                    .await
            };
            self.client.forget();
            let why = match tokio::time::timeout(LOGIN, asked).await {
                Ok(Ok(token)) => {
                    let expires = DateTime::from_timestamp(token.expires_on.unix_timestamp(), 0);
                    let fresh = Sensitive::new(token.token.secret());
                    *kept = Some((fresh.clone(), expires.unwrap_or(now)));
                    return Ok(fresh);
                }
                Ok(Err(error)) => match self.client.unopened() {
                    Some((host, unopened)) => Why::Unopened(host, unopened),
                    None => refused(&way, &error.to_string()),
                },
                Err(_) => Why::NoAnswer,
            };
            tried.push((way, why));
        }
        Err(failed(tried))
    }

    /// Drops the cached token after Azure has rejected it, so that the next call requests a new
    /// one.
    pub(crate) async fn forget(&self) {
        *self.token.lock().await = None;
    }
}

/// Returns whether a managed identity endpoint may exist. Without this check, a login outside Azure
/// would retry for a long time.
async fn may_be_azure() -> bool {
    if OTHER_SOURCES
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        return true;
    }
    let connection = tokio::net::TcpStream::connect(METADATA);
    matches!(tokio::time::timeout(PROBE, connection).await, Ok(Ok(_)))
}

/// Returns the first line of an error. The remaining lines are advice for programmers.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}

fn refused(way: &Login, error: &str) -> Why {
    if !matches!(way, Login::AzureCli | Login::InOrder) {
        return Why::Refused(first_line(error));
    }
    let why = azure_cli::reason(error);
    match azure_cli::offline_hint(error) {
        Some(hint) => Why::Offline(why, hint),
        None => Why::Refused(why),
    }
}

/// The hint for a login whose server did not respond.
const NETWORK: &str = "check this machine's network and name servers, and the proxy in HTTPS_PROXY if \
                       your network needs one";

/// Returns an error that lists each attempted method, why it failed, and a hint.
fn failed(mut tried: Vec<(Login, Why)>) -> Error {
    if tried.len() == 1
        && let Some((way, why)) = tried.pop()
    {
        let what = format!("the login to Azure with {}", way.article());
        match why {
            Why::Unopened(host, unopened) if !way.is_of_vm() => {
                return unopened.into_error(format!("{host}, for {what},"), AUTHORITY);
            }
            Why::Unopened(host, unopened) => {
                let source = unopened.why().into();
                return Error::unreachable_with_hint(
                    format!("{host}, for {what},"),
                    way.hint(),
                    source,
                );
            }
            Why::Offline(why, hint) => {
                let what = format!("Azure, for {what},");
                return Error::unreachable_with_hint(what, hint, why.into());
            }
            Why::NoAnswer => return Error::timed_out(what, LOGIN),
            Why::Refused(_) => tried.push((way, why)),
        }
    }
    let is_alone = tried.len() == 1;
    let is_cut_off = tried.iter().any(|(way, why)| match why {
        Why::Refused(_) => false,
        Why::Offline(..) => true,
        Why::Unopened(..) | Why::NoAnswer => !way.is_of_vm(),
    });
    let (mut whys, mut hints) = (Vec::new(), Vec::new());
    for (way, why) in &tried {
        let (why, hint) = match why {
            Why::Refused(why) => (why.clone(), way.hint().to_owned()),
            Why::Unopened(host, unopened) => (
                format!("{host} cannot be reached: {}", unopened.why()),
                if way.is_of_vm() {
                    way.hint().to_owned()
                } else {
                    unopened.hint(AUTHORITY)
                },
            ),
            Why::Offline(why, hint) => (why.clone(), (*hint).to_owned()),
            Why::NoAnswer => (
                "no response in time".to_owned(),
                if way.is_of_vm() {
                    way.hint().to_owned()
                } else {
                    NETWORK.to_owned()
                },
            ),
        };
        whys.push(format!("{}: {why}", way.name()));
        hints.push(if is_alone {
            hint
        } else {
            format!("for {}, {hint}", way.name())
        });
    }
    let (whys, hints) = (whys.join("; "), hints.join("; "));
    if is_cut_off {
        // The login may succeed when the network works again.
        return Error::unreachable_with_hint("Azure, for the login,", hints, whys.into());
    }
    Error::denied("the login to Azure", whys, hints)
}

fn client_options(authority_host: Option<&str>, client: Arc<LoginClient>) -> ClientOptions {
    let cloud = authority_host.map(|host| {
        let mut cloud = CustomConfiguration::default();
        host.clone_into(&mut cloud.authority_host);
        Arc::new(CloudConfiguration::from(cloud))
    });
    ClientOptions {
        transport: Some(azure_core::http::Transport::new(client)),
        cloud,
        ..ClientOptions::default()
    }
}

fn open(way: &Login, options: &ClientOptions) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let client_options = options.clone();
    Ok(match way {
        Login::InOrder | Login::AzureCli => AzureCliCredential::new(None)?,
        Login::ManagedIdentity { client } => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: client.clone().map(UserAssignedId::ClientId),
                client_options,
            }))?
        }
        Login::AssignedIdentity { id } => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: Some(UserAssignedId::ResourceId(id.clone())),
                client_options,
            }))?
        }
        Login::ClientSecret {
            tenant,
            client,
            secret,
        } => ClientSecretCredential::new(
            tenant,
            client.clone(),
            Secret::new(secret.expose().to_owned()),
            Some(ClientSecretCredentialOptions { client_options }),
        )?,
        Login::WorkloadIdentity => {
            WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                ..WorkloadIdentityCredentialOptions::default()
            }))?
        }
    })
}

/// Provides tokens to the generated client of Azure's compute service, which uses an older trait.
#[async_trait]
impl legacy::auth::TokenCredential for Credential {
    async fn get_token(&self, _: &[&str]) -> legacy::Result<legacy::auth::AccessToken> {
        let token = self.token().await;
        let token = token.map_err(|error| hidden(Failure::Login(Box::new(error))))?;
        let expires = self
            .token
            .lock()
            .await
            .as_ref()
            .map(|(_, expires)| expires.timestamp());
        let expires = expires.unwrap_or_default();
        let expires = time::OffsetDateTime::from_unix_timestamp(expires)
            .map_err(|error| hidden(Failure::Unreadable(error.to_string())))?;
        let token = legacy::auth::Secret::new(token.expose().to_owned());
        Ok(legacy::auth::AccessToken::new(token, expires))
    }

    async fn clear_cache(&self) -> legacy::Result<()> {
        self.forget().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_attempted_login_with_a_hint() {
        let ways = || {
            [
                Login::WorkloadIdentity,
                Login::ManagedIdentity { client: None },
                Login::AzureCli,
            ]
        };
        let refused = |way| {
            let why = refused(&way, "it does not exist\nadvice");
            (way, why)
        };
        let error = failed(ways().map(refused).into());
        let (text, hint) = (error.chain(), error.hint().unwrap().to_owned());
        for name in ["workload identity", "managed identity", "Azure CLI"] {
            assert!(
                text.contains(&format!("{name}: it does not exist")),
                "{text}"
            );
            assert!(hint.contains(&format!("for {name}, ")), "{hint}");
        }
        assert!(!text.contains("advice"), "{text}");
        let alone = failed(vec![refused(Login::AzureCli)]);
        assert!(alone.hint().unwrap().starts_with("run `az login`"));
    }

    #[test]
    fn an_unreachable_login_among_several_may_be_repeated() {
        let elsewhere = (Login::ManagedIdentity { client: None }, Why::NoAnswer);
        let absent = |way| (way, Why::Refused("it is not configured".to_owned()));
        let offline = Why::Offline("no route".to_owned(), "check the network");
        for (way, why, hint) in [
            (Login::AzureCli, offline, "for Azure CLI, check the network"),
            (Login::AzureCli, Why::NoAnswer, "HTTPS_PROXY"),
        ] {
            let error = failed(vec![absent(Login::WorkloadIdentity), (way, why)]);
            assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
        }
        let error = failed(vec![absent(Login::WorkloadIdentity), elsewhere]);
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    }

    #[test]
    fn a_login_without_a_response_is_not_reported_as_a_wrong_secret() {
        let secret = Login::ClientSecret {
            tenant: String::new(),
            client: String::new(),
            secret: Sensitive::new(""),
        };
        let error = failed(vec![(secret, Why::NoAnswer)]);
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        let offline = Why::Offline("no route".to_owned(), "check the network");
        let error = failed(vec![(Login::AzureCli, offline)]);
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert_eq!(error.hint(), Some("check the network"));
    }
}
