//! Reads `platform.toml`: the cloud, nodes, manager, registry and code store.
//! `docs/platform-toml.md` describes every key. Without `platform.toml`, all defaults apply.

pub(super) mod cloud;
pub(super) mod code;
pub(super) mod hosts;

use std::collections::BTreeMap;

use self::cloud::Provider;
use self::code::Code;
use super::azure::CodeStoreSpec;
use super::compose::{named, value};
use super::database;
use super::diagnostic::Report;
use super::secret_reference::SecretReader;
use super::tree::{Field, Node};
use super::{CloudSpec, Credentials, HostsSpec, ManagerSpec, NetworkSpec, NodeLogin, RegistrySpec};
use crate::cloud::CloudDeadlines;
use crate::model::{Existing, NodeName, NodeSpec, PlatformName, Resources};
use crate::network::Block;

pub(super) const TOP: [&str; 8] = [
    "cloud",
    "code",
    "manager",
    "name",
    "network",
    "node_pool",
    "nodes",
    "registry",
];
/// The keys of a node, without those that are only for existing machines.
pub(super) const NODE: [&str; 4] = ["capacity", "image", "labels", "size"];
pub(super) const POOL: [&str; 6] = ["capacity", "count", "image", "labels", "name", "size"];
pub(super) const CAPACITY: [&str; 2] = ["cpus", "memory"];
pub(super) const MANAGER: [&str; 2] = ["node", "port"];
pub(super) const NETWORK: [&str; 2] = ["block", "wait"];

/// The images of local nodes.
pub(super) const LOCAL_IMAGES: [&str; 2] = ["ready", "bare"];
/// The name prefix of the default nodes, which are used if no nodes are declared.
const POOL_NAME: &str = "node";
/// The maximum number of nodes.
pub(super) const MAX_NODES: u32 = 10_000;

/// The settings in `platform.toml`.
pub(super) struct Settings {
    pub(super) name: Option<PlatformName>,
    pub(super) cloud: CloudSpec,
    pub(super) deadlines: CloudDeadlines,
    pub(super) nodes: BTreeMap<NodeName, NodeSpec>,
    /// `None` only if no usable node is declared; the report contains the reason.
    pub(super) manager: Option<ManagerSpec>,
    /// The directory of code bases, relative to the Compose file.
    pub(super) code_path: String,
    /// Where code bases are stored.
    pub(super) code_store: CodeStoreSpec,
    /// The credentials for the cloud and the code store.
    pub(super) credentials: Credentials,
    pub(super) registry: RegistrySpec,
    pub(super) network: NetworkSpec,
}

/// Reads the tree of `platform.toml`. `root` is `None` if the platform has no such file.
/// `undeclared` is the number of default nodes, which are used if the file declares no nodes.
pub(super) fn read(
    root: Option<&Node>,
    undeclared: u16,
    secrets: SecretReader<'_>,
    report: &mut Report,
) -> Settings {
    let cloud_field = root.and_then(|root| Field::root(root).get("cloud"));
    let provider = Provider::of(cloud_field.as_ref());
    let mut reader = Reader {
        report,
        provider,
        secrets,
        nodes: BTreeMap::new(),
        hosts: HostsSpec::default(),
        logins: BTreeMap::new(),
        first: None,
    };
    let mut name = None;
    let mut cloud = CloudSpec::default();
    let mut deadlines = CloudDeadlines::default();
    let mut credentials = Credentials::default();
    let mut manager = None;
    let mut code = Code::default();
    let mut registry = RegistrySpec::default();
    let mut network = NetworkSpec::default();
    let entries = root.map(|root| Field::root(root).entries(reader.report));
    for (key, field) in entries.unwrap_or_default() {
        match key {
            "name" => name = field.parse(reader.report, named),
            "cloud" => {
                (cloud, deadlines) = cloud::read(&field, secrets, &mut credentials, reader.report);
            }
            "nodes" => {
                for (name, node) in field.entries(reader.report) {
                    reader.node(name, &node);
                }
            }
            "node_pool" => {
                for pool in field.items(reader.report) {
                    reader.pool(&pool);
                }
            }
            "manager" => manager = Some(field),
            "registry" => registry = database::read(&field, secrets, reader.report),
            "network" => network = reader.network(&field),
            "code" => code = code::read(&field, secrets, &mut credentials, reader.report),
            _ => reader.report.unknown_key(field.at, &field.path, key, TOP),
        }
    }
    // Default nodes exist only where the provider can create them.
    if !declares_nodes(root) && provider != Provider::Hosts {
        let names = (1..=undeclared.max(1)).map(|number| format!("{POOL_NAME}-{number}"));
        for name in names.filter_map(|name| NodeName::try_from(name).ok()) {
            reader.add(NodeSpec::new(name));
        }
    }
    let manager = reader.manager(manager.as_ref());
    match &mut cloud {
        CloudSpec::Hosts(spec) => *spec = reader.hosts,
        CloudSpec::Azure(spec) => {
            spec.hosts = reader.hosts;
            let jump_host = cloud_field.and_then(|cloud| cloud.get("jump_host"));
            if let Some(field) = jump_host.filter(|_| !spec.hosts.is_empty()) {
                field.problem_with_help(
                    reader.report,
                    "nodes that exist already are not reached through a jump host",
                    "run the bootstrapper where it reaches all nodes, without `jump_host`",
                );
            }
        }
        CloudSpec::Local { .. } => {}
    }
    credentials.nodes = reader.logins;
    Settings {
        name,
        cloud,
        deadlines,
        nodes: reader.nodes,
        manager,
        code_path: code.path,
        code_store: code.store,
        credentials,
        registry,
        network,
    }
}

/// The settings that nodes and pools share.
#[derive(Clone, Default)]
struct Properties {
    /// The sizes, in order of preference.
    sizes: Vec<String>,
    image: Option<String>,
    labels: BTreeMap<String, String>,
    capacity: Option<Resources>,
    existing: Option<Existing>,
}

impl Properties {
    fn of(self, name: NodeName) -> NodeSpec {
        NodeSpec {
            size: self.sizes.first().cloned(),
            alternatives: self.sizes.into_iter().skip(1).collect(),
            image: self.image,
            labels: self.labels,
            capacity: self.capacity,
            existing: self.existing,
            ..NodeSpec::new(name)
        }
    }
}

struct Reader<'r> {
    report: &'r mut Report,
    /// Determines which keys of a node are valid.
    provider: Provider,
    secrets: SecretReader<'r>,
    nodes: BTreeMap<NodeName, NodeSpec>,
    /// The machines of nodes that exist already.
    hosts: HostsSpec,
    logins: BTreeMap<NodeName, NodeLogin>,
    /// The node that comes first in the file.
    first: Option<NodeName>,
}

impl Reader<'_> {
    fn add(&mut self, node: NodeSpec) {
        self.first.get_or_insert_with(|| node.name.clone());
        self.nodes.insert(node.name.clone(), node);
    }

    fn node(&mut self, name: &str, field: &Field<'_>) {
        let existing = hosts::kind(self.provider, field, self.report);
        let properties = self.properties(field, &NODE, existing);
        match NodeName::try_from(name) {
            Ok(name) => {
                if let Some(existing) = existing {
                    self.host(&name, existing, field);
                }
                self.add(properties.of(name));
            }
            Err(error) => self
                .report
                .problem(field.at, &field.path, error.to_string()),
        }
    }

    /// Reads the machine of a node that exists already.
    fn host(&mut self, name: &NodeName, existing: Existing, field: &Field<'_>) {
        let Some((host, login)) = hosts::read(existing, field, self.secrets, self.report) else {
            return;
        };
        let mut others = self.hosts.hosts.iter();
        if let Some((other, _)) = others.find(|(_, other)| other.is_at(&host)) {
            let why = match existing {
                Existing::Host => format!("the node `{other}` has the same address and port"),
                Existing::Vm => format!("the node `{other}` is the same VM"),
            };
            field.problem(self.report, why);
            return;
        }
        self.hosts.hosts.insert(name.clone(), host);
        self.logins.insert(name.clone(), login);
    }

    fn pool(&mut self, field: &Field<'_>) {
        if self.provider == Provider::Hosts {
            field.problem_with_help(
                self.report,
                "existing machines cannot be declared as a pool",
                "declare each machine as `[nodes.<name>]`, with its address",
            );
            return;
        }
        let properties = self.properties(field, &POOL, None);
        let name = field.get("name").and_then(|name| name.text(self.report));
        let count = field
            .get("count")
            .and_then(|count| count.number(self.report, 0, MAX_NODES));
        for key in ["name", "count"] {
            if field.get(key).is_none() {
                field.problem(self.report, format!("`{key}` is missing"));
            }
        }
        let (Some(name), Some(count)) = (name, count) else {
            return;
        };
        for index in 1..=count {
            match NodeName::try_from(format!("{name}-{index}")) {
                Ok(name) if self.nodes.contains_key(&name) => {
                    field.problem(self.report, format!("the node `{name}` is declared twice"));
                }
                Ok(name) => self.add(properties.clone().of(name)),
                Err(error) => {
                    field.problem(self.report, error.to_string());
                    return;
                }
            }
        }
    }

    fn properties(
        &mut self,
        field: &Field<'_>,
        known: &'static [&'static str],
        existing: Option<Existing>,
    ) -> Properties {
        let mut spec = Properties {
            existing,
            ..Properties::default()
        };
        // A pool has none of the keys that make a node an existing machine.
        let is_node = known == NODE;
        for (key, field) in field.entries(self.report) {
            if !hosts::is_valid_key(key, existing, &field, self.report) {
                continue;
            }
            match key {
                "size" => spec.sizes = cloud::words(&field, self.report),
                "image" => {
                    spec.image = match self.provider {
                        Provider::Local => field
                            .word(self.report, &LOCAL_IMAGES.map(|image| (image, image)))
                            .map(str::to_owned),
                        Provider::Azure | Provider::Hosts => field.parse(self.report, cloud::image),
                    };
                }
                "labels" => {
                    for (label, value) in field.entries(self.report) {
                        if let Some(value) = value.text(self.report) {
                            spec.labels.insert(label.to_owned(), value.to_owned());
                        }
                    }
                }
                "capacity" => spec.capacity = self.capacity(&field),
                key if known.contains(&key) || is_node && hosts::HOST.contains(&key) => {}
                _ => {
                    let own = if existing.is_some() {
                        &hosts::HOST[..]
                    } else {
                        &[]
                    };
                    let known = known.iter().chain(own).copied();
                    self.report.unknown_key(field.at, &field.path, key, known);
                }
            }
        }
        spec
    }

    fn capacity(&mut self, field: &Field<'_>) -> Option<Resources> {
        let mut cpus = None;
        let mut memory = None;
        for (key, field) in field.entries(self.report) {
            match key {
                "cpus" => cpus = field.parse(self.report, value::cpu_millis),
                "memory" => memory = field.parse(self.report, value::bytes),
                _ => self
                    .report
                    .unknown_key(field.at, &field.path, key, CAPACITY),
            }
        }
        for key in CAPACITY {
            if field.is_map() && field.get(key).is_none() {
                field.problem(self.report, format!("`{key}` is missing"));
            }
        }
        Some(Resources {
            cpu_millis: cpus?,
            memory_bytes: memory?,
        })
    }

    fn manager(&mut self, field: Option<&Field<'_>>) -> Option<ManagerSpec> {
        let mut port = ManagerSpec::PORT;
        let mut node = self.first.clone();
        for (key, field) in field.map(|f| f.entries(self.report)).unwrap_or_default() {
            match key {
                "port" => {
                    let number = field.number(self.report, 1, u32::from(u16::MAX));
                    port = number.and_then(|n| u16::try_from(n).ok()).unwrap_or(port);
                }
                "node" => {
                    if let Some(name) = field.text(self.report) {
                        let known = self.nodes.keys().find(|node| node.as_str() == name);
                        if known.is_none() {
                            self.report.unknown_name(
                                field.value_at(),
                                &field.path,
                                format!("the node `{name}` is not declared"),
                                name,
                                self.nodes.keys().map(NodeName::as_str),
                            );
                        }
                        node = known.cloned();
                    }
                }
                _ => self.report.unknown_key(field.at, &field.path, key, MANAGER),
            }
        }
        if self.nodes.is_empty() && !self.report.has_problems() {
            self.report.file_problem(
                "no nodes are declared",
                match self.provider {
                    Provider::Hosts => "declare each machine as `[nodes.<name>]`, with its address",
                    Provider::Local | Provider::Azure => {
                        "set the `count` of a pool above 0, or declare `[nodes.<name>]`"
                    }
                },
            );
        }
        node.map(|node| ManagerSpec { node, port })
    }

    fn network(&mut self, field: &Field<'_>) -> NetworkSpec {
        let mut network = NetworkSpec::default();
        for (key, field) in field.entries(self.report) {
            match key {
                "block" => {
                    let block = field.parse(self.report, |text| {
                        text.parse::<Block>().map_err(|error| error.to_string())
                    });
                    network.block = block.unwrap_or(network.block);
                }
                "wait" => {
                    let wait = field.parse(self.report, value::duration);
                    network.wait = wait.unwrap_or(network.wait);
                }
                _ => self.report.unknown_key(field.at, &field.path, key, NETWORK),
            }
        }
        network
    }
}

/// Returns whether the file declares nodes. Invalid declarations count, so that default nodes do
/// not replace them.
pub(super) fn declares_nodes(root: Option<&Node>) -> bool {
    root.is_some_and(|root| {
        let root = Field::root(root);
        root.get("node_pool").is_some()
            || root
                .get("nodes")
                .is_some_and(|nodes| !nodes.entries(&mut Report::new("")).is_empty())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::model::Kind;
    use crate::platform::{HostPlace, Membership, secret_reference, toml};

    fn secrets() -> SecretReader<'static> {
        SecretReader {
            directory: Path::new("/nowhere"),
            lookup: &|name| match name {
                "URL" => Some("postgres://l:hunter2@db/registry\n".into()),
                "SECRET" => Some("s3cret\n".into()),
                _ => None,
            },
        }
    }

    fn settings(text: &str) -> Result<Settings, String> {
        let mut report = Report::new("platform.toml");
        let node = toml::parse(text, &mut report);
        let settings = read(node.as_ref(), 1, secrets(), &mut report);
        match Report::problems_of(vec![report]) {
            Some(problems) => Err(problems.to_string()),
            None => Ok(settings),
        }
    }

    fn names(settings: &Settings) -> Vec<&str> {
        settings.nodes.keys().map(NodeName::as_str).collect()
    }

    #[test]
    fn defaults_to_one_local_node_with_the_manager() {
        let mut report = Report::new("platform.toml");
        let settings = read(None, 1, secrets(), &mut report);
        assert!(!report.has_problems());
        assert_eq!(names(&settings), ["node-1"]);
        assert_eq!(settings.cloud, CloudSpec::Local { subnet: None });
        let manager = settings.manager.unwrap();
        assert_eq!((manager.node.as_str(), manager.port), ("node-1", 7443));
    }

    #[test]
    fn every_key_is_read() {
        let settings = settings(
            "name = \"demo\"\n[cloud]\nprovider = \"local\"\nsubnet = \"10.42.0.0/24\"\n\
             [nodes.zeta]\nsize = \"s\"\nimage = \"bare\"\nlabels = { zone = \"a\" }\n\
             capacity = { cpus = 2, memory = \"4GiB\" }\n[nodes.alpha]\n\
             [[node_pool]]\nname = \"worker\"\ncount = 2\nlabels = { role = \"work\" }\n\
             [manager]\nport = 8443\n[code]\nstore = \"directory\"\npath = \"./src/\"\n",
        )
        .unwrap();
        assert_eq!(names(&settings), ["alpha", "worker-1", "worker-2", "zeta"]);
        assert_eq!(settings.name.unwrap().as_str(), "demo");
        assert_eq!(settings.code_path, "src");
        assert!(settings.code_store.is_default());
        let manager = settings.manager.unwrap();
        assert_eq!((manager.node.as_str(), manager.port), ("zeta", 8443));
        let zeta = &settings.nodes[&manager.node];
        assert_eq!(zeta.size.as_deref(), Some("s"));
        assert_eq!(zeta.image.as_deref(), Some("bare"));
        assert_eq!(zeta.labels["zone"], "a");
        let capacity = zeta.capacity.unwrap();
        assert_eq!(
            (capacity.cpu_millis, capacity.memory_bytes),
            (2000, 4 << 30)
        );
    }

    #[test]
    fn the_registry_is_in_a_file_by_default_and_can_be_in_databases() {
        assert!(settings("").unwrap().registry.is_default());
        let registry = settings(
            "[registry]\nurl = { env = \"URL\" }\nnodes = \"postgres://l@db/nodes\"\n\
             models = { env = \"URL\" }\n",
        )
        .unwrap()
        .registry;
        let central = registry.central.unwrap();
        assert_eq!(central.expose(), "postgres://l:hunter2@db/registry");
        let kinds: Vec<Kind> = registry.kinds.into_keys().collect();
        assert_eq!(kinds, [Kind::Nodes], "models are in the central database");
    }

    #[test]
    fn the_page_describes_every_key() {
        let page = include_str!("../../../../docs/platform-toml.md");
        let registry: Vec<&str> = database::keys().collect();
        for keys in [
            &TOP[..],
            &cloud::CLOUD,
            &NODE,
            &hosts::HOST,
            &POOL,
            &CAPACITY,
            &MANAGER,
            &code::CODE,
            &NETWORK,
            &registry,
            &cloud::LOGIN,
            &cloud::JUMP_HOST,
            &cloud::DEADLINES,
            &cloud::METHODS,
            &cloud::PROVIDERS,
            &code::STORES,
            &secret_reference::REFERENCE,
        ] {
            for key in keys {
                assert!(page.contains(&format!("`{key}`")), "`{key}` is missing");
            }
        }
    }

    const AZURE: &str = "[cloud]\nprovider = \"azure\"\nlocation = \"westeurope\"\n\
        subscription = \"22222222-2222-2222-2222-222222222222\"\n";

    #[test]
    fn reads_azure_settings_with_separate_secrets() {
        let settings = settings(&format!(
            "{AZURE}size = [\"Standard_B2s\", \"Standard_B2ms\"]\nzones = [\"1\", \"2\"]\n\
             deadlines = {{ create = \"45m\", stop = \"90s\" }}\n\
             ssh_from = \"203.0.113.7\"\npublic_ip = false\nendpoint = \"https://10.0.0.1:7\"\n\
             login = {{ method = \"client-secret\", tenant = \"t\", client = \"c\", \
             secret = {{ env = \"SECRET\" }} }}\n\
             jump_host = {{ address = \"bastion.example:2222\", user = \"ops\", \
             host_key = \"ssh-ed25519 AAAA\", key = {{ env = \"SECRET\" }} }}\n\
             [nodes.n1]\nimage = \"Debian:debian-12:12-gen2:latest\"\n\
             [code]\nstore = \"azure-files\"\naccount = \"files\"\nshare = \"code\"\n\
             key = {{ env = \"SECRET\" }}\n"
        ))
        .unwrap();
        let CloudSpec::Azure(azure) = &settings.cloud else {
            panic!("{:?}", settings.cloud);
        };
        assert_eq!(azure.sizes, ["Standard_B2s", "Standard_B2ms"]);
        assert_eq!(azure.zones, ["1", "2"]);
        assert_eq!(settings.deadlines.create, Duration::from_mins(45));
        assert_eq!(settings.deadlines.stop, Duration::from_secs(90));
        assert_eq!(settings.deadlines.start, CloudDeadlines::default().start);
        assert_eq!(azure.ssh_from, ["203.0.113.7"]);
        assert!(!azure.public_ip);
        let jump_host = azure.jump_host.as_ref().unwrap();
        assert_eq!(
            (jump_host.host.as_str(), jump_host.port),
            ("bastion.example", 2222)
        );
        assert_eq!(azure.login_of_manager(), Some(azure.login.clone()));
        let credentials = &settings.credentials;
        assert_eq!(credentials.cloud().unwrap().expose(), "s3cret");
        assert_eq!(credentials.code().unwrap().expose(), "s3cret");
        assert!(credentials.of_manager().jump_host.is_none());
        let in_clear = serde_json::to_string(&(&settings.cloud, &settings.code_store)).unwrap();
        assert!(!in_clear.contains("s3cret"));
        assert!(!settings.code_store.is_default());
    }

    const HOSTS: &str = "[cloud]\nprovider = \"hosts\"\n";

    #[test]
    fn reads_machines_that_exist_already() {
        let settings = settings(&format!(
            "{HOSTS}[nodes.hub]\naddress = \"203.0.113.7\"\nprivate_address = \"10.0.0.7\"\n\
             user = \"admin\"\npassword = {{ env = \"SECRET\" }}\nlabels = {{ zone = \"a\" }}\n\
             [nodes.edge]\naddress = \"edge.example\"\nport = 2222\nuser = \"root\"\n\
             host_key = \"ssh-ed25519 AAAA\"\nkey = {{ env = \"NONE\" }}\n"
        ))
        .unwrap();
        assert_eq!(names(&settings), ["edge", "hub"]);
        assert_eq!(settings.manager.unwrap().node.as_str(), "hub");
        let CloudSpec::Hosts(spec) = &settings.cloud else {
            panic!("{:?}", settings.cloud);
        };
        let (edge, hub) = (
            NodeName::try_from("edge").unwrap(),
            NodeName::try_from("hub").unwrap(),
        );
        let place = HostPlace::Address {
            address: "203.0.113.7".into(),
            private_address: Some([10, 0, 0, 7].into()),
        };
        assert_eq!(spec.hosts[&hub].place, place);
        assert_eq!((spec.hosts[&edge].port, spec.hosts[&hub].port), (2222, 22));
        assert_eq!(spec.hosts[&edge].host_keys, ["ssh-ed25519 AAAA"]);
        let logins = &settings.credentials.nodes;
        assert_eq!(logins[&hub].password.as_ref().unwrap().expose(), "s3cret");
        let unavailable = logins[&edge].unavailable.as_deref().unwrap();
        assert!(unavailable.contains("`NONE`"), "{unavailable}");
        assert!(settings.credentials.of_manager().nodes.is_empty());
        let in_clear = serde_json::to_string(&settings.cloud).unwrap();
        assert!(!in_clear.contains("s3cret"));
    }

    #[test]
    fn reports_problems_of_existing_machines() {
        let node = |keys: &str| format!("{HOSTS}[nodes.a]\nuser = \"u\"\n{keys}\n");
        for (text, expected) in [
            (HOSTS.to_owned(), "declare each machine"),
            (node(""), "`address` is missing"),
            (node("address = \"10.0.0.1:22\""), "a separate key, `port`"),
            (node("address = \"a b\""), "not an IP address or host name"),
            (
                node("address = \"a\"\nprivate_address = \"b\""),
                "not an IP address",
            ),
            (
                node("address = \"a\"\nsize = \"s\""),
                "the machine exists already",
            ),
            (
                node("address = \"a\"\npassword = \"s3cret\""),
                "secret in clear",
            ),
            (node("address = \"a\"\npasword = \"x\""), "`password`"),
            (
                node("address = \"a\"\n[nodes.b]\naddress = \"a\"\nuser = \"u\""),
                "same address",
            ),
            (
                format!("{HOSTS}[[node_pool]]\nname = \"n\"\ncount = 2\n"),
                "as a pool",
            ),
            (
                format!("{HOSTS}location = \"x\"\n"),
                "not valid for machines that exist",
            ),
            (
                "[nodes.a]\naddress = \"a\"\n".to_owned(),
                "provider = \"hosts\"",
            ),
            (
                format!("{HOSTS}[nodes.a]\naddress = \"a\"\nuser = \"-o x\""),
                "name of an account",
            ),
        ] {
            let problems = settings(&text).err().unwrap_or_default();
            assert!(problems.contains(expected), "{text}: {problems}");
            assert!(!problems.contains("s3cret"), "{problems}");
        }
    }

    #[test]
    fn reads_existing_machines_of_an_azure_platform() {
        let login = "login = { method = \"client-secret\", tenant = \"t\", client = \"c\", \
                     secret = { env = \"SECRET\" } }\n";
        let azure = |nodes: &str| settings(&format!("{AZURE}{login}{nodes}"));
        let settings = azure(
            "[nodes.new]\nsize = \"s\"\n\
             [nodes.db]\nexisting = \"DB_Server\"\nuser = \"op\"\npassword = { env = \"SECRET\" }\n\
             [nodes.edge]\nprovider = \"hosts\"\naddress = \"10.1.0.9\"\nuser = \"root\"\n",
        )
        .unwrap();
        let existing = settings.nodes.values().map(|node| node.existing);
        let existing: Vec<_> = existing.collect();
        let expected = [Some(Existing::Vm), Some(Existing::Host), None];
        assert_eq!(existing, expected);
        let hosts = settings.cloud.hosts().unwrap();
        let [db, edge, new] = ["db", "edge", "new"].map(|name| NodeName::try_from(name).unwrap());
        assert_eq!(hosts.vms().collect::<Vec<_>>(), [(&db, "DB_Server")]);
        assert_eq!(hosts.hosts[&edge].name(), "10.1.0.9");
        assert!(settings.cloud.host(&new).is_none());
        assert!(settings.credentials.nodes[&db].password.is_some());
        // The stored form of a platform can be read again.
        let stored = serde_json::to_string(&settings.cloud).unwrap();
        assert!(!stored.contains("s3cret"));
        let read: CloudSpec = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, settings.cloud);
        // A node cannot become another machine while the first one belongs to the platform.
        let mut before = settings.cloud.clone();
        let CloudSpec::Azure(spec) = &mut before else {
            panic!("{before:?}");
        };
        for host in spec.hosts.hosts.values_mut() {
            host.membership = Membership::Member;
        }
        for changed in [
            "existing = \"other\"\nuser = \"op\"\n",
            "provider = \"hosts\"\naddress = \"10.1.0.9\"\nuser = \"op\"\n",
        ] {
            let mut next = azure(&format!("[nodes.db]\n{changed}")).unwrap().cloud;
            next.continue_from(&before);
            let host = next.host(&db).unwrap();
            assert_eq!(
                (host.name(), host.membership),
                ("DB_Server", Membership::Removed)
            );
        }
        let mut next = azure("[nodes.db]\nexisting = \"db_server\"\nuser = \"op\"\n")
            .unwrap()
            .cloud;
        next.continue_from(&before);
        assert_eq!(next.host(&db).unwrap().membership, Membership::Member);

        for (nodes, expected) in [
            (
                "existing = \"v\"\naddress = \"a\"",
                "not valid for VMs of Azure",
            ),
            (
                "existing = \"v\"\nsize = \"s\"\nuser = \"u\"",
                "exists already",
            ),
            ("existing = \"v\"", "`user = \"admin\"`"),
            (
                "existing = \"v\"\nuser = \"u\"\n[nodes.b]\nexisting = \"V\"\nuser = \"u\"",
                "same VM",
            ),
            ("existing = \"g/v\"\nuser = \"u\"", "not the name of a VM"),
            (
                "existing = \"v\"\nprovider = \"hosts\"",
                "exclude each other",
            ),
            ("provider = \"azure\"", "hosts"),
            ("provider = \"hosts\"\nuser = \"u\"", "`address` is missing"),
            ("user = \"u\"", "only for existing machines"),
            (
                "existing = \"v\"\nuser = \"u\"\n[nodes.b]\nexisting = \"v\"\nuser = \"u\"",
                "same VM",
            ),
        ] {
            let problems = azure(&format!("[nodes.a]\n{nodes}\n")).err();
            let problems = problems.unwrap_or_default();
            assert!(problems.contains(expected), "{nodes}: {problems}");
        }
        let local = self::settings("[nodes.a]\nexisting = \"v\"\n")
            .err()
            .unwrap();
        assert!(local.contains("cannot exist already"), "{local}");
    }

    #[test]
    fn a_host_key_that_was_trusted_on_first_use_remains_pinned() {
        let parse = |text: &str| settings(&format!("{HOSTS}{text}")).unwrap().cloud;
        let node = |name: &str, more: &str| {
            format!("[nodes.{name}]\naddress = \"{name}.example\"\nuser = \"u\"\n{more}\n")
        };
        let [a, b] = ["a", "b"].map(|name| NodeName::try_from(name).unwrap());
        let mut previous = parse(&(node("a", "") + &node("b", "")));
        let CloudSpec::Hosts(spec) = &mut previous else {
            panic!("{previous:?}");
        };
        for host in spec.hosts.values_mut() {
            host.host_keys = vec!["pinned".into()];
            host.membership = Membership::Member;
        }
        let mut next = parse(&node("a", ""));
        next.continue_from(&previous);
        assert_eq!(next.host(&a).unwrap().host_keys, ["pinned"]);
        assert_eq!(next.host(&a).unwrap().membership, Membership::Member);
        assert_eq!(next.host(&b).unwrap().membership, Membership::Removed);
        let mut next = parse(&node("a", "host_key = \"new\""));
        next.continue_from(&previous);
        assert_eq!(next.host(&a).unwrap().host_keys, ["new"]);
        let mut next = parse(&node("a", "port = 23"));
        next.continue_from(&previous);
        assert_eq!(next.host(&a).unwrap().membership, Membership::Member);
        let mut moved = parse(&node("a", "port = 23\nhost_key = \"new\""));
        moved.continue_from(&previous);
        for host in [next.host(&a).unwrap(), moved.host(&a).unwrap()] {
            assert_eq!(host.host_keys, ["pinned"], "another machine is rejected");
        }
    }

    #[test]
    fn rejects_azure_if_the_manager_cannot_log_in() {
        for login in [
            "",
            "login = \"azure-cli\"\n",
            "login = \"workload-identity\"\n",
        ] {
            let problems = settings(&format!("{AZURE}{login}")).err().unwrap();
            assert!(problems.contains("`identity`"), "{problems}");
        }
        let identity = "identity = \"/subscriptions/s/resourceGroups/g/providers/\
            Microsoft.ManagedIdentity/userAssignedIdentities/lifecycle\"\n";
        settings(&format!("{AZURE}{identity}")).unwrap();
        settings(&format!("{AZURE}login = \"managed-identity\"\n")).unwrap();
    }

    #[test]
    fn reports_problems_of_azure_settings_without_secrets() {
        let client = "login = { method = \"client-secret\", tenant = \"t\", client = \"c\"";
        for (text, expected) in [
            (
                "[cloud]\nsubscription = \"x\"\n".to_owned(),
                "not valid for local nodes",
            ),
            (
                "[cloud]\nprovider = \"azure\"\n".to_owned(),
                "`subscription` is missing",
            ),
            (format!("{AZURE}{client} }}\n"), "`secret` is missing"),
            (
                format!("{AZURE}{client}, secret = \"s3cret\" }}\n"),
                "secret in clear",
            ),
            (
                format!("{AZURE}{client}, secret = {{ env = \"NONE\" }} }}\n"),
                "`NONE` is not set",
            ),
            (
                format!("{AZURE}endpoint = \"http://10.0.0.1\"\n"),
                "must start with `https://`",
            ),
            (format!("{AZURE}zones = \"west\"\n"), "is not a zone"),
            (
                "[cloud]\ndeadlines = { create = \"1s\" }\n".to_owned(),
                "too short",
            ),
            (
                "[cloud]\ndeadlines = { make = \"1h\" }\n".to_owned(),
                "unknown key",
            ),
            (format!("{AZURE}image = \"debian\"\n"), "is not an image"),
            (format!("{AZURE}ca = \"absent.pem\"\n"), "cannot be read"),
            (format!("{AZURE}sise = \"x\"\n"), "`size`"),
            (
                "[code]\nshare = \"x\"\n".to_owned(),
                "not valid for the store `directory`",
            ),
            (
                "[code]\nstore = \"azure-files\"\naccount = \"files\"\nshare = \"code\"\n"
                    .to_owned(),
                "`key` or `sas` is missing",
            ),
        ] {
            let problems = settings(&text).err().unwrap_or_default();
            assert!(problems.contains(expected), "{text}: {problems}");
            assert!(!problems.contains("s3cret"), "{problems}");
        }
    }
}
