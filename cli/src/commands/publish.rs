//! `publish`: uploads code bases from this machine to the store that the platform is built from.

use std::io::IsTerminal as _;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::bootstrap::{self, Reporter, Wait};
use lifecycle_core::clock::SystemClock;
use lifecycle_core::code::publishing::{self, Outdated};
use lifecycle_core::code::{CodePublisher, Published};
use lifecycle_core::platform::{MissingCopy, missing_copies};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Publish, Up};
use crate::confirm;
use crate::failure::Failure;
use crate::paint::{Tone, paint};
use crate::progress::ProgressLines;
use crate::project::Project;
use crate::{printer, wiring};

/// The progress text while code bases are compared with the code store.
const COMPARING: &str = "the code store's response";

/// Time limit for comparing all code bases with the code store.
const COMPARED_WITHIN: Duration = Duration::from_mins(15);

/// The printed length of a digest, in characters.
const SHOWN: usize = 12;

/// The document of `publish --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AllPublished {
    /// The requested code bases and their current versions in the store.
    code_bases: Vec<OnePublished>,
    /// Code bases of the Compose file that are not on this machine; their versions in the store are
    /// unchanged.
    elsewhere: Vec<String>,
}

/// A code base in the store.
#[derive(Debug, Serialize, JsonSchema)]
struct OnePublished {
    /// The code base's name in the store.
    name: String,
    /// The SHA-256 of the code base's files, in hexadecimal.
    digest: String,
    /// Whether the store already had this version; if so, nothing was written.
    unchanged: bool,
    /// The number of bytes that were sent.
    bytes_sent: u64,
    /// The number of files of previous versions that were removed from the store.
    files_removed: usize,
}

impl From<Published> for OnePublished {
    fn from(published: Published) -> Self {
        Self {
            name: published.code.name,
            digest: published.code.digest,
            unchanged: published.unchanged,
            bytes_sent: published.bytes_sent,
            files_removed: published.files_removed,
        }
    }
}

pub(crate) async fn run(arguments: &Arguments, options: &Publish) -> Result<(), Failure> {
    let project = Project::find(arguments)?;
    let store = wiring::publisher(&project.access()?, project.trusted())?;
    let directory = project.local_code();
    let (names, elsewhere) = if options.names.is_empty() {
        let all = project.survey().await?.code_bases;
        let here = publishing::local(&directory, all.iter().cloned());
        let elsewhere = all
            .into_iter()
            .filter(|name| !here.contains(name))
            .collect();
        (here, elsewhere)
    } else {
        (project.code_bases_named(&options.names).await?, Vec::new())
    };
    warn_missing_copies(&project, &names).await?;
    let progress = ProgressLines::new(arguments.json);
    let (store, reporter) = (store.as_ref(), progress.as_ref());
    let published = bootstrap::publish(&directory, store, &names, reporter, &SystemClock).await?;
    let document = AllPublished {
        code_bases: published.into_iter().map(OnePublished::from).collect(),
        elsewhere,
    };
    if arguments.json {
        return printer::document(&document);
    }
    for name in &document.elsewhere {
        printer::message(&format!(
            "{name}: not on this machine; the published version is kept"
        ));
    }
    if document.code_bases.is_empty() {
        printer::message("No service is built from a code base on this machine.");
        return Ok(());
    }
    printer::data(&text(&document.code_bases))
}

fn text(code_bases: &[OnePublished]) -> String {
    let name = code_bases.iter().map(|one| one.name.chars().count()).max();
    let width = name.unwrap_or_default();
    let lines = code_bases.iter().map(|one| {
        let outcome = if one.unchanged {
            "unchanged".to_owned()
        } else {
            format!("published, {} sent", bytes(one.bytes_sent))
        };
        format!("{:width$}  {}  {outcome}", one.name, short(&one.digest))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn short(digest: &str) -> &str {
    digest.get(..SHOWN).unwrap_or(digest)
}

/// Formats a size, for example `12 bytes`, `3.4 KiB`, or `5.6 MiB`.
fn bytes(count: u64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "only one decimal place is printed"
    )]
    fn in_unit(count: u64, unit: u64) -> f64 {
        count as f64 / unit as f64
    }
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", in_unit(count, 1 << 10)),
        _ => format!("{:.1} MiB", in_unit(count, 1 << 20)),
    }
}

/// Warns about each code base that differs from the store. Publishes the code bases if `--publish`
/// is set or the user agrees.
pub(crate) async fn before_up(
    project: &Project,
    options: &Up,
    reporter: &dyn Reporter,
) -> Result<(), Failure> {
    let access = project.access()?;
    if access.code.is_default() {
        return Ok(());
    }
    let mut unsupported = project.survey().await?.unsupported;
    unsupported.retain(|key| key.changes_behaviour);
    if !unsupported.is_empty() && !options.accept_unsupported {
        // `up` will reject the files, so publish nothing.
        return Err(Failure::Unsupported(unsupported));
    }
    let store = wiring::publisher(&access, project.trusted())?;
    let outdated = Wait::new(reporter, &SystemClock, COMPARING, COMPARED_WITHIN)
        .until(outdated(project, store.as_ref()))
        .await?;
    if outdated.is_empty() {
        return Ok(());
    }
    for one in &outdated {
        printer::warning(&describe(one));
    }
    let names: Vec<String> = outdated.iter().map(|one| one.local.name.clone()).collect();
    let is_interactive = !options.yes && std::io::stdin().is_terminal();
    if options.publish
        || is_interactive
            && confirm::yes_by_default("Publish the code bases on this machine first?").await?
    {
        let directory = project.local_code();
        warn_missing_copies(project, &names).await?;
        bootstrap::publish(&directory, store.as_ref(), &names, reporter, &SystemClock).await?;
        return Ok(());
    }
    // If no code base was ever published, `up` fails later, with another hint.
    if outdated.iter().any(|one| one.published.is_some()) {
        printer::message(&format!(
            "{} the published code bases are used; to use the code bases on this machine, run \
             `bootstrapper publish` or `up --publish`",
            paint(Tone::Accent, "hint:")
        ));
    }
    Ok(())
}

/// Warns about each file that the Dockerfile of a code base copies but the code base lacks.
async fn warn_missing_copies(project: &Project, names: &[String]) -> Result<(), Failure> {
    let dockerfiles = project.survey().await?.dockerfiles;
    let directory = project.local_code();
    let find = {
        let names = names.to_vec();
        move || {
            let mut warnings = Vec::new();
            for name in names {
                for dockerfile in dockerfiles.get(&name).into_iter().flatten() {
                    for missing in missing_copies(&directory.directory(&name), dockerfile)? {
                        warnings.push(lacks(&name, dockerfile, &missing));
                    }
                }
            }
            Ok::<_, Error>(warnings)
        }
    };
    let found = tokio::task::spawn_blocking(find).await;
    let warnings =
        found.map_err(|error| Error::failed("reading a code base", error.to_string()))?;
    for warning in warnings? {
        printer::warning(&warning);
    }
    Ok(())
}

fn lacks(name: &str, dockerfile: &str, missing: &MissingCopy) -> String {
    let MissingCopy { line, source } = missing;
    format!(
        "code base `{name}` lacks `{source}`, which line {line} of its `{dockerfile}` copies, so its \
         build will fail: create the file, or check `.dockerignore`, then publish again"
    )
}

/// Warns about each code base that differs from the store, without publishing it.
pub(crate) async fn warn_outdated(
    project: &Project,
    reporter: &dyn Reporter,
) -> Result<(), Failure> {
    for one in &all_outdated(project, reporter).await? {
        printer::warning(&describe(one));
    }
    Ok(())
}

/// Fails if the code store cannot be read, even if no code base is on this machine.
pub(crate) async fn check_store(project: &Project, reporter: &dyn Reporter) -> Result<(), Failure> {
    let access = project.access()?;
    if access.code.is_default() {
        return Ok(());
    }
    let store = wiring::publisher(&access, project.trusted())?;
    let list = async { store.list().await.map(drop).map_err(Failure::from) };
    Wait::new(reporter, &SystemClock, COMPARING, COMPARED_WITHIN)
        .until(list)
        .await
}

/// Returns the code bases that differ from the store; none if the platform is built from local
/// directories.
pub(crate) async fn all_outdated(
    project: &Project,
    reporter: &dyn Reporter,
) -> Result<Vec<Outdated>, Failure> {
    let access = project.access()?;
    if access.code.is_default() {
        return Ok(Vec::new());
    }
    let store = wiring::publisher(&access, project.trusted())?;
    Wait::new(reporter, &SystemClock, COMPARING, COMPARED_WITHIN)
        .until(outdated(project, store.as_ref()))
        .await
}

async fn outdated(project: &Project, store: &dyn CodePublisher) -> Result<Vec<Outdated>, Failure> {
    let names = project.survey().await?.code_bases;
    Ok(publishing::outdated(&project.local_code(), store, names).await?)
}

/// Describes how a code base differs from the store.
pub(crate) fn describe(outdated: &Outdated) -> String {
    let here = short(&outdated.local.digest);
    let name = &outdated.local.name;
    match &outdated.published {
        Some(there) => format!(
            "code base `{name}` differs: {here} on this machine, {} in the code store",
            short(there)
        ),
        None => format!("code base `{name}` ({here}) is on this machine, but was never published"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_base_has_a_line() {
        let one = |name: &str, unchanged, bytes_sent| OnePublished {
            name: name.to_owned(),
            digest: "0123456789abcdef".repeat(4),
            unchanged,
            bytes_sent,
            files_removed: 0,
        };
        let all = [
            one("edge/api", true, 0),
            one("web", false, 12),
            one("x", false, 3 << 19),
        ];
        assert_eq!(
            text(&all),
            "edge/api  0123456789ab  unchanged\n\
             web       0123456789ab  published, 12 bytes sent\n\
             x         0123456789ab  published, 1.5 MiB sent"
        );
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
