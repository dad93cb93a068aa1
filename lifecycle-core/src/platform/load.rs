//! From the user's files to a [`Declaration`].

use std::collections::BTreeMap;
use std::path::Path;

use super::compose::{self, Build, Composition, World};
use super::database::Outside;
use super::diagnostic::{Diagnostic, Diagnostics, Report, UnsupportedKey};
use super::tree::{Node, Place};
use super::{
    Declaration, RegistrySpec, Sources, dockerfile, environment_file, interpolation, settings,
    text_file,
};
use super::{Settings, toml, validate, yaml};
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
    let owned = sources.clone();
    let read = tokio::task::spawn_blocking(move || Draft::read(&owned)).await;
    let mut draft = match read {
        Ok(draft) => draft,
        Err(error) => {
            let mut report = Report::new(shown(sources.compose_files.first(), sources));
            report.file_problem(error.to_string(), "try again");
            return Err(refused(vec![report]));
        }
    };
    draft.resolve_code(code).await;
    draft.finish(id)
}

/// The findings of reports of which one at least has a problem.
fn refused(reports: Vec<Report>) -> Diagnostics {
    Report::problems_of(reports).unwrap_or_default()
}

/// A file's name as the user knows it.
fn shown(file: Option<&std::path::PathBuf>, sources: &Sources) -> String {
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
        let lookup = environment(sources, &mut env_report);
        let outside = Outside {
            directory: &sources.project_dir,
            lookup: &lookup,
        };
        let settings = settings::read(toml_root.as_ref(), outside, &mut toml_report);

        let mut report = Report::new(shown(sources.compose_files.first(), sources));
        let mut composition = Composition::default();
        if let Some(root) = compose_tree(sources, &lookup, &mut report) {
            let code_store = settings.code_store.clone();
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
        let name = sources
            .name
            .clone()
            .or_else(|| settings.name.clone())
            .or_else(|| composition.name.clone())
            .or_else(|| directory_name(&sources.project_dir));
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
    async fn resolve_code(&mut self, store: &dyn CodeStore) {
        // Several services may share a code base.
        let mut known: BTreeMap<String, CodeBaseRef> = BTreeMap::new();
        let report = &mut self.reports[1];
        for draft in self.composition.services.values_mut() {
            let Some(build) = draft.build.take() else {
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
            match read_bases(store, &code, &build).await {
                Ok(bases) => {
                    draft.spec.source = ImageSource::Build(BuildSource {
                        code,
                        dockerfile: build.dockerfile,
                        args: build.args,
                        bases,
                    });
                }
                Err(Refusal::Store(error)) => refuse(&error, &build, report),
                Err(Refusal::Dockerfile { message, help }) => {
                    report.problem_with_help(build.at, &build.path, message, help);
                }
            }
        }
    }

    fn finish(self, id: PlatformId) -> Result<Loaded, Diagnostics> {
        let [toml_report, compose_report, env_report] = &self.reports;
        let mut unsupported = toml_report.unsupported.clone();
        unsupported.extend(compose_report.unsupported.clone());
        let mut warnings = compose_report.warnings.clone();
        warnings.extend(env_report.warnings.clone());
        unsupported.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
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
            },
            registry: self.settings.registry,
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

async fn read_bases(
    store: &dyn CodeStore,
    code: &CodeBaseRef,
    build: &Build,
) -> Result<Vec<String>, Refusal> {
    let file = &build.dockerfile;
    let content = code::read_file(store, code, file, DOCKERFILE_LIMIT)
        .await
        .map_err(Refusal::Store)?;
    let Some(content) = content else {
        return Err(Refusal::Dockerfile {
            message: format!("the code base `{}` has no file `{file}`", code.name),
            help: "if it is there, `.dockerignore` leaves it out: bring it back with `!`",
        });
    };
    let args = build
        .args
        .iter()
        .map(|(name, value)| (name.clone(), value.expose().to_owned()))
        .collect();
    dockerfile::bases(&String::from_utf8_lossy(&content), &args).map_err(|why| {
        Refusal::Dockerfile {
            message: format!("`{file}` of `{}`: {why}", code.name),
            help: "mend the Dockerfile, or give the argument in `build.args`",
        }
    })
}

fn read_text(file: &Path, report: &mut Report) -> Option<String> {
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

fn compose_tree(
    sources: &Sources,
    lookup: interpolation::Lookup<'_>,
    report: &mut Report,
) -> Option<Node> {
    let [file] = sources.compose_files.as_slice() else {
        let names: Vec<String> = sources
            .compose_files
            .iter()
            .map(|file| format!("`{}`", shown(Some(file), sources)))
            .collect();
        report.file_problem(
            if names.is_empty() {
                "no Compose file is named".to_owned()
            } else {
                format!(
                    "merging several Compose files is not supported yet ({})",
                    names.join(", ")
                )
            },
            "name one file with `--file`, or merge them with `docker compose config`",
        );
        return None;
    };
    let text = read_text(file, report)?;
    let mut root = yaml::parse(&text, report)?;
    interpolation::interpolate_tree(&mut root, lookup, report);
    Some(root)
}

/// The variables of the environment, and beneath them those of `.env`.
fn environment<'s>(
    sources: &'s Sources,
    report: &mut Report,
) -> impl Fn(&str) -> Option<String> + use<'s> {
    let own = |name: &str| sources.environment.get(name).cloned();
    let mut beneath = environment_file::Variables::new();
    let file = sources.project_dir.join(".env");
    if file.exists()
        && let Some(text) = read_text(&file, report)
    {
        match environment_file::parse(&text, &own) {
            Ok(variables) => beneath = variables,
            Err(bad) => {
                let at = Place {
                    line: bad.line,
                    column: 1,
                };
                report.problem(at, "", bad.message);
            }
        }
    }
    move |name| {
        let own = sources.environment.get(name).cloned();
        own.or_else(|| beneath.get(name).cloned().flatten())
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
