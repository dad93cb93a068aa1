//! `compose.yaml`: services and volumes as the Compose Specification has them.
//!
//! The file is read into a tree whose parts know their places, variables are put in, and then
//! each key is read by what it means. So every finding has a line, and all are found at once.
//! A ready-made model of the specification was tried and left: it panics on some numbers, takes
//! `512m` for a power of ten, and forgets where a value stood.

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

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::diagnostic::Report;
use super::interpolation::Lookup;
use super::tree::{Field, Node};
use crate::model::{
    NetworkMode, NodeName, NodeSpec, PlatformName, ServiceName, ServiceSpec, VolumeName,
    VolumeOptions,
};

pub(super) use build::Build;
use material::Materials;

/// What the services of a file are read against.
pub(super) struct World<'a> {
    /// The directory of the Compose file.
    pub(super) directory: &'a Path,
    /// The code store, relative to that directory.
    pub(super) code_store: &'a str,
    /// The variables of the environment and of `.env`.
    pub(super) lookup: Lookup<'a>,
    /// The declared nodes.
    pub(super) nodes: &'a BTreeMap<NodeName, NodeSpec>,
}

/// The names that a file declares.
struct Declared<'a> {
    services: Vec<&'a str>,
    volumes: BTreeMap<&'a str, VolumeOptions>,
    networks: Vec<&'a str>,
    configs: Materials<'a>,
    secrets: Materials<'a>,
}

/// A service, before the content of its code base is known.
pub(super) struct Draft {
    pub(super) spec: ServiceSpec,
    pub(super) build: Option<Build>,
}

/// What a Compose file declares.
#[derive(Default)]
pub(super) struct Composition {
    pub(super) name: Option<PlatformName>,
    pub(super) services: BTreeMap<ServiceName, Draft>,
    pub(super) volumes: BTreeSet<VolumeName>,
}

impl Composition {
    /// Directories of data beside the Compose file are volumes like those that are declared.
    fn keep_data(&mut self, declared: &Declared<'_>) {
        let mounts = self
            .services
            .values()
            .flat_map(|draft| &draft.spec.container.volumes)
            .filter(|mount| !declared.volumes.contains_key(mount.volume.as_str()));
        let volumes: Vec<VolumeName> = mounts.map(|mount| mount.volume.clone()).collect();
        self.volumes.extend(volumes);
    }
}

/// A declaration is kept and handed on whole.
fn is_not_too_large(composition: &Composition, root: &Field<'_>, report: &mut Report) {
    let mounts = composition
        .services
        .values()
        .flat_map(|draft| &draft.spec.container.files);
    let sum: u64 = mounts.map(|mount| shipped::size(&mount.tree)).sum();
    if sum > shipped::LARGEST_SUM {
        report.problem_with_help(
            root.at,
            "services",
            format!(
                "the files that services mount make more than {} MiB together",
                shipped::LARGEST_SUM >> 20
            ),
            "put large files into images",
        );
    }
}

/// Reads a file's tree, its variables put in already.
pub(super) fn read(root: &Node, world: &World<'_>, report: &mut Report) -> Composition {
    let mut composition = Composition::default();
    let root = Field::root(root);
    if root.is_map()
        && let Some(field) = root.get("x-lifecycle")
    {
        report.problem_with_help(
            field.at,
            &field.path,
            "`x-lifecycle` has no meaning here",
            "put it on a service; what concerns the whole platform stands in `platform.toml`",
        );
    }
    let entries = keys::honoured_entries(&root, keys::TOP, report);
    if root.is_map() && root.get("services").is_none_or(|field| field.is_null()) {
        report.problem_with_help(
            root.get("services").map_or(root.at, |field| field.at),
            "services",
            "no service is declared",
            "declare one, or write `services: {}` if none is meant",
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
        Some(field) => material::declared(field, kind, world, report),
        None => Materials::new(),
    };
    let declared = Declared {
        services: services.iter().flatten().map(|(name, _)| *name).collect(),
        volumes,
        networks: match part("networks") {
            Some(field) => networks::declared(field, report),
            None => Vec::new(),
        },
        configs: materials("configs", material::CONFIG, report),
        secrets: materials("secrets", material::SECRET, report),
    };
    if let Some(field) = entries.iter().find(|(key, _)| *key == "name") {
        composition.name = field.1.parse(report, named);
    }
    let mut aliases = Vec::new();
    let mut memberships = Vec::new();
    for (name, service) in services.unwrap_or_default() {
        match ServiceName::try_from(name) {
            Ok(name) => {
                let (draft, connected) =
                    service::read(name.clone(), &service, world, &declared, report);
                aliases.extend(connected.aliases);
                if draft.spec.container.connection.mode == NetworkMode::Platform {
                    let networks = connected.networks;
                    memberships.push(networks.unwrap_or_else(|| BTreeSet::from(["default"])));
                }
                composition.services.insert(name, draft);
            }
            Err(error) => report.problem(service.at, &service.path, error.to_string()),
        }
    }
    networks::name(&mut composition.services, aliases, report);
    networks::tell_of_neighbours(part("networks"), &memberships, report);
    composition.keep_data(&declared);
    is_not_too_large(&composition, &root, report);
    composition
}

/// A name of ours through its own rule.
pub(super) fn named<T>(text: &str) -> Result<T, String>
where
    T: for<'t> TryFrom<&'t str, Error = crate::model::InvalidName>,
{
    T::try_from(text).map_err(|error| error.to_string())
}
