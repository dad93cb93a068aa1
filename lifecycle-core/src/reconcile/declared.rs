//! Prepares the declaration for the planner: adds the image name, the spec digest and the rank in
//! the start order of each service.

mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize, Serializer};

pub use image::listed_name;

use crate::cloud::CloudDeadlines;
use crate::error::{Error, Result};
use crate::model::{
    BuildOptions, BuildSource, Connection, ContainerTemplate, Generation, ImageSource, InstanceId,
    NetworkMode, NodeMount, NodeName, NodeSpec, Protocol, Replica, RestartPolicy, ServiceName,
    ServiceSpec, SpecDigest, Starts, VolumeMount, VolumeOptions,
};
use crate::platform::{Declaration, NetworkSpec};
use crate::runtime::Owner;
use crate::secret::PlatformKey;

/// A declaration, with the image names, digests and ranks that are derived from it.
///
/// The JSON of this type is part of a recorded [`PlanningInput`](super::PlanningInput). To keep
/// secrets out of the JSON, each service's `spec` is reduced to the fields that the planner reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Declared {
    pub generation: Generation,
    pub owner: Owner,
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    pub services: BTreeMap<ServiceName, DeclaredService>,
    /// Each service's rank in the start order. Kept during a deletion: services stop in reverse
    /// order.
    pub ranks: BTreeMap<ServiceName, u32>,
    pub manager_node: NodeName,
    /// How long node changes may take.
    pub deadlines: CloudDeadlines,
    /// Set if undeclared nodes may have been added at run time before the registry was lost. Contains
    /// those that are to be deleted nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<BTreeSet<NodeName>>,
    /// The nodes that were adopted at run time, also those that are being adopted or released. Only the
    /// manager knows them, so it releases them when the platform is deleted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub adopted: BTreeSet<NodeName>,
    /// Whether the platform is being deleted.
    pub deleting: bool,
    /// Whether the named volumes on released nodes are deleted, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletes_volumes: bool,
    /// The agents that make service addresses work on the nodes; `None` if there are none.
    pub agents: Option<Agents>,
}

/// The agents that make service addresses work on the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agents {
    /// The image that agents run from. It is the manager's own image.
    pub image: String,
    /// The digest in the labels of the agents' containers.
    pub digest: SpecDigest,
    /// The address block, and how long connections wait for a ready endpoint.
    pub network: NetworkSpec,
    /// The services' addresses. While the platform is being deleted, this includes the addresses of
    /// services that still run.
    pub addresses: BTreeMap<ServiceName, Ipv4Addr>,
}

impl Agents {
    /// Creates the settings for agents that run from `image`.
    pub fn new(
        image: String,
        network: NetworkSpec,
        addresses: BTreeMap<ServiceName, Ipv4Addr>,
        key: &PlatformKey,
    ) -> Result<Self> {
        let form = serde_json::to_vec(&AgentForm {
            version: "1",
            image: &image,
        })
        .map_err(|error| Error::failed("serializing the settings of agents", error.to_string()))?;
        Ok(Self {
            digest: SpecDigest::from_hex(key.sign("agent digest", &form)),
            image,
            network,
            addresses,
        })
    }
}

/// The input for the digest of an agent's container. Excludes the network settings, because the
/// agent receives them with its table.
#[derive(Serialize)]
struct AgentForm<'a> {
    version: &'static str,
    image: &'a str,
}

/// A declared service, with the image name, digest and rank that are derived from its declaration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeclaredService {
    #[serde(serialize_with = "write_planned_part")]
    pub spec: ServiceSpec,
    /// The image's name as engines list it.
    pub image: String,
    /// The digest in the labels of the service's containers.
    pub digest: SpecDigest,
    /// The digest without the image, which is also in the labels.
    pub template_digest: SpecDigest,
    /// The restart policy, with the default resolved.
    pub restart: RestartPolicy,
    /// True if another service waits for this service's completion, and the service's restart policy
    /// does not start it again.
    pub runs_once: bool,
    pub rank: u32,
    /// The specification of the containers whose network this service's containers join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<JoinedSpec>,
}

/// What identifies the current containers of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedSpec {
    pub image: String,
    pub digest: SpecDigest,
    pub template_digest: SpecDigest,
}

impl Declared {
    /// Derives the image names, digests and ranks from a declaration.
    pub fn new(
        generation: Generation,
        declaration: &Declaration,
        key: &PlatformKey,
    ) -> Result<Self> {
        let awaited = declaration.awaited_completions();
        let ranks = ranks(&declaration.services)?;
        let owner = Owner {
            id: declaration.id,
            name: declaration.name.clone(),
        };
        let specs = with_joined_networks(&declaration.services);
        let mut services: BTreeMap<ServiceName, DeclaredService> = BTreeMap::new();
        // A container's digest covers the container whose network it joins, so that both are
        // replaced together.
        let (joining, others): (Vec<&ServiceSpec>, Vec<&ServiceSpec>) = specs
            .values()
            .partition(|spec| spec.container.connection.joins().is_some());
        for spec in others.into_iter().chain(joining) {
            let name = &spec.name;
            let image = image::name(&owner, spec, key)?;
            let joined = spec.container.connection.joins();
            let joined = joined.and_then(|joined| services.get(joined));
            let joined = joined.map(DeclaredService::as_joined);
            let digest = DigestForm {
                version: SpecDigest::VERSION,
                image: Some(&image),
                container: &spec.container,
                joined: joined.as_ref().map(|joined| &joined.digest),
            };
            let digest = digest.sign("spec digest", key)?;
            let template_digest = DigestForm {
                version: SpecDigest::VERSION,
                image: None,
                container: &spec.container,
                joined: joined.as_ref().map(|joined| &joined.template_digest),
            };
            let template_digest = template_digest.sign("template digest", key)?;
            let may_end = matches!(spec.restart, None | Some(RestartPolicy::No));
            let runs_once = may_end && awaited.contains(name);
            let restart = spec.restart.unwrap_or(if runs_once {
                RestartPolicy::No
            } else {
                RestartPolicy::Always
            });
            let service = DeclaredService {
                joined,
                spec: spec.clone(),
                image,
                digest,
                template_digest,
                restart,
                runs_once,
                rank: ranks.get(name).copied().unwrap_or_default(),
            };
            services.insert(name.clone(), service);
        }
        Ok(Self {
            generation,
            owner,
            nodes: declaration.nodes.clone(),
            ranks,
            services,
            manager_node: declaration.manager.node.clone(),
            lost: declaration.overrides.deleted_although_lost().cloned(),
            deadlines: declaration.deadlines.clone(),
            adopted: declaration.overrides.adopted_nodes(),
            deleting: false,
            deletes_volumes: false,
            agents: None,
        })
    }

    /// Returns the same platform with agents on its nodes.
    #[must_use]
    pub fn with_agents(mut self, agents: Agents) -> Self {
        self.agents = Some(agents);
        self
    }

    /// Returns the name of the agent's container, which is the same on every node.
    pub fn agent_container(&self, agents: &Agents) -> String {
        format!(
            "{}-{}-lifecycle-agent-{}",
            self.owner.name,
            self.owner.id.short(),
            agents.digest.short()
        )
    }

    /// Returns the target for deleting the platform: the manager's node, no services, and the same
    /// ranks.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self {
            nodes: self
                .nodes
                .iter()
                .filter(|(name, _)| **name == self.manager_node)
                .map(|(name, spec)| (name.clone(), spec.clone()))
                .collect(),
            services: BTreeMap::new(),
            deleting: true,
            ..self.clone()
        }
    }

    /// Returns all declared replicas, in order.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceId, &DeclaredService)> {
        self.services
            .values()
            .flat_map(|service| service.replicas().map(move |id| (id, service)))
    }

    /// Returns whether a replica is declared.
    pub fn contains(&self, id: &InstanceId) -> bool {
        self.services
            .get(&id.service)
            .is_some_and(|s| id.replica.0 >= 1 && id.replica.0 <= s.spec.replicas)
    }

    /// Returns the template of a service's containers, if the service is declared.
    pub(super) fn template(&self, service: &ServiceName) -> Option<&ContainerTemplate> {
        let service = self.services.get(service)?;
        Some(&service.spec.container)
    }

    /// Returns whether containers of other services join the network of the service's containers.
    pub(super) fn is_joined(&self, service: &ServiceName) -> bool {
        let template = self.template(service);
        template.is_some_and(|template| template.connection.is_joined)
    }

    /// Returns the host ports that services publish, or may publish.
    pub(super) fn host_ports(&self) -> BTreeSet<u16> {
        let templates = || {
            self.services
                .values()
                .map(|service| &service.spec.container)
        };
        let ports = templates().flat_map(|template| &template.ports);
        let choices = templates().flat_map(|template| &template.port_choices);
        ports
            .filter_map(|port| port.host_port)
            .chain(choices.flat_map(|choice| choice.candidates.iter().copied()))
            .collect()
    }

    /// Returns whether an image was built by this platform.
    pub fn is_built_here(&self, image: &str) -> bool {
        image::is_built_by(&self.owner, image)
    }

    /// Returns the name of an instance's container with this digest.
    pub fn container_name(&self, id: &InstanceId, digest: &SpecDigest) -> String {
        format!(
            "{}-{}-{}-{}-{}",
            self.owner.name,
            self.owner.id.short(),
            id.service,
            id.replica,
            digest.short()
        )
    }
}

impl DeclaredService {
    fn as_joined(&self) -> JoinedSpec {
        JoinedSpec {
            image: self.image.clone(),
            digest: self.digest.clone(),
            template_digest: self.template_digest.clone(),
        }
    }

    /// Returns the service's replicas, in order.
    pub fn replicas(&self) -> impl Iterator<Item = InstanceId> {
        (1..=self.spec.replicas).map(|n| InstanceId {
            service: self.spec.name.clone(),
            replica: Replica(n),
        })
    }

    /// Returns the published ports that agents can forward, each as host port and container port:
    /// TCP ports at all addresses of the node.
    pub(super) fn redirectable_ports(&self) -> impl Iterator<Item = (u16, u16)> {
        let container = &self.spec.container;
        let is_published = container.connection.mode != NetworkMode::Host && !self.runs_once;
        let ports = container.ports.iter().filter(move |port| {
            is_published && port.protocol == Protocol::Tcp && port.host_ip.is_none()
        });
        ports.filter_map(|port| Some((port.host_port?, port.container_port)))
    }
}

/// Writes the fields that the planner reads. New fields are excluded by default, because they may
/// contain secrets.
fn write_planned_part<S: Serializer>(spec: &ServiceSpec, to: S) -> Result<S::Ok, S::Error> {
    let source = match &spec.source {
        ImageSource::Image(image) => ImageSource::Image(image.clone()),
        ImageSource::Build(source) => ImageSource::Build(BuildSource {
            code: source.code.clone(),
            dockerfile: source.dockerfile.clone(),
            args: BTreeMap::new(),
            bases: source.bases.clone(),
            exposes: source.exposes.clone(),
            options: BuildOptions::default(),
        }),
    };
    let volumes = spec.container.volumes.iter().map(|mount| VolumeMount {
        volume: mount.volume.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        options: VolumeOptions::default(),
    });
    let node_paths = spec.container.node_paths.iter().map(|mount| NodeMount {
        read_only: mount.read_only,
        ..NodeMount::default()
    });
    let connection = Connection {
        mode: spec.container.connection.mode.clone(),
        ..Connection::default()
    };
    let container = ContainerTemplate {
        volumes: volumes.collect(),
        node_paths: node_paths.collect(),
        connection,
        ports: spec.container.ports.clone(),
        ..ContainerTemplate::default()
    };
    let planned = ServiceSpec {
        class: spec.class,
        origin: spec.origin,
        replicas: spec.replicas,
        container,
        depends_on: spec.depends_on.clone(),
        ready_within: spec.ready_within,
        restart: spec.restart,
        constraints: spec.constraints.clone(),
        reserves: spec.reserves,
        starts: spec.starts,
        max_per_node: spec.max_per_node,
        update: spec.update.clone(),
        public: spec.public,
        ..ServiceSpec::new(spec.name.clone(), source)
    };
    planned.serialize(to)
}

/// The input for the spec digest. A changed digest replaces the container, so an upgrade of the
/// manager must not change digests. Omit a new field while it has its default value. If that is
/// impossible, increment the digest's version.
#[derive(Serialize)]
struct DigestForm<'a> {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    container: &'a ContainerTemplate,
    /// The digest of the service whose containers' network the container joins.
    #[serde(skip_serializing_if = "Option::is_none")]
    joined: Option<&'a SpecDigest>,
}

impl DigestForm<'_> {
    fn sign(&self, purpose: &str, key: &PlatformKey) -> Result<SpecDigest> {
        let form = serde_json::to_vec(self).map_err(|error| {
            Error::failed("serializing a container's specification", error.to_string())
        })?;
        Ok(SpecDigest::from_hex(key.sign(purpose, &form)))
    }
}

/// Returns the services. Those whose network other services join are marked, and expose the ports
/// of these services, too, because a container that joins a network has no ports of its own.
fn with_joined_networks(
    services: &BTreeMap<ServiceName, ServiceSpec>,
) -> BTreeMap<ServiceName, ServiceSpec> {
    let mut specs = services.clone();
    for spec in services.values() {
        let joined = spec.container.connection.joins();
        let Some(joined) = joined.and_then(|joined| specs.get_mut(joined)) else {
            continue;
        };
        let container = &mut joined.container;
        container.connection.is_joined = true;
        let ports = own_ports(spec);
        container.expose.extend(ports);
        container.expose.sort_unstable();
        container.expose.dedup();
    }
    // Engines do not record which ports of a joined network belong to which container.
    for spec in specs.values_mut() {
        if spec.container.connection.joins().is_some() {
            spec.container.expose = own_ports(spec).into_iter().collect();
        }
    }
    specs
}

/// Returns the ports at which a service that joins another service's network can be reached.
fn own_ports(spec: &ServiceSpec) -> BTreeSet<(u16, Protocol)> {
    let mut ports: BTreeSet<(u16, Protocol)> = spec.container.expose.iter().copied().collect();
    ports.extend(spec.ready.iter().map(|ready| (ready.port, Protocol::Tcp)));
    if let ImageSource::Build(build) = &spec.source {
        ports.extend(build.exposes.iter().copied());
    }
    ports
}

/// Returns each service's rank in the start order.
fn ranks(services: &BTreeMap<ServiceName, ServiceSpec>) -> Result<BTreeMap<ServiceName, u32>> {
    let mut ranks: BTreeMap<ServiceName, u32> = BTreeMap::new();
    for last in [false, true] {
        let base = if last {
            ranks.values().max().map_or(0, |r| r + 1)
        } else {
            0
        };
        let mut left: Vec<&ServiceSpec> = services
            .values()
            .filter(|s| (s.starts == Starts::Last) == last)
            .collect();
        while !left.is_empty() {
            let before = left.len();
            left.retain(|service| {
                let mut rank = base;
                let joined = service.container.connection.joins();
                for name in service.depends_on.keys().chain(joined) {
                    match ranks.get(name) {
                        Some(r) => rank = rank.max(r + 1),
                        None if services.contains_key(name) => return true,
                        // Ignore an undeclared dependency: the planner holds the service.
                        None => {}
                    }
                }
                ranks.insert(service.name.clone(), rank);
                false
            });
            if left.len() == before {
                let names: Vec<&str> = left.iter().map(|s| s.name.as_str()).collect();
                return Err(Error::Invalid {
                    what: "the start order".into(),
                    why: format!("these services depend on each other: {}", names.join(", ")),
                    hint: "remove one `depends_on` from the cycle; a service without `starts: \
                           last` cannot depend on a service with `starts: last`"
                        .into(),
                });
            }
        }
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_inputs_are_the_same_as_in_earlier_versions() {
        use crate::model::{Protocol, PublishedPort, VolumeMount, VolumeName, VolumeOptions};
        let template = ContainerTemplate {
            volumes: vec![VolumeMount {
                volume: VolumeName::try_from("data").unwrap(),
                target: "/d".into(),
                read_only: false,
                options: VolumeOptions::default(),
            }],
            ports: vec![PublishedPort {
                host_port: Some(80),
                container_port: 8080,
                protocol: Protocol::Tcp,
                host_ip: None,
            }],
            ..ContainerTemplate::default()
        };
        let form = DigestForm {
            version: "1",
            image: Some("x"),
            container: &template,
            joined: None,
        };
        assert_eq!(
            serde_json::to_string(&form).unwrap(),
            concat!(
                r#"{"version":"1","image":"x","container":{"command":null,"entrypoint":null,"#,
                r#""environment":{},"user":null,"working_dir":null,"labels":{},"#,
                r#""volumes":[{"volume":"data","target":"/d","read_only":false}],"#,
                r#""ports":[{"host_port":80,"container_port":8080,"protocol":"tcp"}],"#,
                r#""expose":[],"healthcheck":null,"stop_grace":null,"#,
                r#""limits":{"cpu_millis":0,"memory_bytes":0},"api":null}}"#
            )
        );
    }
}
