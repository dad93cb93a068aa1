//! Runs `bootstrapper azure-simulator` in a separate process, as users do.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lifecycle_azure::simulator::{CLIENT, CLIENT_SECRET, SUBSCRIPTION, TENANT};
use lifecycle_core::clock::{IdSource as _, RandomIds};
use serde_json::Value;
use tempfile::TempDir;

use crate::docker::{self, Belongings, Node};
use crate::project::{Project, TRUST};
use crate::subprocess::until;

/// Time limit for the simulator to start or to exit.
const TIMEOUT: Duration = Duration::from_mins(2);

/// The scope in token requests.
const SCOPE: &str = "https://management.azure.com/.default";

/// A simulated Azure in a separate process.
#[derive(Debug)]
pub(crate) struct SimulatedAzure {
    process: Child,
    directory: TempDir,
    document: Value,
    /// The address block for the platform's network. Random, so that concurrent tests use different
    /// blocks.
    block: String,
}

/// A request that the simulator received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
}

impl Request {
    /// Returns whether the request is for Azure Resource Manager, not for a token or a share.
    pub(crate) fn is_of_resources(&self) -> bool {
        self.path.to_lowercase().starts_with("/subscriptions/")
    }

    /// Returns whether the request may change a resource. Token requests change nothing, although
    /// they use `POST`.
    pub(crate) fn is_a_change(&self) -> bool {
        self.method != "GET" && self.method != "HEAD" && !self.path.contains("/oauth2/")
    }
}

impl SimulatedAzure {
    pub(crate) fn start() -> Self {
        docker::require();
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_bootstrapper"))
            .args(["--json", "azure-simulator", "--directory"])
            .arg(directory.path())
            .arg("--record")
            .arg(directory.path().join("record"))
            // Use free ports: another simulator may use the default ones.
            .args(["--http", "0", "--https", "0"])
            .args(["--files-http", "0", "--files-https", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Read only the document, not to the end of the output: the simulator keeps the pipe open.
        let stdout = process.stdout.take().unwrap();
        let mut documents = serde_json::Deserializer::from_reader(stdout).into_iter();
        let [first, second, ..] = RandomIds.uuid().into_bytes();
        let document = documents.next().unwrap().unwrap();
        Self {
            process,
            directory,
            document,
            block: format!("10.{}.{second}.0/24", 100 + first % 100),
        }
    }

    /// Returns the settings for platform.toml that the simulator prints, with `more` added to
    /// `[cloud]`. Makes all later commands in the project trust the simulator's addresses.
    pub(crate) fn platform_toml(&self, project: &Project, more: &str) -> String {
        let text = |key: &str| self.document[key].as_str().unwrap();
        let trusted = [text("endpoint"), text("files_endpoint")].join(" ");
        project.set(TRUST, &trusted);
        let text = self.document["platform_toml"].as_str().unwrap();
        let provider = "provider = \"azure\"\n";
        assert!(text.contains(provider), "{text}");
        let block = &self.block;
        text.replace(provider, &format!("{provider}subnet = \"{block}\"\n{more}"))
    }

    /// Returns all requests so far, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let record = std::fs::read_to_string(self.directory.path().join("record"));
        let record = record.unwrap_or_default();
        // Ignore the last line while the simulator is still writing it.
        let whole = record.rfind('\n').map_or("", |end| &record[..end]);
        let read = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            Request {
                method: line["method"].as_str().unwrap().to_owned(),
                path: line["path"].as_str().unwrap().to_owned(),
            }
        };
        whole.lines().map(read).collect()
    }

    /// Returns a token for Azure Resource Manager.
    pub(crate) fn token(&self) -> String {
        let form = format!(
            "grant_type=client_credentials&client_id={CLIENT}&client_secret={CLIENT_SECRET}&scope={SCOPE}"
        );
        let answer = self.ask("POST", &format!("/{TENANT}/oauth2/v2.0/token"), None, &form);
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Requests a path of the subscription and returns the response.
    pub(crate) fn get(&self, path: &str) -> Value {
        let path = format!("/subscriptions/{SUBSCRIPTION}/{path}?api-version=2021-04-01");
        self.ask("GET", &path, Some(&self.token()), "")
    }

    /// Creates a resource, as another user of the subscription.
    pub(crate) fn put(&self, path: &str, body: &Value) -> Value {
        let path = format!("/subscriptions/{SUBSCRIPTION}/{path}?api-version=2021-04-01");
        self.ask("PUT", &path, Some(&self.token()), &body.to_string())
    }

    /// Requests an action on a resource, as another user of the subscription.
    pub(crate) fn post(&self, path: &str) {
        let path = format!("/subscriptions/{SUBSCRIPTION}/{path}?api-version=2021-04-01");
        self.ask("POST", &path, Some(&self.token()), "");
    }

    /// Of the requests after the first `seen`, returns those that may change a resource.
    pub(crate) fn changes_after(&self, seen: usize) -> Vec<Request> {
        let new = self.requests().into_iter().skip(seen);
        new.filter(Request::is_a_change).collect()
    }

    /// Returns the sorted names of all resources, grouped by type.
    pub(crate) fn resources(&self) -> BTreeMap<String, Vec<String>> {
        let found = self.get("resources");
        let mut resources: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for resource in found["value"].as_array().unwrap() {
            let text = |key: &str| resource[key].as_str().unwrap().to_owned();
            let kind = text("type").to_lowercase();
            let kind = kind.rsplit('/').next().unwrap().to_owned();
            resources.entry(kind).or_default().push(text("name"));
        }
        for names in resources.values_mut() {
            names.sort();
        }
        resources
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Value {
        let endpoint = self.document["http_endpoint"].as_str().unwrap();
        let host = endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let form = match token {
            Some(_) => "application/json",
            None => "application/x-www-form-urlencoded",
        };
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{}\
             Content-Type: {form}\r\nContent-Length: {}\r\n\r\n{body}",
            token.unwrap_or_default(),
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let is_done = [" 200 ", " 201 ", " 202 "]
            .iter()
            .any(|code| head.contains(code));
        assert!(is_done, "{method} {path}: {answer}");
        if body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(body).unwrap()
    }

    /// Returns the running machines by name, as nodes of this platform. The machines are containers
    /// whose labels name the simulator, not the platform.
    pub(crate) fn machines(&self, platform: &str) -> BTreeMap<String, Node> {
        self.owners()
            .iter()
            .flat_map(|owner| Node::all(owner))
            .map(|(name, node)| (name, node.of_platform(platform)))
            .collect()
    }

    /// Returns the ids that label the simulator's containers on this machine's engine.
    fn owners(&self) -> Vec<String> {
        let notes = self.directory.path().join("machines");
        let notes = std::fs::read_dir(notes).into_iter().flatten();
        notes
            .map(|note| note.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Returns the address block for the platform's network.
    pub(crate) fn block(&self) -> &str {
        &self.block
    }

    /// Returns the path of the file that contains the storage account's key.
    pub(crate) fn storage_key(&self) -> PathBuf {
        self.directory.path().join("storage-key")
    }

    fn end(&mut self) -> bool {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        sent.is_ok_and(|sent| sent.success())
    }
}

impl Drop for SimulatedAzure {
    fn drop(&mut self) {
        let sent = self.end();
        if std::thread::panicking() {
            // Do not call `until` here: if it panicked, the second panic would hide the first.
            for _ in 0..600 {
                if !sent || matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        } else {
            until("the simulator exits", TIMEOUT, || {
                self.process.try_wait().unwrap()
            });
        }
        drop(self.process.kill());
        for owner in self.owners() {
            Belongings::of(&owner).remove();
        }
    }
}

/// Creates a project with two nodes on the simulated Azure, and one service on each node.
pub(crate) fn small_project(azure: &SimulatedAzure, more: &str) -> Project {
    let project = Project::new();
    project.compose(&format!(
        "  web:{}    ports: [\"8080:8000\"]\n    deploy: {{placement: {{constraints: [\"node.hostname == b\"]}}}}\n",
        crate::project::STATIC_SERVER
    ));
    project.static_server("server");
    let nodes = "\n[nodes.a]\n[nodes.b]\n[manager]\nnode = \"a\"\n";
    project.write(
        "platform.toml",
        &(azure.platform_toml(&project, more) + nodes),
    );
    project
}
