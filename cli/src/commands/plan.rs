//! `plan`: shows what `up` would do, and why. Changes nothing, not even on this machine.

use std::collections::BTreeSet;

use lifecycle_core::bootstrap::describe_estimate;
use lifecycle_core::bootstrap::{OperatorState as _, Preview};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::model::ServiceName;
use lifecycle_core::platform::UnsupportedKey;
use lifecycle_core::reconcile::{Held, Step};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Plan};
use crate::commands::{self, publish};
use crate::documents::KeyWithoutEffect;
use crate::failure::{Failure, UNSUPPORTED_SHOWN};
use crate::identity::{Identity, NOT_UP_YET};
use crate::printer;
use crate::progress::ProgressLines;
use crate::project::Project;
use crate::wiring::{self, Parts};

/// The document of `plan --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Planned {
    /// Whether a manager is running; if not, `up` starts one on the manager's node.
    manager_runs: bool,
    /// The problems that prevent `up`, each with a hint.
    problems: Vec<String>,
    /// The cases in which `up` would not use the first choice in the files, for example the first
    /// VM size, the logins with which images are pulled, and the changes that were requested at run
    /// time.
    remarks: Vec<String>,
    /// The expected time for creating the missing nodes, in seconds; null if unknown.
    predicted_seconds: Option<f64>,
    /// The unsupported keys in the Compose files.
    unsupported: Vec<KeyWithoutEffect>,
    /// The steps. Each step is listed after the steps that it depends on.
    steps: Vec<Step>,
    /// The steps that cannot be carried out yet, each with the reason.
    held: Vec<Held>,
    /// The services whose containers are kept although the inputs of their images changed, because
    /// the images did not change.
    unchanged: BTreeSet<ServiceName>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Plan) -> Result<(), Failure> {
    let project = Project::find(arguments)?;
    let known = project.identity()?;
    let id = known.as_ref().map_or(NOT_UP_YET, |i| i.id);
    let progress = ProgressLines::new(arguments.json);
    let mut remarks = Vec::new();
    let loaded = if options.simulate {
        commands::load_offline(&project, id, progress.as_ref()).await?
    } else {
        publish::warn_outdated(&project, progress.as_ref()).await?;
        let mut loaded = commands::load(&project, id, progress.as_ref()).await?;
        let reporter = progress.as_ref();
        let found = commands::image_logins(&project, &loaded.declaration, reporter).await?;
        loaded.warnings.extend(found.warnings);
        remarks = found.remarks;
        loaded
    };
    let mut declaration = loaded.declaration;
    let identity = match known {
        Some(_) => project.identity_for(&declaration.name)?,
        None => Identity {
            name: declaration.name.clone(),
            id: declaration.id,
        },
    };
    let state = wiring::state(&identity)?;
    // Do not store new secrets: the plan only needs them to compute digests.
    let secrets = wiring::secrets(&state, &identity).await?;
    let mut preview = if options.simulate {
        Preview::from_nothing(&declaration, &secrets.key, SystemClock.now())?
    } else {
        if let Some(placed) = state.placement().await? {
            declaration.cloud.continue_from(&placed.cloud);
        }
        let mut bootstrapper = wiring::bootstrapper(Parts {
            identity: &identity,
            cloud: &declaration.cloud,
            manager_node: &declaration.manager.node,
            state: state.clone(),
            secrets,
            access: loaded.access,
            directory: project.directory(),
            reporter: progress,
            trusted: project.trusted(),
            waits_for_roles: false,
        })?;
        bootstrapper.registry = loaded.registry;
        commands::check_secrets(&bootstrapper, state.path()).await?;
        bootstrapper.preview(&declaration).await?
    };
    preview.remarks.extend(remarks);
    printer::warnings(&loaded.warnings);
    if arguments.json {
        printer::document(&Planned {
            manager_runs: preview.manager_runs,
            problems: preview.problems,
            remarks: preview.remarks,
            predicted_seconds: preview.predicted.map(|predicted| predicted.as_secs_f64()),
            unsupported: loaded
                .unsupported
                .iter()
                .map(KeyWithoutEffect::from)
                .collect(),
            steps: preview.plan.steps,
            held: preview.plan.held,
            unchanged: preview.plan.unchanged,
        })
    } else {
        printer::data(&text(
            &preview,
            &loaded.unsupported,
            declaration.manager.node.as_ref(),
        ))
    }
}

fn text(preview: &Preview, unsupported: &[UnsupportedKey], manager_node: &str) -> String {
    let shown = unsupported.iter().take(UNSUPPORTED_SHOWN);
    let mut lines: Vec<String> = shown.map(ToString::to_string).collect();
    match unsupported.len().saturating_sub(UNSUPPORTED_SHOWN) {
        0 => {}
        1 => lines.push("1 more key has no effect".to_owned()),
        more => lines.push(format!("{more} more keys have no effect")),
    }
    lines.extend(preview.problems.iter().map(|p| format!("problem: {p}")));
    lines.extend(preview.remarks.iter().map(|r| format!("note: {r}")));
    if preview.is_nothing() {
        lines.push("Nothing to do: everything that is declared is running.".into());
        let unchanged = preview.plan.unchanged.iter();
        lines.extend(
            unchanged.map(|name| format!("image unchanged: containers of {name} are kept")),
        );
        return lines.join("\n");
    }
    if !preview.manager_runs {
        lines.push(format!(
            "start the lifecycle manager on {manager_node} when that node is ready; the manager \
             does the rest"
        ));
    }
    lines.extend(preview.predicted.map(describe_estimate));
    let plan = preview.plan.to_string();
    lines.push(plan.trim_end().to_owned());
    lines.join("\n")
}
