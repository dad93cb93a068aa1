//! `extends`: a service over another one, of the same file or of a further one (the
//! specification's `05-services.md`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::diagnostic::Report;
use super::super::tree::{Entry, Field, Node, Place, Value};
use super::{Assembly, Document, Scope, merge, paths};

/// Services that extend each other in a row; nobody writes more.
const LONGEST: usize = 64;

const KEYS: [&str; 2] = ["service", "file"];

/// A file whose services are extended.
struct Base {
    root: Node,
    identity: PathBuf,
    /// What its own `extends.file` is relative to.
    directory: PathBuf,
    /// How its findings call it.
    name: String,
    /// What became of each service that was asked for; `None` where that was told of.
    done: HashMap<String, Option<Node>>,
}

/// What `extends` says.
struct Extended {
    service: String,
    file: Option<String>,
    at: Place,
    path: String,
}

impl Extended {
    fn read(service: &str, entry: &Entry, report: &mut Report) -> Option<Self> {
        let field = Field {
            path: format!("services.{service}.extends"),
            at: entry.at,
            node: &entry.node,
        };
        let mut extended = Self {
            service: String::new(),
            file: None,
            at: field.value_at(),
            path: field.path.clone(),
        };
        if !field.is_map() {
            field.text(report)?.clone_into(&mut extended.service);
            return Some(extended);
        }
        let mut is_right = true;
        for (key, field) in field.entries(report) {
            match key {
                "service" => {
                    extended.at = field.value_at();
                    field.text(report)?.clone_into(&mut extended.service);
                }
                "file" if field.is_null() => {}
                "file" => extended.file = Some(field.text(report)?.to_owned()),
                _ => {
                    report.unknown_key(field.at, &field.path, key, KEYS);
                    is_right = false;
                }
            }
        }
        if extended.service.is_empty() && is_right {
            field.problem(report, "`service` is missing");
            is_right = false;
        }
        is_right.then_some(extended)
    }
}

/// The files of one layer.
struct Bases<'s> {
    scope: &'s Scope<'s>,
    /// The layer itself first.
    bases: Vec<Base>,
}

impl Assembly<'_> {
    /// Puts every service of a file over the one that it extends.
    pub(super) fn extend_services(
        &mut self,
        root: Node,
        identity: PathBuf,
        scope: &Scope<'_>,
    ) -> Node {
        let names: Vec<String> = match root.child("services").map(|node| &node.value) {
            Some(Value::Map(services)) => services
                .iter()
                .filter(|entry| entry.node.child("extends").is_some())
                .map(|entry| entry.key.clone())
                .collect(),
            _ => Vec::new(),
        };
        let mut bases = Bases {
            scope,
            bases: vec![Base {
                name: self.shown(&identity),
                root,
                identity,
                directory: scope.directory.clone(),
                done: HashMap::new(),
            }],
        };
        let mut done = Vec::new();
        for name in names {
            match bases.resolved(self, 0, &name, &mut Vec::new()) {
                Some(service) => done.push((name, service)),
                None => self.complete = false,
            }
        }
        let Some(mut root) = bases.bases.into_iter().next().map(|base| base.root) else {
            return Node::nothing(Place::START);
        };
        if let Some(services) = root.child_mut("services") {
            for (name, service) in done {
                if let Some(slot) = services.child_mut(&name) {
                    *slot = service;
                }
            }
        }
        root
    }
}

impl Bases<'_> {
    /// A service with all that it extends. `way` are the services that lead here.
    fn resolved(
        &mut self,
        assembly: &mut Assembly<'_>,
        base: usize,
        name: &str,
        way: &mut Vec<(usize, String)>,
    ) -> Option<Node> {
        let file = self.bases.get(base)?;
        if let Some(done) = file.done.get(name) {
            return done.clone();
        }
        let service = self.resolved_anew(assembly, base, name, way);
        let file = self.bases.get_mut(base)?;
        file.done.insert(name.to_owned(), service.clone());
        service
    }

    fn resolved_anew(
        &mut self,
        assembly: &mut Assembly<'_>,
        base: usize,
        name: &str,
        way: &mut Vec<(usize, String)>,
    ) -> Option<Node> {
        let file = self.bases.get(base)?;
        let mut own = file.root.child("services")?.child(name)?.clone();
        if !assembly.take_account_of(&own) {
            return None;
        }
        let Some(entry) = own.take("extends").filter(|entry| !entry.node.is_null()) else {
            return Some(own);
        };
        let extended = Extended::read(name, &entry, assembly.report)?;
        way.push((base, name.to_owned()));
        let further = self.extended(assembly, base, &extended, way);
        way.pop();
        let further = merge::settled(further?, assembly.report);
        let service = merge::services(name, further, own, assembly.report);
        assembly.take_account_of(&service).then_some(service)
    }

    /// The service that is extended, itself with all that it extends.
    fn extended(
        &mut self,
        assembly: &mut Assembly<'_>,
        base: usize,
        extended: &Extended,
        way: &mut Vec<(usize, String)>,
    ) -> Option<Node> {
        let Extended {
            service,
            file,
            at,
            path,
        } = extended;
        let target = match file {
            None => base,
            Some(file) => self.open(assembly, base, file, extended)?,
        };
        let found = self.bases.get(target)?;
        let services = found.root.child("services").map(|node| &node.value);
        let names: Vec<&str> = match services {
            Some(Value::Map(entries)) => entries.iter().map(|entry| entry.key.as_str()).collect(),
            _ => Vec::new(),
        };
        if !names.contains(&service.as_str()) {
            let message = format!("there is no service `{service}` in {}", found.name);
            assembly
                .report
                .unknown_name(*at, path, message, service, names);
            return None;
        }
        let here = (target, service.clone());
        if let Some(first) = way.iter().position(|on_way| *on_way == here) {
            let mut names: Vec<&str> = way
                .iter()
                .skip(first)
                .map(|(_, name)| name.as_str())
                .collect();
            names.push(service);
            let message = format!("services extend each other: {}", names.join(" → "));
            let help = "remove one of these `extends`";
            assembly.report.problem_with_help(*at, path, message, help);
            return None;
        }
        if way.len() >= LONGEST {
            let message = format!("more than {LONGEST} services extend each other in a row");
            assembly.report.problem(*at, path, message);
            return None;
        }
        self.resolved(assembly, target, service, way)
    }

    /// The number of the file of this path; it is read when it is first named.
    fn open(
        &mut self,
        assembly: &mut Assembly<'_>,
        base: usize,
        file: &str,
        extended: &Extended,
    ) -> Option<usize> {
        let directory = self.bases.get(base)?.directory.clone();
        let path = paths::joined(&directory, file);
        let real = assembly.project_dir.join(&path).canonicalize();
        if let Ok(real) = real
            && let Some(known) = self.bases.iter().position(|base| base.identity == real)
        {
            return Some(known);
        }
        let key_path = format!("{}.file", extended.path);
        let document = assembly.draw_in(&directory, file, extended.at, &key_path)?;
        let Document { mut root, identity } = document;
        let parent = path.parent().unwrap_or(Path::new("")).to_string_lossy();
        let directory = paths::joined(Path::new(paths::PROJECT), &parent);
        let scope = Scope {
            directory: directory.clone(),
            lookup: self.scope.lookup,
        };
        assembly.prepare(&mut root, &scope);
        self.bases.push(Base {
            name: path.display().to_string(),
            root,
            identity,
            directory,
            done: HashMap::new(),
        });
        Some(self.bases.len() - 1)
    }
}
