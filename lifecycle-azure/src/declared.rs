//! Creates Azure clients from a platform's declaration.

use std::net::Ipv4Addr;

use lifecycle_core::model::NodeName;
use lifecycle_core::platform::{AzureFilesSpec, AzureSpec, Credentials, FilesSecret, LoginSpec};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};

use crate::arm::role_wait::RoleWait;
use crate::clouds::TrustedAddresses;
use crate::credential::Login;
use crate::files::{AzureFiles, FilesCredential};
use crate::options::AzureOptions;
use crate::provider::Azure;

impl Azure {
    /// Creates the provider for the bootstrapper, which connects to the nodes from outside their
    /// network. `manager_node` is the manager's node, which only the bootstrapper creates. With
    /// `role_wait`, requests wait until a new role assignment takes effect. `trusted` are the
    /// addresses outside Azure's clouds that may receive credentials.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`], which names the invalid value, the missing secret, or the address
    /// that is not trusted.
    pub fn for_bootstrapper(
        spec: &AzureSpec,
        credentials: &Credentials,
        owner: Owner,
        authorized_key: impl Into<String>,
        manager_node: NodeName,
        trusted: &TrustedAddresses,
        role_wait: Option<RoleWait>,
    ) -> Result<Self> {
        trusted.check_cloud(spec)?;
        let login = Login::declared(&spec.login, credentials)?;
        let mut options = AzureOptions::declared(spec, owner, authorized_key, login)?;
        options.manager_node = Some(manager_node);
        options.role_wait = role_wait;
        Self::new(options)
    }

    /// Creates the provider for the manager, which connects to the nodes from its own node. The
    /// bootstrapper has checked the addresses in `spec`.
    ///
    /// # Errors
    /// Returns the same errors as [`Azure::for_bootstrapper`].
    pub fn for_manager(
        spec: &AzureSpec,
        credentials: &Credentials,
        owner: Owner,
        authorized_key: impl Into<String>,
    ) -> Result<Self> {
        let login = spec.login_of_manager().ok_or_else(|| {
            Error::invalid(
                "the manager's login",
                "the hand-over files contain no login",
                "set `cloud.identity`, or a `cloud.login` with `client-secret`, then run \
                 `bootstrapper up` again",
            )
        })?;
        let login = Login::declared(&login, credentials)?;
        let mut options = AzureOptions::declared(spec, owner, authorized_key, login)?;
        let report = |line: &str| tracing::warn!("{line}");
        options.role_wait = Some(RoleWait::for_changes(report));
        Self::new(options)
    }
}

impl AzureOptions {
    /// Returns the options for `spec` with this owner, key, and login method. Options that `spec`
    /// does not contain have their default values.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] for an invalid network.
    fn declared(
        spec: &AzureSpec,
        owner: Owner,
        authorized_key: impl Into<String>,
        login: Login,
    ) -> Result<Self> {
        let defaults = Self::new(&spec.subscription, &spec.location, owner, authorized_key);
        let network = spec.subnet.as_deref().map(network).transpose()?;
        let or = |given: &Option<String>, default: String| given.clone().unwrap_or(default);
        Ok(Self {
            login,
            account: or(&spec.account, defaults.account),
            resource_group: spec.resource_group.clone(),
            network: network.unwrap_or(defaults.network),
            ssh_from: if spec.ssh_from.is_empty() {
                defaults.ssh_from
            } else {
                spec.ssh_from.clone()
            },
            public_ip: spec.public_ip,
            sizes: if spec.sizes.is_empty() {
                defaults.sizes
            } else {
                spec.sizes.clone()
            },
            zones: spec.zones.clone(),
            identity: spec.identity.clone(),
            image: or(&spec.image, defaults.image),
            endpoint: or(&spec.endpoint, defaults.endpoint),
            authority_host: spec.authority.clone(),
            certificate_authority: spec.ca.clone(),
            existing: { spec.hosts.vms() }
                .map(|(node, vm)| (node.clone(), vm.to_owned()))
                .collect(),
            ..defaults
        })
    }
}

impl Login {
    /// Returns the login method that `spec` names. Takes the secret from `credentials`, if the
    /// method requires one.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if a required secret is missing.
    fn declared(spec: &LoginSpec, credentials: &Credentials) -> Result<Self> {
        Ok(match spec {
            LoginSpec::InOrder => Self::InOrder,
            LoginSpec::AzureCli => Self::AzureCli,
            LoginSpec::ManagedIdentity { client } => Self::ManagedIdentity {
                client: client.clone(),
            },
            LoginSpec::AssignedIdentity { id } => Self::AssignedIdentity { id: id.clone() },
            LoginSpec::WorkloadIdentity => Self::WorkloadIdentity,
            LoginSpec::ClientSecret { tenant, client } => Self::ClientSecret {
                tenant: tenant.clone(),
                client: client.clone(),
                secret: credentials.cloud()?.clone(),
            },
        })
    }
}

impl AzureFiles {
    /// Creates the code store for the bootstrapper. `trusted` are the addresses outside Azure's
    /// clouds that may receive credentials.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`], which names the invalid value, the missing secret, or the address
    /// that is not trusted.
    pub fn for_bootstrapper(
        spec: &AzureFilesSpec,
        credentials: &Credentials,
        trusted: &TrustedAddresses,
    ) -> Result<Self> {
        trusted.check_files(spec)?;
        Self::for_manager(spec, credentials)
    }

    /// Creates the code store that `spec` declares, with the secret from `credentials`. Does not
    /// check whether the address in `spec` is trusted: the bootstrapper has done so.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`], which names the invalid value or the missing secret.
    pub fn for_manager(spec: &AzureFilesSpec, credentials: &Credentials) -> Result<Self> {
        let secret = credentials.code()?.expose().to_owned().into();
        let credential = match spec.with {
            FilesSecret::Key => FilesCredential::SharedKey(secret),
            FilesSecret::Sas => FilesCredential::Sas(secret),
        };
        let mut builder = Self::builder(&spec.account, &spec.share, credential);
        if let Some(endpoint) = &spec.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(directory) = &spec.directory {
            builder = builder.root(directory);
        }
        if let Some(ca) = &spec.ca {
            builder = builder.authority(ca);
        }
        builder.build()
    }
}

/// Parses an address block such as `10.90.0.0/16`.
fn network(text: &str) -> Result<(Ipv4Addr, u8)> {
    text.split_once('/')
        .and_then(|(block, length)| Some((block.parse().ok()?, length.parse().ok()?)))
        .ok_or_else(|| {
            Error::invalid(
                format!("the network `{text}`"),
                "the network is not an IPv4 address block",
                "write an address block such as `10.90.0.0/16`",
            )
        })
}
