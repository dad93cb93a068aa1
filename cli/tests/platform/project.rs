//! A project directory for one platform, with a unique name, an identity, and a configuration
//! directory. Dropping the project removes the platform.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_core::api::wire::ServiceV1;
use lifecycle_core::api::{ApiClient, Dial, ManagerApi as _};
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::host::Duplex;
use lifecycle_core::model::{Event, PlatformId};
use lifecycle_core::secret::Sensitive;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::docker::{self, Belongings, Node};
use crate::subprocess::{Finished, Running, run, start};

/// Time limit for a command. It is long, because the first command may have to build the images for
/// nodes.
const COMMAND: Duration = Duration::from_mins(8);

/// The environment variable with the addresses outside Azure's clouds that may receive credentials.
pub(crate) const TRUST: &str = "LIFECYCLE_TRUST_ADDRESSES";

/// The port of the manager's API.
const API: u16 = 7443;

/// The code of a web server that needs only the base image.
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello/hello");

/// The Compose keys of a service that runs [`Project::static_server`], except `ports`.
pub(crate) const STATIC_SERVER: &str = "
    build: ./server
    command: [authentication]
    environment: {SIGNING_KEY: signing, DEVICE_SECRET: device}
";

#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) name: String,
    directory: TempDir,
    configuration: TempDir,
    said: Mutex<String>,
    environment: Mutex<Vec<(String, String)>>,
    /// The directory of the programs; `None` for the programs as they were built.
    programs: OnceLock<TempDir>,
}

impl Project {
    /// Creates a project without files. The name is unique.
    pub(crate) fn new() -> Self {
        let random = RandomIds.uuid().simple().to_string();
        Self::named(&format!("t{}", &random[..8]))
    }

    /// Creates a project with this name and without files.
    pub(crate) fn named(name: &str) -> Self {
        docker::require();
        // The bootstrapper uses the manager's program in its own directory.
        require_fresh(
            &Path::new(env!("CARGO_BIN_EXE_bootstrapper")).with_file_name("lifecycle-manager"),
        );
        Self {
            name: name.to_owned(),
            directory: tempfile::tempdir().unwrap(),
            configuration: tempfile::tempdir().unwrap(),
            said: Mutex::default(),
            environment: Mutex::default(),
            programs: OnceLock::new(),
        }
    }

    /// Writes a file in the project.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Removes all files except the platform's identity.
    pub(crate) fn remove_files(&self) {
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() == ".lifecycle" {
                continue;
            }
            if entry.path().is_dir() {
                std::fs::remove_dir_all(entry.path()).unwrap();
            } else {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(path)).unwrap()
    }

    /// Sets an environment variable for all later commands.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let variable = (name.to_owned(), value.to_owned());
        self.environment.lock().unwrap().push(variable);
    }

    /// Writes a Compose file with the platform's name and these services.
    pub(crate) fn compose(&self, services: &str) {
        let text = format!("name: {}\nservices:\n{services}", self.name);
        self.write("compose.yaml", &text);
    }

    /// Creates a code base: a web server on port 8080 that responds with `$GREETING`.
    pub(crate) fn web_server(&self, code: &str) {
        for file in ["Dockerfile", "hello.pl"] {
            let text = std::fs::read_to_string(Path::new(SERVER).join(file)).unwrap();
            self.write(&format!("{code}/{file}"), &text);
        }
    }

    /// Returns the path of a file in the project.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Returns the path of a file in the configuration directory.
    pub(crate) fn configuration_file(&self, path: &str) -> PathBuf {
        self.configuration.path().join(path)
    }

    /// Copies a directory into a directory of the project, except for `.lifecycle`.
    pub(crate) fn copy_to(&self, from: &Path, directory: &str) {
        copy(from, &self.path(directory));
    }

    /// Copies a directory into the project, except for `.lifecycle`.
    pub(crate) fn copy(&self, from: &Path) {
        copy(from, self.directory.path());
    }

    /// Copies a program of this workspace into a code base.
    pub(crate) fn put_program(&self, program: &str, path: &str) {
        let built = Path::new(env!("CARGO_BIN_EXE_bootstrapper")).with_file_name(program);
        require_fresh(&built);
        std::fs::copy(built, self.directory.path().join(path)).unwrap();
    }

    /// Creates a code base with a small web server on port 8000. [`STATIC_SERVER`] declares a
    /// service for this server.
    pub(crate) fn static_server(&self, code: &str) {
        self.write(
            &format!("{code}/Dockerfile"),
            "FROM scratch\nCOPY iot-platform /\nENTRYPOINT [\"/iot-platform\"]\n",
        );
        self.put_program("iot-platform", &format!("{code}/iot-platform"));
    }

    /// Makes all later commands use a manager's program with another digest, which behaves the same:
    /// bytes after the end of a program have no effect.
    pub(crate) fn change_manager(&self) {
        if self.programs.get().is_none() {
            self.use_built_programs();
        }
        let manager = self.bootstrapper().with_file_name("lifecycle-manager");
        let mut manager = OpenOptions::new().append(true).open(manager).unwrap();
        manager.write_all(b"changed").unwrap();
    }

    /// Makes all later commands use copies of the programs as they were built.
    pub(crate) fn use_built_programs(&self) {
        self.use_programs(
            Path::new(env!("CARGO_BIN_EXE_bootstrapper"))
                .parent()
                .unwrap(),
        );
    }

    /// Makes all later commands use copies of the programs in a directory.
    pub(crate) fn use_programs(&self, directory: &Path) {
        let programs = self.programs.get_or_init(|| tempfile::tempdir().unwrap());
        for program in ["bootstrapper", "lifecycle-manager"] {
            std::fs::copy(directory.join(program), programs.path().join(program)).unwrap();
        }
    }

    fn bootstrapper(&self) -> PathBuf {
        match self.programs.get() {
            Some(programs) => programs.path().join("bootstrapper"),
            None => env!("CARGO_BIN_EXE_bootstrapper").into(),
        }
    }

    /// Returns a command that runs the bootstrapper with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bootstrapper());
        command
            .arg("--project-dir")
            .arg(self.directory.path())
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.configuration.path())
            .env("DOCKER_CONFIG", self.docker_configuration())
            .envs(self.environment.lock().unwrap().iter().cloned());
        command
    }

    /// Runs a command of the bootstrapper. The command may exit with any code.
    pub(crate) fn call(&self, arguments: &[&str]) -> Finished {
        let finished = run(&mut self.command(arguments), COMMAND);
        self.keep(&finished);
        finished
    }

    /// Runs a command. Panics unless the command exits with `code`.
    pub(crate) fn ends(&self, code: i32, arguments: &[&str]) -> Finished {
        let finished = self.call(arguments);
        assert_eq!(
            finished.status.code(),
            Some(code),
            "bootstrapper {}:\n{}\n{}",
            arguments.join(" "),
            finished.stdout,
            finished.stderr
        );
        finished
    }

    /// Starts a command without waiting for it.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        start(&mut self.command(arguments))
    }

    /// Records the output of a command.
    pub(crate) fn keep(&self, finished: &Finished) {
        let mut said = self.said.lock().unwrap();
        said.push_str(&finished.stdout);
        said.push_str(&finished.stderr);
    }

    /// Returns the output of all commands so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Returns the document of `status --json`.
    pub(crate) fn status(&self) -> Value {
        let finished = self.ends(0, &["status", "--json"]);
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// Returns the platform's UUID, if it has one.
    pub(crate) fn identity(&self) -> Option<String> {
        let file = self.directory.path().join(".lifecycle/platform.json");
        let text = std::fs::read_to_string(file).ok()?;
        let identity: Value = serde_json::from_str(&text).unwrap();
        Some(identity["id"].as_str().unwrap().to_owned())
    }

    /// Returns the platform's UUID.
    pub(crate) fn id(&self) -> String {
        self.identity().unwrap()
    }

    /// Returns the directory in which the bootstrapper stores the platform's state on this machine.
    pub(crate) fn state(&self) -> PathBuf {
        self.configuration.path().join("lifecycle").join(self.id())
    }

    /// Returns the configuration directory of this project's commands.
    pub(crate) fn configuration(&self) -> &Path {
        self.configuration.path()
    }

    /// Returns the directory of Docker's configuration for this project's commands. It does not
    /// exist by default.
    pub(crate) fn docker_configuration(&self) -> PathBuf {
        self.configuration.path().join("docker")
    }

    /// Returns the contents of a file in [`Self::state`].
    pub(crate) fn kept(&self, file: &str) -> String {
        std::fs::read_to_string(self.state().join(file)).unwrap()
    }

    /// Returns the platform's only node.
    pub(crate) fn node(&self) -> Node {
        Node::only(&self.id())
    }

    /// Creates a client of the manager's API.
    pub(crate) fn api(&self) -> Api {
        let status = self.status();
        let manager = &status["manager"]["node"];
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|n| n["name"] == *manager).unwrap();
        let ip = node["addresses"]["private"].as_str().unwrap();
        let platform: PlatformId = self.id().parse().unwrap();
        let client = ApiClient::new(
            Arc::new(Straight(ip.parse().unwrap())),
            platform,
            &self.kept("ca.pem"),
            Sensitive::new(self.kept("admin.token")),
        );
        Api {
            runtime: Runtime::new().unwrap(),
            client: client.unwrap(),
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let Some(id) = self.identity() else { return };
        if std::thread::panicking() {
            let log = "docker logs --tail 60 \
                       $(docker ps --all --quiet --filter label=lifecycle.role=manager)";
            let mut text = self.said();
            for (name, node) in Node::all(&id) {
                let log = node.call(&["sh", "-c", log]);
                text = format!("{text}\n{name}: {}{}", log.stdout, log.stderr);
            }
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
        if self.state().exists() {
            run(&mut self.command(&["down", "--yes"]), COMMAND);
        }
        Belongings::of(&id).remove();
    }
}

/// The manager's API.
#[derive(Debug)]
pub(crate) struct Api {
    runtime: Runtime,
    client: ApiClient,
}

impl Api {
    /// Returns the cursor of the latest event.
    pub(crate) fn last_event(&self) -> u64 {
        self.runtime.block_on(self.client.last_event()).unwrap()
    }

    /// Returns all events after a cursor.
    pub(crate) fn events(&self, mut after: u64) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let page = self.runtime.block_on(self.client.events(after)).unwrap();
            if page.events.is_empty() {
                return events;
            }
            after = page.cursor;
            events.extend(page.events);
        }
    }

    /// Returns a service with its replicas.
    pub(crate) fn service(&self, name: &str) -> ServiceV1 {
        let services = self.runtime.block_on(self.client.services()).unwrap();
        services
            .into_iter()
            .find(|s| s.name.as_str() == name)
            .unwrap()
    }

    /// Returns whether the API responds.
    pub(crate) fn is_healthy(&self) -> bool {
        self.runtime.block_on(self.client.health()).is_ok()
    }

    /// Returns whether the platform is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let ready = self.runtime.block_on(self.client.platform_is_ready());
        ready.is_ok_and(|ready| ready)
    }
}

#[derive(Debug)]
struct Straight(IpAddr);

#[async_trait]
impl Dial for Straight {
    async fn dial(&self) -> lifecycle_core::Result<Box<dyn Duplex>> {
        let stream = tokio::net::TcpStream::connect((self.0, API)).await;
        let stream = stream.map_err(|error| {
            lifecycle_core::Error::unreachable("the manager", Some(Box::new(error)))
        })?;
        Ok(Box::new(stream))
    }
}

/// Copies a directory, except for `.lifecycle`, which an earlier bring-up may have created.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.path().is_dir() && name != ".lifecycle" {
            copy(&entry.path(), &to.join(name));
        } else if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// Panics if a program is missing or outdated: Cargo does not build other packages' programs for a
/// test.
fn require_fresh(program: &Path) {
    const COMMAND: &str = "cargo build --workspace --bins";
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified());
    let Ok(built) = modified(program) else {
        panic!("{} is missing; run `{COMMAND}`", program.display());
    };
    // Cargo lists the program's source files in a file with the extension `d`.
    let sources = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    for source in sources.split_whitespace().skip(1) {
        assert!(
            modified(Path::new(source)).is_ok_and(|at| at <= built),
            "{} is older than {source}; run `{COMMAND}`",
            program.display()
        );
    }
}
