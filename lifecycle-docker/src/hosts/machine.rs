//! One machine: who owns it, its boot, and the changes of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifecycle_core::cloud::{ObservedNode, OpenPorts, Power, SshAddress};
use lifecycle_core::host::{HostCommand, NodeAccess as _};
use lifecycle_core::model::{Addresses, Existing, NodeName, PlatformId};
use lifecycle_core::platform::{HostPlace, HostSpec, Membership};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_core::{Error, Result};

use super::enrolment::{self, ACCOUNT};
use super::login::{Login, RootShell};
use crate::ssh::{SshAccess, SshCredential, SshTarget, SshTimings, offered_host_key, scanned};

/// The time limits of connections. Shorter than the default, because a list waits for all machines.
const TIMINGS: SshTimings = SshTimings {
    connect: Duration::from_secs(5),
    keepalive: Duration::from_secs(5),
    keepalive_misses: 2,
};

/// Time limit for a short command.
const QUICK: Duration = Duration::from_secs(10);

/// Time limit for removing the platform's account and files.
const RELEASED_WITHIN: Duration = Duration::from_mins(5);

/// Time limit for taking a machine over, including the installation of sudo.
const ENROLLED_WITHIN: Duration = Duration::from_mins(4);

/// The owner of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// This platform. The boot is unknown if the machine does not respond and never did.
    Ours { boot: Option<String> },
    /// This platform, but the machine does not accept the platform's account: it was not completely
    /// taken over, or the account was changed.
    Incomplete { boot: Option<String> },
    /// This platform, as another node.
    OtherNode { name: String },
    /// Another platform.
    Theirs,
    /// No platform.
    Unowned { boot: Option<String> },
}

/// What a machine reports about itself.
struct Inspected {
    boot: String,
    owner: Option<Mark>,
    /// Whether the machine accepts the platform's account.
    has_account: bool,
}

/// The contents of the file that names a machine's owner.
struct Mark {
    platform: String,
    node: String,
}

/// A declared machine.
pub(super) struct Machine {
    node: NodeName,
    spec: HostSpec,
    /// The platform's private key.
    key: Sensitive,
    login: Option<Login>,
    /// Whether this process reaches the machine from outside the nodes' network.
    is_outside: bool,
    known: Mutex<Known>,
}

/// What this process has found out about a machine.
#[derive(Default)]
struct Known {
    host_keys: Vec<String>,
    /// The address or host name that this process connects to. The address of a VM is unknown until
    /// the cloud has reported it.
    address: Option<String>,
    resolved: Option<IpAddr>,
    /// Access with the platform's account.
    access: Option<Arc<SshAccess>>,
    /// Access with the declared account.
    shell: Option<Arc<RootShell>>,
    /// Whether the machine has rejected the platform's account. Further attempts could make its SSH
    /// server block this client.
    is_rejected: bool,
    boot: Option<String>,
    /// Whether this process has released the machine.
    is_released: bool,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("node", &self.node)
            .field("name", &self.spec.name())
            .finish_non_exhaustive()
    }
}

impl Machine {
    pub(super) fn new(
        node: &NodeName,
        spec: &HostSpec,
        key: Sensitive,
        login: Option<Login>,
        is_outside: bool,
    ) -> Self {
        let address = match &spec.place {
            HostPlace::Address { address, .. } if is_outside => Some(address.clone()),
            HostPlace::Address {
                address,
                private_address,
            } => Some(private_address.map_or_else(|| address.clone(), |ip| ip.to_string())),
            HostPlace::Vm { .. } => None,
        };
        let known = Known {
            host_keys: scanned(&spec.host_keys),
            address,
            ..Known::default()
        };
        Self {
            node: node.clone(),
            spec: spec.clone(),
            key,
            login,
            is_outside,
            known: Mutex::new(known),
        }
    }

    /// Sets the socket of the SSH agent for the first login.
    pub(super) fn use_agent(&mut self, socket: Option<&PathBuf>) {
        if let Some(login) = &mut self.login {
            login.use_agent(socket);
        }
    }

    pub(super) fn membership(&self) -> Membership {
        self.spec.membership
    }

    /// Returns whether the machine is a VM of the cloud.
    pub(super) fn is_vm(&self) -> bool {
        self.spec.existing() == Existing::Vm
    }

    /// Connects to a VM at the addresses that the cloud reports from now on.
    pub(super) fn use_addresses(&self, addresses: &Addresses) {
        let Addresses { private, public } = *addresses;
        let address = if self.is_outside {
            public.or(private)
        } else {
            private.or(public)
        };
        let address = address.map(|address| address.to_string());
        let mut known = self.known();
        if self.is_vm() && known.address != address {
            (known.access, known.shell) = (None, None);
            known.address = address;
        }
    }

    /// Returns a VM as the cloud reports it, but reached through the platform's account.
    pub(super) fn through_account(&self, node: ObservedNode) -> ObservedNode {
        ObservedNode {
            ssh: self.ssh(),
            ..node
        }
    }

    fn ssh(&self) -> SshAddress {
        SshAddress {
            user: ACCOUNT.to_owned(),
            port: self.spec.port,
            host_keys: self.known().host_keys.clone(),
        }
    }

    /// Returns the machine as a node that is running, as far as is known.
    pub(super) fn observed(&self, boot: Option<String>) -> ObservedNode {
        let address = {
            let known = self.known();
            let fixed = known.address.as_ref();
            known.resolved.or_else(|| fixed?.parse().ok())
        };
        let private = match self.spec.place {
            HostPlace::Address {
                private_address, ..
            } => private_address.or(address),
            HostPlace::Vm { .. } => address,
        };
        ObservedNode {
            name: self.node.clone(),
            provider_id: format!("{}:{}", self.spec.name(), self.spec.port),
            power: Power::Running,
            addresses: Addresses {
                private,
                public: address.filter(|_| self.is_outside && private != address),
            },
            ssh: self.ssh(),
            boot_id: boot,
            created: false,
            open_ports: OpenPorts::default(),
        }
    }

    /// Finds out who owns the machine.
    ///
    /// A machine of this platform that does not respond remains this platform's: nothing on it may
    /// start elsewhere. The same holds if the machine rejects the platform's account, unless the
    /// machine is being removed.
    pub(super) async fn standing(&self, platform: PlatformId) -> Result<Standing> {
        match self.inspected(platform).await {
            Ok(Some(standing)) => Ok(standing),
            Ok(None) => self.assumed(None),
            Err(error) => self.assumed(Some(error)),
        }
    }

    /// Finds out from the machine itself who owns it. Returns `None` if the machine rejects the
    /// platform's account and no other login is known.
    pub(super) async fn inspected(&self, platform: PlatformId) -> Result<Option<Standing>> {
        let Some(Inspected {
            boot,
            owner,
            has_account,
        }) = self.inspect().await?
        else {
            return Ok(None);
        };
        self.known().boot = Some(boot.clone());
        let boot = Some(boot);
        Ok(Some(match owner {
            None => Standing::Unowned { boot },
            Some(mark) if mark.platform != platform.to_string() => Standing::Theirs,
            Some(mark) if mark.node != self.node.as_str() => {
                Standing::OtherNode { name: mark.node }
            }
            Some(_) if has_account => Standing::Ours { boot },
            Some(_) => Standing::Incomplete { boot },
        }))
    }

    /// Returns whether a VM with the declared name is another one than the platform has taken over.
    pub(super) fn is_another(&self, vm: &ObservedNode) -> bool {
        let id = self.spec.id.as_ref();
        id.is_some_and(|id| *id != vm.provider_id)
    }

    /// Returns whether the machine is a VM that the platform has not taken over.
    pub(super) fn is_new_vm(&self) -> bool {
        self.spec.is_new_vm()
    }

    pub(super) fn is_released(&self) -> bool {
        self.known().is_released
    }

    /// Records that the machine does not belong to the platform.
    pub(super) fn leave(&self) {
        self.known().is_released = true;
    }

    /// Returns the host keys of the latest connection.
    pub(super) fn host_keys(&self) -> Vec<String> {
        self.known().host_keys.clone()
    }

    /// Returns who owns the machine, although it could not be inspected: because of an error, or
    /// because it rejects the platform's account and no other login is known.
    fn assumed(&self, error: Option<Error>) -> Result<Standing> {
        let (boot, is_released) = {
            let known = self.known();
            (known.boot.clone(), known.is_released)
        };
        match (self.spec.membership, error) {
            _ if is_released => Ok(Standing::Unowned { boot: None }),
            // The last step of a release removes the account.
            (Membership::Removed, None) => Ok(Standing::Unowned { boot: None }),
            (Membership::Member | Membership::Removed, _) => Ok(Standing::Ours { boot }),
            (Membership::New, Some(error)) => Err(error),
            (Membership::New, None) => Err(self.no_login()),
        }
    }

    /// Returns why the platform cannot use the machine, if the reason is known: an account or a host
    /// key that is rejected or invalid, or a new machine that does not respond. A machine of the
    /// platform may be down for a while.
    pub(super) async fn problem(&self, platform: PlatformId) -> Option<Error> {
        let node = &self.node;
        let conflict =
            |why: String| Some(Error::conflict(format!("using machine {node} failed"), why));
        match (self.standing(platform).await, self.spec.membership) {
            (Err(error), _) => Some(error),
            (Ok(Standing::Theirs), _) => conflict("it belongs to another platform".into()),
            (Ok(Standing::OtherNode { name }), _) => conflict(format!("it is node {name} already")),
            (Ok(_), Membership::Member) => match self.inspect().await {
                Err(error @ (Error::Denied { .. } | Error::Corrupt { .. })) => Some(error),
                Ok(None) => Some(self.no_login()),
                _ => None,
            },
            (Ok(_), Membership::New | Membership::Removed) => None,
        }
    }

    /// Returns the error for a machine that rejects the platform's account.
    pub(super) fn no_login(&self) -> Error {
        Error::denied(
            format!(
                "the login of the platform's account `{ACCOUNT}` to {}",
                self.host()
            ),
            "the machine rejects the account, and no other login is declared",
            "run `bootstrapper up` with the password or key of the machine's declared account",
        )
    }

    /// Returns what the machine reports, through the platform's account or, if the machine does not
    /// accept it, through the declared account. Returns `None` if it rejects the platform's account
    /// and no other login is known.
    async fn inspect(&self) -> Result<Option<Inspected>> {
        let is_rejected = self.known().is_rejected;
        if !is_rejected && self.access().await?.accepts_account().await? {
            let inspection = HostCommand::new(enrolment::inspection());
            let output = self.run(inspection).await?;
            return parse(&output, true).map(Some);
        }
        let Some(login) = &self.login else {
            return Ok(None);
        };
        self.known().is_rejected = true;
        if !login.is_declared() && self.spec.membership != Membership::New {
            return Ok(None);
        }
        let shell = self.shell(login).await?;
        let output = shell.run(&enrolment::inspection(), QUICK).await?;
        let output = output.success("inspecting the machine")?;
        parse(&output, false).map(Some)
    }

    async fn shell(&self, login: &Login) -> Result<Arc<RootShell>> {
        if let Some(shell) = &self.known().shell {
            return Ok(Arc::clone(shell));
        }
        let shell = Arc::new(login.open(&self.target().await?, TIMINGS).await?);
        self.known().shell = Some(Arc::clone(&shell));
        Ok(shell)
    }

    /// Returns the current boot.
    pub(super) async fn boot(&self) -> Result<String> {
        let inspection = HostCommand::new(enrolment::inspection());
        let output = self.run(inspection).await?;
        let boot = parse(&output, true)?.boot;
        self.known().boot = Some(boot.clone());
        Ok(boot)
    }

    /// Takes the machine over, and returns its boot. Continues if this was interrupted.
    pub(super) async fn enrol(&self, owner: &Owner, public_key: &str) -> Result<String> {
        let host = self.host();
        let Some(login) = &self.login else {
            return Err(Error::unsupported(
                format!("taking over {host}"),
                "the manager, which has no login to the machine",
            ));
        };
        let shell = self.shell(login).await?;
        let script = enrolment::script(owner, &self.node, public_key);
        let output = shell.run(&script, ENROLLED_WITHIN).await?;
        enrolment::enrolled(output, &host)?;
        {
            let mut known = self.known();
            (known.is_released, known.is_rejected, known.access) = (false, false, None);
        }
        if self.access().await?.accepts_account().await? {
            self.known().shell = None;
            return self.boot().await;
        }
        let release = enrolment::release(owner.id);
        if let Err(error) = shell.run(&release, RELEASED_WITHIN).await {
            tracing::warn!(error = %error.chain(), "the account on {host} could not be removed");
        }
        Err(Error::denied(
            format!("the login of the platform's account `{ACCOUNT}` to {host}"),
            "the SSH server rejects the account, which was removed again",
            format!(
                "let the SSH server accept `{ACCOUNT}` with a public key: check `AllowUsers`, \
                 `AllowGroups`, `AuthorizedKeysFile` and `PubkeyAuthentication` in sshd_config"
            ),
        ))
    }

    /// Removes the platform's account and files.
    pub(super) async fn release(&self, platform: PlatformId) -> Result<()> {
        let script = enrolment::release(platform);
        let shell = self.known().shell.clone();
        let released = if let Some(shell) = shell {
            // The machine was not completely taken over.
            shell.run(&script, RELEASED_WITHIN).await
        } else {
            let command = HostCommand::new(script).as_root().within(RELEASED_WITHIN);
            self.access().await?.exec(command).await
        };
        released?.success(&format!("releasing {}", self.host()))?;
        // The account of the connection no longer exists.
        let mut known = self.known();
        (known.access, known.is_released) = (None, true);
        Ok(())
    }

    /// Restarts the machine, and returns before the restart has ended.
    pub(super) async fn reboot(&self) -> Result<()> {
        let reboot = HostCommand::new(enrolment::reboot());
        match self.run(reboot.as_root()).await {
            // The machine may end the connection before the command has ended.
            Ok(_) | Err(Error::Unreachable { .. } | Error::Interrupted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs a short command through the platform's account.
    async fn run(&self, command: HostCommand) -> Result<String> {
        let access = self.access().await?;
        let output = match access.exec(command.within(QUICK)).await {
            Err(error @ (Error::Unreachable { .. } | Error::TimedOut { .. })) => {
                self.forget_address();
                return Err(error);
            }
            output => output?,
        };
        output.success(&format!("a command on {}", self.host()))
    }

    async fn access(&self) -> Result<Arc<SshAccess>> {
        let target = self.target().await?;
        let mut known = self.known();
        if let Some(access) = &known.access {
            return Ok(Arc::clone(access));
        }
        let key = SshCredential::PrivateKey(self.key.clone());
        let access = Arc::new(SshAccess::new(target, &key, TIMINGS)?);
        known.access = Some(Arc::clone(&access));
        Ok(access)
    }

    /// Returns the address, with the host keys that are pinned. Trusts the host key of a new machine
    /// on first use.
    async fn target(&self) -> Result<SshTarget> {
        let address = self.resolve().await?;
        let pinned = self.known().host_keys.clone();
        let host_keys = if pinned.is_empty() {
            let found = offered_host_key(&self.node, address, self.spec.port, TIMINGS).await?;
            let mut known = self.known();
            if known.host_keys.is_empty() {
                known.host_keys = vec![found];
            }
            known.host_keys.clone()
        } else {
            pinned
        };
        Ok(SshTarget {
            node: self.node.clone(),
            address,
            port: self.spec.port,
            user: ACCOUNT.to_owned(),
            host_keys,
        })
    }

    async fn resolve(&self) -> Result<IpAddr> {
        let failed = |why: String| {
            let what = format!(
                "the address of machine {} (`{}`)",
                self.node,
                self.spec.name()
            );
            Error::unreachable(what, Some(why.into()))
        };
        let Some(address) = self.known().address.clone() else {
            return Err(failed("the cloud reports no address".into()));
        };
        if let Ok(address) = address.parse() {
            return Ok(address);
        }
        if let Some(resolved) = self.known().resolved {
            return Ok(resolved);
        }
        let name = (address.as_str(), self.spec.port);
        let mut found = tokio::net::lookup_host(name)
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Services use IPv4, so an IPv4 address is preferred.
        let first = found.next();
        let address = first
            .into_iter()
            .chain(found)
            .min_by_key(SocketAddr::is_ipv6);
        let address = address.ok_or_else(|| failed("the name has no address".into()))?;
        self.known().resolved = Some(address.ip());
        Ok(address.ip())
    }

    /// Resolves the machine's name again before the next connection.
    fn forget_address(&self) {
        let mut known = self.known();
        let is_name = |address: &String| address.parse::<IpAddr>().is_err();
        if known.address.as_ref().is_some_and(is_name) {
            (known.resolved, known.access) = (None, None);
        }
    }

    /// Returns the machine's node and location, for messages.
    pub(super) fn host(&self) -> String {
        let (node, name) = (&self.node, self.spec.name());
        if self.is_vm() {
            return format!("VM {name} (node {node})");
        }
        format!("machine {node} ({name}:{})", self.spec.port)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(output: &str, has_account: bool) -> Result<Inspected> {
    let mut lines = output
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let boot = lines.next().map(str::to_owned);
    let boot = boot.ok_or_else(|| Error::failed("reading the machine's boot", "no output"))?;
    let owner = lines.next().and_then(|line| line.split_once(' '));
    Ok(Inspected {
        boot,
        owner: owner.map(|(platform, node)| Mark {
            platform: platform.to_owned(),
            node: node.to_owned(),
        }),
        has_account,
    })
}
