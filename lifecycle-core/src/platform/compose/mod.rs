//! Reads services and volumes in the format of the Compose Specification.
//!
//! This module reads each key itself, so that every diagnostic has a line and all diagnostics are
//! reported together. An existing library for the specification was tried and rejected: it panics
//! on some numbers, misreads `512m`, and loses source positions.

mod build;
mod deploy;
mod devices;
mod extension;
mod isolation;
mod keys;
mod limits;
mod material;
mod network;
mod networks;
mod service;
mod shipped;
mod storage;
mod update;
pub(super) mod value;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::diagnostic::Report;
use super::home;
use super::interpolation::Lookup;
use super::tree::{Field, Node, Position};
use crate::code::DirectoryStore;
use crate::model::{
    Chunks, NetworkMode, NodeName, NodeSpec, PlatformName, ServiceName, ServiceSpec, VolumeName,
    VolumeOptions,
};

pub(super) use build::Build;
pub(super) use deploy::MAX_REPLICAS;
pub(super) use extension::keep_metadata_from;
pub(super) use isolation::seccomp_file;
use material::Materials;
pub(super) use network::reserve_ports;
pub(super) use shipped::MountedFiles;
pub(super) use storage::is_path;

/// The information about the project that is needed to read services.
pub(super) struct ProjectContext<'a> {
    /// The directory of the Compose file; `None` if no files can be read.
    pub(super) directory: Option<&'a Path>,
    /// The directory of the code store, relative to the Compose file.
    pub(super) code_store: &'a str,
    /// The variables of the environment and of `.env`.
    pub(super) lookup: Lookup<'a>,
    /// The positions of the values that contain variables, or were taken from a variable.
    pub(super) with_variables: &'a HashSet<Position>,
    pub(super) nodes: &'a BTreeMap<NodeName, NodeSpec>,
    /// What services may still add to the declaration.
    pub(super) left: Left,
    /// The mounted files that were read so far.
    pub(super) files: MountedFiles,
}

/// The maximum number of services.
const MAX_SERVICES: usize = 10_000;
/// The maximum number of variables that environment files add to all services.
const MAX_VARIABLES: usize = 200_000;
/// The maximum size of these variables, in bytes.
const MAX_VARIABLE_BYTES: usize = 16 << 20;
/// The maximum number of ports of all services.
const MAX_ALL_PORTS: usize = 200_000;

/// What all services together may still add to the declaration. A short key of many services could
/// otherwise add any amount.
pub(super) struct Left {
    /// The number of variables in environment files.
    variables: Cell<usize>,
    /// The bytes of these variables.
    variable_bytes: Cell<usize>,
    /// The number of ports.
    ports: Cell<usize>,
}

impl Default for Left {
    fn default() -> Self {
        Self {
            variables: Cell::new(MAX_VARIABLES),
            variable_bytes: Cell::new(MAX_VARIABLE_BYTES),
            ports: Cell::new(MAX_ALL_PORTS),
        }
    }
}

/// Takes an amount of what is left. Returns `false` if nothing is left afterwards.
fn take(left: &Cell<usize>, amount: usize) -> bool {
    left.set(left.get().saturating_sub(amount));
    left.get() > 0
}

impl ProjectContext<'_> {
    /// Returns the path of a file on this machine. `~` is the home directory.
    fn path(&self, path: &str) -> PathBuf {
        let Some(directory) = self.directory else {
            // No file can have a path below a device.
            return PathBuf::from("/dev/null/none");
        };
        let expanded = home::expanded(path, self.lookup);
        directory.join(DirectoryStore::normalised(&expanded))
    }
}

/// Names in the order of the file.
#[derive(Default)]
struct Names<'a> {
    ordered: Vec<&'a str>,
    known: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    fn contains(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    fn iter(&self) -> impl Iterator<Item = &'a str> {
        self.ordered.iter().copied()
    }
}

impl<'a> FromIterator<&'a str> for Names<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let ordered: Vec<&str> = names.into_iter().collect();
        let known = ordered.iter().copied().collect();
        Self { ordered, known }
    }
}

struct Declared<'a> {
    services: Names<'a>,
    volumes: BTreeMap<&'a str, VolumeOptions>,
    networks: Names<'a>,
    configs: Materials<'a>,
    secrets: Materials<'a>,
}

/// A service whose code base has not been read yet.
pub(super) struct Draft {
    pub(super) spec: ServiceSpec,
    pub(super) build: Option<Build>,
}

/// The contents of a Compose file.
#[derive(Default)]
pub(super) struct Composition {
    pub(super) name: Option<PlatformName>,
    pub(super) services: BTreeMap<ServiceName, Draft>,
    pub(super) volumes: BTreeSet<VolumeName>,
    /// The chunks of mounted files.
    pub(super) chunks: Chunks,
}

impl Composition {
    /// Declares volumes for data directories next to the Compose file.
    fn add_data_volumes(&mut self, declared: &Declared<'_>) {
        let mounts = self
            .services
            .values()
            .flat_map(|draft| &draft.spec.container.volumes)
            .filter(|mount| !declared.volumes.contains_key(mount.volume.as_str()));
        let volumes: Vec<VolumeName> = mounts.map(|mount| mount.volume.clone()).collect();
        self.volumes.extend(volumes);
    }
}

/// Limits the total size of the contents that are part of the declaration.
fn check_size(composition: &Composition, root: &Field<'_>, report: &mut Report) {
    let mounts = composition
        .services
        .values()
        .flat_map(|draft| &draft.spec.container.files);
    let sum: u64 = mounts
        .map(|mount| shipped::declared_size(&mount.tree))
        .sum();
    if sum > shipped::MAX_DECLARED {
        report.problem_with_help(
            root.at,
            "services",
            format!(
                "the configs, secrets and small mounts of all services exceed {} MiB in total",
                shipped::MAX_DECLARED >> 20
            ),
            "mount the files together as one directory, or put them into images",
        );
    }
}

/// Reads a tree in which the variables are already replaced.
pub(super) fn read(root: &Node, project: &ProjectContext<'_>, report: &mut Report) -> Composition {
    let mut composition = Composition::default();
    let root = Field::root(root);
    if root.is_map()
        && let Some(field) = root.get("x-lifecycle")
    {
        report.problem_with_help(
            field.at,
            &field.path,
            "`x-lifecycle` is not valid at the top level",
            "move this key to a service; settings of the whole platform are in `platform.toml`",
        );
    }
    let entries = keys::supported_entries(&root, keys::TOP, report);
    if root.is_map() && root.get("services").is_none_or(|field| field.is_null()) {
        report.problem_with_help(
            root.get("services").map_or(root.at, |field| field.at),
            "services",
            "no services are declared",
            "declare a service, or write `services: {}` to declare none",
        );
    }
    let part = |key: &str| {
        entries
            .iter()
            .find(|(name, field)| *name == key && !field.is_null())
            .map(|(_, field)| field)
    };
    let services = part("services").map(|field| field.entries(report));
    let mut volumes = BTreeMap::new();
    for (name, field) in part("volumes")
        .map(|field| field.entries(report))
        .unwrap_or_default()
    {
        if let Some((volume, options)) = storage::volume(name, &field, report) {
            if !options.external {
                composition.volumes.insert(volume);
            }
            volumes.insert(name, options);
        } else {
            volumes.insert(name, VolumeOptions::default());
        }
    }
    let materials = |key: &str, kind, report: &mut Report| match part(key) {
        Some(field) => material::declared(field, kind, project, report),
        None => Materials::new(),
    };
    let declared = Declared {
        services: services.iter().flatten().map(|(name, _)| *name).collect(),
        volumes,
        networks: match part("networks") {
            Some(field) => networks::declared(field, report),
            None => Names::default(),
        },
        configs: materials("configs", material::CONFIG, report),
        secrets: materials("secrets", material::SECRET, report),
    };
    if let Some(field) = entries.iter().find(|(key, _)| *key == "name") {
        composition.name = field.1.parse(report, named);
    }
    let mut aliases = Vec::new();
    let mut memberships = Vec::new();
    let mut with_replicas = BTreeSet::new();
    for (index, (name, service)) in services.unwrap_or_default().into_iter().enumerate() {
        if index == MAX_SERVICES {
            let message =
                format!("up to this line, more than {MAX_SERVICES} services are declared");
            report.problem_with_help(service.at, &service.path, message, "declare fewer services");
            break;
        }
        match ServiceName::try_from(name) {
            Ok(name) => {
                let (draft, connected) =
                    service::read(name.clone(), &service, project, &declared, report);
                aliases.extend(connected.aliases);
                if deploy::declares_replicas(&service) {
                    with_replicas.insert(name.clone());
                }
                if draft.spec.container.connection.mode == NetworkMode::Platform {
                    let networks = connected.networks;
                    memberships.push(networks.unwrap_or_else(|| BTreeSet::from(["default"])));
                }
                composition.services.insert(name, draft);
            }
            Err(error) => report.problem(service.at, &service.path, error.to_string()),
        }
    }
    networks::join(&mut composition.services, &with_replicas);
    networks::add_aliases(&mut composition.services, aliases, report);
    networks::warn_about_isolation(part("networks"), &memberships, report);
    composition.add_data_volumes(&declared);
    check_size(&composition, &root, report);
    composition.chunks = project.files.chunks();
    composition
}

/// Parses a name according to the rule of its type.
pub(super) fn named<T>(text: &str) -> Result<T, String>
where
    T: for<'t> TryFrom<&'t str, Error = crate::model::InvalidName>,
{
    T::try_from(text).map_err(|error| error.to_string())
}
