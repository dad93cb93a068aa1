//! Tests the provider of machines that exist already, with containers as machines.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fixture::TestHost;
use lifecycle_core::Error;
use lifecycle_core::Result;
use lifecycle_core::cloud::{
    AdoptedMachine, AdoptionState, CloudProvider, MachineLogin, MachineSpec, NodeChange, carry_out,
};
use lifecycle_core::conformance::cloud::{self, CloudBench};
use lifecycle_core::host::SshKeyPair;
use lifecycle_core::model::{Existing, NodeName, NodeSpec};
use lifecycle_core::platform::{HostPlace, HostSpec, HostsSpec, Membership, NodeLogin};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{Hosts, MixedCloud, generate_ssh_key};

/// The password of the account `ops`.
const PASSWORD: &str = "ops-pw";

fn node() -> NodeName {
    NodeName::try_from("vm1").unwrap()
}

fn spec(machine: &TestHost, user: &str) -> HostsSpec {
    let host = HostSpec {
        place: HostPlace::Address {
            address: machine.address.to_string(),
            private_address: None,
        },
        port: 22,
        user: user.into(),
        host_keys: Vec::new(),
        membership: Membership::New,
        id: None,
    };
    HostsSpec {
        hosts: BTreeMap::from([(node(), host)]),
    }
}

fn password(text: &str) -> NodeLogin {
    NodeLogin {
        password: Some(Sensitive::new(text)),
        ..NodeLogin::default()
    }
}

/// A platform that may use one machine.
#[derive(Debug)]
struct Platform {
    owner: Owner,
    ssh: SshKeyPair,
    spec: HostsSpec,
    login: NodeLogin,
    /// Whether the machines are nodes together with those of another cloud.
    is_mixed: bool,
}

impl Platform {
    fn new(machine: &TestHost, user: &str, login: NodeLogin) -> Self {
        Self {
            owner: fixture::owner(),
            ssh: generate_ssh_key().unwrap(),
            spec: spec(machine, user),
            login,
            is_mixed: false,
        }
    }

    fn provider(&self) -> Hosts {
        let logins = BTreeMap::from([(node(), self.login.clone())]);
        Hosts::for_bootstrapper(&self.spec, &logins, self.owner.clone(), &self.ssh)
    }

    fn cloud(&self) -> Box<dyn CloudProvider> {
        let hosts = self.provider();
        if !self.is_mixed {
            return Box::new(hosts);
        }
        let none = HostsSpec::default();
        let other = Hosts::for_manager(&none, self.owner.clone(), &self.ssh);
        Box::new(MixedCloud::new(Arc::new(other), hosts))
    }
}

#[derive(Debug)]
struct Bench {
    ours: Platform,
    theirs: Platform,
}

#[async_trait]
impl CloudBench for Bench {
    fn ours(&self) -> Box<dyn CloudProvider> {
        self.ours.cloud()
    }

    fn theirs(&self) -> Box<dyn CloudProvider> {
        self.theirs.cloud()
    }

    fn nodes(&self) -> [NodeSpec; 2] {
        [node(), node()].map(|name| NodeSpec {
            existing: Some(Existing::Host),
            ..NodeSpec::new(name)
        })
    }

    async fn add_unowned(&self, _: &NodeSpec) -> Result<()> {
        Ok(())
    }

    async fn remove_unowned(&self, _: &NodeName) -> Result<()> {
        Ok(())
    }
}

/// Returns the files and accounts that a platform could leave on a machine.
async fn traces(machine: &TestHost) -> String {
    let list = "ls -A /etc/sudoers.d /home /var/lib/lifecycle 2>/dev/null; \
                cut -d: -f1 /etc/passwd /etc/group; id -nG ops";
    machine.exec(list).await
}

#[tokio::test]
async fn existing_machines_pass_the_cloud_suite() {
    let machine = TestHost::rebooting().await;
    machine.requires_password_for_sudo().await;
    let before = traces(&machine).await;
    for is_mixed in [false, true] {
        let platform = || Platform {
            is_mixed,
            ..Platform::new(&machine, "ops", password(PASSWORD))
        };
        let bench = Bench {
            ours: platform(),
            theirs: platform(),
        };
        cloud::all(&bench).await.unwrap();
        assert_eq!(traces(&machine).await, before, "a release leaves no traces");
    }
}

#[tokio::test]
async fn a_machine_is_taken_over_once_and_without_the_password_afterwards() {
    let machine = TestHost::alone().await;
    let mut platform = Platform::new(&machine, "ops", password(PASSWORD));
    let adopted = platform.provider().adopt(&node()).await.unwrap();
    assert_eq!(adopted.ssh.user, "lifecycle");
    assert_eq!(adopted.addresses.private, Some(machine.address));
    let key = &adopted.ssh.host_keys[0];
    assert!(machine.host_key.starts_with(key.as_str()), "{key}");
    assert_eq!(machine.exec("id -nG ops").await, "ops sudo");

    // Later, neither the bootstrapper nor the manager need the declared account.
    machine
        .exec("userdel --force ops 2>/dev/null || true")
        .await;
    platform.login = NodeLogin::default();
    let host = platform.spec.hosts.get_mut(&node()).unwrap();
    host.host_keys.clone_from(&adopted.ssh.host_keys);
    host.membership = Membership::Member;
    let manager = Hosts::for_manager(&platform.spec, platform.owner.clone(), &platform.ssh);
    for cloud in [&platform.provider(), &manager] {
        assert_eq!(cloud.list().await.unwrap(), std::slice::from_ref(&adopted));
        assert_eq!(cloud.adopt(&node()).await.unwrap(), adopted);
    }

    // A machine that does not respond remains a node, because services may run on it.
    fixture::docker(&["pause", &machine.name]).await;
    let listed = manager.list().await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&adopted), "while paused");
    fixture::docker(&["unpause", &machine.name]).await;

    // So does a machine with another host key, but nothing is sent to it.
    let mut machine = machine;
    machine.renew_host_keys().await;
    let report = platform
        .provider()
        .preflight(&[NodeSpec::new(node())])
        .await;
    let problems = report.unwrap().problems.join("; ");
    assert!(problems.contains("host key changed"), "{problems}");
    let cloud = platform.provider();
    assert_eq!(cloud.list().await.unwrap().len(), 1);
    let change = NodeChange::Delete { node: node() };
    let released = carry_out(&cloud, change, Duration::from_mins(1)).await;
    let error = released.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn root_keys_and_agents_can_log_in() {
    let machine = TestHost::bare().await;
    let directory = tempfile::tempdir().unwrap();
    let (socket, key) = (directory.path().join("agent"), directory.path().join("key"));
    let ssh = generate_ssh_key().unwrap();
    std::fs::write(&key, ssh.private.expose()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let authorize = format!(
        "install -d -m 700 /root/.ssh && echo '{}' > /root/.ssh/authorized_keys && \
         apt-get -qq remove -y sudo >/dev/null 2>&1; ! command -v sudo",
        ssh.public
    );
    // Debian's sudo refuses its removal while root has no password.
    machine
        .exec(&format!(
            "SUDO_FORCE_REMOVE=yes; export SUDO_FORCE_REMOVE; {authorize}"
        ))
        .await;

    let with_key = NodeLogin {
        key: Some(ssh.private.clone()),
        ..NodeLogin::default()
    };
    let platform = Platform::new(&machine, "root", with_key);
    let cloud = platform.provider();
    cloud.adopt(&node()).await.unwrap();
    let change = NodeChange::Delete { node: node() };
    carry_out(&cloud, change, Duration::from_mins(1))
        .await
        .unwrap();

    let mut agent = tokio::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .kill_on_drop(true)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("this test needs ssh-agent: apt-get install openssh-client");
    while !socket.exists() {
        assert!(agent.try_wait().unwrap().is_none(), "the agent ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let added = tokio::process::Command::new("ssh-add")
        .arg(&key)
        .env("SSH_AUTH_SOCK", &socket)
        .output();
    assert!(added.await.unwrap().status.success());
    let platform = Platform::new(&machine, "root", NodeLogin::default());
    let logins = BTreeMap::new();
    let with_agent = |socket| {
        let owner = platform.owner.clone();
        Hosts::for_bootstrapper(&platform.spec, &logins, owner, &platform.ssh).with_agent(socket)
    };
    with_agent(Some(socket)).adopt(&node()).await.unwrap();
    let other = Platform::new(&machine, "root", NodeLogin::default());
    let error = other
        .provider()
        .with_agent(None)
        .adopt(&node())
        .await
        .unwrap_err();
    assert!(
        error.hint().is_some_and(|hint| hint.contains("ssh-add")),
        "{error:?}"
    );
}

#[tokio::test]
async fn refuses_wrong_logins_and_foreign_machines() {
    let machine = TestHost::bare().await;
    machine.requires_password_for_sudo().await;
    let adopt = async |user: &str, login: NodeLogin| {
        let platform = Platform::new(&machine, user, login);
        let error = platform.provider().adopt(&node()).await.unwrap_err();
        let text = format!(
            "{error:?} {} {}",
            error.chain(),
            error.hint().unwrap_or_default()
        );
        assert!(!text.contains(PASSWORD), "{text}");
        text
    };
    let text = adopt("ops", password("wrong")).await;
    assert!(text.contains("rejected account `ops`"), "{text}");
    let text = adopt("plain", password("plain-pw")).await;
    assert!(text.contains("not in the sudoers file"), "{text}");
    let text = adopt(
        "ops",
        NodeLogin {
            unavailable: Some("the variable `PW` (`nodes.vm1.password`) is not set".into()),
            ..NodeLogin::default()
        },
    )
    .await;
    assert!(text.contains("`PW`"), "{text}");

    machine.exec("useradd lifecycle").await;
    let text = adopt("ops", password(PASSWORD)).await;
    assert!(text.contains("no platform created"), "{text}");
    machine.exec("userdel lifecycle").await;

    let first = Platform::new(&machine, "ops", password(PASSWORD));
    first.provider().adopt(&node()).await.unwrap();
    let second = Platform::new(&machine, "ops", password(PASSWORD));
    let report = second.provider().preflight(&[NodeSpec::new(node())]).await;
    let problems = report.unwrap().problems.join("; ");
    assert!(problems.contains("another platform"), "{problems}");
    let error = second.provider().adopt(&node()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

/// The manager takes over a machine that no file declares.
#[tokio::test]
async fn a_machine_is_adopted_at_run_time() {
    let machine = TestHost::bare().await;
    machine.requires_password_for_sudo().await;
    let before = traces(&machine).await;
    let none = HostsSpec::default();
    let platform = Platform::new(&machine, "ops", NodeLogin::default());
    let second = Platform::new(&machine, "ops", NodeLogin::default());
    let hosts = |of: &Platform| Hosts::for_manager(&none, of.owner.clone(), &of.ssh);
    let mixed = MixedCloud::new(Arc::new(hosts(&platform)), hosts(&platform));
    let clouds: [&dyn CloudProvider; 2] = [&hosts(&platform), &mixed];
    let login = |password: &str| MachineLogin {
        password: Some(Sensitive::new(password)),
        key: None,
    };
    let found = MachineSpec {
        address: machine.address.to_string(),
        private_address: None,
        port: 22,
        user: "ops".into(),
        host_keys: Vec::new(),
    };
    let adopted = |machine: &MachineSpec, state| {
        let machine = machine.clone();
        BTreeMap::from([(node(), AdoptedMachine { machine, state })])
    };
    for cloud in clouds {
        let wrong = cloud.check_machine(&node(), &found, &login("wrong")).await;
        assert!(matches!(wrong, Err(Error::Denied { .. })), "{wrong:?}");
        let pinned = cloud.check_machine(&node(), &found, &login(PASSWORD)).await;
        let pinned = pinned.unwrap();
        assert!(machine.host_key.starts_with(&pinned.host_keys[0]));
        assert_eq!(traces(&machine).await, before, "a check changes nothing");

        // While the machine is not recorded as a node, it is not listed.
        for _ in 0..2 {
            let (name, login) = (node(), login(PASSWORD));
            let taken_over = cloud.take_over_machine(&name, &pinned, &login);
            taken_over.await.unwrap();
        }
        assert_eq!(cloud.list().await.unwrap(), []);
        cloud.set_adopted_machines(&adopted(&pinned, AdoptionState::Node));
        let listed = cloud.list().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].boot_id.is_some(), "{listed:?}");
        assert_eq!(listed[0].ssh.user, "lifecycle");

        let theirs = hosts(&second);
        let refused = theirs
            .check_machine(&node(), &found, &login(PASSWORD))
            .await;
        assert!(
            matches!(refused, Err(Error::Conflict { .. })),
            "{refused:?}"
        );
        let other = NodeName::try_from("vm2").unwrap();
        let refused = cloud.check_machine(&other, &pinned, &login(PASSWORD)).await;
        assert!(
            matches!(refused, Err(Error::Conflict { .. })),
            "{refused:?}"
        );

        // The first login is not needed any more, and a machine that does not respond remains a node.
        cloud
            .take_over_machine(&node(), &pinned, &MachineLogin::default())
            .await
            .unwrap();
        cloud.set_adopted_machines(&adopted(&pinned, AdoptionState::Leaving));
        fixture::docker(&["pause", &machine.name]).await;
        assert_eq!(cloud.list().await.unwrap().len(), 1);
        fixture::docker(&["unpause", &machine.name]).await;
        let change = NodeChange::Delete { node: node() };
        carry_out(cloud, change, Duration::from_mins(1))
            .await
            .unwrap();
        assert_eq!(cloud.list().await.unwrap(), []);
        assert_eq!(traces(&machine).await, before, "a release leaves no traces");
        cloud.set_adopted_machines(&adopted(&pinned, AdoptionState::Unclear));
        assert_eq!(cloud.list().await.unwrap(), []);
        cloud.set_adopted_machines(&BTreeMap::new());
    }
}

#[tokio::test]
async fn interrupted_changes_are_continued() {
    let machine = TestHost::bare().await;
    let platform = Platform::new(&machine, "ops", password(PASSWORD));
    let mark = |node: &str| {
        let id = platform.owner.id;
        format!("mkdir -p /var/lib/lifecycle && echo '{id} {node}' > /var/lib/lifecycle/owner")
    };
    // The machine was claimed, and then the bootstrapper ended.
    machine.exec(&mark("vm1")).await;
    let listed = platform.provider().list().await.unwrap();
    assert_eq!(listed.len(), 1, "services may run on the machine");
    platform.provider().adopt(&node()).await.unwrap();
    machine
        .exec("userdel --force --remove lifecycle 2>/dev/null")
        .await;
    let cloud = platform.provider();
    let change = || NodeChange::Delete { node: node() };
    let limit = Duration::from_mins(1);
    carry_out(&cloud, change(), limit).await.unwrap();
    assert_eq!(
        machine
            .exec("ls /var/lib/lifecycle 2>/dev/null || true")
            .await,
        ""
    );

    // The machine is another node of this platform.
    machine.exec(&mark("vm2")).await;
    let error = platform.provider().adopt(&node()).await.unwrap_err();
    assert!(error.to_string().contains("node vm2"), "{error}");
    let cloud = platform.provider();
    carry_out(&cloud, change(), limit).await.unwrap();
    assert!(
        machine
            .exec("cat /var/lib/lifecycle/owner")
            .await
            .contains("vm2")
    );

    // A release was interrupted before the account was removed.
    machine
        .exec("rm -r /var/lib/lifecycle && useradd --comment 'lifecycle manager' lifecycle")
        .await;
    platform.provider().adopt(&node()).await.unwrap();
    assert_eq!(platform.provider().list().await.unwrap().len(), 1);
}
