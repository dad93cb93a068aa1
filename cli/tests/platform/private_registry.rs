//! Tests that nodes pull images from a registry that requires a login, with the login of the user's
//! machine, and that this login is stored nowhere else in clear text.

use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use lifecycle_core::api::Authority;
use lifecycle_core::clock::{Clock as _, IdSource as _, RandomIds, SystemClock};
use lifecycle_core::model::PlatformId;
use tempfile::TempDir;

use crate::docker::{Network, Node, call, docker};
use crate::https::Https;
use crate::project::Project;
use crate::rollouts::NODES;
use crate::secrets::{are_not_in, both, command_lines, files_with};
use crate::subprocess::{Running, start, until};

const BASE: &str = "debian:bookworm-slim";

const USER: &str = "ann";

/// The password contains characters that the two alphabets of base64 encode differently.
const PASSWORD: &str = "planted~at?the>registry~~41c7";

/// The password as bcrypt. The low cost makes requests fast.
const BCRYPT: &str = "$2b$04$Dk4vYSivByHqgLaZaRbNc.Mdsk2Qw9A5jshwwLhSkmK7MigQ/iEpO";

/// Debian's `docker-registry` with TLS and a password. Dropping the value stops the server.
struct PrivateRegistry {
    directory: TempDir,
    _server: Running,
    port: u16,
    /// The address at which nodes reach the registry.
    host: String,
}

impl PrivateRegistry {
    fn start(address: IpAddr) -> Self {
        let program = Command::new("docker-registry").arg("--version").output();
        assert!(
            program.is_ok_and(|output| output.status.success()),
            "this test needs a registry of images: apt-get install docker-registry"
        );
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let now = SystemClock.now();
        let id = PlatformId::new(RandomIds.uuid());
        let authority = Authority::generate(id, now).unwrap();
        let identity = authority.issue(id, address, now).unwrap();
        let port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let shown = root.display();
        let configuration = format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: {shown}/images}}}}\n\
             http:\n  \
               addr: 0.0.0.0:{port}\n  \
               secret: of-the-registry\n  \
               tls: {{certificate: {shown}/server.pem, key: {shown}/server.key}}\n\
             auth: {{htpasswd: {{realm: test, path: {shown}/htpasswd}}}}\n"
        );
        for (file, text) in [
            ("ca.pem", authority.certificate.as_str()),
            ("server.pem", &identity.certificates),
            ("server.key", identity.key.expose()),
            ("htpasswd", &format!("{USER}:{BCRYPT}\n")),
            ("registry.yml", &configuration),
        ] {
            std::fs::write(root.join(file), text).unwrap();
        }
        let mut serve = Command::new("docker-registry");
        let server = start(serve.arg("serve").arg(root.join("registry.yml")));
        until("the registry listens", Duration::from_secs(20), || {
            TcpStream::connect((address, port)).ok()
        });
        Self {
            directory,
            _server: server,
            port,
            host: format!("{address}:{port}"),
        }
    }

    /// Stores the base image under this name. Returns the name for nodes.
    fn push(&self, name: &str) -> String {
        // An engine accepts any certificate of a registry at a loopback address.
        let here = format!("127.0.0.1:{}", self.port);
        let image = format!("{here}/private/{name}:1");
        let configuration = self.directory.path().join("docker");
        log_in(&configuration, &here, PASSWORD);
        docker(&["tag", BASE, &image]);
        let configuration = configuration.to_str().unwrap();
        let pushed = call(&["--config", configuration, "push", &image]);
        docker(&["image", "rm", &image]);
        assert!(pushed.status.success(), "{}", pushed.stderr);
        format!("{}/private/{name}:1", self.host)
    }

    /// Lets a node's engine accept the registry's certificate.
    fn is_trusted_by(&self, node: &Node) {
        let directory = format!("/etc/docker/certs.d/{}", self.host);
        node.exec(&["mkdir", "-p", &directory]);
        let ca = self.directory.path().join("ca.pem");
        let target = format!("{}:{directory}/ca.crt", node.container);
        docker(&["cp", ca.to_str().unwrap(), &target]);
    }
}

/// Writes the configuration that `docker login` writes.
fn log_in(configuration: &Path, registry: &str, password: &str) {
    let auth = STANDARD.encode(format!("{USER}:{password}"));
    let text = format!("{{\"auths\": {{\"{registry}\": {{\"auth\": \"{auth}\"}}}}}}");
    std::fs::create_dir_all(configuration).unwrap();
    std::fs::write(configuration.join("config.json"), text).unwrap();
}

/// Returns the password and its encodings in base64, wherever it is in the encoded text.
fn forms() -> Vec<(&'static str, String)> {
    let mut forms = vec![("password", PASSWORD.to_owned())];
    for alphabet in [&STANDARD, &URL_SAFE] {
        for before in 0..3 {
            let encoded = alphabet.encode(format!("{}{PASSWORD}", &"xxx"[..before]));
            // The first and last characters also depend on the neighbors of the password.
            let kept = &encoded[4..encoded.len() - 4];
            forms.push(("password in base64", kept.to_owned()));
        }
    }
    forms
}

fn services(images: &[String; 2]) -> String {
    let [one, two] = images;
    let service = |name: &str, image: &str, node: &str| {
        format!(
            "
  {name}:
    image: {image}
    command: [perl, -e, \"$$SIG{{TERM}} = sub {{ exit }}; sleep 1 while 1\"]
    deploy: {{placement: {{constraints: [\"node.hostname == {node}\"]}}}}
"
        )
    };
    service("one", one, "a") + &service("two", two, "b")
}

#[test]
fn private_images_are_pulled_with_the_login_of_the_user() {
    let project = Project::new();
    let network = Network::new(&format!("{}-registry", project.name));
    let registry = PrivateRegistry::start(network.gateway());
    let host = registry.host.as_str();
    let images = ["one", "two"].map(|name| registry.push(name));
    project.set("LIFECYCLE_LOG", "trace");
    project.write("platform.toml", NODES);
    let public = [BASE.to_owned(), BASE.to_owned()];
    project.compose(&services(&public));
    project.ends(0, &["up"]);
    let nodes = Node::all(&project.id());
    for node in nodes.values() {
        registry.is_trusted_by(node);
    }

    project.compose(&services(&images));
    let denied = project.ends(1, &["up"]).stderr;
    let denied_by = format!("the registry {host} denied access");
    let command = format!("`docker login {host}`");
    for part in [denied_by.as_str(), "found no credentials", &command] {
        assert!(denied.contains(part), "{part}: {denied}");
    }

    log_in(&project.docker_configuration(), host, PASSWORD);
    let plan = project.ends(0, &["plan"]).stdout;
    let remark = format!("images from {host} are pulled with a user name and password");
    assert!(plan.contains(&remark), "{plan}");
    let doctor = project.call(&["doctor"]).stdout;
    assert!(doctor.contains(&remark), "{doctor}");
    project.ends(0, &["up"]);
    let events = serde_json::to_string(&project.api().events(0)).unwrap();
    for (image, node) in images.iter().zip(["a", "b"]) {
        let pulled = format!("pull {image} on {node}: done");
        assert!(events.contains(&pulled), "{pulled}: {events}");
    }
    the_password_is_nowhere_in_clear_text(&project, events);

    let runs = || {
        Node::all(&project.id())
            .into_values()
            .map(|node| node.runs())
    };
    let before: Vec<_> = runs().collect();
    log_in(&project.docker_configuration(), host, "another password");
    project.ends(0, &["up"]);
    assert_eq!(runs().collect::<Vec<_>>(), before);
    project.ends(0, &["down", "--yes"]);
}

fn the_password_is_nowhere_in_clear_text(project: &Project, events: String) {
    let nodes = Node::all(&project.id());
    let manager = &nodes["a"];
    assert!(project.said().contains("TRACE"), "traces are missing");
    let mut places = vec![
        ("the output of the commands", project.said()),
        ("events", events),
        ("command lines", command_lines("sleep 1 while 1")),
    ];
    let log = manager.call(&["docker", "logs", &manager.manager().id]);
    let log = both(&log);
    assert!(log.contains("stored the logins"), "{log}");
    places.push(("the manager's log", log));
    let api = Https::new(manager.address(), 7443, &project.kept("ca.pem"));
    for path in [
        "platform",
        "platform/plan",
        "nodes",
        "services",
        "progress",
        "why/one",
    ] {
        let token = project.kept("admin.token");
        let answer = api.request("GET", &format!("/v1/{path}"), Some(&token), "");
        assert_eq!(answer.status, 200, "{path}");
        places.push(("the API", answer.body));
    }
    let registry = format!("cat /var/lib/lifecycle/{}/registry.db*", project.id());
    places.push(("the registry", manager.exec(&["sh", "-c", &registry])));
    for node in nodes.values() {
        let containers = serde_json::to_string(&node.inspect_all()).unwrap();
        places.push(("containers", containers));
        let happened = "docker events --since 0 --until $(date +%s)";
        places.push(("the engine's events", node.exec(&["sh", "-c", happened])));
    }
    for entry in std::fs::read_dir(project.state()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        places.push(("the platform's state on this machine", text));
    }
    places.retain(|(place, text)| !(text.is_empty() && place.contains("state")));
    let forms = forms();
    are_not_in(&forms, &places);
    for node in nodes.values() {
        for (_, form) in &forms {
            assert_eq!(files_with(node, form), [""; 0], "{}", node.container);
        }
    }
}
