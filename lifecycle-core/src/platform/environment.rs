//! The variables that files are read with: the environment's, and beneath them those of `.env`.

use std::collections::BTreeMap;
use std::path::Path;

use super::diagnostic::Report;
use super::environment_file::{self, Variables};
use super::tree::Place;
use super::{Sources, text_file};
use crate::model::PlatformName;

/// By Compose's rule every file may use the project's name.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

/// Variables by what wins: the project's name, the environment, the files.
pub(super) struct Environment<'s> {
    own: &'s BTreeMap<String, String>,
    beneath: Variables,
    project_name: Option<String>,
}

impl<'s> Environment<'s> {
    /// Reads the files; what is wrong with them is in the report.
    pub(super) fn read(sources: &'s Sources, report: &mut Report) -> Self {
        let mut environment = Self {
            own: &sources.environment,
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
                    format!("it cannot be read: {error}"),
                    "check that it is a text file (UTF-8) that you may read",
                );
                return;
            }
        };
        match environment_file::parse(&text, &|name| self.get(name)) {
            Ok(mut variables) => self.beneath.append(&mut variables),
            Err(bad) => {
                let at = Place {
                    file: report.current(),
                    line: bad.line,
                    column: 1,
                };
                report.problem(at, "", bad.message);
            }
        }
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        if name == PROJECT_NAME && self.project_name.is_some() {
            return self.project_name.clone();
        }
        let own = self.own.get(name).cloned();
        own.or_else(|| self.beneath.get(name).cloned().flatten())
    }

    /// From now on the project has this name.
    pub(super) fn set_project_name(&mut self, name: Option<&PlatformName>) {
        self.project_name = name.map(|name| name.as_str().to_owned());
    }
}
