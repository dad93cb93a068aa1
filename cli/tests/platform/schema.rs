//! What a command writes with `--json` follows the schema that `bootstrapper schema` prints: looked
//! at whenever any test runs one (see [`crate::subprocess`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use jsonschema::Validator;
use serde_json::{Deserializer, Value, json};

use crate::project::Project;

/// As they are committed; the program's own test holds them to those that it prints.
const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema");

/// What any command writes that fails.
const FAILURE: &str = "failure";

/// Those that write a line at a time, and as many as there are.
const BY_LINE: [&str; 2] = ["events", "logs"];

/// It ends when it is told to, and has nothing to say of that.
const INTERRUPTED: i32 = 130;

/// `exec` could not run the command.
const NOT_RUN: i32 = 125;

/// The commands that have a schema.
pub(crate) fn commands() -> BTreeSet<String> {
    let files = std::fs::read_dir(SCHEMAS).unwrap();
    let names = files.map(|file| PathBuf::from(file.unwrap().file_name()).with_extension(""));
    let names = names.map(|name| name.into_os_string().into_string().unwrap());
    names.filter(|name| name != FAILURE).collect()
}

/// What a command that is about to run has to write.
#[derive(Debug)]
pub(crate) struct Promise {
    command: String,
    schema: Validator,
}

impl Promise {
    /// None for other programs, and without `--json`.
    pub(crate) fn of(command: &Command) -> Option<Self> {
        if command.get_program() != env!("CARGO_BIN_EXE_bootstrapper") {
            return None;
        }
        let arguments = command
            .get_args()
            .map(|argument| argument.to_str().unwrap());
        // What stands behind this is another program's.
        let arguments: Vec<&str> = arguments.take_while(|argument| *argument != "--").collect();
        let commands = commands();
        // One that has no schema may do nothing but fail.
        let named = arguments
            .iter()
            .find(|argument| commands.contains(**argument));
        let is_asked = arguments.contains(&"--json");
        is_asked.then(|| Self::named(named.unwrap_or(&FAILURE)))
    }

    fn named(command: &str) -> Self {
        let file = Path::new(SCHEMAS).join(format!("{command}.json"));
        let schema = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        Self {
            command: command.to_owned(),
            schema: options.build(&schema).unwrap(),
        }
    }

    /// Panics if it was not kept.
    pub(crate) fn is_kept(&self, status: ExitStatus, stdout: &str) {
        if let Err(why) = self.look(status.code(), stdout) {
            panic!("{} --json: {why}:\n{stdout}", self.command);
        }
    }

    /// `code` is none for a command that was killed: it may have been in the middle of something.
    fn look(&self, code: Option<i32>, stdout: &str) -> Result<(), String> {
        let told = match (self.command.as_str(), code) {
            ("exec", Some(NOT_RUN)) => stdout.lines().last().unwrap_or_default(),
            // It is the other program's.
            ("exec", _) => return Ok(()),
            _ => stdout,
        };
        let mut documents = Vec::new();
        for document in Deserializer::from_str(told).into_iter() {
            match document {
                Ok(document) => documents.push(document),
                Err(error) if error.is_eof() && code.is_none() => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        for document in &documents {
            self.follows(document)?;
        }
        let is_failure = |document: &Value| document.get("error").is_some();
        let failures = documents.iter().filter(|d| is_failure(d)).count();
        let ends_as_told = match code {
            None | Some(INTERRUPTED) => true,
            Some(0) => failures == 0,
            // What is wrong stands in its document.
            Some(_) if self.command == "doctor" && failures == 0 => true,
            Some(_) => failures == 1 && documents.last().is_some_and(is_failure),
        };
        let is_whole = match code {
            None | Some(INTERRUPTED) => true,
            Some(_) if BY_LINE.contains(&self.command.as_str()) => {
                documents.len() == told.lines().count()
            }
            Some(_) => documents.len() == 1,
        };
        match (ends_as_told, is_whole) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("exit code {code:?}, and {failures} failures told")),
            (_, false) => Err(format!("{} documents", documents.len())),
        }
    }

    fn follows(&self, document: &Value) -> Result<(), String> {
        let errors = self.schema.iter_errors(document);
        let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("\n"))
        }
    }
}

#[test]
fn every_command_fails_as_its_schema_says() {
    let project = Project::new();
    let mut failed = BTreeSet::new();
    let mut fails = |code, arguments: &[&str]| {
        let said = project.ends(code, &[&["--json"], arguments].concat());
        failed.insert(arguments[0].to_owned());
        serde_json::from_str::<Value>(&said.stdout).unwrap()["error"]["kind"].clone()
    };
    // There is nothing yet.
    for command in ["init", "plan", "up"] {
        assert_eq!(fails(2, &[command]), "files");
    }
    assert_eq!(fails(1, &["doctor"]), Value::Null, "it has a report");
    project.write("compose.yaml", "services: {web: {image: [a]}}\n");
    assert_eq!(fails(2, &["plan"]), "files");
    project
        .compose("  web: {image: \"debian:bookworm-slim\", mac_address: \"02:42:ac:11:65:43\"}\n");
    assert_eq!(fails(2, &["up"]), "unsupported");
    for command in [
        &["status"][..],
        &["why", "web"],
        &["logs"],
        &["events"],
        &["restart", "web"],
        &["retry", "web"],
        &["down"],
        // What lies in directories is not published.
        &["publish"],
    ] {
        assert_eq!(fails(1, command), "failed", "{command:?}");
    }
    let nowhere = ["azure-simulator", "--directory", "/dev/null/azure"];
    assert_eq!(fails(1, &nowhere), "failed");
    assert_eq!(fails(125, &["exec", "web", "--", "true"]), "failed");
    project.write("platform.toml", "");
    assert_eq!(fails(2, &["init"]), "exists");
    assert_eq!(failed, commands());
    let unknown = project.ends(2, &["--json", "ascend"]).stdout;
    assert!(unknown.contains(r#""kind":"arguments""#), "{unknown}");
}

#[test]
fn what_a_schema_does_not_say_is_refused() {
    let right = json!({
        "platform": {
            "name": "demo",
            "id": "6a4f6a39-54ff-4f0b-a4cf-0e1a3d8e6a11",
            "generation": 1,
            "state": "running",
        },
        "manager": null,
        "nodes": [{
            "name": "n1",
            "state": "running",
            "addresses": {"private": "10.0.0.1", "public": null},
            "docker": {"version": "20.10.24", "ready": true},
        }],
        "services": [{
            "name": "web",
            "class": "microservice",
            "instances": [{
                "id": "web-1",
                "replica": 1,
                "node": "n1",
                "state": "ready",
                "started_at": "2026-01-02T03:04:05.000000Z",
                "ready_at": null,
                "endpoints": [],
            }],
        }],
    });
    let status = Promise::named("status");
    assert_eq!(status.follows(&right), Ok(()));
    for (place, wrong) in [
        ("/platform/id", json!("demo")),
        ("/platform/generation", json!(-1)),
        ("/platform/state", json!("well")),
        ("/nodes/0/addresses/private", json!("n1.example")),
        ("/nodes/0/docker", json!({"version": null})),
        (
            "/nodes/0/docker",
            json!({"version": null, "ready": true, "more": 1}),
        ),
        ("/services/0/instances/0/state", json!("Ready")),
        ("/services/0/instances/0/started_at", json!("yesterday")),
        ("/services/0/instances/0/endpoints", Value::Null),
    ] {
        let mut document = right.clone();
        *document.pointer_mut(place).unwrap() = wrong;
        assert!(status.follows(&document).is_err(), "{place}: {document}");
    }

    let failure = Promise::named(FAILURE);
    let told = json!({"error": {"kind": "failed", "message": "m", "hint": "h"}}).to_string();
    assert_eq!(failure.look(Some(1), &told), Ok(()));
    assert!(failure.look(Some(0), &told).is_err(), "it is no failure");
    assert!(failure.look(Some(1), "").is_err(), "nothing was told");
    assert!(
        failure
            .look(Some(1), &told.replace("failed", "odd"))
            .is_err()
    );
    assert!(failure.look(Some(1), &told.replace("hint", "tip")).is_err());
    assert!(failure.look(Some(1), &format!("talk {told}")).is_err());
    // A kind that carries more says so, and what came up belongs to `up` alone.
    assert!(
        failure
            .look(Some(1), &told.replace("failed", "unsupported"))
            .is_err()
    );
    let beside = told.replace("}}", r#"},"generation":1,"nodes":[],"services":[]}"#);
    assert!(status.look(Some(1), &beside).is_err());
    assert_eq!(Promise::named("up").look(Some(1), &beside), Ok(()));

    let mut dance = Command::new(env!("CARGO_BIN_EXE_bootstrapper"));
    dance.args(["--json", "dance"]);
    let dance = Promise::of(&dance).unwrap();
    assert!(dance.look(Some(0), "{}").is_err(), "it has no schema");
}
