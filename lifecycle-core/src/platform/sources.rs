//! Which files declare the platform, and in which environment they are read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

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

/// The files that declare a platform.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    /// The Compose files, the one that overrides the others last.
    pub compose_files: Vec<PathBuf>,
    /// `platform.toml`, if there is one.
    pub platform_toml: Option<PathBuf>,
    /// The directory that relative paths start from: the first Compose file's.
    pub project_dir: PathBuf,
    /// The environment that variables are taken from. It wins over `.env`.
    pub environment: BTreeMap<String, String>,
    /// A name that wins over the files' own.
    pub name: Option<PlatformName>,
}

/// The environment holds secrets, so none of it is shown.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("compose_files", &self.compose_files)
            .field("platform_toml", &self.platform_toml)
            .field("project_dir", &self.project_dir)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Finds the files: those named explicitly, else as Compose does, in `directory` and then in
/// those above it, with its override file; `platform.toml` beside the first of them. The
/// environment is the process's own.
pub fn find(directory: &Path, explicit: &[PathBuf]) -> Result<Sources> {
    let compose_files = if explicit.is_empty() {
        search(directory)?
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
            mend: "name a Compose file".to_owned(),
        });
    }
    let project_dir = compose_files
        .first()
        .and_then(|file| file.parent())
        .unwrap_or(directory)
        .to_owned();
    let platform_toml = Some(project_dir.join(PLATFORM_FILE)).filter(|file| file.is_file());
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Sources {
        compose_files,
        platform_toml,
        project_dir,
        environment,
        name: None,
    })
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
    fn the_environment_is_not_shown() {
        let sources = Sources {
            compose_files: Vec::new(),
            platform_toml: None,
            project_dir: PathBuf::new(),
            environment: [("TOKEN".to_owned(), "s3cret".to_owned())].into(),
            name: None,
        };
        assert!(!format!("{sources:?}").contains("s3cret"));
    }
}
