//! Resolves references to secrets. The user's files contain only the location of a secret, never
//! the secret itself.

use std::path::Path;

use super::diagnostic::Report;
use super::interpolation::Lookup;
use super::text_file;
use super::tree::Field;
use crate::secret::Sensitive;

/// The keys of a secret reference.
pub(super) const REFERENCE: [&str; 2] = ["env", "file"];

/// The help text that shows how to write a reference.
pub(super) const REFER: &str = "write `{ env = \"NAME\" }` or `{ file = \"path\" }`";

#[derive(Clone, Copy)]
pub(super) struct SecretReader<'a> {
    /// The base directory of relative paths.
    pub(super) directory: &'a Path,
    /// The variables of the environment and of `.env`.
    pub(super) lookup: Lookup<'a>,
}

impl SecretReader<'_> {
    /// Resolves the secret reference in a field. Rejects a plain secret.
    pub(super) fn secret(self, field: &Field<'_>, report: &mut Report) -> Option<Sensitive> {
        if !field.is_map() {
            field.problem_with_help(report, "this is a secret in clear text", REFER);
            return None;
        }
        let text = self.resolve(field, report)?;
        if text.is_empty() {
            field.problem_with_help(
                report,
                "the secret is empty",
                "set the variable, or write the secret to the file",
            );
            return None;
        }
        Some(Sensitive::new(text))
    }

    /// Resolves the secret reference in a field, like [`secret`](Self::secret), but a secret that is
    /// not available is no problem: the inner result contains the reason.
    pub(super) fn optional_secret(
        self,
        field: &Field<'_>,
        report: &mut Report,
    ) -> Option<Result<Sensitive, String>> {
        let mut trial = Report::new("");
        if let Some(secret) = self.secret(field, &mut trial) {
            return Some(Ok(secret));
        }
        let [(key, entry)] = &field.entries(&mut trial)[..] else {
            self.secret(field, report);
            return None;
        };
        match (*key, entry.text(&mut trial)) {
            ("env", Some(name)) => Some(Err(format!(
                "the variable `{name}` (`{}`) is not set",
                field.path
            ))),
            ("file", Some(name)) => Some(Err(format!(
                "the file `{name}` (`{}`) cannot be read, or is empty",
                field.path
            ))),
            _ => {
                self.secret(field, report);
                None
            }
        }
    }

    /// Reads the environment variable or file that a reference names.
    pub(super) fn resolve(self, field: &Field<'_>, report: &mut Report) -> Option<String> {
        let entries = field.entries(report);
        let unknown = |(key, _): &&(&str, Field<'_>)| !REFERENCE.contains(key);
        if let Some((key, entry)) = entries.iter().find(unknown) {
            report.unknown_key(entry.at, &entry.path, key, REFERENCE);
            return None;
        }
        let [(key, entry)] = entries.as_slice() else {
            field.problem_with_help(report, "a reference must contain exactly one key", REFER);
            return None;
        };
        let name = entry.text(report)?;
        if *key == "env" {
            let found = (self.lookup)(name);
            if found.is_none() {
                let hint = format!("set `{name}` in the environment or in `.env`");
                entry.problem_with_help(report, format!("the variable `{name}` is not set"), hint);
            }
            return found.map(|text| text.trim().to_owned());
        }
        self.file(entry, report)
    }

    /// Reads the text file with this name.
    pub(super) fn read(self, name: &str) -> std::io::Result<String> {
        let home = name.strip_prefix("~/").zip((self.lookup)("HOME"));
        let path = match home {
            Some((rest, home)) => Path::new(&home).join(rest),
            None => self.directory.join(name),
        };
        text_file::read(&path)
    }

    /// Returns the trimmed text of the file with this name.
    pub(super) fn file(self, field: &Field<'_>, report: &mut Report) -> Option<String> {
        let name = field.text(report)?;
        match self.read(name) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) => {
                let why = format!("`{name}` cannot be read: {error}");
                let hint = "specify the path of a text file, relative to the Compose file";
                field.problem_with_help(report, why, hint);
                None
            }
        }
    }
}
