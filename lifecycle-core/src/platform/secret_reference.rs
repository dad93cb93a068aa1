//! References to secrets: the file says where a secret is, never what it is.

use std::path::Path;

use super::diagnostic::Report;
use super::interpolation::Lookup;
use super::tree::Field;
use crate::secret::Sensitive;

/// The keys of a reference to a secret.
pub(super) const REFERENCE: [&str; 2] = ["env", "file"];

/// How a reference is written.
pub(super) const REFER: &str = "write `{ env = \"NAME\" }` or `{ file = \"path\" }`";

/// Where what the files refer to is found.
#[derive(Clone, Copy)]
pub(super) struct Outside<'a> {
    /// The directory that paths start from.
    pub(super) directory: &'a Path,
    /// The variables of the environment and of `.env`.
    pub(super) lookup: Lookup<'a>,
}

impl Outside<'_> {
    /// The secret that a reference refers to. One that stands there itself is refused.
    pub(super) fn secret(self, field: &Field<'_>, report: &mut Report) -> Option<Sensitive> {
        if !field.is_map() {
            field.problem_with_help(report, "it holds a secret in clear", REFER);
            return None;
        }
        let text = self.referred(field, report)?;
        if text.is_empty() {
            field.problem_with_help(report, "what it refers to is empty", "put the secret there");
            return None;
        }
        Some(Sensitive::new(text))
    }

    /// What a reference refers to.
    pub(super) fn referred(self, field: &Field<'_>, report: &mut Report) -> Option<String> {
        let entries = field.entries(report);
        let unknown = |(key, _): &&(&str, Field<'_>)| !REFERENCE.contains(key);
        if let Some((key, entry)) = entries.iter().find(unknown) {
            report.unknown_key(entry.at, &entry.path, key, REFERENCE);
            return None;
        }
        let [(key, entry)] = entries.as_slice() else {
            field.problem_with_help(report, "it refers to one secret", REFER);
            return None;
        };
        let name = entry.text(report)?;
        if *key == "env" {
            let found = (self.lookup)(name);
            if found.is_none() {
                let hint = format!("set `{name}`, or write it into `.env`");
                entry.problem_with_help(report, format!("the variable `{name}` is not set"), hint);
            }
            return found.map(|text| text.trim().to_owned());
        }
        self.file(entry, report)
    }

    /// The trimmed text of the file that a value names.
    pub(super) fn file(self, field: &Field<'_>, report: &mut Report) -> Option<String> {
        let name = field.text(report)?;
        match std::fs::read_to_string(self.directory.join(name)) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) => {
                let why = format!("`{name}` cannot be read: {error}");
                let hint = "name a text file, relative to the Compose file";
                field.problem_with_help(report, why, hint);
                None
            }
        }
    }
}
