//! Several files, and what they draw in, become the one tree that is read.
//!
//! Of each file the variables are put in (`interpolation`), its paths made relative to the
//! project's directory (`paths`), what it includes copied in (`include`), and its services put
//! over those that they extend (`extends`). Then the files are merged, each over those before it
//! (`merge`, by the `rules` of each key), and services that no active profile enables are taken
//! out (`profiles`). All of it happens on trees whose parts know their places, so a finding in
//! the whole still names the file, the line and the key to correct.

mod environment;
mod extends;
mod include;
mod merge;
mod paths;
mod profiles;
mod rules;
#[cfg(test)]
mod specification;

use std::path::{Path, PathBuf};

use super::diagnostic::{MOST_FILES, Report};
use super::interpolation::{self, Lookup, SoFar};
use super::tree::{Field, Mark, Node, Place, Value};
use super::{text_file, yaml};

pub(super) use profiles::leave_out_disabled;

/// All that files draw in together; no platform that a person wrote comes near this.
const MOST_NODES: usize = 1_000_000;
/// Nor near this much text.
const MOST_BYTES: usize = 64 << 20;

/// A file that was read, nothing put in yet.
pub(super) struct Document {
    root: Node,
    /// The same for all ways to write its path.
    identity: PathBuf,
}

/// A text, where it stands, and under which key.
struct Named {
    text: String,
    at: Place,
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

/// Where a file belongs: the project itself, or one that it includes.
struct Scope<'s> {
    /// What its relative paths start from, itself relative to the project's directory.
    directory: PathBuf,
    lookup: Lookup<'s>,
}

/// Files on their way to one tree.
pub(super) struct Assembly<'a> {
    project_dir: &'a Path,
    report: &'a mut Report,
    files: usize,
    so_far: SoFar,
    nodes: usize,
    bytes: usize,
    /// Whether all was found that the files draw in. If not, the tree would only add false
    /// findings.
    complete: bool,
}

impl<'a> Assembly<'a> {
    /// `report` begins with the first file.
    pub(super) fn new(project_dir: &'a Path, report: &'a mut Report) -> Self {
        Self {
            project_dir,
            report,
            files: 0,
            so_far: SoFar::default(),
            nodes: 0,
            bytes: 0,
            complete: true,
        }
    }

    /// Reads the files that the user named, or that were found.
    pub(super) fn read_all(&mut self, files: &[PathBuf]) -> Vec<Document> {
        if files.is_empty() {
            self.complete = false;
            self.report
                .file_problem("no Compose file is named", "name one with `--file`");
        }
        let mut documents = Vec::new();
        for file in files {
            match text_file::read(file) {
                Ok(text) => documents.extend(self.parse(file, &text)),
                Err(error) => {
                    self.begin(file);
                    self.complete = false;
                    self.report.problem_of_current(
                        format!("it cannot be read: {error}"),
                        "check that it is a text file (UTF-8) that you may read",
                    );
                }
            }
        }
        documents
    }

    /// The name that the last of these files with a `name` gives the project.
    pub(super) fn declared_name(documents: &[Document], lookup: Lookup<'_>) -> Option<String> {
        let mut documents = documents.iter().rev();
        let name = documents.find_map(|document| document.root.child("name")?.as_text())?;
        interpolation::interpolate(name, lookup)
            .ok()
            .map(|done| done.text)
            .filter(|name| !name.is_empty())
    }

    /// Makes one tree of the project's files; `None` if something is missing.
    pub(super) fn assemble(mut self, documents: Vec<Document>, lookup: Lookup<'_>) -> Option<Node> {
        let scope = Scope {
            directory: PathBuf::from(paths::PROJECT),
            lookup,
        };
        let root = self.model(documents, &scope, &[]);
        root.filter(|_| self.complete)
    }

    fn begin(&mut self, file: &Path) {
        self.files += 1;
        // The report began with the first one.
        if self.files > 1 {
            let shown = file.strip_prefix(self.project_dir).unwrap_or(file);
            self.report.begin(shown.display().to_string());
        }
    }

    fn parse(&mut self, file: &Path, text: &str) -> Option<Document> {
        self.begin(file);
        let root = yaml::parse(text, self.report);
        let root = root.filter(|root| self.take_account_of(root));
        self.complete &= root.is_some();
        Some(Document {
            root: root?,
            identity: file.canonicalize().unwrap_or_else(|_| file.to_owned()),
        })
    }

    /// Reads a file that another one in `directory` draws in; what keeps it from being read is a
    /// finding there.
    fn draw_in(&mut self, directory: &Path, named: &Named) -> Option<Document> {
        if self.files > MOST_FILES {
            // Told already.
            self.complete = false;
            return None;
        }
        match self.text_of(directory, &named.text) {
            Ok((file, text)) => self.parse(&file, &text),
            Err((message, help)) => {
                self.complete = false;
                self.report
                    .problem_with_help(named.at, &named.path, message, help);
                None
            }
        }
    }

    /// Such a file and its text, or what is wrong with it and what to do.
    fn text_of(
        &mut self,
        directory: &Path,
        path: &str,
    ) -> Result<(PathBuf, String), (String, &'static str)> {
        if path.contains("://") || path.starts_with("git@") || path.contains(".git#") {
            let message = format!("`{path}` lies elsewhere, and only files here are read");
            return Err((message, "fetch it, and name the file"));
        }
        if self.files == MOST_FILES {
            self.files += 1;
            let message = format!("up to here more than {MOST_FILES} files are read");
            return Err((message, "draw in fewer"));
        }
        let file = self.project_dir.join(paths::joined(directory, path));
        match text_file::read(&file) {
            Ok(text) => Ok((file, text)),
            Err(error) => {
                let message = format!("`{path}` cannot be read: {error}");
                Err((message, "name a Compose file that you may read"))
            }
        }
    }

    /// A file as the user knows it.
    fn shown(&self, identity: &Path) -> String {
        let project = self.project_dir.canonicalize().unwrap_or_default();
        let shown = identity.strip_prefix(project).unwrap_or(identity);
        shown.display().to_string()
    }

    /// Takes account of a tree; `false` if all of them are too much now.
    fn take_account_of(&mut self, node: &Node) -> bool {
        let was_within = self.nodes <= MOST_NODES && self.bytes <= MOST_BYTES;
        let (nodes, bytes) = node.weight();
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        let is_within = self.nodes <= MOST_NODES && self.bytes <= MOST_BYTES;
        if was_within && !is_within {
            let most = MOST_BYTES >> 20;
            let message = format!(
                "up to here the files come to more than {MOST_NODES} values or {most} MiB of text"
            );
            self.report.problem(node.at, "", message);
        }
        self.complete &= is_within;
        is_within
    }

    /// Makes one tree of the files of a project. `way` are the files that lead here.
    fn model(
        &mut self,
        documents: Vec<Document>,
        scope: &Scope<'_>,
        way: &[PathBuf],
    ) -> Option<Node> {
        let mut model = None;
        for document in documents {
            let layer = self.layer(document, scope, way);
            model = Some(match model {
                None => merge::settled(layer, self.report),
                Some(earlier) => merge::files(earlier, layer, self.report),
            });
        }
        model
    }

    /// One file, with all that it draws in.
    fn layer(&mut self, document: Document, scope: &Scope<'_>, way: &[PathBuf]) -> Node {
        let Document { mut root, identity } = document;
        if !matches!(root.value, Value::Map(_)) || root.mark != Mark::None {
            // Told of by who merges and reads it.
            return root;
        }
        self.prepare(&mut root, scope);
        if let Some(include) = root.take("include") {
            let mut way = way.to_vec();
            way.push(identity.clone());
            self.include(&include, &mut root, scope, &way);
        }
        self.extend_services(root, identity, scope)
    }

    /// Puts variables into a file, and makes its paths the project's.
    fn prepare(&mut self, root: &mut Node, scope: &Scope<'_>) {
        interpolation::interpolate_tree(root, scope.lookup, &mut self.so_far, self.report);
        paths::rebase(root, &scope.directory);
    }
}

/// The one tree of one text, as the tests of what reads it need it.
#[cfg(test)]
pub(super) fn of_text(text: &str, report: &mut Report) -> Option<Node> {
    let mut assembly = Assembly::new(Path::new("/nonexistent"), report);
    let document = assembly.parse(Path::new("/nonexistent/f"), text)?;
    let mut root = assembly.assemble(vec![document], &|_| None)?;
    leave_out_disabled(&mut root, &[], report);
    Some(root)
}
