//! Problems in the user's files, each with its position, a message and, if possible, a fix.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::tree::{FileId, Position};
use crate::error::Error;
use crate::similar::nearest;

/// One problem in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, relative to the project directory if the file is inside it.
    pub file: String,
    /// The line, starting at 1; `None` if the problem concerns the whole file.
    pub line: Option<usize>,
    /// The column in characters, starting at 1.
    pub column: Option<usize>,
    /// The path of the key, for example `services.web.ports[0]`; may be empty.
    pub path: String,
    pub message: String,
    /// How to fix the problem.
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

/// The maximum number of problems that are displayed.
const SHOWN: usize = 50;

/// The maximum number of problems, and of warnings, that are kept. The others are only counted.
const KEPT: usize = 10_000;

/// The number of problems for which a similar name is searched, because more are not displayed.
const SUGGESTED: usize = 2 * SHOWN;

/// The number of known names among which a similar one is searched.
const SEARCHED: usize = 1000;

/// All problems in the user's files, in the order of the lines. The `Display` output has one line
/// for each of the first 50 problems, and the number of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The first 10,000 problems.
    kept: Vec<Diagnostic>,
    /// The number of problems that are not kept.
    others: usize,
}

impl Diagnostics {
    /// Returns the diagnostics, of which at most 10,000 are kept; there is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.kept.iter()
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
        for (index, diagnostic) in self.kept.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        match (self.kept.len() + self.others).saturating_sub(SHOWN) {
            0 => Ok(()),
            1 => f.write_str("\nand 1 more problem"),
            more => write!(f, "\nand {more} more problems"),
        }
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for Error {
    fn from(diagnostics: Diagnostics) -> Self {
        let shown = diagnostics.iter().take(SHOWN);
        let hints: Vec<String> = shown.filter_map(|d| d.help.clone()).collect();
        Self::Invalid {
            what: "the platform's declaration".to_owned(),
            why: diagnostics.to_string(),
            hint: if hints.is_empty() {
                "fix the file at the lines above".to_owned()
            } else {
                hints.join("; ")
            },
        }
    }
}

/// A valid key that is ignored because it is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedKey {
    pub file: String,
    /// The line, starting at 1.
    pub line: usize,
    /// The path of the key, for example `services.web.privileged`.
    pub path: String,
    /// The consequence of ignoring the key, for the user.
    pub consequence: &'static str,
    /// Whether ignoring the key makes the service behave differently than declared.
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

/// Collects diagnostics of a file, and of the files that it includes.
pub(super) struct Report {
    /// The names of the files, indexed by [`FileId`].
    files: Arc<Vec<String>>,
    problems: Vec<(Option<Position>, Diagnostic)>,
    /// The number of problems that are not in `problems`.
    others: usize,
    /// The positions for which no further diagnostics are reported.
    suppressed: BTreeSet<Position>,
    /// A note for each position, appended to every message about this position.
    notes: BTreeMap<Position, String>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) unsupported: Vec<UnsupportedKey>,
}

/// The maximum number of files that declare a platform.
pub(super) const MAX_FILES: usize = 256;

impl Report {
    pub(super) fn new(file: impl Into<String>) -> Self {
        Self {
            files: Arc::new(vec![file.into()]),
            problems: Vec::new(),
            others: 0,
            suppressed: BTreeSet::new(),
            notes: BTreeMap::new(),
            warnings: Vec::new(),
            unsupported: Vec::new(),
        }
    }

    /// Makes another file the current one: positions read from now on belong to it.
    pub(super) fn begin(&mut self, file: impl Into<String>) {
        if self.files.len() <= MAX_FILES {
            Arc::make_mut(&mut self.files).push(file.into());
        }
    }

    /// Returns the current file.
    pub(super) fn current(&self) -> FileId {
        FileId::try_from(self.files.len() - 1).unwrap_or(FileId::MAX)
    }

    pub(super) fn name_of(&self, file: FileId) -> &str {
        self.files.get(usize::from(file)).map_or("", String::as_str)
    }

    /// Formats a position for a message about another position.
    pub(super) fn describe_position(&self, at: Position) -> String {
        format!("{}:{}", self.name_of(at.file), at.line)
    }

    fn diagnostic(
        &self,
        at: Option<Position>,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        Diagnostic {
            file: printable(self.name_of(at.map_or(0, |at| at.file))),
            line: at.map(|at| at.line),
            column: at.map(|at| at.column),
            path: printable(path),
            message: printable(&message.into()),
            help: help.map(|help| printable(&help)),
        }
    }

    fn add(&mut self, at: Position, path: &str, message: impl Into<String>, help: Option<String>) {
        if self.suppressed.contains(&at) {
            return;
        }
        if self.problems.len() >= KEPT {
            self.others += 1;
        } else {
            let mut message = message.into();
            if let Some(note) = self.notes.get(&at) {
                message = format!("{message} ({note})");
            }
            let problem = self.diagnostic(Some(at), path, message, help);
            self.problems.push((Some(at), problem));
        }
    }

    /// Adds the problems of another report that are not in `known`.
    pub(super) fn add_new(&mut self, other: Self, known: &Self) {
        let is_known = |problem: &Diagnostic| known.problems.iter().any(|(_, k)| k == problem);
        let problems = other.problems.into_iter();
        self.problems
            .extend(problems.filter(|(_, problem)| !is_known(problem)));
    }

    pub(super) fn problem(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.add(at, path, message, None);
    }

    /// Adds a problem and suppresses further diagnostics at this position.
    pub(super) fn final_problem(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.add(at, path, message, None);
        self.suppressed.insert(at);
    }

    /// Suppresses further diagnostics at this position.
    pub(super) fn suppress(&mut self, at: Position) {
        self.suppressed.insert(at);
    }

    pub(super) fn problem_with_help(
        &mut self,
        at: Position,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(at, path, message, Some(help.into()));
    }

    /// Adds a problem that concerns the whole first file.
    pub(super) fn file_problem(&mut self, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.diagnostic(None, "", message, Some(help.into()));
        self.problems.push((None, problem));
    }

    /// Returns whether similar names are still searched for the messages.
    fn suggests(&self) -> bool {
        self.problems.len() < SUGGESTED
    }

    /// Adds a problem that concerns the whole current file.
    pub(super) fn problem_of_current(
        &mut self,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let mut problem = self.diagnostic(None, "", message, Some(help.into()));
        problem.file = printable(self.name_of(self.current()));
        self.problems.push((None, problem));
    }

    /// Adds a warning that concerns the whole first file.
    pub(super) fn file_warning(&mut self, message: impl Into<String>) {
        let warning = self.diagnostic(None, "", message, None);
        self.warnings.push(warning);
    }

    /// Adds a problem about an unknown key; suggests the most similar known key.
    pub(super) fn unknown_key<'k>(
        &mut self,
        at: Position,
        path: &str,
        key: &str,
        known: impl IntoIterator<Item = &'k str> + Clone,
    ) {
        let near = self.suggests().then(|| nearest(key, known.clone()));
        let help = near.flatten().map_or_else(
            || {
                let mut all: Vec<&str> = known.into_iter().collect();
                all.sort_unstable();
                (all.len() <= 12).then(|| format!("known keys: {}", all.join(", ")))
            },
            |near| Some(format!("did you mean `{near}`?")),
        );
        self.add(at, path, "unknown key", help);
    }

    /// Adds a problem about a reference to an unknown name; suggests the most similar existing
    /// name.
    pub(super) fn unknown_name<'k>(
        &mut self,
        at: Position,
        path: &str,
        message: impl Into<String>,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        let searched = if self.suggests() { SEARCHED } else { 0 };
        let known: Vec<&str> = known.into_iter().take(searched).collect();
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if (1..=12).contains(&known.len()) => {
                Some(format!("known names: {}", known.join(", ")))
            }
            None => None,
        };
        self.add(at, path, message, help);
    }

    /// Adds a note that is appended to every message about this position.
    pub(super) fn note(&mut self, at: Position, note: impl Into<String>) {
        self.notes.insert(at, note.into());
    }

    pub(super) fn warning(&mut self, at: Position, path: &str, message: impl Into<String>) {
        if self.warnings.len() < KEPT {
            let warning = self.diagnostic(Some(at), path, message, None);
            self.warnings.push(warning);
        }
    }

    pub(super) fn unsupported(
        &mut self,
        at: Position,
        path: &str,
        consequence: &'static str,
        changes_behaviour: bool,
    ) {
        if self.unsupported.len() >= KEPT {
            return;
        }
        self.unsupported.push(UnsupportedKey {
            file: printable(self.name_of(at.file)),
            line: at.line,
            path: printable(path),
            consequence,
            changes_behaviour,
        });
    }

    /// Creates an empty report about the same files.
    pub(super) fn of_same_files(&self) -> Self {
        Self {
            files: Arc::clone(&self.files),
            ..Self::new("")
        }
    }

    /// Adds the problems of a report about the same files.
    pub(super) fn join(&mut self, other: &Self) {
        for (at, problem) in &other.problems {
            match at {
                Some(at) if self.suppressed.contains(at) => {}
                _ if self.problems.len() >= KEPT => self.others += 1,
                _ => {
                    let mut problem = problem.clone();
                    if let Some(note) = at.and_then(|at| self.notes.get(&at)) {
                        problem.message = format!("{} ({note})", problem.message);
                    }
                    self.problems.push((*at, problem));
                }
            }
        }
    }

    /// Returns the unsupported keys, in the order of files and lines.
    pub(super) fn unsupported_in_order(&self) -> Vec<UnsupportedKey> {
        let mut keys = self.unsupported.clone();
        let names: Vec<String> = self.files.iter().map(|file| printable(file)).collect();
        let number = |name: &String| names.iter().position(|file| file == name);
        keys.sort_by_cached_key(|key| (number(&key.file), key.line, key.path.clone()));
        keys.dedup();
        keys
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Returns the problems of all reports; `None` if there are none.
    pub(super) fn problems_of(reports: Vec<Self>) -> Option<Diagnostics> {
        let mut all = Vec::new();
        let mut others = 0;
        for mut report in reports {
            others += report.others;
            report.problems.sort_by_key(|(at, _)| *at);
            report.problems.dedup();
            all.extend(report.problems.into_iter().map(|(_, problem)| problem));
        }
        (!all.is_empty()).then_some(Diagnostics { kept: all, others })
    }
}

/// The maximum length of a text in a message, in bytes.
const LONGEST: usize = 4096;

/// Escapes characters that names may contain but that change how a message is displayed: control
/// characters, line separators, and those that change the direction of text. Shortens long texts.
pub(super) fn printable(text: &str) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        let start = &text[..end.unwrap_or_default()];
        return format!("{}…", printable(start));
    }
    let is_special =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(is_special) {
        return text.to_owned();
    }
    let escaped = text.chars().map(|c| {
        if is_special(c) {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_forge_lines_and_many_problems_are_counted() {
        let mut report = Report::new("a\nb.yaml");
        for line in 1..=52 {
            let at = Position {
                line,
                ..Position::START
            };
            let message = "`x\nerror: forged\u{1b}[31m\u{202e}` is invalid";
            report.problem_with_help(at, "services.x\ny", message, "rename `x\ny`");
            report.unsupported(at, "services.x\ny", "nothing", false);
        }
        assert_eq!(report.unsupported[0].path, "services.x\\ny");
        let text = Report::problems_of(vec![report]).unwrap().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 51, "{text}");
        assert_eq!(
            lines[0],
            "a\\nb.yaml:1:1: services.x\\ny: `x\\nerror: forged\\u{1b}[31m\\u{202e}` is invalid; rename \
             `x\\ny`"
        );
        assert_eq!(lines[50], "and 2 more problems");
    }

    #[test]
    fn long_texts_and_many_problems_are_bounded() {
        let mut report = Report::new("compose.yaml");
        for line in 1..=20_000 {
            let at = Position {
                line,
                ..Position::START
            };
            let message = "ä".repeat(100_000);
            report.unknown_name(at, "services.x", message, "xyz", vec!["xyy"; 2000]);
            report.warning(at, "", "x");
            report.unsupported(at, "", "nothing", false);
        }
        assert_eq!(
            (report.warnings.len(), report.unsupported.len()),
            (KEPT, KEPT)
        );
        let problems = Report::problems_of(vec![report]).unwrap();
        let text = problems.to_string();
        assert!(text.len() < 51 * 5000, "{}", text.len());
        assert!(
            text.contains("ä…; did you mean"),
            "the text is not shortened"
        );
        assert!(text.ends_with("\nand 19950 more problems"));
    }

    #[test]
    fn a_diagnostic_displays_position_message_and_help() {
        let mut report = Report::new("compose.yaml");
        let at = Position {
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
