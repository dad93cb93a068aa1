//! Finds the files that declare the platform.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::diagnostic::printable;
use super::environment_file::{self, Variables};
use super::text_file;
use crate::code::regular;
use crate::error::{Error, Result};
use crate::model::PlatformName;

/// The file names that Compose searches for, in order of precedence.
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
    /// The Compose files; later files override earlier ones.
    pub compose_files: Vec<PathBuf>,
    /// `platform.toml`, if there is one.
    pub platform_toml: Option<PathBuf>,
    /// The number of nodes if none are declared; 0 counts as 1.
    pub nodes: u16,
    /// The base directory of relative paths: the directory of the first Compose file.
    pub project_dir: PathBuf,
    /// The variables of the process environment. They override `.env`.
    pub environment: BTreeMap<String, String>,
    /// Files of variables; later files override earlier ones. If empty, `.env` in the project
    /// directory is used if it exists.
    pub env_files: Vec<PathBuf>,
    /// A platform name that overrides the name in the files.
    pub name: Option<PlatformName>,
    /// The active profiles. If empty, those in the variable `COMPOSE_PROFILES` are active.
    pub profiles: Vec<String>,
}

/// Omits the environment, which may contain secrets.
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

impl Sources {
    /// Returns the path at which an override file would be found; `None` if there is one, or if a
    /// variable names the Compose files.
    pub(super) fn override_file(&self) -> Option<PathBuf> {
        let [file] = self.compose_files.as_slice() else {
            return None;
        };
        let is = |names: &[&str]| names.iter().any(|name| file.ends_with(name));
        if !is(&COMPOSE_FILES) || listed(&self.env_files, &self.environment).is_some() {
            return None;
        }
        let name = if is(&COMPOSE_FILES[..2]) {
            "compose.override.yaml"
        } else {
            "docker-compose.override.yml"
        };
        Some(file.with_file_name(name))
    }
}

/// Finds the files that declare a platform. Like Compose, uses the first of these that exists:
///
/// 1. the files in `explicit`,
/// 2. the files in the variable `COMPOSE_FILE`, from the environment or `.env`,
/// 3. a Compose file in `directory` or the nearest parent directory, with its override file.
///
/// `platform.toml` is expected next to the first Compose file. Variables are read from the
/// environment of this process.
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
    let search_env_file = directory.join(ENV_FILE);
    let given_env_files: Option<Vec<PathBuf>> = environment
        .get("COMPOSE_ENV_FILES")
        .filter(|files| !files.is_empty())
        .map(|files| files.split(',').map(|file| directory.join(file)).collect());
    let compose_files = if explicit.is_empty() {
        let env_files = given_env_files.as_deref();
        let env_files = env_files.unwrap_or(std::slice::from_ref(&search_env_file));
        match listed(env_files, &environment) {
            Some(files) => files.iter().map(|file| directory.join(file)).collect(),
            None => search(directory)?,
        }
    } else {
        explicit.iter().map(|file| directory.join(file)).collect()
    };
    for file in &compose_files {
        let what = || format!("the file `{}`", printable(&file.display().to_string()));
        regular::check(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(what()),
            _ => Error::Invalid {
                what: what(),
                why: error.to_string(),
                hint: "specify the path of a Compose file".to_owned(),
            },
        })?;
    }
    let project_dir = compose_files
        .first()
        .and_then(|file| file.parent())
        .unwrap_or(directory)
        .to_owned();
    let platform_toml = Some(project_dir.join(PLATFORM_FILE)).filter(|file| is_there(file));
    let env_files = given_env_files.unwrap_or_else(|| {
        let mut files = vec![project_dir.join(ENV_FILE)];
        // The `.env` file that selected the project overrides the one in the project directory.
        if explicit.is_empty() && !is_same(directory, &project_dir) {
            files.push(search_env_file);
        }
        files.retain(|file| file.exists());
        files
    });
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

/// Returns whether there is an entry with this path, even if it cannot be read as a file.
fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// Returns the files in the variable `COMPOSE_FILE`, if the environment or an environment file sets it.
fn listed(env_files: &[PathBuf], environment: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let own = |name: &str| environment.get(name).cloned();
    let mut beneath = Variables::new();
    for file in env_files {
        // Ignore errors here: they are reported when the file is read again.
        let known = |name: &str| own(name).or_else(|| beneath.get(name).cloned().flatten());
        let parsed = text_file::read(file)
            .ok()
            .and_then(|text| environment_file::parse(&text, &known, &|_| None).ok());
        environment_file::add(&mut beneath, parsed.unwrap_or_default().variables);
    }
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
            .find(|file| is_there(file))
    };
    for directory in start.ancestors() {
        if let Some(file) = first(directory, &COMPOSE_FILES) {
            let mut files = vec![file];
            files.extend(first(directory, &OVERRIDE_FILES));
            return Ok(files);
        }
    }
    Err(Error::not_found(format!(
        "a Compose file (such as `{}`) for directory `{}`",
        COMPOSE_FILES[0],
        start.display()
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn searches_parent_directories_in_the_order_of_compose() {
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
    fn compose_file_variable_overrides_the_search() {
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
    fn given_environment_files_may_name_the_compose_files() {
        let root = tempfile::TempDir::new().unwrap();
        for (file, text) in [
            ("a.env", "COMPOSE_FILE=a.yaml\n"),
            ("b.env", "NAME=b\nCOMPOSE_FILE=b.yaml\n"),
            ("c.env", "COMPOSE_FILE=${NAME}.yaml\n"),
            ("d.env", "COMPOSE_FILE\n"),
            (".env", "COMPOSE_FILE=absent.yaml\n"),
            ("a.yaml", ""),
            ("b.yaml", ""),
        ] {
            fs::write(root.path().join(file), text).unwrap();
        }
        for (files, expected) in [
            ("a.env", "a.yaml"),
            ("a.env,b.env", "b.yaml"),
            ("b.env,c.env", "b.yaml"),
            ("a.env,d.env", "a.yaml"),
        ] {
            let environment = [("COMPOSE_ENV_FILES".to_owned(), files.to_owned())].into();
            let found = find_with(root.path(), &[], environment).unwrap();
            assert_eq!(found.compose_files, [root.path().join(expected)]);
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_named_as_such() {
        let root = tempfile::TempDir::new().unwrap();
        let path = |name: &str| root.path().join(name);
        let error = |directory: &str| find(&path(directory), &[]).unwrap_err().to_string();
        fs::create_dir_all(path("directory/compose.yaml")).unwrap();
        assert!(error("directory").contains("it is a directory"));
        fs::create_dir(path("loop")).unwrap();
        let of_loop = path("loop/compose.yaml");
        std::os::unix::fs::symlink(&of_loop, &of_loop).unwrap();
        assert!(
            error("loop").contains("symbolic links"),
            "{}",
            error("loop")
        );
        fs::create_dir_all(path("platform/platform.toml")).unwrap();
        fs::write(path("platform/compose.yaml"), "").unwrap();
        let found = find(&path("platform"), &[]).unwrap();
        assert!(found.platform_toml.is_some(), "it was ignored");
    }

    #[test]
    fn debug_output_omits_the_environment() {
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
