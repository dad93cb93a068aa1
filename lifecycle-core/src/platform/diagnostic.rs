//! What is wrong with the user's files: where, what, and how to fix it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::tree::{FileId, Place};
use crate::error::Error;
use crate::similar::nearest;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, relative to the project's directory where it lies there.
    pub file: String,
    /// The line, from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
    /// The path of the key, for example `services.web.ports[0]`; may be empty.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with the user's files, in the order of the files' lines. Prints one
/// line for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// The single findings; there is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for Error {
    fn from(diagnostics: Diagnostics) -> Self {
        let hints: Vec<String> = diagnostics.iter().filter_map(|d| d.help.clone()).collect();
        Self::Invalid {
            what: "the platform's declaration".to_owned(),
            why: diagnostics.to_string(),
            hint: if hints.is_empty() {
                "correct the file at the lines named".to_owned()
            } else {
                hints.join("; ")
            },
        }
    }
}

/// A key that the specification knows, that is understood, and that has no effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedKey {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The path of the key, for example `services.web.privileged`.
    pub path: String,
    /// What happens instead.
    pub consequence: &'static str,
    /// Whether the service runs otherwise than its author meant.
    pub changes_behaviour: bool,
}

impl fmt::Display for UnsupportedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            path,
            consequence,
            ..
        } = self;
        write!(f, "{file}:{line}: {path}: has no effect: {consequence}")
    }
}

/// Collects the findings about a file, and about those that it draws in.
pub(super) struct Report {
    /// By their numbers in places.
    files: Vec<String>,
    problems: Vec<(Option<Place>, Diagnostic)>,
    /// Where nothing more is said, since what stands there is wrong already.
    silenced: BTreeSet<Place>,
    /// What is worth knowing about a value, should it be wrong.
    notes: BTreeMap<Place, String>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) unsupported: Vec<UnsupportedKey>,
}

/// More files than any platform is made of.
pub(super) const MOST_FILES: usize = 256;

impl Report {
    pub(super) fn new(file: impl Into<String>) -> Self {
        Self {
            files: vec![file.into()],
            problems: Vec::new(),
            silenced: BTreeSet::new(),
            notes: BTreeMap::new(),
            warnings: Vec::new(),
            unsupported: Vec::new(),
        }
    }

    /// Begins another file; what is read from now on has its places there.
    pub(super) fn begin(&mut self, file: impl Into<String>) {
        if self.files.len() <= MOST_FILES {
            self.files.push(file.into());
        }
    }

    /// The file that was begun last.
    pub(super) fn current(&self) -> FileId {
        FileId::try_from(self.files.len() - 1).unwrap_or(FileId::MAX)
    }

    /// The name of a file.
    pub(super) fn name_of(&self, file: FileId) -> &str {
        self.files.get(usize::from(file)).map_or("", String::as_str)
    }

    /// A place in words, for a message about another place.
    pub(super) fn place_in_words(&self, at: Place) -> String {
        format!("{}:{}", self.name_of(at.file), at.line)
    }

    fn diagnostic(
        &self,
        at: Option<Place>,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        Diagnostic {
            file: self.name_of(at.map_or(0, |at| at.file)).to_owned(),
            line: at.map(|at| at.line),
            column: at.map(|at| at.column),
            path: path.to_owned(),
            message: message.into(),
            help,
        }
    }

    fn add(&mut self, at: Place, path: &str, message: impl Into<String>, help: Option<String>) {
        if !self.silenced.contains(&at) {
            let mut message = message.into();
            if let Some(note) = self.notes.get(&at) {
                message = format!("{message} ({note})");
            }
            let problem = self.diagnostic(Some(at), path, message, help);
            self.problems.push((Some(at), problem));
        }
    }

    pub(super) fn problem(&mut self, at: Place, path: &str, message: impl Into<String>) {
        self.add(at, path, message, None);
    }

    /// A problem of a value that makes all further findings about it pointless.
    pub(super) fn last_word(&mut self, at: Place, path: &str, message: impl Into<String>) {
        self.add(at, path, message, None);
        self.silenced.insert(at);
    }

    /// Says nothing more about what stands there.
    pub(super) fn silence(&mut self, at: Place) {
        self.silenced.insert(at);
    }

    pub(super) fn problem_with_help(
        &mut self,
        at: Place,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(at, path, message, Some(help.into()));
    }

    /// A problem of the file as a whole.
    pub(super) fn file_problem(&mut self, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.diagnostic(None, "", message, Some(help.into()));
        self.problems.push((None, problem));
    }

    /// The same of the file that was begun last.
    pub(super) fn problem_of_current(
        &mut self,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let mut problem = self.diagnostic(None, "", message, Some(help.into()));
        self.name_of(self.current()).clone_into(&mut problem.file);
        self.problems.push((None, problem));
    }

    /// The same, where it does not keep the file from being read.
    pub(super) fn file_warning(&mut self, message: impl Into<String>) {
        let warning = self.diagnostic(None, "", message, None);
        self.warnings.push(warning);
    }

    /// A key that nobody knows, with the nearest one that is known.
    pub(super) fn unknown_key<'k>(
        &mut self,
        at: Place,
        path: &str,
        key: &str,
        known: impl IntoIterator<Item = &'k str> + Clone,
    ) {
        let help = nearest(key, known.clone()).map_or_else(
            || {
                let mut all: Vec<&str> = known.into_iter().collect();
                all.sort_unstable();
                (all.len() <= 12).then(|| format!("known here: {}", all.join(", ")))
            },
            |near| Some(format!("did you mean `{near}`?")),
        );
        self.add(at, path, "unknown key", help);
    }

    /// A name that refers to nothing, with the nearest that exists.
    pub(super) fn unknown_name<'k>(
        &mut self,
        at: Place,
        path: &str,
        message: impl Into<String>,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if (1..=12).contains(&known.len()) => {
                Some(format!("known here: {}", known.join(", ")))
            }
            None => None,
        };
        self.add(at, path, message, help);
    }

    /// Said with whatever is wrong there.
    pub(super) fn note(&mut self, at: Place, note: impl Into<String>) {
        self.notes.insert(at, note.into());
    }

    pub(super) fn warning(&mut self, at: Place, path: &str, message: impl Into<String>) {
        let warning = self.diagnostic(Some(at), path, message, None);
        self.warnings.push(warning);
    }

    pub(super) fn unsupported(
        &mut self,
        at: Place,
        path: &str,
        consequence: &'static str,
        changes_behaviour: bool,
    ) {
        self.unsupported.push(UnsupportedKey {
            file: self.name_of(at.file).to_owned(),
            line: at.line,
            path: path.to_owned(),
            consequence,
            changes_behaviour,
        });
    }

    /// The keys without effect, in the order of the files and their lines.
    pub(super) fn unsupported_in_order(&self) -> Vec<UnsupportedKey> {
        let mut keys = self.unsupported.clone();
        let number = |name: &String| self.files.iter().position(|file| file == name);
        keys.sort_by_cached_key(|key| (number(&key.file), key.line, key.path.clone()));
        keys.dedup();
        keys
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// What was found wrong in all these files; `None` if nothing.
    pub(super) fn problems_of(reports: Vec<Self>) -> Option<Diagnostics> {
        let mut all = Vec::new();
        for mut report in reports {
            report.problems.sort_by_key(|(at, _)| *at);
            report.problems.dedup();
            all.extend(report.problems.into_iter().map(|(_, problem)| problem));
        }
        (!all.is_empty()).then_some(Diagnostics(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_prints_where_what_and_the_hint() {
        let mut report = Report::new("compose.yaml");
        let at = Place {
            file: 0,
            line: 12,
            column: 5,
        };
        report.unknown_key(at, "services.web.prots", "prots", ["ports", "image"]);
        let diagnostics = Report::problems_of(vec![report]).unwrap();
        let text = "compose.yaml:12:5: services.web.prots: unknown key; did you mean `ports`?";
        assert_eq!(diagnostics.to_string(), text);
        let error = Error::from(diagnostics);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.hint(), Some("did you mean `ports`?"));
    }
}
