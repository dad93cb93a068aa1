//! The JSON Schema of `platform.toml`, for editors. A test checks that the schema contains exactly
//! the keys that are read.

use serde_json::{Map, Value, json};

use super::settings;

/// The format of an Azure image.
const IMAGE: &str = "^[^:]+:[^:]+:[^:]+:[^:]+$";

/// Returns the JSON Schema (draft 2020-12) of `platform.toml`.
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
                "The provider's name for the machine size; in a list, the first available size is \
                 used. Not for local nodes",
            ),
        ),
        (
            "image",
            json!({
                "description": "The image of the machine. Local: `ready` (with a container engine) or `bare` (the engine is installed); Azure: publisher:offer:sku:version",
                "anyOf": [{"enum": settings::LOCAL_IMAGES}, {"type": "string", "pattern": IMAGE}],
            }),
        ),
        (
            "labels",
            json!({
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
                "description": "Labels, for constraints on `node.labels.<key>`",
            }),
        ),
        ("capacity", json!({"$ref": "#/$defs/capacity"})),
    ];
    let pool = [
        ("name", text("Prefix of the nodes' names")),
        (
            "count",
            json!({
                "type": "integer",
                "minimum": 0,
                "maximum": settings::MAX_NODES,
                "description": "Number of nodes",
            }),
        ),
    ];
    let node_of_pool = node.clone();
    let node = node.into_iter().chain(existing_machine());
    let mut pool = table(pool.into_iter().chain(node_of_pool));
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
    capacity["description"] = json!(
        "Resources that services can reserve; without `capacity`, reservations are not \
               checked"
    );
    let mut reference = table([
        (
            "env",
            text("The environment variable, or variable in `.env`, that contains the secret"),
        ),
        (
            "file",
            text("The file that contains the secret, relative to the Compose file"),
        ),
    ]);
    reference["minProperties"] = json!(1);
    reference["maxProperties"] = json!(1);
    let mut schema = table([
        (
            "name",
            text(
                "Name of the platform; by default, the name in the Compose file, or the name of \
                 its directory",
            ),
        ),
        ("cloud", cloud()),
        (
            "nodes",
            json!({
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/node"},
                "description": "Nodes by name; the manager runs on the first node",
            }),
        ),
        (
            "node_pool",
            json!({
                "type": "array",
                "items": {"$ref": "#/$defs/pool"},
                "description": "Groups of identical nodes",
            }),
        ),
        (
            "manager",
            table([
                (
                    "node",
                    text("The manager's node; by default, the first node in the file"),
                ),
                (
                    "port",
                    json!({
                        "type": "integer",
                        "minimum": 1,
                        "maximum": u16::MAX,
                        "description": "The port of the manager's API on its node",
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
                        "The URL of the central database (PostgreSQL); by default, a file on the \
                         manager's node",
                    ),
                ),
                ("nodes", url("The URL of a separate database for nodes")),
                (
                    "microservices",
                    url("The URL of a separate database for services of this class"),
                ),
                (
                    "applications",
                    url("The URL of a separate database for services of this class"),
                ),
                (
                    "models",
                    url("The URL of a separate database for services of this class"),
                ),
            ]),
        ),
        (
            "network",
            table([
                (
                    "block",
                    text(
                        "The private address block for service addresses (IPv4, prefix length 12 \
                         to 24)",
                    ),
                ),
                (
                    "wait",
                    text("How long a new connection waits for a ready endpoint, for example 30s"),
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

/// Returns the keys of a node that describe a machine that exists already.
fn existing_machine() -> [(&'static str, Value); 9] {
    let secret =
        |description: &str| json!({"$ref": "#/$defs/reference", "description": description});
    [
        (
            "provider",
            json!({
                "enum": ["hosts"],
                "description": "Platforms on Azure: the node is a machine elsewhere",
            }),
        ),
        (
            "existing",
            text("Platforms on Azure: the name of an existing VM of the subscription"),
        ),
        (
            "address",
            text("Existing machines: the IP address or host name for SSH from your computer"),
        ),
        (
            "private_address",
            text("Existing machines: the IP address for the other nodes; by default `address`"),
        ),
        (
            "port",
            json!({
                "type": "integer",
                "minimum": 1,
                "maximum": u16::MAX,
                "default": 22,
                "description": "Existing machines: the port of the SSH server",
            }),
        ),
        (
            "user",
            text("Existing machines: the account for the first login, root or with sudo"),
        ),
        (
            "password",
            secret("Existing machines: the account's password, for the first login and sudo"),
        ),
        (
            "key",
            secret("Existing machines: a private SSH key for the first login"),
        ),
        (
            "host_key",
            words(
                "Existing machines: the public host key; without it, the key that the first \
                 connection finds is trusted",
            ),
        ),
    ]
}

/// Returns the schema of `[cloud]`.
fn cloud() -> Value {
    let secret =
        |description: &str| json!({"$ref": "#/$defs/reference", "description": description});
    let mut login = table([
        (
            "method",
            json!({"enum": settings::cloud::METHODS, "description": "The login method"}),
        ),
        ("tenant", text("The tenant id, for `client-secret`")),
        (
            "client",
            text("The client id of an application, or of a managed identity"),
        ),
        ("secret", secret("The client secret of the application")),
    ]);
    login["required"] = json!(["method"]);
    let mut jump_host = table([
        (
            "address",
            text("Host name or address, with the port if it is not 22"),
        ),
        ("user", text("The user on the jump host")),
        (
            "host_key",
            text("The public host key, as printed by `ssh-keyscan`"),
        ),
        (
            "key",
            secret("The private key for the jump host; by default, the platform's own key"),
        ),
    ]);
    let mut deadlines = table([
        ("create", text("Creating a node, for example 30m")),
        ("start", text("Starting a node")),
        ("stop", text("Stopping a node")),
        ("restart", text("Restarting a node")),
        ("delete", text("Deleting a node")),
    ]);
    deadlines["description"] = json!("The timeout of each change of a node");
    jump_host["required"] = json!(["address", "user", "host_key"]);
    jump_host["description"] =
        json!("The SSH host through which nodes without a public address are reached (Azure)");
    table([
        (
            "provider",
            json!({
                "enum": settings::cloud::PROVIDERS,
                "description": "The provider of nodes: `local`, containers on the local Docker engine; `azure`, VMs",
            }),
        ),
        ("deadlines", deadlines),
        (
            "subnet",
            text("The network of the nodes, for example 10.42.0.0/24; by default, a free network"),
        ),
        ("subscription", text("The subscription id (Azure)")),
        (
            "location",
            text("The region, for example westeurope (Azure)"),
        ),
        (
            "resource_group",
            text("The resource group; by default, the platform creates a resource group (Azure)"),
        ),
        (
            "size",
            words("Sizes for nodes without a size; the first available size is used (Azure)"),
        ),
        (
            "zones",
            words("Zones for nodes; the first zone with capacity is used (Azure)"),
        ),
        (
            "image",
            json!({
                "type": "string",
                "pattern": IMAGE,
                "description": "The image of nodes, as publisher:offer:sku:version (Azure)",
            }),
        ),
        ("account", text("The user account on new nodes (Azure)")),
        (
            "ssh_from",
            words(
                "Addresses and blocks from which SSH is allowed; by default, from everywhere \
                 (Azure)",
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
            text("The resource id of the user-assigned identity for the manager's login (Azure)"),
        ),
        (
            "login",
            json!({
                "description": "The login method; by default, several methods are tried in order \
                                (Azure)",
                "anyOf": [{"enum": settings::cloud::METHODS}, login],
            }),
        ),
        ("jump_host", jump_host),
        (
            "endpoint",
            text("The endpoint of Resource Manager, for other clouds and the simulator (Azure)"),
        ),
        (
            "authority",
            text("The endpoint of Entra ID, for other clouds and the simulator (Azure)"),
        ),
        (
            "ca",
            text("The PEM file with the CA certificate to trust instead of the public CAs (Azure)"),
        ),
    ])
}

/// Returns the schema of `[code]`.
fn code() -> Value {
    let secret =
        |description: &str| json!({"$ref": "#/$defs/reference", "description": description});
    table([
        (
            "store",
            json!({
                "enum": settings::code::STORES,
                "description": "Where code bases are stored: in local directories, or in an Azure \
                                Files share",
            }),
        ),
        (
            "path",
            text("The directory that contains the code bases, relative to the Compose file"),
        ),
        ("account", text("The storage account (Azure Files)")),
        ("share", text("The share (Azure Files)")),
        (
            "directory",
            text(
                "The directory of the share that contains the code bases; by default, its root \
                 (Azure Files)",
            ),
        ),
        ("key", secret("A key of the storage account (Azure Files)")),
        ("sas", secret("A shared access signature (Azure Files)")),
        (
            "endpoint",
            text("The endpoint, for other clouds and the simulator (Azure Files)"),
        ),
        (
            "ca",
            text(
                "The PEM file with the CA certificate to trust instead of the public CAs (Azure \
                 Files)",
            ),
        ),
    ])
}

/// Returns the schema of a string or a list of strings.
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

/// Returns the schema of a table with exactly these keys.
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
    fn has_exactly_the_keys_that_are_read() {
        let schema = schema();
        let registry: Vec<&str> = database::keys().collect();
        let node = [&settings::NODE[..], &settings::hosts::HOST].concat();
        for (pointer, known) in [
            ("", &settings::TOP[..]),
            ("/properties/cloud", &settings::cloud::CLOUD),
            ("/properties/manager", &settings::MANAGER),
            ("/properties/code", &settings::code::CODE),
            ("/properties/network", &settings::NETWORK),
            ("/properties/registry", &registry),
            ("/$defs/node", &node),
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
    fn every_key_is_described() {
        fn check(value: &Value, at: &str) {
            let Some(object) = value.as_object() else {
                return;
            };
            if let Some(properties) = object.get("properties").and_then(Value::as_object) {
                for (key, property) in properties {
                    let is_described = property.get("description").is_some()
                        || property.get("$ref").is_some()
                        || property.get("properties").is_some();
                    assert!(is_described, "{at}/{key}");
                    check(property, &format!("{at}/{key}"));
                }
            }
        }
        check(&schema(), "");
    }
}
