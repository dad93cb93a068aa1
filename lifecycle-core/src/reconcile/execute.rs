//! Carries out one step by calling the backends. This module makes no decisions, and every step can
//! be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::agent;
use super::backends::Backends;
use super::clear::clear;
use super::declared::{Declared, DeclaredService};
use super::direct;
use super::feeder::{Drain, LONGEST_ACKNOWLEDGEMENT};
use super::files;
use super::image_logins;
use super::service_credential;
use super::step::{Action, Work};
use crate::cloud::{CloudOperation, NodeChange, ObservedNode, ProgressListener};
use crate::code;
use crate::error::{Error, Result};
use crate::host::{Account, NodeHandle};
use crate::model::{
    BuildSource, ContainerTemplate, DEFAULT_STOP_GRACE, ImageSource, InstanceId, NetworkMode,
    NodeName, Protocol, ServiceName, VolumeName,
};
use crate::platform::{ManagerEndpoint, instructions};
use crate::runtime::{BuildRequest, ContainerSpec, HostBind, ImageRegistry, Role};
use crate::secret::{PlatformKey, Sensitive, service_api_token};

/// The range of host ports for container ports that have no declared host port.
pub const PICKED_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// The file name of an inline Dockerfile within the build context.
const INLINE_DOCKERFILE: &str = ".lifecycle.Dockerfile";

/// The size limit, in bytes, for reading a Dockerfile to find the line of a failed instruction.
const LONGEST_DOCKERFILE: u64 = 1 << 20;

/// The directory in a container that contains the credential for the manager's API.
pub(crate) const API_DIRECTORY: &str = "/run/lifecycle";

/// The environment variable of a container that contains the URL of the manager's API.
pub(crate) const API_URL: &str = "LIFECYCLE_URL";

/// The address of the manager's API, and the source of the credentials for it. Services that request
/// access receive both.
#[derive(Debug, Clone)]
pub struct ServiceApi {
    pub endpoint: ManagerEndpoint,
    /// The key from which the services' tokens are derived.
    pub key: PlatformKey,
    /// How often the services' tokens were replaced.
    pub token_rotation: u64,
    /// The certificates of the authorities that services trust, in PEM.
    pub authority: String,
}

/// How long each type of step may take before it fails. The deadlines of node changes are in the
/// declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    pub prepare: Duration,
    /// The deadline for opening and closing ports in the cloud's firewall.
    pub public_ports: Duration,
    /// The deadline for building, copying or pulling an image.
    pub image: Duration,
    /// The deadline for creating, starting, stopping or removing a container. For a stop or a
    /// removal, the grace period is added; for a stop, also the time for draining the container's
    /// connections.
    pub container: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            prepare: Duration::from_mins(20),
            public_ports: Duration::from_mins(10),
            image: Duration::from_hours(1),
            container: Duration::from_mins(3),
        }
    }
}

/// Everything that a step needs besides its action.
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) backends: Backends,
    pub(super) declared: Arc<Declared>,
    /// The machines as they were observed when the step was planned.
    pub(super) machines: BTreeMap<NodeName, ObservedNode>,
    pub(super) api: Option<ServiceApi>,
    pub(super) deadlines: Deadlines,
    /// The change in progress at the step's node, which a previous process may have started.
    pub(super) under_way: Option<CloudOperation>,
    /// Receives each change that the cloud has accepted.
    pub(super) begun: mpsc::UnboundedSender<CloudOperation>,
    /// The wait before the step stops a container.
    pub(super) drain: Option<Drain>,
    /// The volumes that instances have used on the step's node.
    pub(super) used_volumes: BTreeSet<VolumeName>,
    /// Whether another container of the replica was running on the node when the step was planned.
    pub(super) replaces: bool,
}

impl Execution {
    /// Carries out `action` within its deadline; lines of output are sent to `progress`.
    pub(super) async fn carry_out(
        &self,
        action: &Action,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<()> {
        let act = self.act(action, progress);
        if action.changes_node() {
            // `change` enforces the deadline itself, so that its error can contain the cloud's last
            // report.
            return act.await;
        }
        let limit = self.limit(action);
        tokio::time::timeout(limit, act).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: format!("the step `{action}`"),
                after: limit,
            })
        })
    }

    /// Returns how long `action` may take.
    pub(super) fn limit(&self, action: &Action) -> Duration {
        let (cloud, other) = (&self.declared.deadlines, &self.deadlines);
        match action.work() {
            Work::CreateNode => cloud.create,
            Work::StartNode => cloud.start,
            Work::StopNode | Work::RestartNode => cloud.restart,
            Work::DeleteNode => cloud.delete,
            Work::PrepareNode => other.prepare,
            Work::PublicPorts => other.public_ports,
            Work::Image => other.image,
            Work::Container => {
                let instance = action.instance();
                let template = instance.and_then(|id| self.declared.template(&id.service));
                let sending = template.map(|template| files::time_to_send(&template.files));
                other.container.saturating_add(sending.unwrap_or_default())
            }
            Work::StoppingContainer => {
                let grace = self.grace_or_default(action);
                // The container's connections get as much time to end as its process.
                let drain = LONGEST_ACKNOWLEDGEMENT.saturating_add(grace);
                let stop = other.container.saturating_add(grace);
                drain.saturating_add(stop)
            }
            Work::RemovingContainer => {
                let grace = self.grace_or_default(action);
                other.container.saturating_add(grace)
            }
        }
    }

    async fn act(
        &self,
        action: &Action,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<()> {
        match action {
            Action::ProvisionNode { node } => {
                let spec = self.declared.nodes.get(node);
                let spec = spec.ok_or_else(|| Error::not_found(format!("node {node}")))?;
                let spec = spec.clone();
                self.change(NodeChange::Provision { spec }, progress).await
            }
            Action::StartNode { node } => {
                let node = node.clone();
                self.change(NodeChange::Start { node }, progress).await
            }
            Action::StopNode { node } => {
                let node = node.clone();
                self.change(NodeChange::Stop { node }, progress).await
            }
            Action::RestartNode { node, boot_id } => {
                let (node, boot_id) = (node.clone(), boot_id.clone());
                let restart = NodeChange::Restart { node, boot_id };
                self.change(restart, progress).await
            }
            Action::DeleteNode { node } => {
                let node = node.clone();
                self.change(NodeChange::Delete { node }, progress).await
            }
            Action::ReleaseNode { node } => {
                let handle = self.handle(node).await?;
                let volumes = self.declared.deletes_volumes;
                clear(&handle, self.declared.owner.id, node, volumes).await?;
                let node = node.clone();
                self.change(NodeChange::Delete { node }, progress).await
            }
            Action::PrepareNode { node, .. } => {
                let handle = self.handle(node).await?;
                let account = if self.machine(node)?.created {
                    Account::Created
                } else {
                    Account::Adopted
                };
                let preparer = &self.backends.preparer;
                preparer
                    .prepare(handle.host.as_ref(), account, progress)
                    .await?;
                Ok(())
            }
            Action::SetPublicPorts { ports, node } => {
                self.backends.cloud.set_public_ports(node, ports).await
            }
            Action::BuildImage { service, node, .. } => self.build(service, node, progress).await,
            Action::CopyImage { image, from, node } => {
                let source = self.handle(from).await?;
                let target = self.handle(node).await?;
                if tag_existing(image, (from, &source), (node, &target)).await? {
                    return Ok(());
                }
                let own = self.backends.own_image.as_ref();
                let archive = if let Some(own) = own.filter(|own| own.name == *image) {
                    own.source.archive(image).await?
                } else {
                    let export = source.runtime.export_image(image);
                    export.instrument(engine_call("export_image", from)).await?
                };
                let import = target.runtime.import_image(archive);
                import.instrument(engine_call("import_image", node)).await
            }
            Action::PullImage { image, node } => {
                let handle = self.handle(node).await?;
                self.pull(image, node, &handle).await
            }
            Action::RemoveImage { image, node } => {
                let handle = self.handle(node).await?;
                let remove = handle.runtime.remove_image(image);
                remove.instrument(engine_call("remove_image", node)).await?;
                let left = handle.runtime.image(image);
                let left = left.instrument(engine_call("image", node)).await?;
                left.map_or(Ok(()), |_| {
                    let what = format!("removing image {image} from {node}");
                    Err(Error::conflict(what, "a container uses the image"))
                })
            }
            Action::EnsureAgent { container, node } => {
                let handle = self.handle(node).await?;
                agent::ensure(&handle, &self.declared, container, node).await
            }
            Action::StartInstance {
                instance,
                container,
                node,
                joins,
            } => self.start(instance, container, node, joins.clone()).await,
            Action::StopInstance {
                instance,
                container,
                id,
                node,
            } => {
                let handle = self.handle(node).await?;
                if let Some(drain) = &self.drain {
                    let until = drain.wait(self.grace_or_default(action), progress).await;
                    if drain.serves() {
                        direct::connections_end(&handle, id, until, progress).await;
                    }
                }
                // An undeclared container has the grace period with which it was created.
                let grace = self.grace(&instance.service);
                let stop = handle.runtime.stop_container(container, grace);
                stop.instrument(engine_call("stop_container", node)).await
            }
            Action::RemoveAgent { container, node } => {
                let handle = self.handle(node).await?;
                agent::remove(&handle, &self.declared, container, node).await
            }
            Action::RemoveInstance {
                container, node, ..
            } => {
                let handle = self.handle(node).await?;
                let remove = handle.runtime.remove_container(container);
                let span = engine_call("remove_container", node);
                remove.instrument(span).await?;
                files::remove(handle.host.as_ref(), self.declared.owner.id, container).await
            }
        }
    }

    /// Changes a node within the declared deadline, or continues the change if it is in progress.
    async fn change(
        &self,
        change: NodeChange,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<()> {
        let cloud = self.backends.cloud.as_ref();
        let listener = ProgressListener::new(progress);
        let work = async {
            if let Some(operation) = self.under_way.as_ref().filter(|o| o.change == change) {
                return listener.poll_to_end(cloud, operation).await;
            }
            let operation = cloud.begin(change.clone()).await?;
            // Ignore the result: if the control loop has ended, the next process resumes this
            // change.
            drop(self.begun.send(operation.clone()));
            listener.poll_to_end(cloud, &operation).await
        };
        let deadline = self.declared.deadlines.of(&change);
        listener.within(deadline, &change, work).await
    }

    fn machine(&self, node: &NodeName) -> Result<&ObservedNode> {
        self.machines
            .get(node)
            .ok_or_else(|| Error::not_found(format!("node {node}")))
    }

    async fn handle(&self, node: &NodeName) -> Result<NodeHandle> {
        self.backends.connector.connect(self.machine(node)?).await
    }

    fn service(&self, name: &ServiceName) -> Result<&DeclaredService> {
        self.declared
            .services
            .get(name)
            .ok_or_else(|| Error::not_found(format!("service {name}")))
    }

    fn grace(&self, service: &ServiceName) -> Option<Duration> {
        self.declared
            .services
            .get(service)
            .and_then(|s| s.spec.container.stop_grace)
    }

    fn grace_or_default(&self, action: &Action) -> Duration {
        let grace = action.instance().and_then(|id| self.grace(&id.service));
        grace.unwrap_or(DEFAULT_STOP_GRACE)
    }

    /// Pulls an image. If the registry denies this, tries again: with the new login if it was changed
    /// meanwhile, otherwise without one, because an expired login must not prevent the pull of a
    /// public image.
    async fn pull(&self, image: &str, node: &NodeName, handle: &NodeHandle) -> Result<()> {
        let logins = || async {
            let stored = image_logins::stored(self.backends.registry.as_ref()).await?;
            Ok::<_, Error>(stored.and_then(|mut all| all.remove(&ImageRegistry::of(image))))
        };
        let mut login = logins().await?;
        loop {
            let pull = handle.runtime.pull_image(image, login.as_ref());
            let Err(error) = pull.instrument(engine_call("pull_image", node)).await else {
                return Ok(());
            };
            let now = match &error {
                Error::Denied { .. } => logins().await?,
                _ => return Err(error),
            };
            if now == login {
                let pull = handle.runtime.pull_image(image, None);
                let pull = pull.instrument(engine_call("pull_image", node));
                if login.is_some() && pull.await.is_ok() {
                    return Ok(());
                }
                return Err(image_logins::explained(error, image, login.as_ref()));
            }
            login = now;
        }
    }

    async fn build(
        &self,
        service: &ServiceName,
        node: &NodeName,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<()> {
        let service = self.service(service)?;
        let ImageSource::Build(source) = &service.spec.source else {
            return Err(Error::Conflict {
                what: format!("building the image for {} failed", service.spec.name),
                why: "the service is no longer built from a code base".into(),
            });
        };
        let handle = self.handle(node).await?;
        let mut context = self.backends.code.archive(&source.code).await?;
        let mut dockerfile = source.dockerfile.clone();
        if let Some(inline) = &source.options.inline {
            INLINE_DOCKERFILE.clone_into(&mut dockerfile);
            context = code::with_file(context, INLINE_DOCKERFILE, inline)?;
        }
        let earlier = self.earlier_images(service, node, &handle).await?;
        let logins = image_logins::stored(self.backends.registry.as_ref()).await?;
        let request = BuildRequest {
            earlier,
            tag: service.image.clone(),
            dockerfile,
            args: source.args.clone(),
            options: source.options.clone(),
            context,
            logins: logins.unwrap_or_default(),
        };
        let build = handle.runtime.build_image(request, progress);
        match build.instrument(engine_call("build_image", node)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.with_line(error, source).await),
        }
    }

    /// Returns the ids of the images on `node` that a new image is compared with: those of the
    /// containers of all services that use the new image.
    async fn earlier_images(
        &self,
        service: &DeclaredService,
        node: &NodeName,
        handle: &NodeHandle,
    ) -> Result<Vec<String>> {
        let state = handle.runtime.state();
        let state = state.instrument(engine_call("state", node)).await?;
        let same_image = |id: &InstanceId| {
            let other = self.declared.services.get(&id.service);
            other.is_some_and(|other| other.image == service.image)
        };
        let containers = state.containers.into_iter();
        let ids: BTreeSet<String> = containers
            .filter(|container| matches!(&container.role, Role::Instance(id) if same_image(id)))
            .map(|container| container.image)
            .collect();
        Ok(ids.into_iter().collect())
    }

    /// Adds the line of the failed instruction to a build error.
    async fn with_line(&self, mut error: Error, source: &BuildSource) -> Error {
        let Error::Build { place, .. } = &mut error else {
            return error;
        };
        if source.options.inline.is_some() {
            let is_outside = source.dockerfile.starts_with(['/', '.']);
            let name = if is_outside {
                &source.dockerfile
            } else {
                "dockerfile_inline"
            };
            name.clone_into(&mut place.file);
        }
        let (None, Some(number)) = (place.line, place.number) else {
            return error;
        };
        let code = self.backends.code.as_ref();
        let text = match &source.options.inline {
            Some(inline) => Some(inline.clone()),
            None => code::read_file(code, &source.code, &source.dockerfile, LONGEST_DOCKERFILE)
                .await
                .ok()
                .flatten()
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        };
        let instructions = text.as_deref().map(instructions).unwrap_or_default();
        let found = instructions.into_iter().nth(number.saturating_sub(1));
        place.line = found.map(|(line, _)| line);
        error
    }

    async fn start(
        &self,
        id: &InstanceId,
        container: &str,
        node: &NodeName,
        joins: Option<String>,
    ) -> Result<()> {
        let service = self.service(&id.service)?;
        let handle = self.handle(node).await?;
        if container != self.declared.container_name(id, &service.digest) {
            // In a rollback, start the existing container of the previous specification. Its credential
            // may have been replaced while its node was stopped.
            if service.spec.container.api.is_some()
                && let Some(api) = &self.api
            {
                self.hand_out_credential(&handle, &id.service, api).await?;
            }
            let start = handle.runtime.start_container(container);
            return start.instrument(engine_call("start_container", node)).await;
        }
        let mut template = service.spec.container.clone();
        let host = handle.host.as_ref();
        let owner = self.declared.owner.id;
        let registry = &self.backends.registry;
        let mut binds = files::ship(host, registry, owner, container, &template.files).await?;
        if template.api.is_some()
            && let Some(api) = &self.api
        {
            let directory = self.hand_out_credential(&handle, &id.service, api).await?;
            binds.push(HostBind {
                source: directory,
                target: API_DIRECTORY.into(),
                read_only: true,
            });
            template
                .environment
                .entry(API_URL.into())
                .or_insert_with(|| Sensitive::new(api.endpoint.url()));
        }
        if self.declared.agents.is_some() && template.connection.uses_platform_resolver() {
            binds.push(agent::resolver_file(self.declared.owner.id));
        }
        let image = handle.runtime.image(&service.image);
        let image = image.instrument(engine_call("image", node)).await?;
        let exposed = image.map(|i| i.exposed).unwrap_or_default();
        let host_network = template.connection.mode == NetworkMode::Host;
        self.leave_used_ports(&mut template, id, container, (node, &handle))
            .await?;
        let spec = ContainerSpec {
            name: container.to_owned(),
            owner: self.declared.owner.clone(),
            role: Role::Instance(id.clone()),
            digest: service.digest.clone(),
            template_digest: Some(service.template_digest.clone()),
            image: service.image.clone(),
            used_volumes: self.used_volumes(&template),
            ports: bindings(container, &template, &exposed, &self.declared.host_ports()),
            template,
            binds,
            host_network,
            joins,
            starts_with_engine: false,
        };
        let ensure = handle.runtime.ensure_container(&spec);
        let span = engine_call("ensure_container", node);
        ensure.instrument(span).await?;
        Ok(())
    }

    /// Returns the volumes of a template that an instance has used on the node before.
    fn used_volumes(&self, template: &ContainerTemplate) -> BTreeSet<VolumeName> {
        let managed = template
            .volumes
            .iter()
            .filter(|mount| !mount.options.external);
        let volumes = managed.map(|mount| &mount.volume);
        { volumes.filter(|volume| self.used_volumes.contains(*volume)) }
            .cloned()
            .collect()
    }

    /// Leaves out the published ports that an earlier container of the same replica still uses. The
    /// agent forwards them to the new container.
    async fn leave_used_ports(
        &self,
        template: &mut ContainerTemplate,
        id: &InstanceId,
        container: &str,
        (node, handle): (&NodeName, &NodeHandle),
    ) -> Result<()> {
        if !self.replaces || self.declared.agents.is_none() {
            return Ok(());
        }
        let state = handle.runtime.state();
        let state = state.instrument(engine_call("state", node)).await?;
        let earlier = state.containers.iter().filter(|other| {
            let is_of_replica = matches!(&other.role, Role::Instance(of) if of == id);
            is_of_replica && other.name != container && other.state.is_running()
        });
        let used: BTreeSet<(u16, Protocol)> = earlier
            .flat_map(|other| other.ports.iter().map(|port| (port.2, port.1)))
            .collect();
        for port in template.ports.iter_mut().filter(|p| p.host_ip.is_none()) {
            let is_free = |host: &u16| !used.contains(&(*host, port.protocol));
            port.host_port = port.host_port.filter(is_free);
        }
        Ok(())
    }

    /// Writes a service's credential for the API to the node. Returns its directory, for the service's
    /// containers to mount.
    async fn hand_out_credential(
        &self,
        handle: &NodeHandle,
        service: &ServiceName,
        api: &ServiceApi,
    ) -> Result<String> {
        let token = service_api_token(&api.key, service.as_str(), api.token_rotation);
        let (host, platform) = (handle.host.as_ref(), self.declared.owner.id);
        service_credential::write(host, platform, service, &token, &api.authority).await
    }
}

/// If `target` already has the image of `source` under another name, gives it this name, too.
/// Returns whether it did.
async fn tag_existing(
    image: &str,
    (from, source): (&NodeName, &NodeHandle),
    (node, target): (&NodeName, &NodeHandle),
) -> Result<bool> {
    let found = source.runtime.image(image);
    let Some(found) = found.instrument(engine_call("image", from)).await? else {
        return Ok(false);
    };
    let same = target.runtime.image(&found.id);
    let same = same.instrument(engine_call("image", node)).await?;
    if same.is_none() {
        return Ok(false);
    }
    let tag = target.runtime.tag_image(&found.id, image);
    tag.instrument(engine_call("tag_image", node)).await?;
    Ok(true)
}

/// Creates the tracing span for a call to the engine of `node`.
pub(super) fn engine_call(call: &'static str, node: &NodeName) -> tracing::Span {
    tracing::debug_span!("engine call", call, %node)
}

/// Returns a host port for every container port, derived from the container's name, but none of the
/// host ports in `declared`, which are bound in addition.
fn bindings(
    container: &str,
    template: &ContainerTemplate,
    exposed_by_image: &[(u16, Protocol)],
    declared: &BTreeSet<u16>,
) -> BTreeMap<(u16, Protocol), u16> {
    let mut bindings = BTreeMap::new();
    match template.connection.mode {
        NetworkMode::None | NetworkMode::Service(_) => return bindings,
        NetworkMode::Platform | NetworkMode::Host => {}
    }
    let published = template.ports.iter();
    let published = published.map(|port| (port.container_port, port.protocol));
    let exposed = template.expose.iter().chain(exposed_by_image).copied();
    for key in published.chain(exposed) {
        let derived = derived_port(container, key);
        let mut free = (derived..=*PICKED_PORTS.end()).chain(PICKED_PORTS);
        let port = free.find(|port| !declared.contains(port));
        bindings.insert(key, port.unwrap_or(derived));
    }
    bindings
}

fn derived_port(container: &str, (port, protocol): (u16, Protocol)) -> u16 {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(format!("{container}/{port}/{protocol}"));
    let number = u16::from_be_bytes([hash[0], hash[1]]);
    let count = PICKED_PORTS.end() - PICKED_PORTS.start() + 1;
    PICKED_PORTS.start() + number % count
}
