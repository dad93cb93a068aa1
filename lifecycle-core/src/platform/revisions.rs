//! Revisions: the stored generations of a declaration, what changed between them, and the return to an
//! earlier one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Declaration;
use crate::model::{
    Generation, NodeSpec, Origin, Secrets, ServiceName, ServiceSpec, ShippedMount, Subject,
    VolumeName, VolumeOptions,
};

/// A stored generation of the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub generation: Generation,
    /// When the generation was recorded.
    pub at: DateTime<Utc>,
    /// `None` if an earlier version recorded the generation, or the deletion of the platform caused it.
    pub note: Option<RevisionNote>,
}

/// What caused a generation, and what it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionNote {
    /// The request, for example `scale to 5`.
    pub request: String,
    /// What the request was about.
    pub subject: Subject,
    /// Who requested the change: a token, with its id and the address of the client.
    pub by: String,
    /// The differences from the previous generation.
    pub changes: Vec<Difference>,
}

/// A difference between two generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The service or node that differs, or the platform for everything else.
    pub subject: Subject,
    pub kind: DifferenceKind,
}

/// How a service or node differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    Added,
    Removed,
    /// The parts that differ.
    Changed(BTreeSet<Part>),
}

/// A part of a declared service or node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Replicas,
    /// The image, or the code base that it is built from.
    Image,
    Environment,
    /// Mounted files.
    Files,
    /// Whether a node is open, cordoned or drained.
    Scheduling,
    /// Whether a node is stopped.
    Stopped,
    /// Everything else.
    Settings,
    /// A part that only a later version knows.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replicas => "replicas",
            Self::Image => "image",
            Self::Environment => "environment",
            Self::Files => "files",
            Self::Scheduling => "scheduling",
            Self::Stopped => "stopped",
            Self::Settings => "settings",
            Self::Unknown => "unknown",
        })
    }
}

/// Which secrets a rollback restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoredSecrets {
    /// Values that may be secrets keep their current value, if they have one.
    Current,
    /// All values are restored.
    Earlier,
}

/// The result of [`Declaration::restoring`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub declaration: Declaration,
    /// The values that were not restored, because they may be secrets.
    pub kept: BTreeSet<SecretValue>,
    /// The values that may be secrets, and were restored, because they have no current value.
    pub without_current: BTreeSet<SecretValue>,
}

/// A value that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretValue {
    pub service: ServiceName,
    pub place: SecretPlace,
}

/// Where a secret is in a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SecretPlace {
    /// A variable of the environment.
    Variable(String),
    /// The mount point of a file.
    File(String),
    /// A volume, whose options for its driver may contain a password.
    Volume(VolumeName),
}

impl Declaration {
    /// Returns what differs from an earlier declaration: services first, then nodes, then the platform.
    pub fn differences(&self, earlier: &Self) -> Vec<Difference> {
        let services = differing(&earlier.services, &self.services, service_parts);
        let services = services.map(|(name, kind)| (Subject::Service(name), kind));
        let nodes = differing(&earlier.nodes, &self.nodes, node_parts);
        let nodes = nodes.map(|(name, kind)| (Subject::Node(name), kind));
        let is_same = earlier.manager == self.manager
            && earlier.cloud == self.cloud
            && earlier.volumes == self.volumes
            && earlier.network == self.network
            && earlier.deadlines == self.deadlines;
        let settings = DifferenceKind::Changed(BTreeSet::from([Part::Settings]));
        let platform = (!is_same).then_some((Subject::Platform, settings));
        services
            .chain(nodes)
            .chain(platform)
            .map(|(subject, kind)| Difference { subject, kind })
            .collect()
    }

    /// Returns this declaration with the services of an earlier one, and their overrides. The nodes and
    /// the settings of the platform stay: nothing is deleted, and no credential of the cloud is
    /// restored.
    ///
    /// The values that may be secrets keep their current values, if they have one.
    pub fn restoring(self, earlier: Self, secrets: RestoredSecrets) -> Restored {
        let (mut kept, mut without_current) = (BTreeSet::new(), BTreeSet::new());
        let mut services = earlier.services;
        if secrets == RestoredSecrets::Current {
            let volumes = volume_options(&self);
            for spec in services.values_mut() {
                // A service that was added at run time contains no value of the files.
                if spec.origin == Origin::Api {
                    continue;
                }
                let current = self.services.get(&spec.name);
                without_current.extend(only_earlier(spec, current));
                if let Some(current) = current {
                    kept.extend(keep_secrets(spec, current));
                }
                kept.extend(keep_options(spec, &volumes));
            }
        }
        let declaration = Self {
            services,
            volumes: earlier.volumes,
            overrides: earlier.overrides.of_services(self.overrides),
            ..self
        };
        Restored {
            declaration,
            kept,
            without_current,
        }
    }
}

/// Returns the values that may be secrets, and have no current value.
fn only_earlier(spec: &ServiceSpec, current: Option<&ServiceSpec>) -> Vec<SecretValue> {
    let current = current.map(|spec| &spec.container);
    let variables =
        spec.secrets.variables.iter().filter(|name| {
            !current.is_some_and(|container| container.environment.contains_key(*name))
        });
    let files = spec.secrets.files.iter().filter(|target| {
        let has = |mount: &ShippedMount| mount.target == **target;
        !current.is_some_and(|container| container.files.iter().any(has))
    });
    let variables = variables.map(|name| SecretPlace::Variable(name.clone()));
    let files = files.map(|target| SecretPlace::File(target.clone()));
    variables
        .chain(files)
        .map(|place| SecretValue {
            service: spec.name.clone(),
            place,
        })
        .collect()
}

/// Returns the entries that differ between two maps.
fn differing<'a, K: Ord + Clone, V: PartialEq>(
    earlier: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
    parts: impl Fn(&V, &V) -> BTreeSet<Part> + 'a,
) -> impl Iterator<Item = (K, DifferenceKind)> + 'a {
    let names: BTreeSet<&K> = earlier.keys().chain(now.keys()).collect();
    names.into_iter().filter_map(move |name| {
        let kind = match (earlier.get(name), now.get(name)) {
            (Some(one), Some(other)) if one == other => return None,
            (Some(one), Some(other)) => DifferenceKind::Changed(parts(one, other)),
            (None, _) => DifferenceKind::Added,
            (_, None) => DifferenceKind::Removed,
        };
        Some((name.clone(), kind))
    })
}

fn node_parts(earlier: &NodeSpec, now: &NodeSpec) -> BTreeSet<Part> {
    let mut parts = BTreeSet::new();
    if earlier.scheduling != now.scheduling {
        parts.insert(Part::Scheduling);
    }
    if earlier.stopped != now.stopped {
        parts.insert(Part::Stopped);
    }
    let rest = NodeSpec {
        scheduling: now.scheduling,
        stopped: now.stopped,
        ..earlier.clone()
    };
    if rest != *now {
        parts.insert(Part::Settings);
    }
    parts
}

fn service_parts(earlier: &ServiceSpec, now: &ServiceSpec) -> BTreeSet<Part> {
    let mut rest = earlier.clone();
    let mut parts = BTreeSet::new();
    let mut compare = |part: Part, differs: bool| {
        if differs {
            parts.insert(part);
        }
    };
    compare(Part::Replicas, earlier.replicas != now.replicas);
    compare(Part::Image, earlier.source != now.source);
    let (container, other) = (&mut rest.container, &now.container);
    compare(
        Part::Environment,
        container.environment != other.environment || container.unset != other.unset,
    );
    compare(Part::Files, container.files != other.files);
    container.environment.clone_from(&other.environment);
    container.unset.clone_from(&other.unset);
    container.files.clone_from(&other.files);
    rest.replicas = now.replicas;
    rest.source.clone_from(&now.source);
    rest.secrets.clone_from(&now.secrets);
    if rest != *now || parts.is_empty() {
        parts.insert(Part::Settings);
    }
    parts
}

/// Replaces values that may be secrets by the current ones, and returns those that differed.
fn keep_secrets(spec: &mut ServiceSpec, current: &ServiceSpec) -> Vec<SecretValue> {
    let mut kept = Vec::new();
    let name = spec.name.clone();
    let mut keep = |place: SecretPlace| {
        let service = name.clone();
        kept.push(SecretValue { service, place });
    };
    let secrets = Secrets {
        variables: &spec.secrets.variables | &current.secrets.variables,
        files: &spec.secrets.files | &current.secrets.files,
    };
    for variable in &secrets.variables {
        let now = current.container.environment.get(variable);
        if let (Some(value), Some(now)) = (spec.container.environment.get_mut(variable), now)
            && value != now
        {
            value.clone_from(now);
            keep(SecretPlace::Variable(variable.clone()));
        }
    }
    for target in &secrets.files {
        let mut now = current.container.files.iter();
        let now = now.find(|mount| mount.target == *target);
        let mut mounts = spec.container.files.iter_mut();
        if let (Some(mount), Some(now)) = (mounts.find(|mount| mount.target == *target), now)
            && mount != now
        {
            mount.clone_from(now);
            keep(SecretPlace::File(target.clone()));
        }
    }
    spec.secrets = secrets;
    kept
}

/// Replaces the options of volumes for their drivers by the current ones, and returns those that
/// differed.
fn keep_options(
    spec: &mut ServiceSpec,
    current: &BTreeMap<VolumeName, VolumeOptions>,
) -> Vec<SecretValue> {
    let mut kept = Vec::new();
    for mount in &mut spec.container.volumes {
        let options = &mut mount.options.driver_opts;
        if let Some(current) = current.get(&mount.volume)
            && *options != current.driver_opts
        {
            options.clone_from(&current.driver_opts);
            kept.push(SecretValue {
                service: spec.name.clone(),
                place: SecretPlace::Volume(mount.volume.clone()),
            });
        }
    }
    kept
}

/// Returns the options of the volumes that services mount.
fn volume_options(declaration: &Declaration) -> BTreeMap<VolumeName, VolumeOptions> {
    let services = declaration.services.values();
    let mounts = services.flat_map(|spec| &spec.container.volumes);
    mounts
        .map(|mount| (mount.volume.clone(), mount.options.clone()))
        .collect()
}
