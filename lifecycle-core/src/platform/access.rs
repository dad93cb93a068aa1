//! Reads the credentials for the cloud, the code store and the jump host from `platform.toml`. The
//! Compose files are not needed and may be invalid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::diagnostic::Report;
use super::environment::Environment;
use super::load::{read_text, shown};
use super::secret_reference::SecretReader;
use super::text_file::Edited;
use super::{CodeStoreSpec, Diagnostics, JumpHostSpec, Sources, settings, toml};
use crate::error::{Error, Result as CoreResult};
use crate::model::NodeName;
use crate::runtime::ImageLogins;
use crate::secret::Sensitive;

/// Secrets for external services. They are not part of the declaration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The client secret of the application that logs in to the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Sensitive>,
    /// The key or shared access signature of the code store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Sensitive>,
    /// The private key for the jump host; without it, the platform's own key is used. The manager
    /// does not receive this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_host: Option<Sensitive>,
    /// The first logins to machines that exist already. The manager does not receive them, because
    /// the bootstrapper creates an account of the platform on each machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<NodeName, NodeLogin>,
    /// The logins for the registries of images. The digest of the manager's container does not cover
    /// them: `up` sends them to the manager's API, and they are encrypted in the hand-over.
    #[serde(default, skip_serializing_if = "ImageLogins::is_empty")]
    pub images: ImageLogins,
}

/// How the first login to an existing machine authenticates. Without a key, the SSH agent of this
/// machine is used if there is no password either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLogin {
    /// The account's password, for the login if there is no key, and for sudo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sensitive>,
    /// A private key in OpenSSH format, without a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Sensitive>,
    /// Why a declared secret is unavailable. This is a problem only if a first login is necessary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

impl Credentials {
    /// Returns whether no secret is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the secrets that the manager needs when it starts.
    #[must_use]
    pub fn of_manager(&self) -> Self {
        Self {
            jump_host: None,
            nodes: BTreeMap::new(),
            images: ImageLogins::new(),
            ..self.clone()
        }
    }

    /// Returns the secret for the cloud.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the secret is not set.
    pub fn cloud(&self) -> CoreResult<&Sensitive> {
        self.cloud.as_ref().ok_or_else(|| missing("cloud.login"))
    }

    /// Returns the secret for the code store.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the secret is not set.
    pub fn code(&self) -> CoreResult<&Sensitive> {
        self.code.as_ref().ok_or_else(|| missing("code"))
    }
}

fn missing(key: &str) -> Error {
    Error::Invalid {
        what: format!("the secret for `{key}`"),
        why: "the secret is not set".to_owned(),
        hint: format!("set the secret under `{key}` in platform.toml"),
    }
}

/// The code store, and the credentials for it and the cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    pub code: CodeStoreSpec,
    pub credentials: Credentials,
    /// The jump host in the current `platform.toml`, which may have changed since the last `up`.
    pub jump_host: Option<JumpHostSpec>,
}

/// Reads the access settings from `platform.toml`. The Compose files are not read.
///
/// # Errors
/// All problems with `platform.toml`.
pub fn access(sources: &Sources) -> Result<Access, Diagnostics> {
    let Some(file) = &sources.platform_toml else {
        return Ok(Access::default());
    };
    let mut report = Report::new(shown(Some(file), sources));
    let root = read_text(file, &Edited::default(), &mut report)
        .and_then(|text| toml::parse(&text, &mut report));
    let mut ignored = Report::new(".env");
    let environment = Environment::read(sources, &mut ignored);
    let lookup = |name: &str| environment.get(name);
    let outside = SecretReader {
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
