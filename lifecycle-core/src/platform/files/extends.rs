//! Resolves `extends`: merges a service with the service that it extends (`05-services.md` of the
//! specification).

use std::collections::HashMap;
use std::path::PathBuf;

use super::super::diagnostic::Report;
use super::super::tree::{Entry, Field, Node, Position, Value};
use super::{Assembly, Document, Named, Scope, merge, paths};

/// The maximum length of a chain of `extends`.
const MAX_CHAIN: usize = 64;

const KEYS: [&str; 2] = ["service", "file"];

/// The value of `extends`.
struct Extended {
    service: Named,
    file: Option<Named>,
}

impl Extended {
    fn read(service: &str, entry: &Entry, report: &mut Report) -> Option<Self> {
        let field = Field {
            path: format!("services.{service}.extends"),
            at: entry.at,
            node: &entry.node,
        };
        if !field.is_map() {
            return Some(Self {
                service: Named::read(&field, report)?,
                file: None,
            });
        }
        let (mut service, mut file) = (None, None);
        let mut is_right = true;
        for (key, field) in field.entries(report) {
            match key {
                "service" => service = Some(Named::read(&field, report)?),
                "file" if field.is_null() => {}
                "file" => file = Some(Named::read(&field, report)?),
                _ => {
                    report.unknown_key(field.at, &field.path, key, KEYS);
                    is_right = false;
                }
            }
        }
        if service.is_none() && is_right {
            field.problem(report, "`service` is missing");
        }
        let service = service.filter(|_| is_right)?;
        Some(Self { service, file })
    }
}

/// A file that contains extended services.
struct Base {
    root: Node,
    identity: PathBuf,
    /// The base directory of `extends.file` in this file.
    directory: PathBuf,
    /// The file's name in diagnostics.
    name: String,
    /// The result for each requested service; `None` if the service has a problem.
    done: HashMap<String, Option<Node>>,
    /// The index of each service in `root`.
    indices: HashMap<String, usize>,
}

impl Base {
    fn new(root: Node, identity: PathBuf, directory: PathBuf, name: String) -> Self {
        let mut base = Self {
            root,
            identity,
            directory,
            name,
            done: HashMap::new(),
            indices: HashMap::new(),
        };
        let services = base.services().iter().enumerate();
        base.indices = services
            .map(|(index, entry)| (entry.key.clone(), index))
            .collect();
        base
    }

    fn services(&self) -> &[Entry] {
        match self.root.child("services").map(|node| &node.value) {
            Some(Value::Map(services)) => services,
            _ => &[],
        }
    }

    fn service(&self, name: &str) -> Option<&Node> {
        let entry = self.services().get(*self.indices.get(name)?)?;
        Some(&entry.node)
    }
}

/// Follows the chains of `extends` that start in one file.
struct Walk<'w, 'a> {
    assembly: &'w mut Assembly<'a>,
    scope: &'w Scope<'w>,
    /// All files that were read so far. The chains start in the first file.
    bases: Vec<Base>,
    /// The chain of services up to the current one, each with the index of its file.
    chain: Vec<(usize, String)>,
}

impl Assembly<'_> {
    /// Merges every service of a file with the service that it extends.
    pub(super) fn extend_services(
        &mut self,
        root: Node,
        identity: PathBuf,
        scope: &Scope<'_>,
    ) -> Node {
        let name = self.shown(&identity);
        let layer = Base::new(root, identity, scope.directory.clone(), name);
        let names: Vec<String> = layer
            .services()
            .iter()
            .filter(|entry| entry.node.child("extends").is_some())
            .map(|entry| entry.key.clone())
            .collect();
        let mut walk = Walk {
            assembly: self,
            scope,
            bases: vec![layer],
            chain: Vec::new(),
        };
        let mut done = Vec::new();
        for name in names {
            match walk.resolved(0, &name) {
                Some(service) => done.push((name, service)),
                None => walk.assembly.complete = false,
            }
        }
        let Some(Base {
            mut root, indices, ..
        }) = walk.bases.into_iter().next()
        else {
            return Node::nothing(Position::START);
        };
        if let Some(Value::Map(services)) = root.child_mut("services").map(|node| &mut node.value) {
            for (name, service) in done {
                let index = indices.get(&name);
                if let Some(slot) = index.and_then(|index| services.get_mut(*index)) {
                    slot.node = service;
                }
            }
        }
        root
    }
}

impl Walk<'_, '_> {
    /// Returns a service of a file, merged with everything that it extends.
    fn resolved(&mut self, base: usize, name: &str) -> Option<Node> {
        let file = self.bases.get(base)?;
        if let Some(done) = file.done.get(name) {
            return done.clone();
        }
        let own = file.service(name)?.clone();
        let service = self.over_extended(base, name, own);
        let file = self.bases.get_mut(base)?;
        file.done.insert(name.to_owned(), service.clone());
        service
    }

    fn over_extended(&mut self, base: usize, name: &str, mut own: Node) -> Option<Node> {
        if !self.assembly.count(&own) {
            return None;
        }
        let Some(entry) = own.take("extends").filter(|entry| !entry.node.is_null()) else {
            return Some(own);
        };
        let extended = Extended::read(name, &entry, self.assembly.report)?;
        self.chain.push((base, name.to_owned()));
        let further = self.extended(base, &extended);
        self.chain.pop();
        let further = merge::finished(further?, self.assembly.report);
        let service = merge::services(name, further, own, self.assembly.report);
        self.assembly.count(&service).then_some(service)
    }

    /// Returns the extended service, merged with everything that it extends.
    fn extended(&mut self, base: usize, extended: &Extended) -> Option<Node> {
        let target = match &extended.file {
            None => base,
            Some(file) => self.open(base, file)?,
        };
        let Named {
            text: name,
            at,
            path,
        } = &extended.service;
        let found = self.bases.get(target)?;
        let report = &mut *self.assembly.report;
        if found.service(name).is_none() {
            let known = || found.services().iter().map(|entry| entry.key.as_str());
            let message = format!("the service `{name}` does not exist in {}", found.name);
            report.unknown_name(*at, path, message, name, known());
            return None;
        }
        let is_here = |(file, service): &(usize, String)| (*file, service) == (target, name);
        if let Some(first) = self.chain.iter().position(is_here) {
            let cycle = self.chain.iter().skip(first).map(|(_, name)| name.as_str());
            let cycle: Vec<&str> = cycle.chain([name.as_str()]).collect();
            let message = format!("services extend each other: {}", cycle.join(" → "));
            let help = "remove one of these `extends`";
            report.problem_with_help(*at, path, message, help);
            return None;
        }
        if self.chain.len() >= MAX_CHAIN {
            let message = format!("the chain of `extends` is longer than {MAX_CHAIN} services");
            report.problem(*at, path, message);
            return None;
        }
        self.resolved(target, name)
    }

    /// Returns the index of the file with this path; reads the file on first use.
    fn open(&mut self, base: usize, file: &Named) -> Option<usize> {
        let directory = self.bases.get(base)?.directory.clone();
        let lookup = self.scope.lookup;
        let path = paths::joined(&directory, &file.text, lookup);
        let real = self.assembly.project_dir.join(&path).canonicalize();
        if let Ok(real) = real
            && let Some(known) = self.bases.iter().position(|base| base.identity == real)
        {
            return Some(known);
        }
        let Document { mut root, identity } =
            self.assembly.read_referenced(&directory, file, lookup)?;
        let scope = Scope {
            directory: paths::directory_of(&path),
            lookup,
        };
        self.assembly.prepare(&mut root, &scope);
        let name = path.display().to_string();
        let base = Base::new(root, identity, scope.directory, name);
        self.bases.push(base);
        Some(self.bases.len() - 1)
    }
}
