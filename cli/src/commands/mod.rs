//! One module per command.

pub(crate) mod azure_simulator;
pub(crate) mod class;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod operation;
pub(crate) mod overrides;
pub(crate) mod pages;
pub(crate) mod plan;
pub(crate) mod publish;
pub(crate) mod restart;
pub(crate) mod retry;
pub(crate) mod revisions;
pub(crate) mod rollout;
pub(crate) mod rotate;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod why;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::bootstrap::{Bootstrapper, OperatorState as _, Reporter, Wait};
use lifecycle_core::clock::SystemClock;
use lifecycle_core::model::PlatformId;
use lifecycle_core::platform::{Declaration, Loaded};
use lifecycle_docker::FoundLogins;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::project::Project;
use crate::wiring::{self, Parts};

/// Time limit for reading the files and their code bases.
const LOADED_WITHIN: Duration = Duration::from_mins(15);

/// Time limit for reading the logins for images. A credential helper may wait for the user.
const LOGINS_WITHIN: Duration = Duration::from_mins(15);

/// Time limit for the manager's response to one request.
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_mins(2);

/// The delay before the reading of the files is reported as progress.
const LOADING_REPORTED_AFTER: Duration = Duration::from_secs(1);

/// Loads the files of a platform, with the digests of its code bases.
async fn load(
    project: &Project,
    id: PlatformId,
    reporter: &dyn Reporter,
) -> Result<Loaded, Failure> {
    loading(reporter).until(project.load(id)).await
}

/// Like [`load`], but reads code bases from this machine.
async fn load_offline(
    project: &Project,
    id: PlatformId,
    reporter: &dyn Reporter,
) -> Result<Loaded, Failure> {
    loading(reporter).until(project.load_offline(id)).await
}

fn loading(reporter: &dyn Reporter) -> Wait<'_> {
    let what = "the files and their code bases";
    Wait::new(reporter, &SystemClock, what, LOADED_WITHIN).reported_after(LOADING_REPORTED_AFTER)
}

/// Finds the logins that `docker login` stored on this machine for the registries of the declared
/// images.
async fn image_logins(
    project: &Project,
    declaration: &Declaration,
    reporter: &dyn Reporter,
) -> Result<FoundLogins, Failure> {
    let registries = declaration.image_registries();
    let environment = &project.sources().environment;
    let find = async { Ok(lifecycle_docker::image_logins(environment, &registries).await) };
    let what = "the logins for the registries of images";
    Wait::new(reporter, &SystemClock, what, LOGINS_WITHIN)
        .until(find)
        .await
}

/// Fails if the platform exists, but this machine does not have the platform's secrets.
async fn check_secrets(bootstrapper: &Bootstrapper, kept_in: &Path) -> Result<(), Failure> {
    match bootstrapper.missing_secrets(kept_in).await? {
        Some(error) => Err(Failure::NoSecrets(error)),
        None => Ok(()),
    }
}

/// Creates a bootstrapper for a platform that was started from this project. Works even if the
/// Compose files are invalid.
async fn running(
    arguments: &Arguments,
    reporter: Arc<dyn Reporter>,
) -> Result<(Identity, Bootstrapper), Failure> {
    let project = Project::find(arguments)?;
    let not_up = || {
        Error::invalid(
            "the platform",
            "the platform was not started from this directory on this machine, or was removed",
            "start the platform with `bootstrapper up`",
        )
    };
    let identity = project.identity()?.ok_or_else(not_up)?;
    let state = wiring::state(&identity)?;
    let secrets = state.secrets().await?.ok_or_else(not_up)?;
    let placed = state.placement().await?.ok_or_else(not_up)?;
    let bootstrapper = wiring::bootstrapper(Parts {
        identity: &identity,
        cloud: &placed.cloud,
        manager_node: &placed.manager.node,
        state,
        secrets,
        access: project.access()?,
        directory: project.directory(),
        reporter,
        trusted: project.trusted(),
        waits_for_roles: false,
    })?;
    Ok((identity, bootstrapper))
}
