//! From the user's files to a [`Declaration`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::compose::{self, Build, Composition, World};
use super::diagnostic::{Diagnostic, Diagnostics, Report, UnsupportedKey};
use super::dockerfile::Dockerfile;
use super::environment::Environment;
use super::files::{Assembly, leave_out_disabled};
use super::secret_reference::Outside;
use super::{Access, Declaration, RegistrySpec, Settings, Sources};
use super::{dockerfile, settings, text_file, toml, validate};
use crate::code::{self, CodeBaseRef, CodeStore};
use crate::error::Error;
use crate::model::{BuildSource, ImageSource, PlatformId, PlatformName, ServiceName};

/// More than any Dockerfile that a person wrote.
const DOCKERFILE_LIMIT: u64 = 1 << 20;

/// A platform as its files declare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What is declared.
    pub declaration: Declaration,
    /// Where the registry lies.
    pub registry: RegistrySpec,
    /// Where code bases are read from, and what opens that and the cloud.
    pub access: Access,
    /// What is declared and has no effect.
    pub unsupported: Vec<UnsupportedKey>,
    /// What may be meant otherwise, for example a variable that is not set.
    pub warnings: Vec<Diagnostic>,
}

/// Reads, checks and normalises a platform's files. `code` gives the contents of code bases;
/// its names are directories relative to [`Sources::project_dir`].
///
/// # Errors
/// Everything that is wrong, not only the first.
pub async fn load(
    sources: &Sources,
    id: PlatformId,
    code: &dyn CodeStore,
) -> Result<Loaded, Diagnostics> {
    let mut draft = read(sources).await?;
    draft.resolve_code(code, &sources.project_dir).await;
    draft.finish(id)
}

/// What can be told of a platform's files without its code bases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The names of the code bases that services are built from, whether they can be found or
    /// not: directories relative to [`Sources::project_dir`].
    pub code_bases: BTreeSet<String>,
    /// What is declared and has no effect.
    pub unsupported: Vec<UnsupportedKey>,
}

/// Reads and checks a platform's files, but not what its code bases hold.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub async fn survey(sources: &Sources) -> Result<Survey, Diagnostics> {
    let draft = read(sources).await?;
    let unsupported = draft.unsupported();
    let services = draft.composition.services.values();
    let builds = services.filter_map(|service| service.build.as_ref());
    let code_bases = builds.map(|build| build.code.clone()).collect();
    match Report::problems_of(draft.reports.into()) {
        Some(problems) => Err(problems),
        None => Ok(Survey {
            code_bases,
            unsupported,
        }),
    }
}

async fn read(sources: &Sources) -> Result<Draft, Diagnostics> {
    let owned = sources.clone();
    let read = tokio::task::spawn_blocking(move || Draft::read(&owned)).await;
    read.map_err(|error| {
        let mut report = Report::new(shown(sources.compose_files.first(), sources));
        report.file_problem(error.to_string(), "try again");
        refused(vec![report])
    })
}

/// The findings of reports of which one at least has a problem.
fn refused(reports: Vec<Report>) -> Diagnostics {
    Report::problems_of(reports).unwrap_or_default()
}

/// A file's name as the user knows it.
pub(super) fn shown(file: Option<&std::path::PathBuf>, sources: &Sources) -> String {
    file.map_or(Path::new("compose.yaml"), |file| {
        file.strip_prefix(&sources.project_dir).unwrap_or(file)
    })
    .display()
    .to_string()
}

/// The files' content, before code bases are looked at.
struct Draft {
    name: Option<PlatformName>,
    settings: Settings,
    composition: Composition,
    /// First `platform.toml`'s, then the Compose file's, then `.env`'s.
    reports: [Report; 3],
}

impl Draft {
    fn read(sources: &Sources) -> Self {
        let mut toml_report = Report::new(shown(sources.platform_toml.as_ref(), sources));
        let toml_root = sources.platform_toml.as_ref().and_then(|file| {
            let text = read_text(file, &mut toml_report)?;
            toml::parse(&text, &mut toml_report)
        });
        // What cannot be read is said; the defaults in its place would only add false findings.
        let readable = sources.platform_toml.is_none() || toml_root.is_some();
        let mut env_report = Report::new(".env");
        let mut environment = Environment::read(sources, &mut env_report);
        let lookup = |name: &str| environment.get(name);
        let outside = Outside {
            directory: &sources.project_dir,
            lookup: &lookup,
        };
        let settings = settings::read(toml_root.as_ref(), sources.nodes, outside, &mut toml_report);

        let mut report = Report::new(shown(sources.compose_files.first(), sources));
        let mut assembly = Assembly::new(&sources.project_dir, &mut report);
        let documents = assembly.read_all(&sources.compose_files);
        let mut wanted = Wanted::of(sources, &environment, &mut env_report);
        wanted.name = wanted.name.or_else(|| settings.name.clone());
        let own_name = Assembly::declared_name(&documents, &lookup);
        // Told of where it stands, if it is no name.
        let own_name = own_name.and_then(|name| PlatformName::try_from(name.as_str()).ok());
        let name = wanted.name.clone().or(own_name);
        let name = name.or_else(|| directory_name(&sources.project_dir));
        environment.set_project_name(name.as_ref());
        let lookup = |name: &str| environment.get(name);
        let mut composition = Composition::default();
        if let Some(mut root) = assembly.assemble(documents, &lookup) {
            leave_out_disabled(&mut root, &wanted.profiles, &mut report);
            let code_store = settings.code_path.clone();
            let world = World {
                directory: &sources.project_dir,
                code_store: &code_store,
                lookup: &lookup,
                nodes: &settings.nodes,
            };
            composition = compose::read(&root, &world, &mut report);
            if readable {
                validate::check(&root, &composition.services, &settings, &mut report);
            }
        }
        if name.is_none() {
            report.file_problem(
                "the platform has no name, and its directory's cannot serve as one",
                "add `name:` at the top",
            );
        }
        Self {
            name,
            settings,
            composition,
            reports: [toml_report, report, env_report],
        }
    }

    /// Puts in what each code base holds now, and what its Dockerfile starts from.
    async fn resolve_code(&mut self, store: &dyn CodeStore, directory: &Path) {
        // Several services may share a code base.
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
                Err(Refusal::Store(error)) => refuse(&error, &build, report),
                Err(Refusal::Dockerfile { message, help }) => {
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
            },
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

enum Refusal {
    Store(Error),
    Dockerfile { message: String, help: &'static str },
}

async fn read_dockerfile(
    store: &dyn CodeStore,
    directory: &Path,
    code: &CodeBaseRef,
    build: &mut Build,
) -> Result<Dockerfile, Refusal> {
    let file = &build.dockerfile;
    let mut content = match &build.options.inline {
        Some(inline) => Some(inline.clone().into_bytes()),
        None => code::read_file(store, code, file, DOCKERFILE_LIMIT)
            .await
            .map_err(Refusal::Store)?,
    };
    if content.is_none()
        && let Some(ignored) = ignored_dockerfile(directory, code, file).await
    {
        content = Some(ignored.clone().into_bytes());
        build.options.inline = Some(ignored);
    }
    let Some(content) = content else {
        return Err(Refusal::Dockerfile {
            message: format!("the code base `{}` has no file `{file}`", code.name),
            help: "add it, or change `build.dockerfile`",
        });
    };
    let file = &build.dockerfile;
    let args = build
        .args
        .iter()
        .map(|(name, value)| (name.clone(), value.expose().to_owned()))
        .collect();
    dockerfile::read(&String::from_utf8_lossy(&content), &args).map_err(|why| Refusal::Dockerfile {
        message: format!("`{file}` of `{}`: {why}", code.name),
        help: "correct the Dockerfile, or give the argument in `build.args`",
    })
}

/// A Dockerfile that `.dockerignore` leaves out of the code base: the builder gets it all the same,
/// as with Docker, so it goes into the declaration.
async fn ignored_dockerfile(directory: &Path, code: &CodeBaseRef, file: &str) -> Option<String> {
    let path = directory.join(&code.name).join(file);
    let size = tokio::fs::metadata(&path).await.ok()?.len();
    if size > DOCKERFILE_LIMIT {
        return None;
    }
    tokio::fs::read_to_string(&path).await.ok()
}

/// What the command line or the environment asks for.
struct Wanted {
    name: Option<PlatformName>,
    profiles: Vec<String>,
}

impl Wanted {
    /// The command line wins over the environment, as with Compose.
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
                    "change it, here or in the environment of the command",
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

pub(super) fn read_text(file: &Path, report: &mut Report) -> Option<String> {
    match text_file::read(file) {
        Ok(text) => Some(text),
        Err(error) => {
            report.file_problem(
                format!("it cannot be read: {error}"),
                "check that it is a text file (UTF-8) that you may read",
            );
            None
        }
    }
}

/// The directory's name as Compose makes a project's name of it.
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
