//! Checks that the output of a command with `--json` matches its schema. [`crate::subprocess`]
//! makes this check for every command that a test runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use jsonschema::Validator;
use serde_json::{Deserializer, Value, json};

use crate::project::Project;

/// The directory of the committed schemas.
const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema");

/// The schema of the output of a failed command.
const FAILURE: &str = "failure";

/// The commands that write any number of documents, one per line.
const BY_LINE: [&str; 2] = ["events", "logs"];

/// The exit code of an interrupted command. Such a command writes no failure document.
const INTERRUPTED: i32 = 130;

/// The exit code of `exec` if the command in the container could not be run.
const NOT_RUN: i32 = 125;

pub(crate) fn commands() -> BTreeSet<String> {
    let files = std::fs::read_dir(SCHEMAS).unwrap();
    let names = files.map(|file| PathBuf::from(file.unwrap().file_name()).with_extension(""));
    let names = names.map(|name| name.into_os_string().into_string().unwrap());
    names.filter(|name| name != FAILURE).collect()
}

/// Describes the output that a command must write.
#[derive(Debug)]
pub(crate) struct Expected {
    command: String,
    schema: Validator,
}

impl Expected {
    /// Returns the expected output, or `None` if the program is not the bootstrapper or `--json` is
    /// missing.
    pub(crate) fn of(command: &Command) -> Option<Self> {
        if command.get_program() != env!("CARGO_BIN_EXE_bootstrapper") {
            return None;
        }
        let arguments = command
            .get_args()
            .map(|argument| argument.to_str().unwrap());
        // Arguments after `--` belong to another program.
        let arguments: Vec<&str> = arguments.take_while(|argument| *argument != "--").collect();
        let commands = commands();
        let named = arguments
            .iter()
            .find(|argument| commands.contains(**argument));
        // A command without a schema may write only a failure document.
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

    /// Panics if the output does not match its schema.
    pub(crate) fn assert_matches(&self, status: ExitStatus, stdout: &str) {
        if let Err(why) = self.check(status.code(), stdout) {
            panic!("{} --json: {why}:\n{stdout}", self.command);
        }
    }

    /// Checks the output. `code` is `None` if the command was killed, so that its output may be
    /// incomplete.
    fn check(&self, code: Option<i32>, stdout: &str) -> Result<(), String> {
        let failure = match (self.command.as_str(), code) {
            ("exec", Some(NOT_RUN)) => stdout.lines().last().unwrap_or_default(),
            // The output of `exec` is that of the program in the container.
            ("exec", _) => return Ok(()),
            _ => stdout,
        };
        let mut documents = Vec::new();
        for document in Deserializer::from_str(failure).into_iter() {
            match document {
                Ok(document) => documents.push(document),
                Err(error) if error.is_eof() && code.is_none() => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        for document in &documents {
            self.matches(document)?;
        }
        let is_failure = |document: &Value| document.get("error").is_some();
        let failures = documents.iter().filter(|d| is_failure(d)).count();
        let ends_as_told = match code {
            None | Some(INTERRUPTED) => true,
            Some(0) => failures == 0,
            // `doctor` describes the problems in its own document.
            Some(_) if self.command == "doctor" && failures == 0 => true,
            Some(_) => failures == 1 && documents.last().is_some_and(is_failure),
        };
        let is_whole = match code {
            None | Some(INTERRUPTED) => true,
            Some(_) if BY_LINE.contains(&self.command.as_str()) => {
                documents.len() == failure.lines().count()
            }
            Some(_) => documents.len() == 1,
        };
        match (ends_as_told, is_whole) {
            (true, true) => Ok(()),
            (false, _) => Err(format!(
                "exit code {code:?}, but {failures} failure documents in the output"
            )),
            (_, false) => Err(format!("{} documents", documents.len())),
        }
    }

    fn matches(&self, document: &Value) -> Result<(), String> {
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
fn failures_match_their_schema() {
    let project = Project::new();
    let mut failed = BTreeSet::new();
    let mut fails = |code, arguments: &[&str]| {
        let said = project.ends(code, &[&["--json"], arguments].concat());
        failed.insert(arguments[0].to_owned());
        serde_json::from_str::<Value>(&said.stdout).unwrap()["error"]["kind"].clone()
    };
    // The project has no files yet.
    for command in ["init", "plan", "up"] {
        assert_eq!(fails(2, &[command]), "files");
    }
    assert_eq!(
        fails(1, &["doctor"]),
        Value::Null,
        "`doctor` writes a report"
    );
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
        &["scale", "web=2"],
        &["stop", "web"],
        &["start", "web"],
        &["override", "list"],
        &["export"],
        &["history"],
        &["operation", "list"],
        &["rollback", "--yes"],
        &["service", "list"],
        &["app", "list"],
        &["model", "list"],
        &["node", "restart", "node-1"],
        &["retry", "web"],
        &["rollout", "pause", "web"],
        &["rotate", "tokens"],
        &["token", "list"],
        &["down"],
        // The project declares no code store, so `publish` fails.
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
fn deviations_from_a_schema_are_found() {
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
            "scheduling": "open",
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
        "overrides": [],
    });
    let status = Expected::named("status");
    assert_eq!(status.matches(&right), Ok(()));
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
        assert!(status.matches(&document).is_err(), "{place}: {document}");
    }

    let failure = Expected::named(FAILURE);
    let document = json!({"error": {"kind": "failed", "message": "m", "hint": "h"}}).to_string();
    assert_eq!(failure.check(Some(1), &document), Ok(()));
    assert!(
        failure.check(Some(0), &document).is_err(),
        "a successful command wrote a failure"
    );
    assert!(
        failure.check(Some(1), "").is_err(),
        "the failure is missing"
    );
    assert!(
        failure
            .check(Some(1), &document.replace("failed", "odd"))
            .is_err()
    );
    assert!(
        failure
            .check(Some(1), &document.replace("hint", "tip"))
            .is_err()
    );
    assert!(failure.check(Some(1), &format!("text {document}")).is_err());
    // The failure document must have the fields of its kind, and only `up` may report started
    // services.
    assert!(
        failure
            .check(Some(1), &document.replace("failed", "unsupported"))
            .is_err()
    );
    let partial = document.replace("}}", r#"},"generation":1,"nodes":[],"services":[]}"#);
    assert!(status.check(Some(1), &partial).is_err());
    assert_eq!(Expected::named("up").check(Some(1), &partial), Ok(()));

    let mut dance = Command::new(env!("CARGO_BIN_EXE_bootstrapper"));
    dance.args(["--json", "dance"]);
    let dance = Expected::of(&dance).unwrap();
    assert!(
        dance.check(Some(0), "{}").is_err(),
        "the command has no schema"
    );
}
