//! The JSON Schema of `platform.toml`, for editors. A test holds it and the reader together, key
//! by key.

use serde_json::{Map, Value, json};

/// What stands in front of a service's `platform.toml` so that editors find the schema.
pub const SCHEMA_LINE: &str = "#:schema ./platform.schema.json";

/// The schema (JSON Schema, draft 2020-12).
pub fn schema() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let url = |description: &str| {
        json!({
            "description": description,
            "anyOf": [{"type": "string"}, {"$ref": "#/$defs/reference"}],
        })
    };
    let node = [
        (
            "size",
            text("The provider's word for how large the machine is; local nodes have none"),
        ),
        (
            "image",
            json!({
                "enum": super::settings::LOCAL_IMAGES,
                "description": "What the machine boots: with a container engine, or bare, and it gets one",
            }),
        ),
        (
            "labels",
            json!({
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
                "description": "What constraints find as `node.labels.<key>`",
            }),
        ),
        ("capacity", json!({"$ref": "#/$defs/capacity"})),
    ];
    let pool = [
        ("name", text("What the nodes' names begin with")),
        (
            "count",
            json!({
                "type": "integer",
                "minimum": 0,
                "maximum": super::settings::MOST_NODES,
                "description": "How many",
            }),
        ),
    ];
    let mut pool = table(pool.into_iter().chain(node.clone()));
    pool["required"] = json!(["name", "count"]);
    let mut capacity = table([
        (
            "cpus",
            json!({"type": ["number", "string"], "description": "Processors, for example 2 or 0.5"}),
        ),
        (
            "memory",
            json!({
                "type": ["integer", "string"],
                "description": "Memory, for example \"512m\" or \"4GiB\"",
            }),
        ),
    ]);
    capacity["required"] = json!(["cpus", "memory"]);
    capacity["description"] = json!("What services can reserve; nothing is counted without it");
    let mut reference = table([
        (
            "env",
            text("The variable of the environment, or of `.env`, that holds it"),
        ),
        (
            "file",
            text("The file that holds it, relative to the Compose file"),
        ),
    ]);
    reference["minProperties"] = json!(1);
    reference["maxProperties"] = json!(1);
    let mut schema = table([
        (
            "name",
            text("The platform's name; the Compose file's, else its directory's, without it"),
        ),
        (
            "cloud",
            table([
                (
                    "provider",
                    json!({
                        "enum": ["local"],
                        "description": "Where nodes come from: `local`, containers on your own Docker engine",
                    }),
                ),
                (
                    "subnet",
                    text(
                        "The network that the nodes share, for example 10.42.0.0/24; one that is free without it",
                    ),
                ),
            ]),
        ),
        (
            "nodes",
            json!({
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/node"},
                "description": "Nodes by name; the first gets the manager",
            }),
        ),
        (
            "node_pool",
            json!({
                "type": "array",
                "items": {"$ref": "#/$defs/pool"},
                "description": "Nodes by number",
            }),
        ),
        (
            "manager",
            table([
                ("node", text("Its node; the first of the file without it")),
                (
                    "port",
                    json!({
                        "type": "integer",
                        "minimum": 1,
                        "maximum": u16::MAX,
                        "description": "The port of its API on that node",
                        "default": super::ManagerSpec::PORT,
                    }),
                ),
            ]),
        ),
        (
            "registry",
            table([
                (
                    "url",
                    url(
                        "The URL of the central database (PostgreSQL); a file of the manager's without it",
                    ),
                ),
                ("nodes", url("The URL of a database of the nodes")),
                (
                    "microservices",
                    url("The URL of a database of the services of this class"),
                ),
                (
                    "applications",
                    url("The URL of a database of the services of this class"),
                ),
                (
                    "models",
                    url("The URL of a database of the services of this class"),
                ),
            ]),
        ),
        (
            "network",
            table([
                (
                    "block",
                    text(
                        "The private network that services' addresses come from (IPv4, prefix from 12 to 24)",
                    ),
                ),
                (
                    "wait",
                    text("How long a connection waits for a ready endpoint, for example 30s"),
                ),
            ]),
        ),
        (
            "code",
            table([
                (
                    "store",
                    json!({"enum": ["directory"], "description": "Where code bases lie"}),
                ),
                (
                    "path",
                    text("The directory that holds them, relative to the Compose file"),
                ),
            ]),
        ),
    ]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("platform.toml");
    schema["$defs"] = json!({
        "node": table(node),
        "pool": pool,
        "capacity": capacity,
        "reference": reference,
    });
    schema
}

/// A table with these keys and no others.
fn table(keys: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let properties: Map<String, Value> = keys
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::platform::{database, settings};

    fn keys<'v>(schema: &'v Value, pointer: &str) -> BTreeSet<&'v str> {
        let properties = schema.pointer(&format!("{pointer}/properties"));
        let properties = properties.and_then(Value::as_object).unwrap();
        properties.keys().map(String::as_str).collect()
    }

    #[test]
    fn it_has_the_keys_that_are_read_and_no_others() {
        let schema = schema();
        let registry: Vec<&str> = database::keys().collect();
        for (pointer, known) in [
            ("", &settings::TOP[..]),
            ("/properties/cloud", &settings::CLOUD),
            ("/properties/manager", &settings::MANAGER),
            ("/properties/code", &settings::CODE),
            ("/properties/network", &settings::NETWORK),
            ("/properties/registry", &registry),
            ("/$defs/node", &settings::NODE),
            ("/$defs/pool", &settings::POOL),
            ("/$defs/capacity", &settings::CAPACITY),
            ("/$defs/reference", &database::REFERENCE),
        ] {
            let known: BTreeSet<&str> = known.iter().copied().collect();
            assert_eq!(keys(&schema, pointer), known, "{pointer}");
        }
    }

    #[test]
    fn every_key_says_what_it_is_for() {
        fn look(value: &Value, at: &str) {
            let Some(object) = value.as_object() else {
                return;
            };
            if let Some(properties) = object.get("properties").and_then(Value::as_object) {
                for (key, property) in properties {
                    let said = property.get("description").is_some()
                        || property.get("$ref").is_some()
                        || property.get("properties").is_some();
                    assert!(said, "{at}/{key}");
                    look(property, &format!("{at}/{key}"));
                }
            }
        }
        look(&schema(), "");
    }
}
