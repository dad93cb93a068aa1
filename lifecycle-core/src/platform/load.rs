//! Builds a [`Declaration`] from the user's files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::compose::{self, Build, Composition, ProjectContext};
use super::diagnostic::{Diagnostic, Diagnostics, Report, UnsupportedKey};
use super::dockerfile::Dockerfile;
use super::environment::Environment;
use super::files::{Assembly, remove_disabled};
use super::secret_reference::SecretReader;
use super::text_file::Edited;
use super::{Access, CloudSpec, Declaration, RegistrySpec, Settings, Sources};
use super::{dockerfile, settings, toml, validate};
use crate::code::{self, CodeBaseRef, CodeStore};
use crate::error::Error;
use crate::model::{BuildSource, Chunks, ImageSource, PlatformId, PlatformName, ServiceName};

/// The maximum size of a Dockerfile, in bytes.
pub(super) const DOCKERFILE_LIMIT: u64 = 1 << 20;

/// The contents of a platform's files, as returned by [`load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub declaration: Declaration,
    /// The chunks of the declaration's mounted files.
    pub chunks: Chunks,
    /// The location of the registry.
    pub registry: RegistrySpec,
    /// The code store, and the credentials for it and the cloud.
    pub access: Access,
    /// The declared keys that have no effect.
    pub unsupported: Vec<UnsupportedKey>,
    /// Possible mistakes, for example a variable that is not set.
    pub warnings: Vec<Diagnostic>,
}

/// Reads, checks and normalizes the files of a platform. Reads code bases from the store `code`, in
/// which the name of a code base is a directory relative to [`Sources::project_dir`].
///
/// # Errors
/// All problems, not only the first.
pub async fn load(
    sources: &Sources,
    id: PlatformId,
    code: &dyn CodeStore,
) -> Result<Loaded, Diagnostics> {
    let mut draft = read(sources).await?;
    draft.resolve_code(code, &sources.project_dir).await;
    draft.finish(id)
}

/// The information that [`survey`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The names of the services' code bases: directories relative to [`Sources::project_dir`],
    /// which need not exist.
    pub code_bases: BTreeSet<String>,
    /// The paths of the Dockerfiles in each code base.
    pub dockerfiles: BTreeMap<String, BTreeSet<String>>,
    /// The declared keys that have no effect.
    pub unsupported: Vec<UnsupportedKey>,
}

/// Reads and checks the files of a platform, but not the contents of its code bases.
///
/// # Errors
/// All problems, not only the first.
pub async fn survey(sources: &Sources) -> Result<Survey, Diagnostics> {
    let draft = read(sources).await?;
    let unsupported = draft.unsupported();
    let services = draft.composition.services.values();
    let mut dockerfiles: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for build in services.filter_map(|service| service.build.as_ref()) {
        let files = dockerfiles.entry(build.code.clone()).or_default();
        files.insert(build.dockerfile.clone());
    }
    let code_bases = dockerfiles.keys().cloned().collect();
    match Report::problems_of(draft.reports.into()) {
        Some(problems) => Err(problems),
        None => Ok(Survey {
            code_bases,
            dockerfiles,
            unsupported,
        }),
    }
}

async fn read(sources: &Sources) -> Result<Draft, Diagnostics> {
    let owned = sources.clone();
    let read = tokio::task::spawn_blocking(move || Draft::read(&owned, &Edited::default())).await;
    read.map_err(|error| interrupted(sources, &error))
}

/// Returns the diagnostics if the task that reads the files has ended without a result.
pub(super) fn interrupted(sources: &Sources, error: &tokio::task::JoinError) -> Diagnostics {
    let mut report = Report::new(shown(sources.compose_files.first(), sources));
    report.file_problem(error.to_string(), "run the command again");
    refused(vec![report])
}

/// Reads and checks what the files declare, with some of them edited, but not the contents of code
/// bases.
///
/// # Errors
/// All problems, not only the first.
pub(super) fn declared(
    sources: &Sources,
    id: PlatformId,
    edited: &Edited,
) -> Result<Declaration, Diagnostics> {
    let loaded = Draft::read(sources, edited).finish(id)?;
    Ok(loaded.declaration)
}

/// Returns the diagnostics of the reports. At least one report must contain a problem.
fn refused(reports: Vec<Report>) -> Diagnostics {
    Report::problems_of(reports).unwrap_or_default()
}

/// Returns a file's name for messages: its path, relative to the project directory if possible.
pub(super) fn shown(file: Option<&std::path::PathBuf>, sources: &Sources) -> String {
    file.map_or(Path::new("compose.yaml"), |file| {
        file.strip_prefix(&sources.project_dir).unwrap_or(file)
    })
    .display()
    .to_string()
}

/// The contents of the files, before code bases are read.
struct Draft {
    name: Option<PlatformName>,
    settings: Settings,
    composition: Composition,
    /// The reports on `platform.toml`, the Compose file and `.env`, in this order.
    reports: [Report; 3],
}

impl Draft {
    fn read(sources: &Sources, edited: &Edited) -> Self {
        let mut toml_report = Report::new(shown(sources.platform_toml.as_ref(), sources));
        let toml_root = sources.platform_toml.as_ref().and_then(|file| {
            let text = read_text(file, edited, &mut toml_report)?;
            toml::parse(&text, &mut toml_report)
        });
        // If `platform.toml` cannot be read, do not check services against its settings: the
        // defaults would only cause false problems.
        let readable = sources.platform_toml.is_none() || toml_root.is_some();
        let mut env_report = Report::new(".env");
        let mut environment = Environment::read(sources, &mut env_report);
        let lookup = |name: &str| environment.get(name);
        let outside = SecretReader {
            directory: &sources.project_dir,
            lookup: &lookup,
        };
        let settings = settings::read(toml_root.as_ref(), sources.nodes, outside, &mut toml_report);

        let mut report = Report::new(shown(sources.compose_files.first(), sources));
        let mut assembly = Assembly::new(&sources.project_dir, edited, &mut report);
        let documents = assembly.read_all(&sources.compose_files);
        let mut overrides = Overrides::of(sources, &environment, &mut env_report);
        overrides.name = overrides.name.or_else(|| settings.name.clone());
        let own_name = Assembly::declared_name(&documents, &lookup);
        // Ignore an invalid name here: the problem is reported when the key is read.
        let own_name = own_name.and_then(|name| PlatformName::try_from(name.as_str()).ok());
        let name = overrides.name.clone().or(own_name);
        let name = name.or_else(|| directory_name(&sources.project_dir));
        environment.set_project_name(name.as_ref());
        let lookup = |name: &str| environment.get(name);
        let mut composition = Composition::default();
        if let Some(merged) = assembly.assemble(documents, &lookup) {
            let mut root = merged.root;
            remove_disabled(&mut root, &overrides.profiles, &mut report);
            let code_store = settings.code_path.clone();
            let project = ProjectContext {
                directory: Some(&sources.project_dir),
                code_store: &code_store,
                lookup: &lookup,
                with_variables: &merged.with_variables,
                nodes: &settings.nodes,
                left: compose::Left::default(),
                files: compose::MountedFiles::default(),
            };
            composition = compose::read(&root, &project, &mut report);
            let used = validate::platform_ports(settings.manager.as_ref());
            compose::reserve_ports(&mut composition.services, used);
            if let Some(manager) = &settings.manager {
                let on_azure = matches!(settings.cloud, CloudSpec::Azure(_));
                compose::keep_metadata_from(&manager.node, on_azure, &mut composition.services);
            }
            if readable {
                let place = validate::Place {
                    cloud: &settings.cloud,
                    nodes: &settings.nodes,
                    manager: settings.manager.as_ref(),
                };
                validate::check(&root, &composition.services, &place, &mut report);
            }
        }
        if name.is_none() {
            report.file_problem(
                "the platform has no name, and the name of its directory is not a valid platform \
                 name",
                "add `name:` at the top of the file",
            );
        }
        Self {
            name,
            settings,
            composition,
            reports: [toml_report, report, env_report],
        }
    }

    /// Adds the digest of each code base, and the base images of its Dockerfile.
    async fn resolve_code(&mut self, store: &dyn CodeStore, directory: &Path) {
        // Several services may share a code base, so compute each digest only once.
        let mut known: BTreeMap<String, CodeBaseRef> = BTreeMap::new();
        let report = &mut self.reports[1];
        for draft in self.composition.services.values_mut() {
            let Some(mut build) = draft.build.take() else {
                continue;
            };
            let code = match known.get(&build.code) {
                Some(code) => code.clone(),
                None => match store.digest(&build.code).await {
                    Ok(code) => {
                        known.insert(build.code.clone(), code.clone());
                        code
                    }
                    Err(error) => {
                        refuse(&error, &build, report);
                        continue;
                    }
                },
            };
            let ignore = format!("{}.dockerignore", build.dockerfile);
            if directory.join(&code.name).join(&ignore).is_file() {
                let message = format!(
                    "`{ignore}` is not used; only the `.dockerignore` at the top of the code base is"
                );
                report.warning(build.at, &build.path, message);
            }
            match read_dockerfile(store, directory, &code, &mut build).await {
                Ok(Dockerfile { bases, exposes }) => {
                    draft.spec.source = ImageSource::Build(BuildSource {
                        code,
                        dockerfile: build.dockerfile,
                        args: build.args,
                        bases,
                        exposes,
                        options: build.options,
                    });
                }
                Err(CodeBaseProblem::Store(error)) => refuse(&error, &build, report),
                Err(CodeBaseProblem::Dockerfile { message, help }) => {
                    report.problem_with_help(build.at, &build.path, message, help);
                }
            }
        }
    }

    fn unsupported(&self) -> Vec<UnsupportedKey> {
        let [toml_report, compose_report, _] = &self.reports;
        let mut unsupported = toml_report.unsupported_in_order();
        unsupported.extend(compose_report.unsupported_in_order());
        unsupported
    }

    fn finish(self, id: PlatformId) -> Result<Loaded, Diagnostics> {
        let unsupported = self.unsupported();
        let [_, compose_report, env_report] = &self.reports;
        let mut warnings = compose_report.warnings.clone();
        warnings.extend(env_report.warnings.clone());
        let complete = self.name.zip(self.settings.manager);
        if let Some(problems) = Report::problems_of(self.reports.into()) {
            return Err(problems);
        }
        let Some((name, manager)) = complete else {
            return Err(Diagnostics::default());
        };
        let services: BTreeMap<ServiceName, _> = self
            .composition
            .services
            .into_iter()
            .map(|(name, draft)| (name, draft.spec))
            .collect();
        let jump_host = self.settings.cloud.jump_host().cloned();
        Ok(Loaded {
            declaration: Declaration {
                name,
                id,
                manager,
                cloud: self.settings.cloud,
                nodes: self.settings.nodes,
                services,
                volumes: self.composition.volumes,
                network: self.settings.network,
                deadlines: self.settings.deadlines,
                overrides: super::Overrides::default(),
            },
            chunks: self.composition.chunks,
            registry: self.settings.registry,
            access: Access {
                jump_host,
                code: self.settings.code_store,
                credentials: self.settings.credentials,
            },
            unsupported,
            warnings,
        })
    }
}

fn refuse(error: &Error, build: &Build, report: &mut Report) {
    match error.hint() {
        Some(hint) => report.problem_with_help(build.at, &build.path, error.chain(), hint),
        None => report.problem(build.at, &build.path, error.chain()),
    }
}

enum CodeBaseProblem {
    Store(Error),
    Dockerfile { message: String, help: &'static str },
}

async fn read_dockerfile(
    store: &dyn CodeStore,
    directory: &Path,
    code: &CodeBaseRef,
    build: &mut Build,
) -> Result<Dockerfile, CodeBaseProblem> {
    let file = &build.dockerfile;
    let mut content = match &build.options.inline {
        Some(inline) => Some(inline.clone().into_bytes()),
        None => code::read_file(store, code, file, DOCKERFILE_LIMIT)
            .await
            .map_err(CodeBaseProblem::Store)?,
    };
    if content.is_none()
        && let Some(ignored) = ignored_dockerfile(directory, code, file).await
    {
        content = Some(ignored.clone().into_bytes());
        build.options.inline = Some(ignored);
    }
    let Some(content) = content else {
        return Err(CodeBaseProblem::Dockerfile {
            message: format!("the code base `{}` does not contain `{file}`", code.name),
            help: "add the file, or change `build.dockerfile`",
        });
    };
    let file = &build.dockerfile;
    let args = build
        .args
        .iter()
        .map(|(name, value)| (name.clone(), value.expose().to_owned()))
        .collect();
    dockerfile::read(&String::from_utf8_lossy(&content), &args).map_err(|why| {
        CodeBaseProblem::Dockerfile {
            message: format!("`{file}` in the code base `{}`: {why}", code.name),
            help: "fix the Dockerfile, or set the argument in `build.args`",
        }
    })
}

/// Reads a Dockerfile that `.dockerignore` excludes. The build still uses the Dockerfile, so the
/// declaration must contain its text.
async fn ignored_dockerfile(directory: &Path, code: &CodeBaseRef, file: &str) -> Option<String> {
    let path = directory.join(&code.name).join(file);
    let size = code::regular::check(&path).ok()?.len();
    if size > DOCKERFILE_LIMIT {
        return None;
    }
    tokio::fs::read_to_string(&path).await.ok()
}

/// Settings from the command line or the environment, which override the files.
struct Overrides {
    name: Option<PlatformName>,
    profiles: Vec<String>,
}

impl Overrides {
    /// Reads the overrides. As with Compose, the command line overrides the environment.
    fn of(sources: &Sources, environment: &Environment<'_>, report: &mut Report) -> Self {
        let mut name = sources.name.clone();
        if name.is_none()
            && let Some(text) = environment.get("COMPOSE_PROJECT_NAME")
            && !text.is_empty()
        {
            match PlatformName::try_from(text.as_str()) {
                Ok(valid) => name = Some(valid),
                Err(error) => report.file_problem(
                    format!("`COMPOSE_PROJECT_NAME`: {error}"),
                    "change the variable in `.env` or in the environment",
                ),
            }
        }
        let mut profiles = sources.profiles.clone();
        if profiles.is_empty() {
            let listed = environment.get("COMPOSE_PROFILES").unwrap_or_default();
            let listed = listed.split(',').map(str::trim);
            profiles.extend(listed.filter(|one| !one.is_empty()).map(str::to_owned));
        }
        Self { name, profiles }
    }
}

pub(super) fn read_text(file: &Path, edited: &Edited, report: &mut Report) -> Option<String> {
    match edited.read(file) {
        Ok(text) => Some(text),
        Err(error) => {
            report.file_problem(
                format!("cannot be read: {error}"),
                "check that it is a UTF-8 text file and that you have permission to read it",
            );
            None
        }
    }
}

/// Converts the directory's name to a project name, as Compose does.
fn directory_name(directory: &Path) -> Option<PlatformName> {
    let directory = std::path::absolute(directory).ok()?;
    let name: String = directory
        .file_name()?
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c))
        .take(63)
        .collect();
    PlatformName::try_from(name.trim_start_matches(['-', '_'])).ok()
}
