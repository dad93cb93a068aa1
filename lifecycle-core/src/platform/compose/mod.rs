//! `compose.yaml`: services and volumes as the Compose Specification has them.
//!
//! The file is read into a tree whose parts know their places, variables are put in, and then
//! each key is read by what it means. So every finding has a line, and all are found at once.
//! A ready-made model of the specification was tried and left: it panics on some numbers, takes
//! `512m` for a power of ten, and forgets where a value stood.

mod build;
mod deploy;
mod extension;
mod keys;
mod network;
mod service;
mod storage;
pub(super) mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::diagnostic::Report;
use super::interpolation::Lookup;
use super::tree::{Field, Node};
use crate::model::{NodeName, NodeSpec, PlatformName, ServiceName, ServiceSpec, VolumeName};

pub(super) use build::Build;

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
    volumes: Vec<&'a str>,
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
    let names = |key: &str, report: &mut Report| -> Vec<&str> {
        entries
            .iter()
            .find(|(name, field)| *name == key && !field.is_null())
            .map(|(_, field)| {
                field
                    .entries(report)
                    .into_iter()
                    .map(|(name, _)| name)
                    .collect()
            })
            .unwrap_or_default()
    };
    let declared = Declared {
        services: names("services", report),
        volumes: names("volumes", report),
    };
    for (key, field) in &entries {
        match *key {
            "name" => composition.name = field.parse(report, named),
            "volumes" if !field.is_null() => {
                for (name, volume) in field.entries(report) {
                    composition
                        .volumes
                        .extend(storage::volume(name, &volume, report));
                }
            }
            "services" if !field.is_null() => {
                for (name, service) in field.entries(report) {
                    match ServiceName::try_from(name) {
                        Ok(name) => {
                            let draft =
                                service::read(name.clone(), &service, world, &declared, report);
                            composition.services.insert(name, draft);
                        }
                        Err(error) => report.problem(service.at, &service.path, error.to_string()),
                    }
                }
            }
            _ => {}
        }
    }
    names_are_not_resolved(&composition, &root, report);
    composition
}

/// Compose gives every service a name that the others reach it by. Who asks the manager needs none.
fn names_are_not_resolved(composition: &Composition, root: &Field<'_>, report: &mut Report) {
    let mut specs = composition.services.values().map(|draft| &draft.spec);
    if composition.services.len() < 2 || specs.all(|spec| spec.container.api.is_some()) {
        return;
    }
    if let Some(services) = root.is_map().then(|| root.get("services")).flatten() {
        report.warning(
            services.at,
            &services.path,
            "services do not reach each other by name here: they look each other's endpoints up \
             in the manager's API (`x-lifecycle.api: read`)",
        );
    }
}

/// A name of ours through its own rule.
pub(super) fn named<T>(text: &str) -> Result<T, String>
where
    T: for<'t> TryFrom<&'t str, Error = crate::model::InvalidName>,
{
    T::try_from(text).map_err(|error| error.to_string())
}
