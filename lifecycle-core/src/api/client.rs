//! A client of the manager's API. The caller provides the connections, which may be direct or pass
//! through a node's SSH server. Calls share one connection; each stream has its own.

mod credential;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;

pub(super) use self::credential::CredentialFiles;
use self::credential::{Credential, OUTDATED_AUTHORITY, connector, is_untrusted};
use super::ManagerApi;
use super::authority::server_name;
use super::exec::{self, ExecV1};
use super::problem;
use super::why::WhyV1;
use super::wire::{
    AdoptedV1, AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, ExportV1, NewMachineV1, NewNodeV1,
    NewTokenV1, NodeV1, OperationV1, OverrideV1, PlatformV1, ProgressV1, RestartNodeV1, RestartV1,
    RetriedV1, RevisionV1, RollbackPlanV1, RolledBackV1, ScaleV1, ServiceLogLine, ServiceV1,
    TokenV1,
};
use crate::error::{Error, Result};
use crate::host::Duplex;
use crate::manager::Conversation;
use crate::model::{
    Chunk, ChunkDigest, Event, Generation, NodeRequest, OperationId, PlatformId, RolloutRequest,
    ServiceClass, ServiceName,
};
use crate::platform::{Declaration, OverrideChange, RestoredSecrets};
use crate::reconcile::{Plan, RecordedPlan, RetryOptions};
use crate::runtime::{ExecCommand, ImageLogins, LogOptions};
use crate::secret::Sensitive;

/// Time limit for connecting and receiving the head of a response. The body has a separate limit of
/// the same length; a stream has no limit.
const RESPONSE_WITHIN: Duration = Duration::from_secs(30);

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Opens connections to the manager's API.
#[async_trait]
pub trait Dial: Debug + Send + Sync + 'static {
    /// Opens a new connection.
    async fn dial(&self) -> Result<Box<dyn Duplex>>;
}

/// Calls the API of a remote manager, with a credential.
#[derive(Clone)]
pub struct ApiClient {
    dial: Arc<dyn Dial>,
    /// The name that the manager's certificate must contain.
    name: ServerName<'static>,
    credential: Credential,
    /// The connection of the latest call, for reuse.
    idle: Arc<Mutex<Option<Connection>>>,
}

type Connection = SendRequest<Full<Bytes>>;

impl Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient")
            .field("dial", &self.dial)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn interrupted(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Interrupted {
        what: "the connection to the manager".into(),
        source: Some(Box::new(error)),
    }
}

impl ApiClient {
    /// Creates a client for the manager of `platform`. The client authenticates with `token` and
    /// accepts only certificates that `authority` (PEM, one or several certificates) signed.
    pub fn new(
        dial: Arc<dyn Dial>,
        platform: PlatformId,
        authority: &str,
        token: Sensitive,
    ) -> Result<Self> {
        let name = ServerName::try_from(server_name(platform)).map_err(interrupted)?;
        Self::trusting(dial, name, authority, token)
    }

    /// Creates a client for the server `name`. The client accepts only certificates that
    /// `authority` (PEM, one or several certificates) signed.
    pub(super) fn trusting(
        dial: Arc<dyn Dial>,
        name: ServerName<'static>,
        authority: &str,
        token: Sensitive,
    ) -> Result<Self> {
        let tls = connector(authority)?;
        Ok(Self::of(dial, name, Credential::Fixed { tls, token }))
    }

    /// Creates a client for the server `name`, with a credential that may be replaced.
    pub(super) fn with_files(
        dial: Arc<dyn Dial>,
        name: ServerName<'static>,
        files: CredentialFiles,
    ) -> Self {
        Self::of(dial, name, Credential::Files(files))
    }

    fn of(dial: Arc<dyn Dial>, name: ServerName<'static>, credential: Credential) -> Self {
        Self {
            dial,
            name,
            credential,
            idle: Arc::default(),
        }
    }

    /// Returns whether the whole platform is ready: `GET /readyz`.
    pub async fn platform_is_ready(&self) -> Result<bool> {
        let response = self.exchange(Method::GET, "/readyz", None, None).await?;
        let status = response.status();
        whole("/readyz", response).await?;
        Ok(status == StatusCode::OK)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(path, self.send(Method::GET, path, None).await?).await
    }

    /// Sends a request with the credential. Converts an error response to an [`Error`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Content>,
    ) -> Result<Response<hyper::body::Incoming>> {
        let token = self.credential.token().await?;
        let response = self.exchange(method, path, body, Some(&token)).await?;
        successful(path, response).await
    }

    /// Opens a stream of a media type. It has a connection of its own, because it may never end.
    async fn open(
        &self,
        path: &str,
        accept: &'static str,
    ) -> Result<Response<hyper::body::Incoming>> {
        let exchange = async {
            let mut connection = self.connect().await?;
            let token = self.credential.token().await?;
            let mut request = self.request(Method::GET, path, None, Some(&token))?;
            let headers = request.headers_mut();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            connection.send_request(request).await.map_err(interrupted)
        };
        let response = tokio::time::timeout(RESPONSE_WITHIN, exchange)
            .await
            .unwrap_or_else(|_| Err(late(path)))?;
        successful(path, response).await
    }

    /// Sends a request. The time limit also covers a server that accepts the connection but does
    /// not respond.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Content>,
        token: Option<&Sensitive>,
    ) -> Result<Response<hyper::body::Incoming>> {
        tokio::time::timeout(
            RESPONSE_WITHIN,
            self.exchange_unbounded(method, path, body, token),
        )
        .await
        .unwrap_or_else(|_| Err(late(path)))
    }

    /// Sends a request over the idle connection, or over a new one if there is none. If the idle
    /// connection is closed, repeats the request over a new one: every call may be repeated.
    async fn exchange_unbounded(
        &self,
        method: Method,
        path: &str,
        body: Option<Content>,
        token: Option<&Sensitive>,
    ) -> Result<Response<hyper::body::Incoming>> {
        if let Some(mut connection) = self.take_idle()
            && connection.ready().await.is_ok()
        {
            let request = self.request(method.clone(), path, body.clone(), token)?;
            if let Ok(response) = connection.send_request(request).await {
                self.put_idle(connection);
                return Ok(response);
            }
        }
        let mut connection = self.connect().await?;
        let request = self.request(method, path, body, token)?;
        let response = connection
            .send_request(request)
            .await
            .map_err(interrupted)?;
        self.put_idle(connection);
        Ok(response)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.take().filter(|connection| !connection.is_closed())
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        *idle = Some(connection);
    }

    async fn connect(&self) -> Result<Connection> {
        let tls = self.credential.tls().await?;
        let stream = self.dial.dial().await?;
        let stream = tls
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| Error::Unreachable {
                hint: is_untrusted(&error).then(|| OUTDATED_AUTHORITY.to_owned()),
                what: "the manager's API".into(),
                source: Some(Box::new(error)),
            })?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(interrupted)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the manager ended");
            }
        });
        Ok(sender)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Content>,
        token: Option<&Sensitive>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.name.to_str().as_ref())
            .header(ACCEPT, "application/json");
        if let Some(token) = token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(interrupted)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, body.kind);
            bytes = body.bytes;
        }
        request.body(Full::new(bytes)).map_err(interrupted)
    }
}

#[async_trait]
impl ManagerApi for ApiClient {
    async fn health(&self) -> Result<()> {
        let response = self.send(Method::GET, "/healthz", None).await?;
        whole("/healthz", response).await.map(drop)
    }

    async fn platform(&self) -> Result<PlatformV1> {
        self.get("/v1/platform").await
    }

    async fn nodes(&self) -> Result<Vec<NodeV1>> {
        self.get("/v1/nodes").await
    }

    async fn services(&self) -> Result<Vec<ServiceV1>> {
        self.get("/v1/services").await
    }

    async fn endpoints(&self, service: &ServiceName) -> Result<Vec<EndpointV1>> {
        self.get(&format!("/v1/services/{service}/endpoints")).await
    }

    async fn all_endpoints(&self) -> Result<BTreeMap<ServiceName, Vec<EndpointV1>>> {
        self.get("/v1/endpoints").await
    }

    async fn progress(&self, with_plan: bool) -> Result<ProgressV1> {
        self.get(&format!("/v1/progress?plan={with_plan}")).await
    }

    async fn events(&self, after: u64) -> Result<EventsV1> {
        self.get(&format!("/v1/events?after={after}")).await
    }

    async fn watch_events(&self, after: u64) -> Result<BoxStream<'static, Result<Event>>> {
        let path = format!("/v1/events?after={after}");
        Ok(streams::events(self.open(&path, EVENT_STREAM).await?))
    }

    async fn watch_endpoints(
        &self,
        service: &ServiceName,
    ) -> Result<BoxStream<'static, Result<Vec<EndpointV1>>>> {
        let path = format!("/v1/services/{service}/endpoints");
        Ok(streams::events(self.open(&path, EVENT_STREAM).await?))
    }

    async fn last_event(&self) -> Result<u64> {
        let page: EventsV1 = self.get("/v1/events?after=latest").await?;
        Ok(page.cursor)
    }

    async fn apply(&self, declaration: &Declaration) -> Result<AppliedV1> {
        let response = self
            .send(Method::PUT, "/v1/platform", Some(body(declaration)?))
            .await?;
        read("/v1/platform", response).await
    }

    async fn missing_chunks(&self, of: &BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        let path = "/v1/chunks/missing";
        let response = self.send(Method::POST, path, Some(body(of)?)).await?;
        read(path, response).await
    }

    async fn put_chunk(&self, chunk: &Chunk) -> Result<()> {
        let path = format!("/v1/chunks/{}", chunk.digest());
        let body = Content {
            kind: "application/octet-stream",
            bytes: chunk.contents().clone(),
        };
        let response = self.send(Method::PUT, &path, Some(body)).await?;
        whole(&path, response).await.map(drop)
    }

    async fn set_image_logins(&self, logins: &ImageLogins) -> Result<()> {
        let path = "/v1/image-logins";
        let response = self.send(Method::PUT, path, Some(body(logins)?)).await?;
        whole(path, response).await.map(drop)
    }

    async fn plan(&self, declaration: &Declaration) -> Result<Plan> {
        let response = self
            .send(Method::POST, "/v1/platform/plan", Some(body(declaration)?))
            .await?;
        read("/v1/platform/plan", response).await
    }

    async fn recorded_plan(&self) -> Result<RecordedPlan> {
        self.get("/v1/platform/plan").await
    }

    async fn delete_platform(&self, volumes: bool) -> Result<OperationV1> {
        let path = format!("/v1/platform?volumes={volumes}");
        let response = self.send(Method::DELETE, &path, None).await?;
        read(&path, response).await
    }

    async fn restart(&self, name: &str, replaces: Option<RestartV1>) -> Result<OperationV1> {
        let path = format!(
            "/v1/services/{}/restart",
            in_path("service or replica", name)?
        );
        let body = match replaces {
            Some(replaces) => Some(body(&replaces)?),
            None => None,
        };
        let response = self.send(Method::POST, &path, body).await?;
        read(&path, response).await
    }

    async fn restart_node(&self, name: &str, request: &RestartNodeV1) -> Result<OperationV1> {
        let path = format!("/v1/nodes/{}/restart", in_path("node", name)?);
        let response = self.send(Method::POST, &path, Some(body(request)?)).await?;
        read(&path, response).await
    }

    async fn prepare_node(&self, name: &str) -> Result<OperationV1> {
        let path = format!("/v1/nodes/{}/prepare", in_path("node", name)?);
        let response = self.send(Method::POST, &path, None).await?;
        read(&path, response).await
    }

    async fn add_node(&self, node: &NewNodeV1) -> Result<AppliedV1> {
        let response = self
            .send(Method::POST, "/v1/nodes", Some(body(node)?))
            .await?;
        read("/v1/nodes", response).await
    }

    async fn adopt_node(&self, machine: &NewMachineV1) -> Result<AdoptedV1> {
        let body = Some(body(machine)?);
        let response = self.send(Method::POST, "/v1/machines", body).await?;
        read("/v1/machines", response).await
    }

    async fn remove_node(&self, name: &str, volumes: bool) -> Result<AppliedV1> {
        let name = in_path("node", name)?;
        let path = format!("/v1/nodes/{name}?volumes={volumes}");
        let response = self.send(Method::DELETE, &path, None).await?;
        read(&path, response).await
    }

    async fn apply_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<AppliedV1> {
        let path = format!("/v1/{}/{name}", plural(class));
        let response = self.send(Method::PUT, &path, Some(yaml(text))).await?;
        read(&path, response).await
    }

    async fn plan_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Plan> {
        let path = format!("/v1/{}/{name}?dry_run=true", plural(class));
        let response = self.send(Method::PUT, &path, Some(yaml(text))).await?;
        read(&path, response).await
    }

    async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<AppliedV1> {
        let path = format!("/v1/{}/{}", plural(class), in_path("service", name)?);
        let response = self.send(Method::DELETE, &path, None).await?;
        read(&path, response).await
    }

    async fn change_nodes(&self, names: &[String], request: NodeRequest) -> Result<AppliedV1> {
        let names = names.iter().map(|name| in_path("node", name));
        let names = names.collect::<Result<Vec<_>>>()?.join(",");
        let path = format!("/v1/nodes/{names}/{request}");
        let response = self.send(Method::POST, &path, None).await?;
        read(&path, response).await
    }

    async fn override_service(&self, service: &str, change: OverrideChange) -> Result<AppliedV1> {
        let service = in_path("service", service)?;
        let (action, content) = match change {
            OverrideChange::Scale(replicas) => ("scale", Some(body(&ScaleV1 { replicas })?)),
            OverrideChange::Stop => ("stop", None),
            OverrideChange::Start => ("start", None),
        };
        let path = format!("/v1/services/{service}/{action}");
        let response = self.send(Method::POST, &path, content).await?;
        read(&path, response).await
    }

    async fn overrides(&self) -> Result<Vec<OverrideV1>> {
        match self.get("/v1/overrides").await {
            // A manager of the previous release has no overrides.
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            overrides => overrides,
        }
    }

    async fn export(&self) -> Result<ExportV1> {
        let hint = "the manager has an earlier version; update it with `bootstrapper up`";
        self.get("/v1/export").await.map_err(|error| match error {
            Error::NotFound { what, .. } => Error::not_found_with_hint(what, hint),
            error => error,
        })
    }

    async fn remove_override(&self, id: &str) -> Result<AppliedV1> {
        let path = format!("/v1/overrides/{}", in_path("override", id)?);
        let response = self.send(Method::DELETE, &path, None).await?;
        read(&path, response).await
    }

    async fn revisions(&self) -> Result<Vec<RevisionV1>> {
        self.get("/v1/revisions").await
    }

    async fn rollback(&self, to: Generation, secrets: RestoredSecrets) -> Result<RolledBackV1> {
        let path = rollback_path(to, secrets, false);
        let response = self.send(Method::POST, &path, None).await?;
        read(&path, response).await
    }

    async fn plan_rollback(
        &self,
        to: Generation,
        secrets: RestoredSecrets,
    ) -> Result<RollbackPlanV1> {
        let path = rollback_path(to, secrets, true);
        let response = self.send(Method::POST, &path, None).await?;
        read(&path, response).await
    }

    async fn rollout(&self, service: &str, request: RolloutRequest) -> Result<OperationV1> {
        let service = in_path("service", service)?;
        let path = format!("/v1/services/{service}/rollout/{request}");
        let response = self.send(Method::POST, &path, None).await?;
        read(&path, response).await
    }

    async fn retry(&self, name: &str, options: RetryOptions) -> Result<RetriedV1> {
        let name = in_path("service, replica or node", name)?;
        // A manager of the previous release ignores the query.
        let path = format!(
            "/v1/retry/{name}?recreate_volumes={}",
            options.recreate_volumes
        );
        let response = self.send(Method::POST, &path, None).await?;
        read(&path, response).await
    }

    async fn operations(&self) -> Result<Vec<OperationV1>> {
        self.get("/v1/operations").await
    }

    async fn operation(&self, id: OperationId) -> Result<OperationV1> {
        self.get(&format!("/v1/operations/{id}")).await
    }

    async fn cancel(&self, id: OperationId) -> Result<OperationV1> {
        let path = format!("/v1/operations/{id}/cancel");
        read(&path, self.send(Method::POST, &path, None).await?).await
    }

    async fn create_token(&self, new: &NewTokenV1) -> Result<CreatedTokenV1> {
        let path = "/v1/tokens";
        let response = self.send(Method::POST, path, Some(body(new)?)).await?;
        read(path, response).await
    }

    async fn tokens(&self) -> Result<Vec<TokenV1>> {
        self.get("/v1/tokens").await
    }

    async fn revoke_token(&self, name: &str) -> Result<TokenV1> {
        let path = format!("/v1/tokens/{}", in_path("token", name)?);
        let response = self.send(Method::DELETE, &path, None).await?;
        read(&path, response).await
    }

    async fn why(&self, name: &str) -> Result<WhyV1> {
        let name = in_path("service, replica or node", name)?;
        self.get(&format!("/v1/why/{name}")).await
    }

    async fn exec(&self, name: &str, command: ExecCommand) -> Result<Conversation> {
        let name = in_path("service or replica", name)?;
        let path = format!("/v1/services/{name}/exec");
        let body = body(&ExecV1::from(command))?;
        let upgrade = async {
            // Use a new connection: after the upgrade, it belongs to the command.
            let mut connection = self.connect().await?;
            let token = self.credential.token().await?;
            let mut request = self.request(Method::POST, &path, Some(body), Some(&token))?;
            let headers = request.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(exec::PROTOCOL));
            let response = connection
                .send_request(request)
                .await
                .map_err(interrupted)?;
            let status = response.status();
            if status != StatusCode::SWITCHING_PROTOCOLS {
                return Err(problem::read(&path, status, &whole(&path, response).await?));
            }
            hyper::upgrade::on(response).await.map_err(interrupted)
        };
        let upgraded = tokio::time::timeout(RESPONSE_WITHIN, upgrade)
            .await
            .unwrap_or_else(|_| Err(late(&path)))?;
        Ok(exec::converse(TokioIo::new(upgraded)))
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<ServiceLogLine>>> {
        let mut path = format!(
            "/v1/services/{service}/logs?follow={}&timestamps={}",
            options.follow, options.timestamps
        );
        if let Some(tail) = options.tail {
            path = format!("{path}&tail={tail}");
        }
        if let Some(since) = options.since {
            let since = since.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            path = format!("{path}&since={since}");
        }
        Ok(streams::lines(self.open(&path, "application/json").await?))
    }
}

/// Checks that a name can be part of a URL path. Every existing object has such a name, so the
/// error is "not found".
fn in_path<'n>(kind: &str, name: &'n str) -> Result<&'n str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain) {
        Ok(name)
    } else {
        Err(Error::not_found(format!("{kind} {name}")))
    }
}

/// The body of a request.
#[derive(Clone)]
struct Content {
    kind: &'static str,
    bytes: Bytes,
}

fn body(document: &impl serde::Serialize) -> Result<Content> {
    let bytes = serde_json::to_vec(document).map_err(interrupted)?;
    Ok(Content {
        kind: "application/json",
        bytes: bytes.into(),
    })
}

fn yaml(text: &str) -> Content {
    Content {
        kind: "application/yaml",
        bytes: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn rollback_path(to: Generation, secrets: RestoredSecrets, dry_run: bool) -> String {
    let earlier = secrets == RestoredSecrets::Earlier;
    format!("/v1/revisions/{to}/rollback?with_secrets={earlier}&dry_run={dry_run}")
}

/// Returns the name of the collection of a class in URLs.
fn plural(class: ServiceClass) -> String {
    format!("{class}s")
}

async fn read<T: DeserializeOwned>(
    path: &str,
    response: Response<hyper::body::Incoming>,
) -> Result<T> {
    serde_json::from_slice(&whole(path, response).await?).map_err(interrupted)
}

/// Converts an error response to an [`Error`].
async fn successful(
    path: &str,
    response: Response<hyper::body::Incoming>,
) -> Result<Response<hyper::body::Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = whole(path, response).await?;
    Err(problem::read(shown(path), status, &body))
}

/// Returns a path for messages, without the digest of a chunk.
fn shown(path: &str) -> &str {
    const CHUNKS: &str = "/v1/chunks";
    let is_chunk = path.starts_with(CHUNKS);
    if is_chunk { CHUNKS } else { path }
}

/// Reads the whole body of a response that is not a stream.
async fn whole(path: &str, response: Response<hyper::body::Incoming>) -> Result<Bytes> {
    let body = tokio::time::timeout(RESPONSE_WITHIN, response.into_body().collect())
        .await
        .map_err(|_| late(path))?;
    Ok(body.map_err(interrupted)?.to_bytes())
}

fn late(path: &str) -> Error {
    Error::TimedOut {
        what: format!("the manager's response to {}", shown(path)),
        after: RESPONSE_WITHIN,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

    use super::*;
    use crate::api::Authority;
    use crate::clock::{Clock, IdSource, RandomIds, SystemClock};

    /// Accepts every connection and never sends anything.
    #[derive(Debug, Default)]
    struct Unresponsive(std::sync::Mutex<Vec<tokio::io::DuplexStream>>);

    #[async_trait]
    impl Dial for Unresponsive {
        async fn dial(&self) -> Result<Box<dyn Duplex>> {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            self.0.lock().unwrap().push(theirs);
            Ok(Box::new(ours))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_accepts_and_does_not_respond_times_out() {
        let platform = PlatformId::new(RandomIds.uuid());
        let authority = Authority::generate(platform, SystemClock.now()).unwrap();
        let token = Sensitive::new("x");
        let dial = Arc::new(Unresponsive::default());
        let client = ApiClient::new(dial, platform, &authority.certificate, token).unwrap();
        let health = tokio::time::timeout(Duration::from_hours(1), client.health());
        let error = health
            .await
            .expect("the client has no timeout")
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    }

    /// A manager that responds `[]` to every request, and closes a connection after `responses`
    /// responses.
    #[derive(Debug)]
    struct Terse {
        acceptor: Acceptor,
        responses: usize,
        dials: AtomicUsize,
    }

    struct Acceptor(tokio_rustls::TlsAcceptor);

    impl Debug for Acceptor {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an acceptor")
        }
    }

    #[async_trait]
    impl Dial for Terse {
        async fn dial(&self) -> Result<Box<dyn Duplex>> {
            self.dials.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let (acceptor, responses) = (self.acceptor.0.clone(), self.responses);
            tokio::spawn(async move {
                let stream = acceptor.accept(theirs).await.unwrap();
                let mut stream = tokio::io::BufReader::new(stream);
                for _ in 0..responses {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        if stream.read_line(&mut line).await.unwrap() == 0 {
                            return;
                        }
                    }
                    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
                    stream.write_all(response).await.unwrap();
                    stream.flush().await.unwrap();
                }
                stream.shutdown().await.unwrap();
            });
            Ok(Box::new(ours))
        }
    }

    #[tokio::test]
    async fn calls_share_a_connection_until_it_closes() {
        let platform = PlatformId::new(RandomIds.uuid());
        let now = SystemClock.now();
        let authority = Authority::generate(platform, now).unwrap();
        let ip = std::net::IpAddr::from([127, 0, 0, 1]);
        let identity = authority.issue(platform, ip, now).unwrap();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.certificates.as_bytes())
            .collect::<std::result::Result<_, _>>()
            .unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())
                .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let dial = Arc::new(Terse {
            acceptor: Acceptor(tokio_rustls::TlsAcceptor::from(Arc::new(config))),
            responses: 3,
            dials: AtomicUsize::new(0),
        });
        let token = Sensitive::new("x");
        let client = ApiClient::new(dial.clone(), platform, &authority.certificate, token).unwrap();
        for (call, dials) in [1, 1, 1, 2, 2, 2, 3].into_iter().enumerate() {
            assert_eq!(client.nodes().await.unwrap(), [], "call {call}");
            assert_eq!(dial.dials.load(Ordering::SeqCst), dials, "call {call}");
        }
    }
}
