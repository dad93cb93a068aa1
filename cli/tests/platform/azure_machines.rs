//! Tests the VMs that the provider creates on a simulated Azure. Each VM is a local container with
//! SSH, cloud-init, an engine, and a firewall.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifecycle_azure::simulator::{
    CLIENT, CLIENT_SECRET, STORAGE_ACCOUNT, STORAGE_SHARE, SUBSCRIPTION, TENANT,
};
use lifecycle_azure::{Azure, AzureOptions, Login};
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange, ObservedNode, Power, carry_out};
use lifecycle_core::host::{HostCommand, NodeAccess as _};
use lifecycle_core::model::{NodeName, NodeSpec, PlatformId, PlatformName};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{SshAccess, SshCredential, SshTarget, SshTimings, generate_ssh_key};
use serde_json::{Value, json};

use crate::docker::{self, Belongings};
use crate::project::Project;
use crate::simulated_azure::{Ports, Settings, SimulatedAzure};
use crate::subprocess::until;

/// Time limit for each wait. It is long, because the image may have to be built first.
const LIMIT: Duration = Duration::from_mins(15);
/// Time limit for a command. It is longer than the limits inside the commands, which report more.
const COMMAND: Duration = Duration::from_mins(5);
/// Time limit for a connection attempt, which would hang if a firewall drops the packets.
const KNOCK: Duration = Duration::from_secs(2);

/// A simulated Azure with machines, and a platform that uses it.
struct Stage {
    azure: SimulatedAzure,
    provider: Azure,
    key: SshCredential,
    /// The last field, so that the simulator stops before the machines are removed.
    left: Left,
}

impl Stage {
    async fn new() -> Self {
        docker::require();
        let directory = tempfile::tempdir().unwrap();
        let azure = start(directory.path()).await;
        let pair = generate_ssh_key().unwrap();
        let owner = Owner {
            id: PlatformId::new(RandomIds.uuid()),
            name: PlatformName::try_from("machines").unwrap(),
        };
        let mut options = AzureOptions::new(SUBSCRIPTION, "westeurope", owner, pair.public);
        options.login = Login::ClientSecret {
            tenant: TENANT.to_owned(),
            client: CLIENT.to_owned(),
            secret: Sensitive::new(CLIENT_SECRET),
        };
        options.network = ([10, 91, 0, 0].into(), 24);
        options.endpoint = azure.simulator.secure_endpoint();
        options.authority_host = Some(azure.simulator.secure_endpoint());
        options.certificate_authority = Some(azure.simulator.authority_pem());
        options.poll_every = Duration::from_millis(100);
        Self {
            azure,
            provider: Azure::new(options).unwrap(),
            key: SshCredential::PrivateKey(pair.private),
            left: Left(directory),
        }
    }

    async fn change(&self, change: NodeChange) {
        carry_out(&self.provider, change, LIMIT).await.unwrap();
    }

    async fn provision(&self, name: &str) {
        let spec = NodeSpec::new(node(name));
        self.change(NodeChange::Provision { spec }).await;
    }

    async fn seen(&self, name: &str) -> ObservedNode {
        self.provider.get(&node(name)).await.unwrap().unwrap()
    }

    /// Runs a command on a machine over SSH. Returns the output.
    async fn run(&self, on: &ObservedNode, script: &str) -> String {
        let target = SshTarget {
            node: on.name.clone(),
            address: outside(on),
            port: on.ssh.port,
            user: on.ssh.user.clone(),
            host_keys: on.ssh.host_keys.clone(),
        };
        let access = SshAccess::new(target, &self.key, SshTimings::default()).unwrap();
        let command = HostCommand::new(script).as_root().within(COMMAND);
        access.exec(command).await.unwrap().success(script).unwrap()
    }
}

/// Starts a simulator that stores its data in `directory`.
async fn start(directory: &Path) -> SimulatedAzure {
    let settings = Settings {
        engine: Some(PathBuf::from("/var/run/docker.sock")),
        directory: directory.to_owned(),
        listen: None,
        names: Vec::new(),
        ports: Ports::default(),
        record: None,
    };
    SimulatedAzure::start(settings).await.unwrap()
}

/// The directory of a simulator. Dropping this value removes the machines that a failed test left
/// behind.
struct Left(tempfile::TempDir);

impl Left {
    /// Returns the ids that label the machines' containers: one id for each subnet.
    fn owners(&self) -> Vec<String> {
        let owners = std::fs::read_dir(self.0.path().join("machines")).unwrap();
        let names = owners.map(|note| note.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Returns the containers, networks, and volumes of the machines.
    fn belongings(&self) -> Vec<Belongings> {
        self.owners().iter().map(|id| Belongings::of(id)).collect()
    }

    fn machines(&self) -> usize {
        self.belongings()
            .iter()
            .map(|one| one.containers.len())
            .sum()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        for left in self.belongings() {
            left.remove();
        }
    }
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn outside(on: &ObservedNode) -> IpAddr {
    on.addresses.public.unwrap()
}

/// Returns whether this machine can connect to a port.
fn answers(on: &ObservedNode, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(outside(on), port), KNOCK).is_ok()
}

const FIRST_BOOT: &str = "timeout 240 cloud-init status --wait > /dev/null; \
                          cat /var/lib/cloud/data/result.json || \
                          { tail -n 4 /var/log/cloud-init.log >&2; false; }";
const ENGINE: &str = "timeout 60 sh -c 'until docker version > /dev/null 2>&1; do sleep 0.2; done'; \
                      docker info --format '{{.Name}}'";
const TOKEN: &str = "python3 -c 'import json, urllib.request as r; print(json.load(r.urlopen(r.Request(\
                     \"http://169.254.169.254/metadata/identity/oauth2/token\
                     ?api-version=2018-02-01&resource=https://management.azure.com/\", \
                     headers={\"Metadata\": \"true\"}), timeout=10))[\"token_type\"])'";

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_the_simulated_azure_are_real_hosts() {
    let stage = Stage::new().await;
    tokio::join!(stage.provision("vm1"), stage.provision("vm2"));
    let (one, two) = (stage.seen("vm1").await, stage.seen("vm2").await);

    assert_eq!(one.ssh.host_keys.len(), 1, "{one:?}");
    assert_eq!(one.ssh.user, "lifecycle");
    let result = stage.run(&one, FIRST_BOOT).await;
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["v1"]["errors"], json!([]), "{result}");
    assert_eq!(stage.run(&one, ENGINE).await.trim(), "vm1");
    assert_eq!(stage.run(&one, "hostname").await.trim(), "vm1");
    assert_eq!(stage.run(&one, TOKEN).await.trim(), "Bearer");

    // From this machine, only the SSH port is reachable. From another VM in the network, all ports
    // are.
    stage
        .run(&one, "setsid python3 -m http.server 8080 > /dev/null 2>&1 < /dev/null & \
                    timeout 30 sh -c 'until ss -Hltn \"sport = :8080\" | grep -q .; do sleep 0.1; done'")
        .await;
    assert!(!answers(&one, 8080));
    assert!(answers(&one, 22));
    let knock = format!(
        "timeout 20 bash -c 'exec 3<> /dev/tcp/{}/8080' && echo open",
        one.addresses.private.unwrap()
    );
    assert_eq!(stage.run(&two, &knock).await.trim(), "open");

    // A stopped machine does not respond. After a start, the machine has the same keys, addresses,
    // and engine.
    stage.provider.fence(&node("vm1")).await.unwrap();
    assert!(!answers(&one, 22));
    assert_eq!(stage.seen("vm1").await.power, Power::Stopped);
    stage.change(NodeChange::Start { node: node("vm1") }).await;
    let again = stage.seen("vm1").await;
    assert_eq!(again.ssh.host_keys, one.ssh.host_keys);
    assert_eq!(again.addresses, one.addresses);
    assert_eq!(stage.run(&again, ENGINE).await.trim(), "vm1");
    let instances = stage
        .run(&again, "ls /var/lib/cloud/instances | wc -l")
        .await;
    assert_eq!(instances.trim(), "1");

    assert_eq!(stage.left.machines(), 2);
    stage.change(NodeChange::Delete { node: node("vm1") }).await;
    assert_eq!(stage.left.machines(), 1);

    // A new simulator in the same directory removes what a killed simulator left behind.
    let Stage { azure, left, .. } = stage;
    drop(azure);
    let noted = left.owners();
    assert_eq!((noted.len(), left.machines()), (1, 1));
    let next = start(left.0.path()).await;
    assert!(Belongings::of(&noted[0]).is_empty());
    assert!(left.owners().is_empty());
    next.stop().await.unwrap();
}

#[test]
fn command_prints_its_addresses_and_runs_until_terminated() {
    let project = Project::new();
    let directory = project.path("azure");
    let record = project.path("requests");
    let arguments = [
        "--json",
        "azure-simulator",
        "--state-only",
        "--directory",
        directory.to_str().unwrap(),
        "--record",
        record.to_str().unwrap(),
        "--http=0",
        "--https=0",
        "--files-http=0",
        "--files-https=0",
    ];
    let running = project.start(&arguments);
    let key = directory.join("storage-key");
    until("the simulator is listening", LIMIT, || {
        key.exists().then_some(())
    });
    for secret in ["client-secret", "storage-key"] {
        let mode = std::fs::metadata(directory.join(secret)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let second = project.ends(1, &arguments);
    assert!(second.stderr.contains("another"), "{}", second.stderr);

    let finished = running.terminate(LIMIT);
    assert!(finished.status.success(), "{}", finished.stderr);
    let document: Value = serde_json::from_str(&finished.stdout).unwrap();
    let endpoint = document["endpoint"].as_str().unwrap();
    assert!(endpoint.starts_with("https://127.0.0.1:"), "{endpoint}");
    let settings = document["platform_toml"].as_str().unwrap();
    assert!(settings.contains(endpoint), "{settings}");
    assert!(!settings.contains(CLIENT_SECRET), "{settings}");
    assert!(record.exists());
    // The printed platform.toml must work without changes.
    project.compose("  web: {image: \"debian:bookworm-slim\"}\n");
    project.write("platform.toml", settings);
    project.ends(0, &["plan", "--simulate"]);
}

/// A simulator in the default directory is the operator's own, so its users need no option.
#[test]
fn commands_trust_the_addresses_of_the_simulator_in_the_default_directory() {
    let project = Project::new();
    let arguments = [
        "azure-simulator",
        "--state-only",
        "--http=0",
        "--https=0",
        "--files-http=0",
        "--files-https=0",
    ];
    let running = project.start(&[&["--json"], &arguments[..]].concat());
    let addresses = project.configuration_file("lifecycle/azure-simulator/addresses");
    let addresses = until("the simulator is listening", LIMIT, || {
        std::fs::read_to_string(&addresses).ok()
    });
    // Each service is listed with each name of its certificate.
    let addresses: Vec<&str> = addresses.lines().collect();
    let (endpoint, files) = (addresses[0], addresses[addresses.len() / 2]);
    let file = |name: &str| {
        let file = project
            .configuration_file("lifecycle/azure-simulator")
            .join(name);
        file.display().to_string()
    };
    let declare = |ca: &str| {
        let login = format!(
            "login = {{ method = \"client-secret\", tenant = \"{TENANT}\", client = \"{CLIENT}\", \
             secret = {{ file = \"{}\" }} }}",
            file("client-secret")
        );
        project.write(
            "platform.toml",
            &format!(
                "[cloud]\nprovider = \"azure\"\nsubscription = \"{SUBSCRIPTION}\"\n\
                 location = \"westeurope\"\nendpoint = \"{endpoint}\"\n\
                 authority = \"{endpoint}\"\nca = \"{ca}\"\n{login}\n\
                 [code]\nstore = \"azure-files\"\naccount = \"{STORAGE_ACCOUNT}\"\n\
                 share = \"{STORAGE_SHARE}\"\nkey = {{ file = \"{}\" }}\n\
                 endpoint = \"{files}\"\nca = \"{ca}\"\n",
                file("storage-key")
            ),
        );
    };
    project.compose("  web: {image: \"debian:bookworm-slim\"}\n");
    declare(&file("ca.pem"));
    project.ends(0, &["plan"]);
    // With another certificate authority, another server could be at the address.
    let other = std::fs::read_to_string(file("ca.pem")).unwrap() + "\n# another file\n";
    project.write("other.pem", &other);
    declare("other.pem");
    let refused = project.ends(1, &["plan"]);
    assert!(
        refused.stderr.contains("--trust-address"),
        "{}",
        refused.stderr
    );
    project.ends(
        0,
        &[
            "plan",
            "--trust-address",
            endpoint,
            "--trust-address",
            files,
        ],
    );

    let finished = running.terminate(LIMIT);
    assert!(finished.status.success(), "{}", finished.stderr);
    declare(&file("ca.pem"));
    project.ends(1, &["plan"]);
}
