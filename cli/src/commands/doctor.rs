//! `doctor`: checks this machine, the files, each node, and the manager; reports problems and how
//! to fix them. Changes nothing.

use std::sync::Arc;

use lifecycle_core::bootstrap::{Finding, Health, OperatorState as _, Reporter, describe_estimate};
use lifecycle_core::cloud::PreflightReport;
use lifecycle_core::platform::Declaration;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::Arguments;
use crate::commands::publish;
use crate::failure::Failure;
use crate::identity::NOT_UP_YET;
use crate::paint::{Tone, paint};
use crate::progress::ProgressLines;
use crate::project::Project;
use crate::wiring::{self, Parts};
use crate::{commands, printer};

/// The document of `doctor --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// The worst health of all findings; if it is `error`, the exit code is 1.
    health: Health,
    /// The findings, in the order of the checks.
    findings: Vec<Finding>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let findings = check(arguments).await;
    let errors = findings.iter().filter(|f| f.health == Health::Error);
    let errors = errors.count();
    let health = findings.iter().map(|f| f.health).max();
    if arguments.json {
        printer::document(&Report {
            health: health.unwrap_or(Health::Ok),
            findings,
        })?;
        return if errors == 0 {
            Ok(())
        } else {
            Err(Failure::AlreadyReported)
        };
    }
    for finding in &findings {
        printer::data(&text(finding))?;
    }
    if errors == 0 {
        Ok(())
    } else {
        Err(Failure::ChecksFailed(errors))
    }
}

fn text(finding: &Finding) -> String {
    let (sign, tone) = match finding.health {
        Health::Ok => ("✓", Tone::Good),
        Health::Warning => ("!", Tone::Caution),
        Health::Error => ("✗", Tone::Bad),
    };
    let hint = finding.hint.as_ref().map_or_else(String::new, |hint| {
        format!("\n    {} {hint}", paint(Tone::Accent, "hint:"))
    });
    format!(
        "{} {}: {}{hint}",
        paint(tone, sign),
        finding.what,
        finding.detail
    )
}

async fn check(arguments: &Arguments) -> Vec<Finding> {
    let progress = ProgressLines::new(arguments.json);
    let mut findings = vec![
        wiring::check_configuration_directory(),
        wiring::check_manager_program(),
    ];
    let project = match Project::find(arguments) {
        Ok(project) => project,
        Err(failure) => {
            findings.push(of_failure("files", &failure));
            return findings;
        }
    };
    let (store_findings, store) = code_store(&project, progress.as_ref()).await;
    findings.extend(store_findings);
    // If code bases are not published yet, check the local ones instead.
    let loaded = match store {
        Store::Complete => commands::load(&project, NOT_UP_YET, progress.as_ref()).await,
        Store::Incomplete => project.load_offline(NOT_UP_YET).await,
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => {
            findings.push(of_failure("files", &failure));
            return findings;
        }
    };
    let declaration = &loaded.declaration;
    findings.push(Finding::ok(
        "files",
        format!(
            "services: {}, nodes: {}",
            declaration.services.len(),
            declaration.nodes.len()
        ),
    ));
    for key in loaded.unsupported.iter().filter(|k| k.changes_behaviour) {
        findings.push(Finding::new(
            Health::Warning,
            "files",
            key.to_string(),
            "remove the key, or ignore it with `up --accept-unsupported`",
        ));
    }
    findings.extend(of_logins(&project, declaration, progress.as_ref()).await);
    findings.extend(of_platform(arguments, &project, &loaded, progress).await);
    findings
}

/// Reports with which logins images are pulled.
async fn of_logins(
    project: &Project,
    declaration: &Declaration,
    reporter: &dyn Reporter,
) -> Vec<Finding> {
    const WHAT: &str = "images";
    let found = match commands::image_logins(project, declaration, reporter).await {
        Ok(found) => found,
        Err(failure) => return vec![of_failure(WHAT, &failure)],
    };
    let logins = found.remarks.into_iter();
    let logins = logins.map(|remark| Finding::ok(WHAT, remark));
    let warnings = found.warnings.into_iter().map(|warning| {
        let detail = format!("{}: {}", warning.file, warning.message);
        let hint = warning.help.unwrap_or_default();
        Finding::new(Health::Warning, WHAT, detail, hint)
    });
    logins.chain(warnings).collect()
}

/// Records whether the code store has all code bases of the platform.
#[derive(Debug, Clone, Copy)]
enum Store {
    Complete,
    Incomplete,
}

/// Checks that the code store responds, and that it has the current version of each code base on
/// this machine.
async fn code_store(project: &Project, reporter: &dyn Reporter) -> (Vec<Finding>, Store) {
    const WHAT: &str = "code store";
    let outdated = async {
        publish::check_store(project, reporter).await?;
        publish::all_outdated(project, reporter).await
    };
    let outdated = match outdated.await {
        Ok(outdated) => outdated,
        // `doctor` checks the files later and reports the problem there.
        Err(Failure::Files(_)) => return (Vec::new(), Store::Complete),
        Err(failure) => return (vec![of_failure(WHAT, &failure)], Store::Incomplete),
    };
    let findings = outdated.iter().map(|one| {
        let hint = "run `bootstrapper publish`, or `up --publish`";
        Finding::new(Health::Warning, WHAT, publish::describe(one), hint)
    });
    let incomplete = outdated.iter().any(|one| one.published.is_none());
    let store = if incomplete {
        Store::Incomplete
    } else {
        Store::Complete
    };
    (findings.collect(), store)
}

/// Checks the local engine, and the platform if it was started from this directory.
async fn of_platform(
    arguments: &Arguments,
    project: &Project,
    loaded: &lifecycle_core::platform::Loaded,
    progress: Arc<ProgressLines>,
) -> Vec<Finding> {
    let declaration = &loaded.declaration;
    let failed = |what: &str, error: &lifecycle_core::Error| {
        vec![Finding::failed(
            what,
            error,
            "set LIFECYCLE_LOG=debug to see details",
        )]
    };
    let known = match project.identity() {
        Ok(known) => known,
        Err(error) => return failed("identity", &error),
    };
    let is_up = match &known {
        Some(identity) => match wiring::state(identity) {
            Ok(state) => matches!(state.placement().await, Ok(Some(_))),
            Err(error) => return failed("configuration directory", &error),
        },
        None => false,
    };
    if is_up {
        match commands::running(arguments, progress).await {
            Ok((identity, bootstrapper)) => {
                let mut findings = vec![bootstrapper.check_engine().await];
                findings.extend(bootstrapper.check_platform(identity.id).await);
                return findings;
            }
            Err(failure) => return vec![of_failure("platform", &failure)],
        }
    }
    let wired = async {
        let identity = match known {
            Some(identity) => identity,
            None => project.identity_for(&declaration.name)?,
        };
        let state = wiring::state(&identity)?;
        let secrets = wiring::secrets(&state, &identity).await?;
        let bootstrapper = wiring::bootstrapper(Parts {
            identity: &identity,
            cloud: &declaration.cloud,
            manager_node: &declaration.manager.node,
            state: state.clone(),
            secrets,
            access: loaded.access.clone(),
            directory: project.directory(),
            reporter: progress,
            trusted: project.trusted(),
            waits_for_roles: false,
        })?;
        let missing = bootstrapper.missing_secrets(state.path()).await?;
        Ok::<_, lifecycle_core::Error>((bootstrapper, missing))
    };
    let (bootstrapper, missing) = match wired.await {
        Ok(wired) => wired,
        Err(error) => return failed("this machine", &error),
    };
    let mut findings = vec![bootstrapper.check_engine().await];
    if let Some(error) = missing {
        findings.push(Finding::failed(
            "secrets",
            &error,
            "copy the secrets to this machine",
        ));
    }
    if findings.iter().all(|f| f.health != Health::Error) {
        match bootstrapper.preflight(declaration).await {
            Ok(report) => findings.extend(of_report(report)),
            Err(error) => findings.push(Finding::failed("declaration", &error, "fix the files")),
        }
    }
    findings.extend(bootstrapper.check_jump_host().await);
    findings.push(Finding::ok(
        "platform",
        "not started from this directory yet",
    ));
    findings
}

fn of_report(report: PreflightReport) -> Vec<Finding> {
    let summary = match report.predicted {
        Some(predicted) => format!("all nodes can be created; {}", describe_estimate(predicted)),
        None => "all nodes can be created".to_owned(),
    };
    let warnings = report.remarks.into_iter().map(|remark| {
        let hint = "to avoid this, change the declaration";
        Finding::new(Health::Warning, "declaration", remark, hint)
    });
    std::iter::once(Finding::ok("declaration", summary))
        .chain(warnings)
        .collect()
}

fn of_failure(what: &str, failure: &Failure) -> Finding {
    Finding::new(Health::Error, what, failure.message(), failure.hint())
}
