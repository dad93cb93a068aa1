//! Resolves `include`: copies the resources of other projects into the file that includes them
//! (`14-include.md` of the specification).
//!
//! Each entry of `include` is a separate project. It has its own base directory for relative paths,
//! and its own variables in addition to those of the main project.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::diagnostic::Report;
use super::super::environment_file::{self, Variables};
use super::super::text_file;
use super::super::tree::{Entry, Field, Node, Value};
use super::{Assembly, Named, Scope, environment, paths};

/// The maximum nesting of includes.
const MAX_DEPTH: usize = 24;

/// The sections that are copied from an included project.
const RESOURCES: [(&str, &str); 6] = [
    ("services", "service"),
    ("volumes", "volume"),
    ("networks", "network"),
    ("secrets", "secret"),
    ("configs", "config"),
    ("models", "model"),
];

const KEYS: [&str; 3] = ["path", "project_directory", "env_file"];

struct Included {
    files: Vec<Named>,
    directory: Option<String>,
    environment: Option<Vec<Named>>,
}

impl Included {
    fn read(item: &Field<'_>, report: &mut Report) -> Option<Self> {
        if !item.is_map() {
            return Some(Self {
                files: vec![Named::read(item, report)?],
                directory: None,
                environment: None,
            });
        }
        let mut included = Self {
            files: Vec::new(),
            directory: None,
            environment: None,
        };
        let mut is_right = true;
        for (key, field) in item.entries(report) {
            match key {
                "path" => included.files = all_named(&field, report)?,
                "project_directory" | "env_file" if field.is_null() => {}
                "project_directory" => {
                    included.directory = Some(field.text(report)?.to_owned());
                }
                "env_file" => included.environment = Some(all_named(&field, report)?),
                _ if key.starts_with("x-") => {}
                _ => {
                    report.unknown_key(field.at, &field.path, key, KEYS);
                    is_right = false;
                }
            }
        }
        if included.files.is_empty() && is_right {
            item.problem(report, "`path` is missing");
            is_right = false;
        }
        is_right.then_some(included)
    }
}

fn all_named(field: &Field<'_>, report: &mut Report) -> Option<Vec<Named>> {
    let items = field.items_or_one(report);
    items.iter().map(|item| Named::read(item, report)).collect()
}

impl Assembly<'_> {
    /// Copies included resources into the file that includes them. `chain` lists the including
    /// files, from the main file to this one.
    pub(super) fn include(
        &mut self,
        include: &Entry,
        root: &mut Node,
        scope: &Scope<'_>,
        chain: &[PathBuf],
    ) {
        let field = Field {
            path: "include".to_owned(),
            at: include.at,
            node: &include.node,
        };
        if field.is_null() {
            return;
        }
        if !field.is_list() {
            field.wrong_kind(self.report, "a list");
            self.complete = false;
            return;
        }
        for item in field.items(self.report) {
            let model = Included::read(&item, self.report)
                .and_then(|included| self.included(&item, &included, scope, chain));
            match model {
                Some(model) => self.copy(model, root, &item),
                None => self.complete = false,
            }
        }
    }

    fn included(
        &mut self,
        item: &Field<'_>,
        included: &Included,
        scope: &Scope<'_>,
        chain: &[PathBuf],
    ) -> Option<Node> {
        if chain.len() > MAX_DEPTH {
            let message = format!("includes are nested more than {MAX_DEPTH} levels deep");
            item.problem(self.report, message);
            return None;
        }
        let mut documents = Vec::new();
        for file in &included.files {
            let document = self.read_referenced(&scope.directory, file, scope.lookup)?;
            if chain.contains(&document.identity) {
                let begin = chain.iter().position(|one| *one == document.identity);
                let mut names: Vec<String> = chain
                    .iter()
                    .skip(begin.unwrap_or_default())
                    .chain([&document.identity])
                    .map(|file| self.shown(file))
                    .collect();
                names.dedup();
                let message = format!("files include each other: {}", names.join(" → "));
                let help = "remove one of these entries";
                self.report
                    .problem_with_help(file.at, &file.path, message, help);
                return None;
            }
            documents.push(document);
        }
        let directory = match (&included.directory, included.files.first()) {
            (Some(directory), _) => paths::joined(&scope.directory, directory, scope.lookup),
            (None, Some(first)) => {
                let first = paths::joined(&scope.directory, &first.text, scope.lookup);
                paths::directory_of(&first)
            }
            (None, None) => return None,
        };
        let own = self.variables(included, &directory, scope)?;
        let lookup = |name: &str| {
            let outer = (scope.lookup)(name);
            outer.or_else(|| own.get(name).cloned().flatten())
        };
        let inner = Scope {
            directory,
            lookup: &lookup,
        };
        let mut model = self.model(documents, &inner, chain)?;
        environment::resolve(&mut model, &lookup, &mut self.so_far.with_variables);
        paths::set_default_contexts(&mut model, &inner.directory);
        Some(model)
    }

    /// Returns the variables in the environment files of an included project.
    fn variables(
        &mut self,
        included: &Included,
        directory: &Path,
        scope: &Scope<'_>,
    ) -> Option<Variables> {
        let mut variables = Variables::new();
        let Some(files) = &included.environment else {
            let shown = directory.join(".env");
            let file = self.project_dir.join(&shown);
            if file.is_file() {
                let at = included.files.first()?;
                self.add_variables(&file, &shown, at, scope, &mut variables)?;
            }
            return Some(variables);
        };
        for named in files.iter().filter(|named| named.text != "/dev/null") {
            let shown = paths::joined(&scope.directory, &named.text, scope.lookup);
            let file = self.project_dir.join(&shown);
            self.add_variables(&file, &shown, named, scope, &mut variables)?;
        }
        Some(variables)
    }

    fn add_variables(
        &mut self,
        file: &Path,
        shown: &Path,
        named: &Named,
        scope: &Scope<'_>,
        variables: &mut Variables,
    ) -> Option<()> {
        let lookup = |name: &str| {
            let outer = (scope.lookup)(name);
            outer.or_else(|| variables.get(name).cloned().flatten())
        };
        let shown = shown.display();
        let more = match text_file::read(file) {
            Ok(text) => environment_file::parse(&text, &lookup, &|_| None)
                .map_err(|bad| format!("`{shown}`, line {}: {}", bad.line, bad.message)),
            Err(error) => Err(format!("`{shown}` cannot be read: {error}")),
        };
        match more {
            Ok(mut more) => {
                for (line, key) in &more.unset {
                    let message = format!(
                        "`{shown}`, line {line}: {}",
                        environment_file::unset_in(key)
                    );
                    self.report.warning(named.at, &named.path, message);
                }
                variables.append(&mut more.variables);
                Some(())
            }
            Err(message) => {
                self.report.problem(named.at, &named.path, message);
                None
            }
        }
    }

    /// Copies all resources of an included project.
    fn copy(&mut self, model: Node, root: &mut Node, item: &Field<'_>) {
        let Value::Map(sections) = model.value else {
            let message = "the included file is not a mapping";
            item.problem(self.report, message);
            return;
        };
        let Value::Map(own) = &mut root.value else {
            return;
        };
        for section in sections {
            let resource = RESOURCES.iter().find(|(key, _)| *key == section.key);
            match (resource, section.node.value) {
                (Some((_, kind)), Value::Map(resources)) => {
                    let at = section.at;
                    let slot = own.iter().position(|entry| entry.key == section.key);
                    let slot = slot.unwrap_or_else(|| {
                        own.push(Entry {
                            key: section.key.clone(),
                            at,
                            node: Node::new(at, Value::Map(Vec::new())),
                        });
                        own.len() - 1
                    });
                    if let Some(target) = own.get_mut(slot) {
                        self.copy_resources(&section.key, kind, resources, target, item);
                    }
                }
                // These keys concern only the included project.
                _ if matches!(section.key.as_str(), "name" | "version")
                    || (section.key.starts_with("x-") && section.key != "x-lifecycle") => {}
                (Some(_), Value::Scalar { text, plain: true })
                    if matches!(text.as_str(), "" | "~" | "null") => {}
                (_, value) => {
                    // An unknown key, or a section of the wrong type, is reported at its position
                    // when the merged tree is read.
                    let is_taken = own.iter().any(|entry| entry.key == section.key);
                    if is_taken {
                        let message = format!(
                            "expected a mapping, found {}",
                            Node::new(section.node.at, value).kind()
                        );
                        self.report.problem(section.node.at, &section.key, message);
                        self.complete = false;
                    } else {
                        own.push(Entry {
                            key: section.key,
                            at: section.at,
                            node: Node::new(section.node.at, value),
                        });
                    }
                }
            }
        }
    }

    fn copy_resources(
        &mut self,
        section: &str,
        kind: &str,
        resources: Vec<Entry>,
        target: &mut Entry,
        item: &Field<'_>,
    ) {
        if target.node.is_null() {
            target.node = Node::new(target.at, Value::Map(Vec::new()));
        }
        let Value::Map(own) = &mut target.node.value else {
            // The problem is reported when the merged tree is read.
            return;
        };
        let indices = own.iter().enumerate();
        let indices: HashMap<String, usize> = indices
            .map(|(index, entry)| (entry.key.clone(), index))
            .collect();
        for resource in resources {
            let index = indices.get(&resource.key);
            match index.and_then(|index| own.get(*index)) {
                None => own.push(resource),
                Some(entry) if entry.node.is_same_value(&resource.node) => {}
                Some(entry) => {
                    let message = format!(
                        "the {kind} `{}` of {} is also declared at {}",
                        resource.key,
                        self.report.describe_position(resource.at),
                        self.report.describe_position(entry.at)
                    );
                    let help = format!(
                        "rename one of the two; to change the included {kind}, list a second file \
                         after the included file in `path`, or declare `{section}` in an override \
                         file"
                    );
                    item.problem_with_help(self.report, message, help);
                }
            }
        }
    }
}
