//! The project on this machine: its files, and the identity of the platform that the files declare.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifecycle_azure::TrustedAddresses;
use lifecycle_core::clock::{IdSource, RandomIds};
use lifecycle_core::code::{CodeStore, DirectoryStore};
use lifecycle_core::model::{PlatformId, PlatformName};
use lifecycle_core::platform::{self, Access, Loaded, Sources, Survey};
use lifecycle_core::{Error, Result};

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::identity::{self, Identity, concurrent_up};
use crate::{trust, wiring};

/// The files of a project.
#[derive(Debug)]
pub(crate) struct Project {
    sources: Sources,
    trusted: TrustedAddresses,
}

impl Project {
    pub(crate) fn find(arguments: &Arguments) -> std::result::Result<Self, Failure> {
        let mut sources =
            platform::find(&arguments.project_dir, &arguments.files).map_err(Failure::NoFiles)?;
        sources.name.clone_from(&arguments.project_name);
        sources.profiles.clone_from(&arguments.profiles);
        let trusted = trust::addresses(arguments)?;
        Ok(Self { sources, trusted })
    }

    /// Returns the addresses outside Azure's clouds that may receive credentials.
    pub(crate) fn trusted(&self) -> &TrustedAddresses {
        &self.trusted
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Returns the same project without its platform.toml and with this many nodes.
    pub(crate) fn on_nodes(&self, nodes: u16) -> Self {
        let mut sources = self.sources.clone();
        sources.platform_toml = None;
        sources.nodes = nodes;
        let trusted = self.trusted.clone();
        Self { sources, trusted }
    }

    /// Loads the project without its platform.toml, with as few nodes as its files allow. Also
    /// returns the number of nodes.
    pub(crate) async fn on_fewest_nodes(
        &self,
        id: PlatformId,
    ) -> std::result::Result<(Loaded, u16), Failure> {
        platform::load_on_fewest_nodes(&self.sources, id, &self.local_code())
            .await
            .map_err(Failure::Files)
    }

    /// Returns a store of the code bases on this machine. A code base's name is its path relative
    /// to the Compose file.
    pub(crate) fn local_code(&self) -> DirectoryStore {
        DirectoryStore::new(self.directory().to_owned())
    }

    /// Returns the directory that relative paths refer to.
    pub(crate) fn directory(&self) -> &Path {
        &self.sources.project_dir
    }

    /// Returns the settings and credentials for the cloud and the code store. Works even if the
    /// Compose files are invalid.
    pub(crate) fn access(&self) -> std::result::Result<Access, Failure> {
        platform::access(&self.sources).map_err(Failure::Files)
    }

    /// Returns the code store that the platform is built from.
    fn code(&self) -> std::result::Result<Arc<dyn CodeStore>, Failure> {
        let access = self.access()?;
        Ok(wiring::code(&access, self.directory(), &self.trusted)?)
    }

    /// Reads the files without reading any code base.
    pub(crate) async fn survey(&self) -> std::result::Result<Survey, Failure> {
        platform::survey(&self.sources)
            .await
            .map_err(Failure::Files)
    }

    /// Resolves arguments to names of code bases. An argument is a name, or a directory relative to
    /// the working directory. If an argument starts with `.` or `/`, it is first tried as a
    /// directory.
    pub(crate) async fn code_bases_named(
        &self,
        arguments: &[String],
    ) -> std::result::Result<Vec<String>, Failure> {
        let known = self.survey().await?.code_bases;
        let mut names = Vec::new();
        for text in arguments {
            let name = Some(DirectoryStore::normalised(text)).filter(|name| known.contains(name));
            let path = inside(self.directory(), Path::new(text));
            let name = if text.starts_with(['.', '/']) {
                path.or(name)
            } else {
                name.or(path)
            };
            let name = name.ok_or_else(|| self.no_code_base(text, &known))?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn no_code_base(&self, text: &str, known: &BTreeSet<String>) -> Error {
        if Path::new(text).is_dir() {
            return Error::invalid(
                format!("directory `{text}`"),
                format!(
                    "the directory is outside the project directory `{}`",
                    self.directory().display()
                ),
                "set --project-dir to the project that contains this directory",
            );
        }
        let known = known.iter().map(String::as_str);
        Error::unknown_name(format!("code base or directory `{text}`"), text, known)
    }

    /// Returns the stored identity, or `None` if the project's platform was never started. Fails if
    /// `--project-name` is the name of another platform.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        let identity = identity::read(&identity::file_of(&self.sources.project_dir))?;
        if let (Some(identity), Some(name)) = (&identity, &self.sources.name) {
            self.is_named(identity, name)?;
        }
        Ok(identity)
    }

    /// Returns the stored identity, or a new one, which is not stored yet.
    pub(crate) fn identity_for(&self, name: &PlatformName) -> Result<Identity> {
        if let Some(identity) = self.identity()? {
            self.is_named(&identity, name)?;
            return Ok(identity);
        }
        Ok(Identity {
            name: name.clone(),
            id: PlatformId::new(RandomIds.uuid()),
        })
    }

    fn is_named(&self, identity: &Identity, name: &PlatformName) -> Result<()> {
        if identity.name == *name {
            return Ok(());
        }
        let file = identity::file_of(&self.sources.project_dir);
        Err(Error::invalid(
            file.display().to_string(),
            format!(
                "the file identifies the platform `{}`, but the platform's name is now `{name}`",
                identity.name
            ),
            format!(
                "change the name back to `{}`, or remove that platform with `bootstrapper down` \
                 and then delete this file",
                identity.name
            ),
        ))
    }

    /// Stores a new identity next to the files. If several processes store different identities
    /// concurrently, exactly one of them succeeds.
    pub(crate) fn store_identity(&self, identity: &Identity) -> Result<()> {
        let file = identity::file_of(&self.sources.project_dir);
        if identity::read(&file)?.is_none() {
            identity::write(&file, identity)?;
        }
        if identity::read(&file)?.as_ref() == Some(identity) {
            Ok(())
        } else {
            Err(concurrent_up())
        }
    }

    /// Loads the project's files. Reads code bases from this machine, not from the platform's code
    /// store, so that a simulation needs no network.
    pub(crate) async fn load_offline(
        &self,
        id: PlatformId,
    ) -> std::result::Result<Loaded, Failure> {
        platform::load(&self.sources, id, &self.local_code())
            .await
            .map_err(Failure::Files)
    }

    /// Loads the files for the platform with this id.
    pub(crate) async fn load(&self, id: PlatformId) -> std::result::Result<Loaded, Failure> {
        platform::load(&self.sources, id, self.code()?.as_ref())
            .await
            .map_err(Failure::Files)
    }
}

/// Returns the path of `directory` relative to `project`, or `None` if `directory` is not a
/// directory in the project.
fn inside(project: &Path, directory: &Path) -> Option<String> {
    if !directory.is_dir() {
        return None;
    }
    let of = |path: fn(&Path) -> std::io::Result<PathBuf>| {
        let (project, directory) = (path(project).ok()?, path(directory).ok()?);
        let inside = directory.strip_prefix(project).ok()?.to_str()?;
        Some(DirectoryStore::normalised(inside))
    };
    // Try the path as written, then with symbolic links resolved.
    let written = |path: &Path| {
        let path = std::path::absolute(path)?;
        Ok(DirectoryStore::normalised(&path.to_string_lossy()).into())
    };
    of(written).or_else(|| of(Path::canonicalize))
}
