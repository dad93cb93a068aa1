//! The API's `OpenAPI` document. A test compares it with the routes, and with `docs/openapi.json`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use lifecycle_core::api::exec::{ExecV1, PROTOCOL};
use lifecycle_core::api::wire::{
    AppliedV1, CreatedTokenV1, EndpointV1, EventsV1, NewMachineV1, NewNodeV1, NewTokenV1,
    RestartNodeV1, RestartV1, RollbackPlanV1, RolledBackV1, ScaleV1,
};
use lifecycle_core::model::{ChunkDigest, NodeRequest, RolloutRequest, ServiceClass, ServiceName};
use lifecycle_core::reconcile::Plan;
use lifecycle_core::runtime::ImageLogins;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    chunks, classes, endpoints, events, exec, health, image_logins, metrics, nodes, operations,
    overrides, platform, retry, revisions, services, tokens, why,
};
use crate::auth::Viewer;
use crate::openapi::{Document, Operation};

static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// `GET /v1/openapi.json`: returns this document.
pub(super) async fn show(_: Viewer) -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// Returns the document.
pub(crate) fn document() -> Value {
    let mut document = Document::new();
    of_platform(&mut document);
    of_contents(&mut document);
    of_nodes(&mut document);
    of_services(&mut document);
    for (class, path, one) in [
        (
            ServiceClass::Microservice,
            "/v1/microservices",
            "microservice",
        ),
        (ServiceClass::Application, "/v1/applications", "application"),
        (ServiceClass::Model, "/v1/models", "model"),
    ] {
        of_class(&mut document, class, path, one);
    }
    of_history(&mut document);
    of_tokens(&mut document);
    of_health(&mut document);
    document.finish(&json!({
        "title": "Lifecycle manager",
        "version": "1",
        "description": "The API of the lifecycle manager, which keeps a platform of services on VMs alive. \
                        Clients must ignore members that they do not know, and accept unknown states \
                        and event kinds. A request with the header `Idempotency-Key` can be repeated: \
                        docs/api.md lists the requests whose answers are recorded. Every response that is not a success is a problem document \
                        (RFC 9457).",
    }))
}

fn of_platform(document: &mut Document) {
    document.add("GET", "/v1/platform", &platform::show, |o| {
        o.named(
            "get_platform",
            "Returns the state of the platform as a whole.",
        )
    });
    document.add("PUT", "/v1/platform", &platform::apply, |o| {
        declaration(o.named("apply_platform", "Replaces the declaration."))
            .details(
                "A repeated request changes nothing. Until all chunks of mounted files are stored, the \
                 status is 409.",
            )
            .fails(&[409, 422])
    });
    document.add("DELETE", "/v1/platform", &platform::delete_platform, |o| {
        followed(o.named("delete_platform", "Begins to delete the platform."))
    });
    document.add("POST", "/v1/platform/plan", &platform::plan, |o| {
        declaration(o.named(
            "plan_platform",
            "Returns the steps that a declaration would cause.",
        ))
        .fails(&[409, 422])
    });
    document.add("GET", "/v1/platform/plan", &platform::recorded_plan, |o| {
        o.named("get_plan", "Returns the latest plan with its input.")
    });
    document.add("GET", "/v1/progress", &platform::progress, |o| {
        o.named("get_progress", "Returns the progress of the current round.")
    });
    document.add("GET", "/v1/openapi.json", &show, |o| {
        o.named("get_openapi", "Returns this document.")
            .responds_with(
                200,
                "An OpenAPI document",
                Some(("application/json", json!({"type": "object"}))),
            )
    });
}

fn of_contents(document: &mut Document) {
    let digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    document.add("POST", "/v1/chunks/missing", &chunks::missing, |o| {
        o.named(
            "find_missing_chunks",
            "Returns which of these chunks of mounted files are not stored.",
        )
        .body::<Vec<ChunkDigest>>(true, &json!([digest]))
    });
    document.add("PUT", "/v1/chunks/{digest}", &chunks::put, |o| {
        o.named("put_chunk", "Stores a chunk of mounted files.")
            .details("The digest must be that of the body, otherwise the status is 422.")
            .segment::<ChunkDigest>("digest", "The SHA-256 of the chunk.", digest)
            .body_in::<String>("application/octet-stream", true, &json!("foo"))
            .fails(&[422])
    });
    document.add("PUT", "/v1/image-logins", &image_logins::replace, |o| {
        let login = json!({"registry.example": {"password": {"user": "ci", "password": "…"}}});
        o.named(
            "replace_image_logins",
            "Replaces the logins for the registries of images.",
        )
        .body::<ImageLogins>(true, &login)
    });
}

fn of_nodes(document: &mut Document) {
    document.add("GET", "/v1/nodes", &nodes::list, |o| {
        o.named(
            "list_nodes",
            "Returns the nodes with their states and addresses.",
        )
    });
    document.add("POST", "/v1/nodes", &nodes::add, |o| {
        o.named(
            "add_node",
            "Adds a node, which is then created and prepared.",
        )
        .body::<NewNodeV1>(true, &json!({"name": "worker-3", "like": "n1"}))
        .fails(&[404, 409, 422])
        .link(202, "get_node", "name", "$request.body#/name")
    });
    document.add("POST", "/v1/machines", &nodes::adopt, |o| {
        let machine = json!({
            "name": "edge-1",
            "address": "203.0.113.7",
            "user": "admin",
            "password": "…",
        });
        o.named(
            "adopt_node",
            "Takes over a machine that exists already, and adds it as a node, which is then prepared.",
        )
        .details(
            "The login is used once, and not stored. The response is sent when the machine is taken over, \
             which may take minutes. A repeated request continues an interrupted one.",
        )
        .body::<NewMachineV1>(true, &machine)
        .fails(&[404, 409, 422, 501])
        .link(202, "get_node", "name", "$request.body#/name")
    });
    document.add("GET", "/v1/nodes/{name}", &nodes::show, |o| {
        node(o.named("get_node", "Returns a node."))
    });
    document.add("DELETE", "/v1/nodes/{name}", &nodes::remove, |o| {
        node(o.named("remove_node", "Removes a node that was added at run time."))
            .fails(&[409, 422])
    });
    document.add("POST", "/v1/nodes/{name}/restart", &nodes::restart, |o| {
        followed(node(o.named("restart_node", "Begins to restart a node.")))
            .body::<RestartNodeV1>(false, &json!({}))
            .fails(&[422, 501])
    });
    document.add("POST", "/v1/nodes/{name}/prepare", &nodes::prepare, |o| {
        followed(node(o.named(
            "prepare_node",
            "Begins to prepare a node for Docker again.",
        )))
        .fails(&[409])
    });
    for request in NodeRequest::ALL {
        let change = move |caller, api, name| nodes::change(request, caller, api, name);
        let summary = match request {
            NodeRequest::Cordon => "Cordons nodes: they get no new replicas.",
            NodeRequest::Drain => "Drains nodes: their replicas move to other nodes.",
            NodeRequest::Uncordon => "Opens nodes: they may have all replicas again.",
            NodeRequest::Stop => "Stops nodes, after their replicas have moved to other nodes.",
            NodeRequest::Start => "Starts nodes that were stopped.",
        };
        let path = format!("/v1/nodes/{{name}}/{request}");
        document.add("POST", &path, &change, |o| {
            o.named(&format!("{request}_nodes"), summary)
                .segment::<String>("name", "The names of nodes, separated by commas.", "n1")
                .fails(&[404, 409, 422, 501])
        });
    }
}

fn of_services(document: &mut Document) {
    document.add("GET", "/v1/services", &services::list, |o| {
        o.named(
            "list_services",
            "Returns the services, their replicas, and their public addresses.",
        )
    });
    document.add("GET", "/v1/services/{name}", &services::show, |o| {
        service(o.named("get_service", "Returns a service."))
    });
    document.add(
        "GET",
        "/v1/services/{name}/endpoints",
        &endpoints::of_service,
        |o| {
            let named = o.named(
                "list_endpoints",
                "Returns the addresses of the ready replicas.",
            );
            watched::<Vec<EndpointV1>>(service(named))
        },
    );
    document.add("GET", "/v1/endpoints", &endpoints::all, |o| {
        watched::<BTreeMap<ServiceName, Vec<EndpointV1>>>(o.named(
            "list_all_endpoints",
            "Returns the addresses of the ready replicas of all services.",
        ))
    });
    document.add("GET", "/v1/instances", &services::instances, |o| {
        o.named("list_instances", "Returns the replicas of all services.")
    });
    document.add("GET", "/v1/services/{name}/logs", &services::logs, |o| {
        o.named(
            "get_logs",
            "Returns the output of all replicas, one JSON object per line.",
        )
        .segment::<ServiceName>("name", "The name of a service.", "web")
        .responds_with(
            200,
            "Lines, each an object: docs/schema/logs.json describes it",
            Some(("application/x-ndjson", json!({"type": "string"}))),
        )
        .fails(&[404, 422])
    });
    document.add(
        "POST",
        "/v1/services/{name}/restart",
        &services::restart,
        |o| {
            followed(service_or_replica(o.named(
                "restart_service",
                "Begins to restart a service or one replica.",
            )))
            .body::<RestartV1>(false, &json!({"replaces": {}}))
            .fails(&[422])
        },
    );
    document.add(
        "POST",
        "/v1/services/{name}/rollout/{request}",
        &services::rollout,
        |o| {
            let requests = RolloutRequest::ALL.map(|request| request.to_string());
            followed(service(o.named(
                "control_rollout",
                "Pauses, resumes or rolls back a rollout.",
            )))
            .segment_in("request", "What to do.", &requests)
            .fails(&[422])
        },
    );
    document.add(
        "POST",
        "/v1/services/{name}/scale",
        &overrides::scale,
        |o| {
            service(o.named("scale_service", "Sets the number of replicas."))
                .body::<ScaleV1>(true, &json!({"replicas": 3}))
                .fails(&[409, 422])
        },
    );
    document.add("POST", "/v1/services/{name}/stop", &overrides::stop, |o| {
        service(o.named("stop_service", "Stops a service.")).fails(&[409, 422])
    });
    document.add(
        "POST",
        "/v1/services/{name}/start",
        &overrides::start,
        |o| service(o.named("start_service", "Starts a stopped service.")).fails(&[409, 422]),
    );
    document.add("POST", "/v1/services/{name}/exec", &exec::run, |o| {
        service_or_replica(o.named("exec", "Runs a command in a container."))
            .details(&format!(
                "The request contains `Connection: upgrade` and `Upgrade: {PROTOCOL}`. After the response, \
                 the connection carries the command's input and output."
            ))
            .body::<ExecV1>(true, &json!({"command": ["true"]}))
            .responds_with(101, "The command runs", None)
            .fails(&[400, 408, 409, 413, 415, 422, 501])
    });
    document.add("POST", "/v1/retry/{name}", &retry::run, |o| {
        any(o.named(
            "retry",
            "Retries failed steps immediately, and returns them.",
        ))
        .fails(&[409])
    });
    document.add("GET", "/v1/why/{name}", &why::show, |o| {
        any(o.named(
            "explain",
            "Returns the reason for the state of a service, a replica or a node.",
        ))
    });
}

fn of_class(document: &mut Document, class: ServiceClass, path: &str, one: &str) {
    let named = format!("{path}/{{name}}");
    let get = format!("get_{one}");
    let remove = format!("remove_{one}");
    let kind = format!("The name of a service of the class `{class}`.");
    let list = move |caller, api| classes::list(class, caller, api);
    document.add("GET", path, &list, |o| {
        o.named(
            &format!("list_{one}s"),
            "Returns the services of this class.",
        )
    });
    let show = move |caller, api, name| classes::show(class, caller, api, name);
    document.add("GET", &named, &show, |o| {
        o.named(&get, "Returns a service of this class.")
            .segment::<String>("name", &kind, "chat")
            .fails(&[404])
    });
    let apply = move |caller, api, name, options, body| {
        classes::apply(class, caller, api, name, options, body)
    };
    document.add("PUT", &named, &apply, |o| {
        let example = json!({"image": "base:1", "expose": ["8080"]});
        o.named(&format!("apply_{one}"), "Declares a service at run time, or replaces it.")
            .details(
                "The body is a service as in a Compose file. It is checked like a service in the user's \
                 files; a violated rule has the status 422. A repeated request changes nothing.",
            )
            .segment::<ServiceName>("name", &kind, "chat")
            .body::<ServiceBody>(true, &example)
            .body_in::<ServiceBody>("application/yaml", true, &example)
            .responds::<Plan>(200, "With `dry_run=true`: what the request would change")
            .responds::<AppliedV1>(202, "The declared generation")
            .fails(&[409, 422])
            .link(202, &get, "name", "$request.path.name")
    });
    let removal = move |caller, api, name| classes::remove(class, caller, api, name);
    document.add("DELETE", &named, &removal, |o| {
        o.named(&remove, "Removes a service that was declared at run time.")
            .segment::<String>("name", &kind, "chat")
            .fails(&[404, 409, 422])
    });
}

fn of_history(document: &mut Document) {
    document.add("GET", "/v1/overrides", &overrides::list, |o| {
        o.named("list_overrides", "Returns the overrides in force.")
    });
    document.add("DELETE", "/v1/overrides/{id}", &overrides::remove, |o| {
        o.named(
            "remove_override",
            "Removes an override, so that the value in the files applies again.",
        )
        .segment::<String>("id", "The id of an override.", "web.replicas")
        .fails(&[404, 409, 422])
    });
    document.add("GET", "/v1/export", &overrides::export, |o| {
        o.named(
            "export_overrides",
            "Returns the overrides in force, with what the user's files need to declare them.",
        )
        .details("Contains the texts of added services, which may contain secrets.")
    });
    document.add("GET", "/v1/revisions", &revisions::list, |o| {
        o.named(
            "list_revisions",
            "Returns the stored revisions, oldest first.",
        )
    });
    document.add(
        "POST",
        "/v1/revisions/{generation}/rollback",
        &revisions::rollback,
        |o| {
            o.named("roll_back", "Restores the services of a revision.")
                .segment::<u64>("generation", "The generation of the revision.", "1")
                .responds::<RollbackPlanV1>(
                    200,
                    "With `dry_run=true`: what the request would change",
                )
                .responds::<RolledBackV1>(202, "The declared generation")
                .fails(&[404, 409, 422])
        },
    );
    document.add("GET", "/v1/operations", &operations::list, |o| {
        o.named(
            "list_operations",
            "Returns the latest operations, oldest first.",
        )
    });
    document.add("GET", "/v1/operations/{id}", &operations::show, |o| {
        operation(o.named("get_operation", "Returns an operation."))
    });
    let path = "/v1/operations/{id}/cancel";
    document.add("POST", path, &operations::cancel, |o| {
        let summary = "Cancels a restart or a preparation.";
        followed(operation(o.named("cancel_operation", summary)))
    });
    document.add("GET", "/v1/events", &events::list, |o| {
        page_of_events(o.named("list_events", "Returns the events after a cursor."))
    });
    document.add("GET", "/v1/audit", &events::audit, |o| {
        page_of_events(o.named(
            "list_audit",
            "Returns the events of the audit after a cursor.",
        ))
    });
}

fn of_tokens(document: &mut Document) {
    document.add("GET", "/v1/tokens", &tokens::list, |o| {
        o.named("list_tokens", "Returns the tokens, without their secrets.")
    });
    document.add("POST", "/v1/tokens", &tokens::create, |o| {
        o.named("create_token", "Creates a token.")
            .body::<NewTokenV1>(
                true,
                &json!({"name": "ci", "role": "viewer", "expires_in": 86400}),
            )
            .responds::<CreatedTokenV1>(201, "The token. No other response contains it.")
            .fails(&[409, 422])
            .link(201, "revoke_token", "name", "$response.body#/id")
    });
    document.add("DELETE", "/v1/tokens/{name}", &tokens::revoke, |o| {
        o.named("revoke_token", "Revokes a token.")
            .segment::<String>("name", "The name or the id of a token.", "ci")
            .fails(&[404, 409])
    });
}

fn of_health(document: &mut Document) {
    let text = || Some(("text/plain; charset=utf-8", json!({"type": "string"})));
    document.add("GET", "/healthz", &health::healthz, |o| {
        o.named("check_health", "Succeeds while the process is running.")
            .responds_with(200, "The process is running", text())
    });
    document.add("GET", "/metrics", &metrics::show, |o| {
        o.named("get_metrics", "Returns the metrics for Prometheus.")
            .responds_with(
                200,
                "Metrics in the OpenMetrics format: docs/metrics.md lists them",
                Some((
                    lifecycle_core::metrics::CONTENT_TYPE,
                    json!({"type": "string"}),
                )),
            )
    });
    document.add("GET", "/readyz", &health::readyz, |o| {
        o.named(
            "check_readiness",
            "Succeeds after the first round, while every service is ready.",
        )
        .responds_with(200, "Every service is ready", text())
        .fails(&[503])
    });
}

fn declaration(operation: Operation<'_>) -> Operation<'_> {
    operation.body::<DeclarationBody>(true, &declaration_example())
}

fn node(operation: Operation<'_>) -> Operation<'_> {
    let described = operation.segment::<String>("name", "The name of a node.", "n1");
    described.fails(&[404])
}

fn service(operation: Operation<'_>) -> Operation<'_> {
    let described = operation.segment::<String>("name", "The name of a service.", "web");
    described.fails(&[404])
}

fn service_or_replica(operation: Operation<'_>) -> Operation<'_> {
    let description = "The name of a service or of a replica.";
    let described = operation.segment::<String>("name", description, "web");
    described.fails(&[404])
}

fn any(operation: Operation<'_>) -> Operation<'_> {
    let description = "The name of a service, a replica or a node.";
    let described = operation.segment::<String>("name", description, "web");
    described.fails(&[404])
}

fn page_of_events(operation: Operation<'_>) -> Operation<'_> {
    let id = json!({"type": "string", "pattern": "^(latest|[0-9]{1,19})$"});
    operation
        .header(
            "Last-Event-ID",
            "Replaces `after` when a client connects to a stream again.",
            &id,
        )
        .responds::<EventsV1>(200, "")
        .responds_with(
            200,
            "A page of events, or with `Accept: text/event-stream` a stream of them",
            Some(("text/event-stream", json!({"type": "string"}))),
        )
        .fails(&[410])
}

/// Describes an operation that returns a resource with a tag, or a stream of its versions.
fn watched<T: JsonSchema>(operation: Operation<'_>) -> Operation<'_> {
    let text = json!({"type": "string"});
    operation
        .header(
            "If-None-Match",
            "The `ETag` of a previous response. If it is still the same, the status is 304.",
            &text,
        )
        .header(
            "Last-Event-ID",
            "The id of the last received event, when a client connects to a stream again. The stream \
             begins with the current content only if it is different.",
            &text,
        )
        .responds::<T>(200, "")
        .responds_with(
            200,
            "The current content, or with `Accept: text/event-stream` a stream: the current content, and \
             the new one after each change",
            Some(("text/event-stream", text.clone())),
        )
        .responds_with(304, "The content has the tag in `If-None-Match`", None)
}

/// Describes an operation that begins something: the response is an operation to follow.
fn operation(operation: Operation<'_>) -> Operation<'_> {
    operation
        .segment::<Uuid>(
            "id",
            "The operation's id.",
            "67e55044-10b1-426f-9247-bb680e5fe0c8",
        )
        .fails(&[404])
}

fn followed(operation: Operation<'_>) -> Operation<'_> {
    operation
        .fails(&[409])
        .link(202, "get_operation", "id", "$response.body#/id")
}

/// A declaration in the document. Most members are not described, because only a bootstrapper of the
/// manager's version creates declarations.
enum DeclarationBody {}

impl JsonSchema for DeclarationBody {
    fn schema_name() -> Cow<'static, str> {
        "Declaration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "A declaration, which a bootstrapper of the manager's version creates from the \
                            user's files. Its format depends on the version.",
            "required": ["name", "id", "manager", "cloud", "nodes", "services"],
            "properties": {
                "name": {"type": "string", "description": "The platform's name."},
                "id": {"type": "string", "format": "uuid", "description": "The platform's id."},
                "manager": {"type": "object", "description": "The manager's node and port."},
                "cloud": {"type": "object", "description": "The cloud and its settings."},
                "nodes": {"type": "object", "description": "The nodes by their names."},
                "services": {"type": "object", "description": "The services by their names."},
            },
        })
    }
}

/// A service of a Compose file in the document. `docs/compose.md` describes the other members.
enum ServiceBody {}

impl JsonSchema for ServiceBody {
    fn schema_name() -> Cow<'static, str> {
        "ComposeService".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "A service as in a Compose file. docs/compose.md lists the other members.",
            "required": ["image"],
            "properties": {
                "image": {
                    "type": ["string", "number", "boolean"],
                    "description": "The image. As in every Compose file, a number is read as text.",
                },
            },
        })
    }
}

fn declaration_example() -> Value {
    json!({
        "name": "demo",
        "id": "00000010-0000-0000-0000-000000000000",
        "manager": {"node": "n1", "port": 7443},
        "cloud": {"provider": "local", "subnet": null},
        "nodes": {"n1": {"name": "n1", "origin": "file"}},
        "services": {
            "web": {
                "name": "web", "class": "microservice", "origin": "file", "replicas": 1,
                "source": {"image": "base:1"},
                "container": {
                    "command": null, "entrypoint": null, "environment": {}, "user": null,
                    "working_dir": null, "labels": {}, "volumes": [], "ports": [], "expose": [],
                    "healthcheck": null, "stop_grace": null,
                    "limits": {"cpu_millis": 0, "memory_bytes": 0}, "api": null,
                },
                "depends_on": {}, "ready": null, "ready_within": 300.0, "restart": null,
                "constraints": [], "reserves": {"cpu_millis": 0, "memory_bytes": 0},
                "starts": "in-order",
            },
        },
        "volumes": [],
        "network": {"block": "10.210.0.0/16", "wait": 30.0},
        "deadlines": {
            "create": 1800.0, "start": 600.0, "stop": 600.0, "restart": 600.0, "delete": 900.0,
        },
    })
}
