//! `export`: writes the changes that were requested at run time into the user's files.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lifecycle_core::platform::{self, Export, ExportedFile};
use lifecycle_core::{Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Export as Options};
use crate::commands;
use crate::failure::Failure;
use crate::paint::{Tone, paint};
use crate::printer;
use crate::progress::ProgressLines;
use crate::project::Project;

/// The permissions of new files, because an added service may contain secrets.
const OWNER_ONLY: u32 = 0o600;

/// The document of `export --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Exported {
    /// The files that differ from what they were; with `--dry-run`, they are not written.
    files: Vec<Written>,
    /// The overrides that stay, because they are not in the files.
    left: Vec<Left>,
}

/// A file with overrides written into it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Written {
    /// The path of the file.
    file: PathBuf,
    /// The ids of the overrides in the file.
    overrides: Vec<String>,
}

/// An override that is not in the files.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Left {
    /// The id of the override.
    id: String,
    /// Why it is not in the files.
    why: String,
}

pub(crate) async fn run(
    arguments: &Arguments,
    options: &Options,
) -> std::result::Result<(), Failure> {
    let project = Project::find(arguments)?;
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let found = bootstrapper.export(identity.id).await?;
    let adds_file = arguments.files.is_empty();
    let export = platform::export(project.sources(), identity.id, found.into(), adds_file);
    let mut export = export.await.map_err(Failure::Files)?;
    if let Some(directory) = &options.output {
        move_to(&mut export, project.directory(), directory)?;
    }
    if !options.dry_run {
        write_all(&export.files)?;
    }
    if arguments.json {
        return printer::document(&Exported::from(export));
    }
    report(&export, options.dry_run);
    Ok(())
}

fn report(export: &Export, is_dry_run: bool) {
    if export.files.is_empty() && export.left.is_empty() {
        printer::message("Nothing is changed on top of the files, so there is nothing to export.");
        return;
    }
    let action = if is_dry_run { "Would write" } else { "Wrote" };
    for file in &export.files {
        let overrides = file.overrides.join(", ");
        printer::message(&format!("{action} {}: {overrides}", file.path.display()));
    }
    for left in &export.left {
        printer::note(&format!("{} stays an override: {}", left.id, left.why));
    }
    if export.files.is_empty() {
        printer::message("No override can be written into the files.");
    } else if !is_dry_run {
        let next = "`bootstrapper plan` shows that nothing is to do; `bootstrapper up` drops the \
                    overrides that the files now declare";
        printer::message(&format!("{} {next}", paint(Tone::Accent, "next:")));
    }
}

impl From<Export> for Exported {
    fn from(export: Export) -> Self {
        let files = export.files.into_iter().map(|file| Written {
            file: file.path,
            overrides: file.overrides,
        });
        let left = export.left.into_iter().map(|left| Left {
            id: left.id,
            why: left.why,
        });
        Self {
            files: files.collect(),
            left: left.collect(),
        }
    }
}

/// Moves the exported files to another directory, in which none of them may exist.
fn move_to(
    export: &mut Export,
    project: &Path,
    directory: &Path,
) -> std::result::Result<(), Failure> {
    for file in &mut export.files {
        let name = file.path.strip_prefix(project).ok();
        let name = name.filter(|name| name.components().all(is_normal));
        let name = name.map(Path::to_owned);
        let name = name.or_else(|| file.path.file_name().map(PathBuf::from));
        let target = directory.join(name.unwrap_or_default());
        if target.symlink_metadata().is_ok() {
            return Err(Error::invalid(
                target.display().to_string(),
                "the file already exists",
                "specify an empty directory with --output",
            )
            .into());
        }
        file.path = target;
        file.before = None;
    }
    let mut targets: Vec<&PathBuf> = export.files.iter().map(|file| &file.path).collect();
    targets.dedup();
    if targets.len() < export.files.len() {
        let why = "two of the files have the same name";
        let hint = "export into the project directory, without --output";
        return Err(Error::invalid("--output", why, hint).into());
    }
    Ok(())
}

fn is_normal(part: std::path::Component<'_>) -> bool {
    matches!(part, std::path::Component::Normal(_))
}

/// Writes drafts of all files, then renames them. Thus each file is complete at all times. If the
/// command is interrupted, the next one writes the files that are missing.
fn write_all(files: &[ExportedFile]) -> Result<()> {
    let drafts: Vec<Draft> = files.iter().map(Draft::write).collect::<Result<_>>()?;
    drafts.into_iter().try_for_each(Draft::rename)
}

/// A complete file under a temporary name, which is removed unless it is renamed.
struct Draft {
    path: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Writes a draft next to the file, with the file's permissions.
    fn write(exported: &ExportedFile) -> Result<Self> {
        let failed = |error| Error::io(format!("writing {}", exported.path.display()), error);
        // A file behind a symbolic link is replaced, not the link.
        let target = exported.path.canonicalize();
        let target = target.unwrap_or_else(|_| exported.path.clone());
        let permissions = match std::fs::metadata(&target) {
            Ok(existing) => existing.permissions(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Permissions::from_mode(OWNER_ONLY)
            }
            Err(error) => return Err(failed(error)),
        };
        check_unchanged(exported, &target)?;
        if let Some(directory) = target.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(OWNER_ONLY);
        let mut file: File = options.open(&path).map_err(failed)?;
        let draft = Self { path, target };
        file.write_all(exported.text.expose().as_bytes())
            .and_then(|()| file.set_permissions(permissions))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(draft)
    }

    fn rename(self) -> Result<()> {
        let renamed = std::fs::rename(&self.path, &self.target);
        renamed.map_err(|error| Error::io(format!("writing {}", self.target.display()), error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // A renamed draft no longer exists under this name.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Fails if the file was changed after it was read.
fn check_unchanged(exported: &ExportedFile, target: &Path) -> Result<()> {
    let now = match std::fs::read(target) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io(format!("reading {}", target.display()), error)),
    };
    let before = exported.before.as_ref();
    if now.as_deref() == before.map(|text| text.expose().as_bytes()) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("writing {}", target.display()),
        "the file was changed meanwhile",
        "run the command again",
    ))
}
