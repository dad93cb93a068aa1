//! The JSON Schema of `platform.toml`, for editors. A test holds it and the reader together, key
//! by key.

use serde_json::{Map, Value, json};

use super::settings;

/// An image of Azure's.
const IMAGE: &str = "^[^:]+:[^:]+:[^:]+:[^:]+$";

/// The schema (JSON Schema, draft 2020-12).
pub fn schema() -> Value {
    let url = |description: &str| {
        json!({
            "description": description,
            "anyOf": [{"type": "string"}, {"$ref": "#/$defs/reference"}],
        })
    };
    let node = [
        (
            "size",
            words(
                "The provider's word for how large the machine is; several: the first that can be had. Local nodes have none",
            ),
        ),
        (
            "image",
            json!({
                "description": "What the machine boots. Local: `ready`, with a container engine, or `bare`, and it gets one; Azure: publisher:offer:sku:version",
                "anyOf": [{"enum": settings::LOCAL_IMAGES}, {"type": "string", "pattern": IMAGE}],
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
                "maximum": settings::MOST_NODES,
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
        ("cloud", cloud()),
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
        ("code", code()),
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

/// `[cloud]`
fn cloud() -> Value {
    let secret =
        |description: &str| json!({"$ref": "#/$defs/reference", "description": description});
    let mut login = table([
        (
            "method",
            json!({"enum": settings::cloud::METHODS, "description": "The way to log in"}),
        ),
        ("tenant", text("The tenant's id, for `client-secret`")),
        (
            "client",
            text("The client id of an application, or of a managed identity"),
        ),
        ("secret", secret("The application's secret")),
    ]);
    login["required"] = json!(["method"]);
    let mut jump_host = table([
        (
            "address",
            text("Its name or address, with a port if that is not 22"),
        ),
        ("user", text("The account there")),
        (
            "host_key",
            text("Its public key, as `ssh-keyscan` prints it"),
        ),
        (
            "key",
            secret("The private key for it; the platform's own without it"),
        ),
    ]);
    let mut deadlines = table([
        ("create", text("Making a node, for example 30m")),
        ("start", text("Starting one")),
        ("stop", text("Stopping one")),
        ("restart", text("Restarting one")),
        ("delete", text("Deleting one")),
    ]);
    deadlines["description"] =
        json!("How long each change of a node may take before nobody waits for it any more");
    jump_host["required"] = json!(["address", "user", "host_key"]);
    jump_host["description"] =
        json!("Through what nodes without a public address are reached (Azure)");
    table([
        (
            "provider",
            json!({
                "enum": settings::cloud::PROVIDERS,
                "description": "Where nodes come from: `local`, containers on your own Docker engine; `azure`, VMs",
            }),
        ),
        ("deadlines", deadlines),
        (
            "subnet",
            text(
                "The network that the nodes share, for example 10.42.0.0/24; one that is free without it",
            ),
        ),
        ("subscription", text("The subscription's id (Azure)")),
        (
            "location",
            text("The region, for example westeurope (Azure)"),
        ),
        (
            "resource_group",
            text("The resource group; one of the platform's own without it (Azure)"),
        ),
        (
            "size",
            words("The sizes of nodes that name none: the first that can be had (Azure)"),
        ),
        (
            "zones",
            words("The zones that nodes may be in: the first that has room (Azure)"),
        ),
        (
            "image",
            json!({
                "type": "string",
                "pattern": IMAGE,
                "description": "What nodes boot, as publisher:offer:sku:version (Azure)",
            }),
        ),
        ("account", text("The account on each new node (Azure)")),
        (
            "ssh_from",
            words(
                "From where SSH is allowed: addresses, blocks; from everywhere without it (Azure)",
            ),
        ),
        (
            "public_ip",
            json!({
                "type": "boolean",
                "default": true,
                "description": "Whether new nodes get a public address (Azure)",
            }),
        ),
        (
            "identity",
            text(
                "The resource id of the user-assigned identity that the manager logs in with (Azure)",
            ),
        ),
        (
            "login",
            json!({
                "description": "How to log in; tried in order without it (Azure)",
                "anyOf": [{"enum": settings::cloud::METHODS}, login],
            }),
        ),
        ("jump_host", jump_host),
        (
            "endpoint",
            text("Resource Manager's address, for other clouds and the simulator (Azure)"),
        ),
        (
            "authority",
            text("Entra's address, for other clouds and the simulator (Azure)"),
        ),
        (
            "ca",
            text("The file with the certificate of the only authority to trust, in PEM (Azure)"),
        ),
    ])
}

/// `[code]`
fn code() -> Value {
    let secret =
        |description: &str| json!({"$ref": "#/$defs/reference", "description": description});
    table([
        (
            "store",
            json!({
                "enum": settings::code::STORES,
                "description": "Where code bases lie: in directories here, or in a share of Azure Files",
            }),
        ),
        (
            "path",
            text("The directory that holds those that services name, relative to the Compose file"),
        ),
        ("account", text("The storage account (Azure Files)")),
        ("share", text("The share (Azure Files)")),
        (
            "directory",
            text("The directory of the share that holds them; all of it without (Azure Files)"),
        ),
        ("key", secret("A key of the storage account (Azure Files)")),
        ("sas", secret("A shared access signature (Azure Files)")),
        (
            "endpoint",
            text("Where the service answers, for other clouds and the simulator (Azure Files)"),
        ),
        (
            "ca",
            text(
                "The file with the certificate of the only authority to trust, in PEM (Azure Files)",
            ),
        ),
    ])
}

/// A text, or several.
fn words(description: &str) -> Value {
    json!({
        "description": description,
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
        ],
    })
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
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
    use crate::platform::{database, secret_reference, settings};

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
            ("/properties/cloud", &settings::cloud::CLOUD),
            ("/properties/manager", &settings::MANAGER),
            ("/properties/code", &settings::code::CODE),
            ("/properties/network", &settings::NETWORK),
            ("/properties/registry", &registry),
            ("/$defs/node", &settings::NODE),
            ("/$defs/pool", &settings::POOL),
            ("/$defs/capacity", &settings::CAPACITY),
            ("/$defs/reference", &secret_reference::REFERENCE),
            (
                "/properties/cloud/properties/deadlines",
                &settings::cloud::DEADLINES,
            ),
            (
                "/properties/cloud/properties/jump_host",
                &settings::cloud::JUMP_HOST,
            ),
            (
                "/properties/cloud/properties/login/anyOf/1",
                &settings::cloud::LOGIN,
            ),
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
