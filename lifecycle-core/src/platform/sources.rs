//! Which files declare the platform, and in which environment they are read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{environment_file, text_file};
use crate::error::{Error, Result};
use crate::model::PlatformName;

/// Compose's own search order.
const COMPOSE_FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDE_FILES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];
pub(super) const PLATFORM_FILE: &str = "platform.toml";
const ENV_FILE: &str = ".env";

/// The files that declare a platform.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    /// The Compose files, the one that overrides the others last.
    pub compose_files: Vec<PathBuf>,
    /// `platform.toml`, if there is one.
    pub platform_toml: Option<PathBuf>,
    /// How many nodes there are if none is declared; 0 counts as 1.
    pub nodes: u16,
    /// The directory that relative paths start from: the first Compose file's.
    pub project_dir: PathBuf,
    /// The environment that variables are taken from. It wins over `.env`.
    pub environment: BTreeMap<String, String>,
    /// Files of variables beneath the environment, a later one over an earlier. Without any it is
    /// `.env` in the project's directory, if there is one.
    pub env_files: Vec<PathBuf>,
    /// A name that wins over the files' own.
    pub name: Option<PlatformName>,
    /// The active profiles. Without any they are those of the variable `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
}

/// The environment holds secrets, so none of it is shown.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("compose_files", &self.compose_files)
            .field("platform_toml", &self.platform_toml)
            .field("project_dir", &self.project_dir)
            .field("env_files", &self.env_files)
            .field("name", &self.name)
            .field("profiles", &self.profiles)
            .finish_non_exhaustive()
    }
}

/// Finds the files: those named explicitly; else those that the variable `COMPOSE_FILE` lists,
/// in the environment or in `.env`; else as Compose does, in `directory` and then in those above
/// it, with its override file. `platform.toml` lies beside the first of them. The environment is
/// the process's own.
pub fn find(directory: &Path, explicit: &[PathBuf]) -> Result<Sources> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    find_with(directory, explicit, environment)
}

fn find_with(
    directory: &Path,
    explicit: &[PathBuf],
    environment: BTreeMap<String, String>,
) -> Result<Sources> {
    let beside = directory.join(ENV_FILE);
    let compose_files = if explicit.is_empty() {
        match listed(&beside, &environment) {
            Some(files) => files.iter().map(|file| directory.join(file)).collect(),
            None => search(directory)?,
        }
    } else {
        explicit.iter().map(|file| directory.join(file)).collect()
    };
    if let Some(file) = compose_files.iter().find(|file| !file.is_file()) {
        let what = format!("the file `{}`", file.display());
        if !file.exists() {
            return Err(Error::not_found(what));
        }
        return Err(Error::Invalid {
            what,
            why: "it is no regular file".to_owned(),
            hint: "name a Compose file".to_owned(),
        });
    }
    let project_dir = compose_files
        .first()
        .and_then(|file| file.parent())
        .unwrap_or(directory)
        .to_owned();
    let platform_toml = Some(project_dir.join(PLATFORM_FILE)).filter(|file| file.is_file());
    let env_files = match environment.get("COMPOSE_ENV_FILES") {
        Some(files) if !files.is_empty() => {
            files.split(',').map(|file| directory.join(file)).collect()
        }
        _ => {
            let mut files = vec![project_dir.join(ENV_FILE)];
            // The file that may have said where the project lies wins.
            if explicit.is_empty() && !is_same(directory, &project_dir) {
                files.push(beside);
            }
            files.retain(|file| file.exists());
            files
        }
    };
    Ok(Sources {
        compose_files,
        platform_toml,
        nodes: 1,
        project_dir,
        env_files,
        environment,
        name: None,
        profiles: Vec::new(),
    })
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// The files that `COMPOSE_FILE` lists, if it does.
fn listed(env_file: &Path, environment: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let own = |name: &str| environment.get(name).cloned();
    // What is wrong with the file is said when it is read for good.
    let beneath = text_file::read(env_file)
        .ok()
        .and_then(|text| environment_file::parse(&text, &own).ok())
        .unwrap_or_default();
    let variable = |name: &str| {
        let value = own(name).or_else(|| beneath.get(name).cloned().flatten());
        value.filter(|value| !value.is_empty())
    };
    let separator = variable("COMPOSE_PATH_SEPARATOR");
    let separator = separator.unwrap_or_else(|| if cfg!(windows) { ";" } else { ":" }.to_owned());
    let files = variable("COMPOSE_FILE")?;
    Some(files.split(separator.as_str()).map(str::to_owned).collect())
}

fn search(directory: &Path) -> Result<Vec<PathBuf>> {
    let start = std::path::absolute(directory)
        .map_err(|error| Error::io(format!("finding `{}`", directory.display()), error))?;
    let first = |directory: &Path, names: &[&str]| {
        names
            .iter()
            .map(|name| directory.join(name))
            .find(|file| file.is_file())
    };
    for directory in start.ancestors() {
        if let Some(file) = first(directory, &COMPOSE_FILES) {
            let mut files = vec![file];
            files.extend(first(directory, &OVERRIDE_FILES));
            return Ok(files);
        }
    }
    Err(Error::not_found(format!(
        "a `{}` in `{}` or above it",
        COMPOSE_FILES[0],
        start.display()
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_search_goes_upwards_and_in_composes_order() {
        let root = tempfile::TempDir::new().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        for file in ["docker-compose.yml", "compose.yml", "platform.toml"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        let found = find(&deep, &[]).unwrap();
        assert_eq!(found.compose_files, [root.path().join("compose.yml")]);
        assert_eq!(found.platform_toml, Some(root.path().join("platform.toml")));
        assert_eq!(found.project_dir, root.path());

        fs::write(root.path().join("compose.override.yml"), "").unwrap();
        assert_eq!(find(&deep, &[]).unwrap().compose_files.len(), 2);

        fs::write(deep.join("other.yaml"), "").unwrap();
        let named = find(&deep, &["other.yaml".into()]).unwrap();
        assert_eq!(named.compose_files, [deep.join("other.yaml")]);
        assert_eq!(named.platform_toml, None);
        assert!(matches!(
            find(&deep, &["absent".into()]),
            Err(Error::NotFound { .. })
        ));
    }

    #[test]
    fn a_variable_lists_the_files_before_any_search() {
        let root = tempfile::TempDir::new().unwrap();
        fs::create_dir(root.path().join("deploy")).unwrap();
        for file in ["compose.yaml", "deploy/a.yaml", "deploy/b.yaml"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        fs::write(root.path().join("deploy/.env"), "").unwrap();
        let env = "COMPOSE_FILE=deploy/a.yaml,deploy/b.yaml\nCOMPOSE_PATH_SEPARATOR=,\n";
        fs::write(root.path().join(".env"), env).unwrap();
        let at = |names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| root.path().join(name)).collect()
        };
        let found = find_with(root.path(), &[], BTreeMap::new()).unwrap();
        assert_eq!(found.compose_files, at(&["deploy/a.yaml", "deploy/b.yaml"]));
        assert_eq!(found.project_dir, root.path().join("deploy"));
        assert_eq!(found.env_files, at(&["deploy/.env", ".env"]));

        let environment = |value: &str| [("COMPOSE_FILE".to_owned(), value.to_owned())].into();
        let won = find_with(root.path(), &[], environment("compose.yaml")).unwrap();
        assert_eq!(won.compose_files, at(&["compose.yaml"]));
        assert_eq!(won.env_files, at(&[".env"]));
        let explicit = ["deploy/b.yaml".into()];
        let won = find_with(root.path(), &explicit, environment("absent.yaml")).unwrap();
        assert_eq!(won.compose_files, at(&["deploy/b.yaml"]));
        assert!(find_with(root.path(), &[], environment("absent.yaml")).is_err());
    }

    #[test]
    fn the_environment_is_not_shown() {
        let sources = Sources {
            compose_files: Vec::new(),
            platform_toml: None,
            nodes: 1,
            project_dir: PathBuf::new(),
            env_files: Vec::new(),
            environment: [("TOKEN".to_owned(), "s3cret".to_owned())].into(),
            name: None,
            profiles: Vec::new(),
        };
        assert!(!format!("{sources:?}").contains("s3cret"));
    }
}
