//! `plan`: what `up` would do, and why. Changes nothing, not even on this machine.

use lifecycle_core::bootstrap::Forecast;
use lifecycle_core::bootstrap::in_words;
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::platform::UnsupportedKey;
use lifecycle_core::reconcile::{Held, Step};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Plan};
use crate::commands::{self, publish};
use crate::documents::KeyWithoutEffect;
use crate::failure::Failure;
use crate::identity::{Identity, NOT_UP_YET};
use crate::printer;
use crate::progress::ProgressLines;
use crate::project::Project;
use crate::wiring::{self, Parts};

/// The document of `plan --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Foretold {
    /// Whether a manager runs already; without one, `up` starts it on its node.
    manager_runs: bool,
    /// What stands in the way, each with a hint.
    problems: Vec<String>,
    /// What would be otherwise than was wished first.
    remarks: Vec<String>,
    /// How long the nodes that do not exist yet would take, in seconds, where that can be said.
    predicted_seconds: Option<f64>,
    /// Keys of the files that have no effect.
    unsupported: Vec<KeyWithoutEffect>,
    /// What would be done; each step stands behind those that it needs.
    steps: Vec<Step>,
    /// What could not be done yet, and why.
    held: Vec<Held>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Plan) -> Result<(), Failure> {
    let project = Project::find(arguments)?;
    let known = project.identity()?;
    let id = known.as_ref().map_or(NOT_UP_YET, |i| i.id);
    let progress = ProgressLines::new(arguments.json);
    let loaded = if options.simulate {
        project.load_offline(id).await?
    } else {
        publish::tell_outdated(&project, progress.as_ref()).await?;
        commands::load(&project, id, progress.as_ref()).await?
    };
    let declaration = loaded.declaration;
    let identity = match known {
        Some(_) => project.identity_for(&declaration.name)?,
        None => Identity {
            name: declaration.name.clone(),
            id: declaration.id,
        },
    };
    let state = wiring::state(&identity)?;
    // New ones are never kept: digests of what does not exist are compared with nothing.
    let secrets = wiring::secrets(&state, &identity).await?;
    let forecast = if options.simulate {
        Forecast::from_nothing(&declaration, &secrets.key, SystemClock.now())?
    } else {
        let mut bootstrapper = wiring::bootstrapper(Parts {
            identity: &identity,
            cloud: &declaration.cloud,
            manager_node: &declaration.manager.node,
            state: state.clone(),
            secrets,
            access: loaded.access,
            directory: project.directory(),
            reporter: progress,
        })?;
        bootstrapper.registry = loaded.registry;
        commands::check_secrets(&bootstrapper, state.path()).await?;
        bootstrapper.forecast(&declaration).await?
    };
    for warning in &loaded.warnings {
        printer::warning(&warning.to_string());
    }
    if arguments.json {
        printer::document(&Foretold {
            manager_runs: forecast.manager_runs,
            problems: forecast.problems,
            remarks: forecast.remarks,
            predicted_seconds: forecast.predicted.map(|predicted| predicted.as_secs_f64()),
            unsupported: loaded
                .unsupported
                .iter()
                .map(KeyWithoutEffect::from)
                .collect(),
            steps: forecast.plan.steps,
            held: forecast.plan.held,
        })
    } else {
        printer::data(&text(
            &forecast,
            &loaded.unsupported,
            declaration.manager.node.as_ref(),
        ))
    }
}

fn text(forecast: &Forecast, unsupported: &[UnsupportedKey], manager_node: &str) -> String {
    let mut lines: Vec<String> = unsupported.iter().map(ToString::to_string).collect();
    lines.extend(forecast.problems.iter().map(|p| format!("problem: {p}")));
    lines.extend(forecast.remarks.iter().map(|r| format!("note: {r}")));
    if forecast.is_nothing() {
        lines.push("Nothing to do: what is declared runs.".into());
        return lines.join("\n");
    }
    if !forecast.manager_runs {
        lines.push(format!(
            "start the lifecycle manager on {manager_node}, once that node is ready; it does the rest"
        ));
    }
    lines.extend(forecast.predicted.map(in_words));
    let plan = forecast.plan.to_string();
    lines.push(plan.trim_end().to_owned());
    lines.join("\n")
}
