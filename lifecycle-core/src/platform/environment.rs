//! The variables for interpolation: the process environment, which overrides the `.env` files.

use std::collections::BTreeMap;
use std::path::Path;

use super::diagnostic::Report;
use super::environment_file::{self, Variables};
use super::tree::Position;
use super::{Sources, text_file};
use crate::model::PlatformName;

/// The variable in which Compose provides the project's name.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

/// The variables in order of precedence: the project's name, the environment, the files.
pub(super) struct Environment<'s> {
    process: &'s BTreeMap<String, String>,
    beneath: Variables,
    project_name: Option<String>,
}

impl<'s> Environment<'s> {
    /// Reads the `.env` files and adds problems to the report.
    pub(super) fn read(sources: &'s Sources, report: &mut Report) -> Self {
        let mut environment = Self {
            process: &sources.environment,
            beneath: Variables::new(),
            project_name: None,
        };
        let default = [sources.project_dir.join(".env")];
        let files = match sources.env_files.as_slice() {
            [] if default.iter().all(|file| file.exists()) => default.as_slice(),
            files => files,
        };
        for file in files {
            environment.add(file, &sources.project_dir, report);
        }
        environment
    }

    fn add(&mut self, file: &Path, project_dir: &Path, report: &mut Report) {
        let shown = file.strip_prefix(project_dir).unwrap_or(file);
        report.begin(shown.display().to_string());
        let text = match text_file::read(file) {
            Ok(text) => text,
            Err(error) => {
                report.problem_of_current(
                    format!("cannot be read: {error}"),
                    "check that it is a UTF-8 text file and that you have permission to read it",
                );
                return;
            }
        };
        match environment_file::parse(&text, &|name| self.get(name), &|_| None) {
            Ok(file) => {
                for (line, key) in &file.unset {
                    let at = Position {
                        file: report.current(),
                        line: *line,
                        column: 1,
                    };
                    report.warning(at, "", environment_file::unset_in(key));
                }
                environment_file::add(&mut self.beneath, file.variables);
            }
            Err(bad) => {
                let at = Position {
                    file: report.current(),
                    line: bad.line,
                    column: 1,
                };
                report.problem(at, "", bad.message);
            }
        }
    }

    /// Returns the value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        if name == PROJECT_NAME && self.project_name.is_some() {
            return self.project_name.clone();
        }
        let process = self.process.get(name).cloned();
        process.or_else(|| self.beneath.get(name).cloned().flatten())
    }

    /// Sets the project's name for later lookups.
    pub(super) fn set_project_name(&mut self, name: Option<&PlatformName>) {
        self.project_name = name.map(|name| name.as_str().to_owned());
    }
}
