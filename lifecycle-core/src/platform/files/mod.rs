//! Merges several Compose files, and the files that they refer to, into one tree.
//!
//! Each file is prepared in these steps:
//!
//! 1. Replace variables (`interpolation`).
//! 2. Make paths relative to the project directory (`paths`).
//! 3. Copy the resources of included projects into the file (`include`).
//! 4. Merge services with those that they extend (`extends`).
//!
//! Then each file is merged over the previous ones (`merge`); the module `rules` contains the rule
//! for each key. Finally, services without an active profile are removed (`profiles`). All nodes
//! keep their source positions, so that diagnostics name the original file, line and key.

mod environment;
mod extends;
mod include;
mod merge;
mod paths;
mod profiles;
mod rules;
#[cfg(test)]
mod specification;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::diagnostic::{MAX_FILES, Report};
use super::interpolation::{self, Lookup, Totals};
use super::text_file::Edited;
use super::tree::{Field, Mark, Node, Position, Value};
use super::yaml;

pub(super) use profiles::remove_disabled;

/// The maximum number of values in all files together.
const MAX_NODES: usize = 300_000;
/// The maximum size of the text in all files together, in bytes.
const MAX_BYTES: usize = 32 << 20;

/// A parsed file, before anything is replaced or merged.
pub(super) struct Document {
    root: Node,
    /// The canonical path.
    identity: PathBuf,
}

/// The merged files of a project.
pub(super) struct Merged {
    pub(super) root: Node,
    /// The positions of the values that contain variables, or were taken from a variable.
    pub(super) with_variables: HashSet<Position>,
}

/// A string with its position and the path of its key.
struct Named {
    text: String,
    at: Position,
    path: String,
}

impl Named {
    fn read(field: &Field<'_>, report: &mut Report) -> Option<Self> {
        Some(Self {
            text: field.text(report)?.to_owned(),
            at: field.value_at(),
            path: field.path.clone(),
        })
    }
}

/// The project that a file belongs to: the main project or an included one.
struct Scope<'s> {
    /// The base directory of relative paths in the file. It is relative to the directory of the
    /// main project.
    directory: PathBuf,
    lookup: Lookup<'s>,
}

/// Merges files into one tree.
pub(super) struct Assembly<'a> {
    project_dir: &'a Path,
    edited: &'a Edited,
    report: &'a mut Report,
    files: usize,
    so_far: Totals,
    nodes: usize,
    bytes: usize,
    /// Whether all files were read. If not, checking the tree would only cause false problems.
    complete: bool,
}

impl<'a> Assembly<'a> {
    /// Creates an assembly. `report` must already contain the first file.
    pub(super) fn new(project_dir: &'a Path, edited: &'a Edited, report: &'a mut Report) -> Self {
        Self {
            project_dir,
            edited,
            report,
            files: 0,
            so_far: Totals::default(),
            nodes: 0,
            bytes: 0,
            complete: true,
        }
    }

    /// Reads the main files of the project.
    pub(super) fn read_all(&mut self, files: &[PathBuf]) -> Vec<Document> {
        if files.is_empty() {
            self.complete = false;
            self.report
                .file_problem("no Compose file is given", "specify a file with `--file`");
        }
        let mut documents = Vec::new();
        for file in files {
            match self.edited.read(file) {
                Ok(text) => documents.extend(self.parse(file, &text)),
                Err(error) => {
                    self.begin(file);
                    self.complete = false;
                    self.report.problem_of_current(
                        format!("cannot be read: {error}"),
                        "check that it is a UTF-8 text file and that you have permission to read \
                         it",
                    );
                }
            }
        }
        documents
    }

    /// Returns the project name from the last file that has a `name`.
    pub(super) fn declared_name(documents: &[Document], lookup: Lookup<'_>) -> Option<String> {
        let mut documents = documents.iter().rev();
        let name = documents.find_map(|document| document.root.child("name")?.as_text())?;
        interpolation::interpolate(name, lookup)
            .ok()
            .map(|done| done.text)
            .filter(|name| !name.is_empty())
    }

    /// Merges the files of the project. Returns `None` if a file is missing or invalid.
    pub(super) fn assemble(
        mut self,
        documents: Vec<Document>,
        lookup: Lookup<'_>,
    ) -> Option<Merged> {
        let scope = Scope {
            directory: PathBuf::from(paths::PROJECT),
            lookup,
        };
        let root = self.model(documents, &scope, &[]);
        Some(Merged {
            root: root.filter(|_| self.complete)?,
            with_variables: self.so_far.with_variables,
        })
    }

    fn begin(&mut self, file: &Path) {
        self.files += 1;
        // The report already contains the first file.
        if self.files > 1 {
            let shown = file.strip_prefix(self.project_dir).unwrap_or(file);
            self.report.begin(shown.display().to_string());
        }
    }

    fn parse(&mut self, file: &Path, text: &str) -> Option<Document> {
        self.begin(file);
        let root = yaml::parse(text, self.report);
        let root = root.filter(|root| self.count(root));
        self.complete &= root.is_some();
        Some(Document {
            root: root?,
            identity: file.canonicalize().unwrap_or_else(|_| file.to_owned()),
        })
    }

    /// Reads a file that a file in `directory` refers to. Errors are reported at the reference.
    fn read_referenced(
        &mut self,
        directory: &Path,
        named: &Named,
        lookup: Lookup<'_>,
    ) -> Option<Document> {
        if self.files > MAX_FILES {
            // The problem was already reported.
            self.complete = false;
            return None;
        }
        match self.text_of(directory, &named.text, lookup) {
            Ok((file, text)) => self.parse(&file, &text),
            Err((message, help)) => {
                self.complete = false;
                self.report
                    .problem_with_help(named.at, &named.path, message, help);
                None
            }
        }
    }

    /// Reads the text of a referenced file. On failure, returns a message and a hint.
    fn text_of(
        &mut self,
        directory: &Path,
        path: &str,
        lookup: Lookup<'_>,
    ) -> Result<(PathBuf, String), (String, &'static str)> {
        if path.contains("://") || path.starts_with("git@") || path.contains(".git#") {
            let message = format!("`{path}` is remote; only local files are supported");
            return Err((message, "download the file, and refer to the local copy"));
        }
        if self.files == MAX_FILES {
            self.files += 1;
            let message = format!("more than {MAX_FILES} files are read up to this line");
            return Err((message, "refer to fewer files"));
        }
        let file = self
            .project_dir
            .join(paths::joined(directory, path, lookup));
        match self.edited.read(&file) {
            Ok(text) => Ok((file, text)),
            Err(error) => {
                let message = format!("`{path}` cannot be read: {error}");
                Err((
                    message,
                    "specify a Compose file that you have permission to read",
                ))
            }
        }
    }

    /// Returns a file's name for messages: its path, relative to the project directory if possible.
    fn shown(&self, identity: &Path) -> String {
        let project = self.project_dir.canonicalize().unwrap_or_default();
        let shown = identity.strip_prefix(project).unwrap_or(identity);
        shown.display().to_string()
    }

    /// Adds the size of a tree to the totals. Returns `false` if the totals exceed the limits.
    fn count(&mut self, node: &Node) -> bool {
        let was_within = self.nodes <= MAX_NODES && self.bytes <= MAX_BYTES;
        let (nodes, bytes) = node.weight();
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        let is_within = self.nodes <= MAX_NODES && self.bytes <= MAX_BYTES;
        if was_within && !is_within {
            let most = MAX_BYTES >> 20;
            let message = format!(
                "the files contain more than {MAX_NODES} values or {most} MiB of text up to this \
                 line"
            );
            self.report.problem(node.at, "", message);
        }
        self.complete &= is_within;
        is_within
    }

    /// Merges the files of a project. `chain` lists the files whose `include` led to this project.
    fn model(
        &mut self,
        documents: Vec<Document>,
        scope: &Scope<'_>,
        chain: &[PathBuf],
    ) -> Option<Node> {
        let mut model = None;
        for document in documents {
            let layer = self.layer(document, scope, chain);
            model = Some(match model {
                None => merge::finished(layer, self.report),
                Some(earlier) => merge::files(earlier, layer, self.report),
            });
        }
        model
    }

    /// Returns one file, merged with everything that it refers to.
    fn layer(&mut self, document: Document, scope: &Scope<'_>, chain: &[PathBuf]) -> Node {
        let Document { mut root, identity } = document;
        if !matches!(root.value, Value::Map(_)) || root.mark != Mark::None {
            // The problem is reported when the tree is merged and read.
            return root;
        }
        self.prepare(&mut root, scope);
        if let Some(include) = root.take("include") {
            let mut chain = chain.to_vec();
            chain.push(identity.clone());
            self.include(&include, &mut root, scope, &chain);
        }
        self.extend_services(root, identity, scope)
    }

    /// Replaces variables in a file, and makes its paths relative to the project directory.
    fn prepare(&mut self, root: &mut Node, scope: &Scope<'_>) {
        interpolation::interpolate_tree(root, scope.lookup, &mut self.so_far, self.report);
        paths::rebase(root, &scope.directory);
    }
}

/// Parses one text, for tests.
#[cfg(test)]
pub(super) fn of_text(text: &str, report: &mut Report) -> Option<Node> {
    let edited = Edited::default();
    let mut assembly = Assembly::new(Path::new("/nonexistent"), &edited, report);
    let document = assembly.parse(Path::new("/nonexistent/f"), text)?;
    let mut root = assembly.assemble(vec![document], &|_| None)?.root;
    remove_disabled(&mut root, &[], report);
    Some(root)
}
