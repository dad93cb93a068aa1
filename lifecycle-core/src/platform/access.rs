//! What opens the cloud, the code store and the way to the nodes: read from `platform.toml` alone,
//! for whoever needs these before, or without, the platform's declaration.

use serde::{Deserialize, Serialize};

use super::diagnostic::Report;
use super::environment::Environment;
use super::load::{read_text, shown};
use super::secret_reference::Outside;
use super::{CodeStoreSpec, Diagnostics, JumpHostSpec, Sources, settings, toml};
use crate::error::{Error, Result as CoreResult};
use crate::secret::Sensitive;

/// The secrets that open what lies outside. Not a part of the declaration: the bootstrapper hands
/// them to the manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The secret of the application that logs in to the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Sensitive>,
    /// The key or the signature of the code store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Sensitive>,
    /// The private key for the jump host; the platform's own without. The manager, which is
    /// inside, gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_host: Option<Sensitive>,
}

impl Credentials {
    /// Whether there is none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What the manager gets of them.
    #[must_use]
    pub fn of_manager(&self) -> Self {
        Self {
            jump_host: None,
            ..self.clone()
        }
    }

    /// The cloud's secret.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none.
    pub fn cloud(&self) -> CoreResult<&Sensitive> {
        self.cloud.as_ref().ok_or_else(|| missing("cloud.login"))
    }

    /// The code store's secret.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none.
    pub fn code(&self) -> CoreResult<&Sensitive> {
        self.code.as_ref().ok_or_else(|| missing("code"))
    }
}

fn missing(key: &str) -> Error {
    Error::Invalid {
        what: format!("the secret of `{key}`"),
        why: "it is not given".to_owned(),
        hint: format!("refer to it in `{key}` of platform.toml"),
    }
}

/// Where code bases are read from, and what opens that and the cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Where code bases are read from.
    pub code: CodeStoreSpec,
    /// The secrets.
    pub credentials: Credentials,
    /// What nodes are reached through from outside, as declared now: that of the last `up` may be
    /// gone.
    pub jump_host: Option<JumpHostSpec>,
}

/// Reads it from `platform.toml`; the Compose files need not be in order.
///
/// # Errors
/// Everything that is wrong with `platform.toml`.
pub fn access(sources: &Sources) -> Result<Access, Diagnostics> {
    let Some(file) = &sources.platform_toml else {
        return Ok(Access::default());
    };
    let mut report = Report::new(shown(Some(file), sources));
    let root = read_text(file, &mut report).and_then(|text| toml::parse(&text, &mut report));
    let mut ignored = Report::new(".env");
    let environment = Environment::read(sources, &mut ignored);
    let lookup = |name: &str| environment.get(name);
    let outside = Outside {
        directory: &sources.project_dir,
        lookup: &lookup,
    };
    let settings = settings::read(root.as_ref(), sources.nodes, outside, &mut report);
    match Report::problems_of(vec![report]) {
        Some(problems) => Err(problems),
        None => Ok(Access {
            jump_host: settings.cloud.jump_host().cloned(),
            code: settings.code_store,
            credentials: settings.credentials,
        }),
    }
}
