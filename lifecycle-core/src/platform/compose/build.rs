//! Reads `build` and `x-lifecycle.code`: the code base of an image, and the build options.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::diagnostic::Report;
use super::super::home;
use super::super::load::DOCKERFILE_LIMIT;
use super::super::text_file;
use super::super::tree::{Field, Position};
use super::keys::{self, supported_entries};
use super::service::pairs;
use super::{ProjectContext, networks, value};
use crate::code::DirectoryStore;
use crate::model::BuildOptions;
use crate::secret::Sensitive;

/// The source of an image, before the code base is read.
pub(in super::super) struct Build {
    /// The name of the code base: its directory, relative to the Compose file.
    pub(in super::super) code: String,
    pub(in super::super) dockerfile: String,
    pub(in super::super) args: BTreeMap<String, Sensitive>,
    pub(in super::super) options: BuildOptions,
    /// The position for reports about a missing code base or Dockerfile.
    pub(in super::super) at: Position,
    pub(in super::super) path: String,
}

/// Reads `build` and `x-lifecycle.code`. Returns `None` if neither selects a code base.
pub(super) fn read(
    build: Option<&Field<'_>>,
    code: Option<&Field<'_>>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<Build> {
    let mut context: Option<(String, Position, String)> = None;
    let mut dockerfile = "Dockerfile".to_owned();
    let mut outside = None;
    let mut args = BTreeMap::new();
    let mut options = BuildOptions::default();
    if let Some(build) = build {
        if build.is_map() {
            for (key, field) in supported_entries(build, keys::BUILD, report) {
                match key {
                    // A null value counts as an absent key.
                    _ if field.is_null() => {}
                    "context" => {
                        let found = directory(&field, project, report);
                        context = found.map(|found| (found, field.value_at(), field.path));
                    }
                    "dockerfile" => {
                        let path = DirectoryStore::normalised(field.text(report)?);
                        if is_outside(&path) {
                            outside = Some((path, field));
                        } else if path == "." {
                            field.problem(report, "the path does not name a file");
                        } else {
                            dockerfile = path;
                        }
                    }
                    "args" => args = arguments(&field, project, report),
                    _ => option(key, &field, &mut options, report),
                }
            }
            if options.inline.is_some()
                && let Some(field) = build.get("dockerfile").filter(|field| !field.is_null())
            {
                field.problem_with_help(
                    report,
                    "`dockerfile` and `dockerfile_inline` cannot be combined",
                    "keep only one of the two",
                );
            }
        } else {
            let found = directory(build, project, report);
            context = found.map(|found| (found, build.value_at(), build.path.clone()));
        }
    }
    if let Some(code) = code {
        let name = code.parse(report, |text| {
            let name = DirectoryStore::normalised(text);
            if name.starts_with("..") || name.starts_with('/') || name == "." {
                Err(format!("`{text}` is not a valid name in the code store"))
            } else {
                Ok(name)
            }
        })?;
        if let Some((_, at, path)) = context {
            report.problem_with_help(
                at,
                &path,
                "the code base is set twice: here and by `x-lifecycle.code`",
                "keep only one of the two",
            );
            return None;
        }
        let joined = format!("{}/{name}", project.code_store);
        context = Some((
            DirectoryStore::normalised(&joined),
            code.value_at(),
            code.path.clone(),
        ));
    } else if let Some(build) = build
        && context.is_none()
        && build.is_map()
        && build.get("context").is_none_or(|field| field.is_null())
    {
        // Use Compose's default.
        context = Some((".".to_owned(), build.at, build.path.clone()));
    }
    if let (Some((path, field)), Some((directory, ..))) = (outside, &context) {
        if code.is_some() {
            field.problem(report, format!("`{path}` is not inside the code base"));
            return None;
        }
        options.inline = Some(read_outside(directory, &path, &field, project, report)?);
        dockerfile = path;
    }
    context.map(|(code, at, path)| Build {
        code,
        dockerfile,
        args,
        options,
        at,
        path,
    })
}

/// Reads a build option other than the context, the Dockerfile and the arguments.
fn option(key: &str, field: &Field<'_>, options: &mut BuildOptions, report: &mut Report) {
    match key {
        "target" => options.target = field.text(report).map(str::to_owned),
        "network" => options.network = field.text(report).map(str::to_owned),
        "dockerfile_inline" => {
            options.inline = field.parse(report, |text| {
                if text.trim().is_empty() {
                    Err("the Dockerfile is empty".to_owned())
                } else {
                    Ok(text.to_owned())
                }
            });
        }
        "shm_size" => {
            options.shm_bytes = field.parse_number(report, |text| {
                let bytes = value::bytes(text)?;
                if i32::try_from(bytes).is_ok() {
                    Ok(bytes)
                } else {
                    Err(format!("`{text}` exceeds the builder's limit of 2 GiB"))
                }
            });
        }
        "extra_hosts" => options.extra_hosts = networks::hosts(field, report),
        "labels" => {
            let labels = pairs(field, report).into_iter();
            options.labels = labels
                .map(|(name, value)| (name, value.unwrap_or_default()))
                .collect();
        }
        "cache_from" => {
            for item in field.items(report) {
                let Some(text) = item.text(report) else {
                    continue;
                };
                // The engine's builder does not support entries such as `type=registry,ref=…`.
                if text.contains('=') {
                    let consequence = "only the engine's own cache and images are used";
                    report.unsupported(item.value_at(), &item.path, consequence, false);
                } else {
                    options.cache_from.extend(item.parse(report, value::image));
                }
            }
        }
        _ => {}
    }
}

fn directory(
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<String> {
    let text = field.text(report)?;
    let is_remote =
        text.contains("://") || text.starts_with("git@") || text.starts_with("github.com/");
    if is_remote {
        field.problem_with_help(
            report,
            "remote build contexts are not supported",
            "download the context, and set `context` to the local directory",
        );
        return None;
    }
    if text.is_empty() {
        field.problem(report, "the context is empty");
        return None;
    }
    let expanded = home::expanded(text, project.lookup);
    Some(DirectoryStore::normalised(&expanded))
}

/// Returns whether a path leads out of the code base.
fn is_outside(path: &str) -> bool {
    path.starts_with('/') || path == ".." || path.starts_with("../")
}

/// Reads a Dockerfile that is not in the code base. It is sent with the declaration.
fn read_outside(
    code: &str,
    dockerfile: &str,
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<String> {
    let path = Path::new(code).join(dockerfile);
    let help = "specify a Dockerfile; its path is relative to the build context";
    match text_file::read(&project.path(&path.to_string_lossy())) {
        Ok(text) if text.len() as u64 > DOCKERFILE_LIMIT => {
            let message = format!(
                "`{dockerfile}` is larger than {} KiB",
                DOCKERFILE_LIMIT >> 10
            );
            field.problem_with_help(report, message, help);
            None
        }
        Ok(text) => Some(text),
        Err(error) => {
            let message = format!("`{dockerfile}` cannot be read: {error}");
            field.problem_with_help(report, message, help);
            None
        }
    }
}

fn arguments(
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> BTreeMap<String, Sensitive> {
    pairs(field, report)
        .into_iter()
        .filter_map(|(name, value)| {
            let value = value.or_else(|| (project.lookup)(&name))?;
            Some((name, Sensitive::new(value)))
        })
        .collect()
}
