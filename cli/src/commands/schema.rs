//! `schema`: prints the JSON Schemas of `platform.toml` and of the `--json` output of each command.
//! The schemas for the output are generated from the serialized types.

use lifecycle_core::api::why::WhyV1;
use lifecycle_core::api::wire::ServiceLogLine;
use lifecycle_core::model::Event;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::arguments::{Described, Schema as Options};
use crate::commands::{
    azure_simulator, class, doctor, down, export, init, node, operation, overrides, plan, publish,
    restart, retry, revisions, rollout, rotate, status, token,
};
use crate::documents::BroughtUp;
use crate::failure::Failure;
use crate::failure::document::{Failed, NotAllUp};
use crate::printer;

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    match options.command {
        None => printer::document(&lifecycle_core::platform::schema()),
        Some(described) => printer::document(&of(described)),
    }
}

/// A function that adds a type to a schema generator and returns the type's schema.
type Of = fn(&mut SchemaGenerator) -> Schema;

const FAILURE: Of = SchemaGenerator::subschema_for::<Failed>;

const DOCUMENT: &str = "The standard output: the command's document, or the failure if the command \
                        fails.";

const LINES: &str =
    "A line of the standard output; if the command fails, the last line is the failure.";

/// Returns the schema of a command's `--json` output.
fn of(described: Described) -> Schema {
    let document = |command, document: Of| output(command, DOCUMENT, &[document, FAILURE]);
    let lines = |command, line: Of| output(command, LINES, &[line, FAILURE]);
    let changed = |command| {
        output(
            command,
            "The standard output: the overrides that are in force afterwards, or the failure if the \
             command fails; if only some replicas do not run as declared, the failure contains the \
             state of the other replicas.",
            &[
                SchemaGenerator::subschema_for::<overrides::InForce>,
                SchemaGenerator::subschema_for::<NotAllUp>,
                FAILURE,
            ],
        )
    };
    let of_class = |command| {
        output(
            command,
            "The standard output: the services of the class, with `apply --dry-run` the plan, or the \
             failure if the command fails; if only some replicas do not run as declared, the failure \
             contains the state of the other replicas.",
            &[
                SchemaGenerator::subschema_for::<class::Listed>,
                SchemaGenerator::subschema_for::<class::Previewed>,
                SchemaGenerator::subschema_for::<NotAllUp>,
                FAILURE,
            ],
        )
    };
    match described {
        Described::Init => document("init", SchemaGenerator::subschema_for::<init::Written>),
        Described::Plan => document("plan", SchemaGenerator::subschema_for::<plan::Planned>),
        Described::Up => output(
            "up",
            "The standard output: the command's document, or the failure if the command fails; if \
             only some replicas do not run as declared, the failure contains the state of the other \
             replicas.",
            &[
                SchemaGenerator::subschema_for::<BroughtUp>,
                SchemaGenerator::subschema_for::<NotAllUp>,
                FAILURE,
            ],
        ),
        Described::Publish => document(
            "publish",
            SchemaGenerator::subschema_for::<publish::AllPublished>,
        ),
        Described::Status => document("status", SchemaGenerator::subschema_for::<status::Status>),
        Described::Why => document("why", SchemaGenerator::subschema_for::<WhyV1>),
        Described::Logs => lines("logs", SchemaGenerator::subschema_for::<ServiceLogLine>),
        Described::Events => lines("events", SchemaGenerator::subschema_for::<Event>),
        Described::Exec => output(
            "exec",
            "The last line of the standard output if the exit code is 125: the reason why the \
             command was not run. All other output comes from the command.",
            &[FAILURE],
        ),
        Described::Restart => document(
            "restart",
            SchemaGenerator::subschema_for::<restart::Restarted>,
        ),
        Described::Scale => changed("scale"),
        Described::Stop => changed("stop"),
        Described::Start => changed("start"),
        Described::Override => output(
            "override",
            "The standard output: the document of `override list`, which `override remove` also \
             writes, or the failure if the command fails; if only some replicas do not run as \
             declared, the failure contains the state of the other replicas.",
            &[
                SchemaGenerator::subschema_for::<overrides::InForce>,
                SchemaGenerator::subschema_for::<NotAllUp>,
                FAILURE,
            ],
        ),
        Described::Export => document("export", SchemaGenerator::subschema_for::<export::Exported>),
        Described::History => document(
            "history",
            SchemaGenerator::subschema_for::<revisions::History>,
        ),
        Described::Rollback => output(
            "rollback",
            "The standard output: the restored revision, with `--dry-run` the plan, or the failure if \
             the command fails; if only some replicas do not run as declared, the failure contains \
             the state of the other replicas.",
            &[
                SchemaGenerator::subschema_for::<revisions::RolledBack>,
                SchemaGenerator::subschema_for::<revisions::Previewed>,
                SchemaGenerator::subschema_for::<NotAllUp>,
                FAILURE,
            ],
        ),
        Described::Service => of_class("service"),
        Described::App => of_class("app"),
        Described::Model => of_class("model"),
        Described::Node => output(
            "node",
            "The standard output: the document of `node list`, which `node add` and `node remove` also \
             write, that of `node cordon`, `node drain` and `node uncordon`, that of `node restart`, that \
             of `node prepare`, that of `node adopt`, or the failure if the command fails; if only some replicas do not run as \
             declared, the failure contains the state of the other replicas.",
            &[
                SchemaGenerator::subschema_for::<node::Listed>,
                SchemaGenerator::subschema_for::<node::Scheduled>,
                SchemaGenerator::subschema_for::<NotAllUp>,
                SchemaGenerator::subschema_for::<node::Restarted>,
                SchemaGenerator::subschema_for::<node::AllPrepared>,
                SchemaGenerator::subschema_for::<node::Adopted>,
                FAILURE,
            ],
        ),
        Described::Rollout => document(
            "rollout",
            SchemaGenerator::subschema_for::<rollout::Requested>,
        ),
        Described::Operation => output(
            "operation",
            "The standard output: the document of `operation list`, `operation watch` or \
             `operation cancel`, or the failure if the command fails.",
            &[
                SchemaGenerator::subschema_for::<operation::Listed>,
                SchemaGenerator::subschema_for::<operation::Ended>,
                FAILURE,
            ],
        ),
        Described::Retry => document("retry", SchemaGenerator::subschema_for::<retry::Retried>),
        Described::Token => output(
            "token",
            "The standard output: the document of `token create`, `token list` or `token revoke`, or \
             the failure if the command fails.",
            &[
                SchemaGenerator::subschema_for::<token::Created>,
                SchemaGenerator::subschema_for::<token::Listed>,
                SchemaGenerator::subschema_for::<token::Revoked>,
                FAILURE,
            ],
        ),
        Described::Rotate => document("rotate", SchemaGenerator::subschema_for::<rotate::Rotated>),
        Described::Down => document("down", SchemaGenerator::subschema_for::<down::Removed>),
        Described::Doctor => document("doctor", SchemaGenerator::subschema_for::<doctor::Report>),
        Described::AzureSimulator => document(
            "azure-simulator",
            SchemaGenerator::subschema_for::<azure_simulator::Running>,
        ),
        Described::Failure => output(
            "…",
            "The last line of the standard output of a command that failed.",
            &[FAILURE, SchemaGenerator::subschema_for::<NotAllUp>],
        ),
    }
}

fn output(command: &str, description: &str, any: &[Of]) -> Schema {
    // In a schema for serialization, a field that is always present is required, even if it may be
    // null.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut generator = settings.into_generator();
    let any: Vec<Schema> = any.iter().map(|of| of(&mut generator)).collect();
    let mut schema = json_schema!({
        "$schema": generator.settings().meta_schema.as_deref(),
        "title": format!("bootstrapper {command} --json"),
        "description": description,
        "anyOf": any,
        "$defs": generator.take_definitions(false),
    });
    WellKnownFormats.transform(&mut schema);
    Closed.transform(&mut schema);
    schema
}

/// Removes formats that some validators do not know. Numbers lose their format and keep their
/// bounds; `ip` becomes `ipv4` or `ipv6`.
struct WellKnownFormats;

impl Transform for WellKnownFormats {
    fn transform(&mut self, schema: &mut Schema) {
        let is_number = schema.get("type").is_some_and(|kind| {
            let number = |kind: &Value| kind == "integer" || kind == "number";
            number(kind)
                || kind
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(number))
        });
        if is_number {
            schema.remove("format");
        } else if schema.get("format").is_some_and(|format| format == "ip") {
            schema.remove("format");
            let kinds = json!([{"format": "ipv4"}, {"format": "ipv6"}]);
            schema.insert("anyOf".into(), kinds);
        }
        transform_subschemas(self, schema);
    }
}

/// Forbids properties that are not listed.
struct Closed;

impl Transform for Closed {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        if schema.get("properties").is_none() {
            return;
        }
        // No part of a composed schema lists all properties, so close only the whole schema.
        let mut has_parts = false;
        for key in ["allOf", "anyOf", "oneOf"] {
            for part in schema
                .get_mut(key)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                has_parts = true;
                if let Some(part) = part.as_object_mut() {
                    part.remove("additionalProperties");
                    part.remove("unevaluatedProperties");
                }
            }
        }
        let rule = if has_parts {
            "unevaluatedProperties"
        } else {
            "additionalProperties"
        };
        if schema.get(rule).is_none() {
            schema.insert(rule.into(), false.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use clap::{CommandFactory as _, ValueEnum as _};

    use super::*;
    use crate::arguments::Arguments;

    fn name(described: Described) -> String {
        let value = described.to_possible_value().unwrap();
        value.get_name().to_owned()
    }

    fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema")
    }

    /// To rewrite the files, run `UPDATE_DOCS=1 cargo test -p bootstrapper schema`.
    #[test]
    fn the_committed_schemas_are_up_to_date() {
        let mut names = BTreeSet::new();
        for described in Described::value_variants() {
            let file = format!("{}.json", name(*described));
            let path = directory().join(&file);
            let printed = serde_json::to_string_pretty(&of(*described)).unwrap() + "\n";
            if std::env::var_os("UPDATE_DOCS").is_some() {
                std::fs::write(&path, &printed).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == printed,
                "docs/schema/{file} is out of date: run with UPDATE_DOCS=1"
            );
            names.insert(file);
        }
        let files = std::fs::read_dir(directory()).unwrap();
        let files = files.map(|f| f.unwrap().file_name().into_string().unwrap());
        assert_eq!(files.collect::<BTreeSet<_>>(), names);
    }

    #[test]
    fn each_command_with_json_output_has_a_schema() {
        let without = ["completions", "man", "schema"];
        let commands = Arguments::command();
        let commands = commands.get_subcommands().map(|c| c.get_name().to_owned());
        let commands = commands.filter(|name| !without.contains(&name.as_str()));
        let described = Described::value_variants().iter().copied();
        let described = described.filter(|d| *d != Described::Failure).map(name);
        assert_eq!(
            described.collect::<BTreeSet<_>>(),
            commands.collect::<BTreeSet<_>>()
        );
    }

    #[test]
    fn every_key_is_described() {
        fn check(value: &Value, at: &str) {
            if let Some(properties) = value.get("properties").and_then(Value::as_object) {
                for (key, property) in properties {
                    let allowed = ["description", "const", "$ref"];
                    let is_described = allowed.iter().any(|by| property.get(by).is_some());
                    // A value without a type restricts one that is described elsewhere.
                    let is_restriction = property.get("minItems").is_some();
                    let is_restriction = is_restriction && property.get("type").is_none();
                    assert!(is_described || is_restriction, "{at}/{key}");
                }
            }
            let members: Vec<(String, &Value)> = match value {
                Value::Object(members) => members.iter().map(|(k, v)| (k.clone(), v)).collect(),
                Value::Array(members) => (0..).map(|n: u32| n.to_string()).zip(members).collect(),
                _ => return,
            };
            for (key, member) in members {
                check(member, &format!("{at}/{key}"));
            }
        }
        for described in Described::value_variants() {
            check(of(*described).as_value(), &name(*described));
        }
    }
}
