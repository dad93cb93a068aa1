//! Defines the hand-over: the files that the bootstrapper passes to the manager. Only root can
//! change the files, which are in one directory on the manager's node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secrets::{OperatorTokens, PlatformSecrets};
use crate::api::Authority;
use crate::clock::IdSource;
use crate::error::{Error, Result};
use crate::host::{HostFile, SshKeyPair};
use crate::manager::{FirstToken, ManagerOptions};
use crate::model::{PlatformId, PlatformName, TokenId};
use crate::platform::{
    Access, CloudSpec, CodeStoreSpec, Credentials, Declaration, ManagerEndpoint, RegistrySpec,
};
use crate::reconcile::DriverOptions;
use crate::reconcile::node_directory::node_directory;
use crate::registry::{Databases, Mirrors, RegistryId};
use crate::runtime::ImageLogins;
use crate::secret::{PlatformKey, Sensitive};

/// The parts of a hand-over that are not secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerConfig {
    pub name: PlatformName,
    pub platform: PlatformId,
    /// The address at which the manager's API listens.
    pub endpoint: ManagerEndpoint,
    /// The image of the manager, which is also used for agents.
    #[serde(default)]
    pub image: Option<String>,
    /// The cloud.
    pub cloud: CloudSpec,
    /// The code store.
    #[serde(default)]
    pub code: CodeStoreSpec,
    /// The public SSH key of the nodes.
    pub ssh_public: String,
    /// The id of the operator's first token.
    pub admin_token_id: TokenId,
    /// The SHA-256 hash of the operator's first token.
    pub admin_token_hash: String,
    /// How often the operator's first token and the services' tokens were replaced.
    #[serde(default)]
    pub token_rotation: u64,
}

/// The configuration and the secrets with which a manager is started.
#[derive(Debug, Clone)]
pub struct Handover {
    /// The parts that are not secret.
    pub config: ManagerConfig,
    pub key: PlatformKey,
    pub authority: Authority,
    /// The certificates of the authorities that services trust. The first one is that of `authority`.
    pub trusted: String,
    /// The token that the services share if an earlier version created the platform.
    pub read_token: Option<Sensitive>,
    /// The private SSH key of the nodes.
    pub ssh_private: Sensitive,
    /// The location of the registry.
    pub registry: RegistrySpec,
    /// The credentials for the cloud and the code store.
    pub credentials: Credentials,
    /// The logins for the registries of images to start with if the manager's registry has none.
    pub image_logins: ImageLogins,
    /// The declaration to start with if the registry has none. Not set if the declaration refers to
    /// chunks, which the new registry does not contain: the manager gets both through its API.
    pub declaration: Option<Declaration>,
}

/// The lifetime of the manager's lease.
const LEASE: Duration = Duration::from_secs(15);

const CONFIG: &str = "config.json";
const KEY: &str = "platform.key";
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const TRUSTED: &str = "trusted.pem";
const READ_TOKEN: &str = "read.token";
const SSH: &str = "ssh.key";
const REGISTRY: &str = "registry.json";
const CREDENTIALS: &str = "credentials.json";
const IMAGE_LOGINS: &str = "image-logins";
const DECLARATION: &str = "declaration.json";

/// The purpose for which the logins for the registries of images are encrypted.
const LOGINS_PURPOSE: &str = "image logins in the hand-over";

/// Returns the directory of the hand-over on the manager's node.
pub fn handover_directory(platform: PlatformId) -> String {
    format!("{}/manager", node_directory(platform))
}

/// Returns the directory of the code bases on the manager's node.
pub fn code_directory(platform: PlatformId) -> String {
    format!("{}/code", node_directory(platform))
}

impl Handover {
    /// Creates the hand-over for a manager at `endpoint` that runs from `image`.
    pub fn new(
        secrets: &PlatformSecrets,
        declaration: &Declaration,
        registry: &RegistrySpec,
        access: &Access,
        endpoint: ManagerEndpoint,
        image: String,
    ) -> Self {
        let first = FirstToken::of(&secrets.admin_token);
        Self {
            config: ManagerConfig {
                name: declaration.name.clone(),
                platform: declaration.id,
                endpoint,
                image: Some(image),
                cloud: declaration.cloud.clone(),
                code: access.code.clone(),
                ssh_public: secrets.ssh.public.clone(),
                admin_token_id: first.id,
                admin_token_hash: first.hash,
                token_rotation: secrets.token_rotation,
            },
            key: secrets.key.clone(),
            authority: secrets.authority.clone(),
            trusted: secrets.trusted(),
            read_token: secrets.read_token.clone(),
            ssh_private: secrets.ssh.private.clone(),
            registry: registry.clone(),
            credentials: access.credentials.of_manager(),
            image_logins: access.credentials.images.clone(),
            declaration: declaration.chunks().is_empty().then(|| declaration.clone()),
        }
    }

    /// Returns the files in the order in which they must be written: the configuration is last.
    pub fn files(&self) -> Result<Vec<HostFile>> {
        let config =
            serde_json::to_string_pretty(&self.config).map_err(|error| cannot_serialise(&error))?;
        let registry =
            serde_json::to_string(&self.registry).map_err(|error| cannot_serialise(&error))?;
        let credentials =
            serde_json::to_string(&self.credentials).map_err(|error| cannot_serialise(&error))?;
        let logins = serde_json::to_vec(&self.image_logins).map_err(|e| cannot_serialise(&e))?;
        let logins = hex::encode(self.key.seal(LOGINS_PURPOSE, &logins)?);
        let files = [
            (KEY, self.key.to_hex().expose().to_owned()),
            (CA, self.authority.certificate.clone()),
            (CA_KEY, self.authority.key.expose().to_owned()),
            (TRUSTED, self.trusted.clone()),
            (SSH, self.ssh_private.expose().to_owned()),
            (REGISTRY, registry),
            (CREDENTIALS, credentials),
            (IMAGE_LOGINS, logins),
        ];
        let platform = self.config.platform;
        let mut files: Vec<_> = files.map(|(name, text)| file(platform, name, text)).into();
        if let Some(token) = &self.read_token {
            files.push(file(platform, READ_TOKEN, token.expose().to_owned()));
        }
        if let Some(declaration) = &self.declaration {
            files.push(Self::declaration_file(declaration)?);
        }
        files.push(file(platform, CONFIG, config));
        Ok(files)
    }

    /// Returns only the file of the declaration. A manager that has lost its registry starts from
    /// this file, so the bootstrapper rewrites the file after each accepted declaration. The file does
    /// not contain the chunks of mounted files: after a loss, the next `up` sends them again.
    pub fn declaration_file(declaration: &Declaration) -> Result<HostFile> {
        let text = serde_json::to_string(declaration).map_err(|error| cannot_serialise(&error))?;
        Ok(file(declaration.id, DECLARATION, text))
    }

    /// Reads the hand-over from the platform's directory.
    pub fn read(platform_directory: &Path) -> Result<Self> {
        let directory = platform_directory.join("manager");
        let mut unreadable = None;
        let read = Self::read_with(|name| {
            let path = directory.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => {
                    let what = format!("reading {}", path.display());
                    unreadable.get_or_insert(Error::io(what, error));
                    None
                }
            }
        });
        unreadable.map_or(read, Err)
    }

    /// Reads a hand-over. `file` returns the contents of the file with the given name.
    pub fn read_with(mut file: impl FnMut(&str) -> Option<String>) -> Result<Self> {
        let mut required = |name: &str| {
            file(name).ok_or_else(|| Error::Invalid {
                what: format!("the hand-over file {name}"),
                why: "the file is missing".into(),
                hint: "run `bootstrapper up` again to write the files".into(),
            })
        };
        let config: ManagerConfig = parse(CONFIG, &required(CONFIG)?)?;
        let key = PlatformKey::from_hex(&required(KEY)?)?;
        let authority = Authority {
            certificate: required(CA)?,
            key: Sensitive::new(required(CA_KEY)?),
        };
        let ssh_private = Sensitive::new(required(SSH)?);
        let registry = parse(REGISTRY, &required(REGISTRY)?)?;
        let read_token = file(READ_TOKEN).map(Sensitive::new);
        // A hand-over that an older version wrote has no such file.
        let trusted = file(TRUSTED).unwrap_or_else(|| authority.certificate.clone());
        // A hand-over that an older version wrote has no credentials.
        let credentials = file(CREDENTIALS)
            .map(|text| parse(CREDENTIALS, &text))
            .transpose()?
            .unwrap_or_default();
        let image_logins = file(IMAGE_LOGINS)
            .map(|text| unseal(&key, &text))
            .transpose()?
            .unwrap_or_default();
        let declaration = file(DECLARATION)
            .map(|text| parse(DECLARATION, &text))
            .transpose()?;
        Ok(Self {
            config,
            key,
            authority,
            trusted,
            read_token,
            ssh_private,
            registry,
            credentials,
            image_logins,
            declaration,
        })
    }

    /// Returns the mirrors of registry `id`, if mirror databases are configured.
    pub fn mirrors(&self, id: RegistryId, databases: Arc<dyn Databases>) -> Option<Mirrors> {
        let kinds = &self.registry.kinds;
        let platform = self.config.platform;
        (!kinds.is_empty()).then(|| Mirrors::new(id, databases, platform, self.key.clone(), kinds))
    }

    /// Converts the hand-over to the options of a manager. Each call creates a new holder name for
    /// the lease.
    pub fn into_options(
        self,
        ids: &dyn IdSource,
        mut driver: DriverOptions,
        mirrors: Option<Mirrors>,
    ) -> ManagerOptions {
        driver.policy.spares_manager_node = true;
        let node = &self.config.endpoint.node;
        ManagerOptions {
            holder: format!("manager {} on {node}", ids.uuid()),
            name: self.config.name,
            platform: self.config.platform,
            key: self.key,
            endpoint: self.config.endpoint,
            image: self.config.image,
            authority: self.trusted,
            ssh_public: self.config.ssh_public,
            admin_token: FirstToken {
                id: self.config.admin_token_id,
                hash: self.config.admin_token_hash,
            },
            token_rotation: self.config.token_rotation,
            read_token: self.read_token,
            image_logins: self.image_logins,
            declaration: self.declaration,
            lease: LEASE,
            driver,
            mirrors,
        }
    }
}

/// Credentials that replace those in the hand-over of a running manager.
#[derive(Debug, Default)]
pub(super) struct ReplacedCredentials {
    /// The operator's first token, and how often the tokens were replaced.
    pub(super) tokens: Option<OperatorTokens>,
    /// The authority that signs the manager's certificate.
    pub(super) authority: Option<Authority>,
    /// The certificates of the authorities that services trust.
    pub(super) trusted: Option<String>,
    pub(super) ssh: Option<SshKeyPair>,
}

impl ReplacedCredentials {
    /// Returns the path of the file whose contents [`files`](Self::files) needs.
    pub(super) fn configuration(platform: PlatformId) -> String {
        format!("{}/{CONFIG}", handover_directory(platform))
    }

    /// Returns the files to write while the manager is stopped. `config` is the current configuration;
    /// members that only a later version knows are kept.
    pub(super) fn files(self, platform: PlatformId, config: &str) -> Result<Vec<HostFile>> {
        let mut config: serde_json::Map<String, serde_json::Value> = parse(CONFIG, config)?;
        let mut files = Vec::new();
        let mut write = |name, text: &str| files.push(file(platform, name, text.to_owned()));
        if let Some(OperatorTokens { admin, rotation }) = self.tokens {
            let FirstToken { id, hash } = FirstToken::of(&admin);
            config.insert("admin_token_id".into(), id.as_str().into());
            config.insert("admin_token_hash".into(), hash.into());
            config.insert("token_rotation".into(), rotation.into());
        }
        if let Some(authority) = self.authority {
            write(CA, &authority.certificate);
            write(CA_KEY, authority.key.expose());
        }
        if let Some(trusted) = self.trusted {
            write(TRUSTED, &trusted);
        }
        if let Some(ssh) = self.ssh {
            write(SSH, ssh.private.expose());
            config.insert("ssh_public".into(), ssh.public.into());
        }
        let text = serde_json::to_string_pretty(&config).map_err(|e| cannot_serialise(&e))?;
        write(CONFIG, &text);
        Ok(files)
    }
}

fn file(platform: PlatformId, name: &str, text: String) -> HostFile {
    let directory = handover_directory(platform);
    HostFile::new(format!("{directory}/{name}"), 0o400, text)
}

fn cannot_serialise(error: &serde_json::Error) -> Error {
    Error::failed("writing the hand-over", error.to_string())
}

fn unseal(key: &PlatformKey, text: &str) -> Result<ImageLogins> {
    let sealed = hex::decode(text).map_err(|_| Error::Corrupt {
        what: format!("the hand-over file {IMAGE_LOGINS}"),
        why: "it is not hexadecimal".into(),
    })?;
    let plain = key.open(LOGINS_PURPOSE, &sealed)?;
    parse(IMAGE_LOGINS, &String::from_utf8_lossy(&plain))
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Corrupt {
        what: format!("the hand-over file {name}"),
        // A declaration contains secrets, so report only the line and column.
        why: format!("line {}, column {}", error.line(), error.column()),
    })
}
