//! Reads `x-lifecycle` of a service: settings that Compose does not have.

use std::collections::BTreeMap;

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::{Draft, value};
use crate::model::{
    ApiAccess, Constraint, ConstraintOperator, HttpReadiness, NetworkMode, NodeName, ServiceClass,
    ServiceName, ServiceSpec, Starts, TokenRole, TokenScope,
};

const KEYS: [&str; 8] = [
    "api",
    "class",
    "code",
    "metadata",
    "public",
    "ready",
    "ready_within",
    "starts",
];
const API_KEYS: [&str; 3] = ["classes", "role", "services"];
const CLASSES: [(&str, ServiceClass); 3] = [
    ("microservice", ServiceClass::Microservice),
    ("application", ServiceClass::Application),
    ("model", ServiceClass::Model),
];
const ROLES: [(&str, TokenRole); 3] = [
    ("viewer", TokenRole::Viewer),
    ("operator", TokenRole::Operator),
    ("admin", TokenRole::Admin),
];
const READY_KEYS: [&str; 2] = ["path", "port"];

/// Reads all keys except `code`. Returns the field of `code`, which is read together with `build`.
pub(super) fn read<'a>(
    field: &Field<'a>,
    spec: &mut ServiceSpec,
    report: &mut Report,
) -> Option<Field<'a>> {
    let mut code = None;
    for (key, field) in field.entries(report) {
        match key {
            "class" => spec.class = field.word(report, &CLASSES).unwrap_or_default(),
            "code" => code = Some(field),
            "starts" => {
                spec.starts = field
                    .word(report, &[("last", Starts::Last)])
                    .unwrap_or_default();
            }
            "api" => spec.container.api = api_access(&field, report),
            "public" => {
                spec.public = field.boolean(report).unwrap_or_default();
                check_public(&field, spec, report);
            }
            "metadata" => {
                let metadata = field.boolean(report).unwrap_or_default();
                let mode = &spec.container.connection.mode;
                if metadata && *mode != NetworkMode::Platform {
                    let problem = "the service has a `network_mode`";
                    let help = "remove `metadata`: with `host`, a container can always reach the \
                                metadata service, and with `service:`, the other service decides";
                    field.problem_with_help(report, problem, help);
                }
                spec.container.metadata_service = metadata;
            }
            "ready" => spec.ready = readiness(&field, report),
            "ready_within" => {
                if let Some(limit) = field.parse(report, value::duration) {
                    if limit.is_zero() {
                        field.problem(report, "the time must be greater than 0");
                    }
                    spec.ready_within = limit;
                }
            }
            _ => report.unknown_key(field.at, &field.path, key, KEYS),
        }
    }
    code
}

/// Reads `read`, `operate`, or `{role: admin, classes: [application], services: [web]}`.
fn api_access(field: &Field<'_>, report: &mut Report) -> Option<ApiAccess> {
    if !field.is_map() {
        let words = [("read", false), ("operate", true)];
        let operates = field.word(report, &words)?;
        return Some(if operates {
            ApiAccess::Operate
        } else {
            ApiAccess::Read
        });
    }
    let mut role = None;
    let mut scope = None;
    for (key, field) in field.entries(report) {
        match key {
            "role" => role = field.word(report, &ROLES),
            "classes" => {
                let items = field.items(report).into_iter();
                let classes = items.filter_map(|item| item.word(report, &CLASSES));
                let scope: &mut TokenScope = scope.get_or_insert_default();
                scope.classes.extend(classes);
            }
            "services" => {
                let items = field.items(report).into_iter();
                let services = items.filter_map(|item| item.parse(report, service_name));
                let scope: &mut TokenScope = scope.get_or_insert_default();
                scope.services.extend(services);
            }
            _ => report.unknown_key(field.at, &field.path, key, API_KEYS),
        }
    }
    if scope.as_ref().is_some_and(TokenScope::is_empty) {
        let help = "name a class or a service, or omit `classes` and `services`";
        field.problem_with_help(report, "the token would be limited to nothing", help);
    }
    let Some(role) = role else {
        let help = "add `role: viewer`, `role: operator` or `role: admin`";
        field.problem_with_help(report, "`role` is missing", help);
        return None;
    };
    let scope = scope.map(Box::new);
    Some(ApiAccess::Granted { role, scope })
}

fn service_name(text: &str) -> Result<ServiceName, String> {
    ServiceName::try_from(text).map_err(|error| error.to_string())
}

/// Keeps services that can use the metadata service off the manager's node, whose identity controls the
/// platform. On Azure, these include all services on the node's network.
pub(in super::super) fn keep_metadata_from(
    manager: &NodeName,
    on_azure: bool,
    services: &mut BTreeMap<ServiceName, Draft>,
) {
    let users = services.values_mut().map(|draft| &mut draft.spec);
    let can_use = |spec: &&mut ServiceSpec| {
        let container = &spec.container;
        let on_node = container.connection.mode == NetworkMode::Host;
        container.metadata_service || on_azure && on_node
    };
    for spec in users.filter(can_use) {
        spec.constraints.push(Constraint {
            key: "node.hostname".to_owned(),
            operator: ConstraintOperator::NotEqual,
            value: manager.to_string(),
        });
    }
}

/// Rejects `public` if none of the service's ports can be opened.
fn check_public(field: &Field<'_>, spec: &ServiceSpec, report: &mut Report) {
    if !spec.public {
        return;
    }
    let container = &spec.container;
    let publish = "publish a port under `ports`, with a host port: `ports: [\"8080:80\"]`";
    if container.connection.mode != NetworkMode::Platform {
        let problem = "the service publishes no ports, because it has a `network_mode`";
        field.problem_with_help(report, problem, "remove `network_mode` or `public`");
    } else if let Some(choice) = container.port_choices.first() {
        let problem = format!(
            "the container port {} is published at one of several host ports, so it cannot be opened",
            choice.container_port
        );
        field.problem_with_help(report, problem, publish);
    } else if container.ports.is_empty() {
        let problem = "the service publishes no ports that could be opened";
        field.problem_with_help(report, problem, publish);
    } else if let Some(port) = container.ports.iter().find(|port| port.host_port.is_none()) {
        let problem = format!(
            "the container port {} has no fixed host port that could be opened",
            port.container_port
        );
        field.problem_with_help(report, problem, publish);
    } else if spec.public_ports().next().is_none() {
        let problem = "all published ports are at a loopback address, which is not reachable from \
                       outside";
        let help = "remove the address from a port (`8080:80` instead of `127.0.0.1:8080:80`)";
        field.problem_with_help(report, problem, help);
    }
}

/// Reads `{port: 8080, path: /health}` or `http://:8080/health`.
fn readiness(field: &Field<'_>, report: &mut Report) -> Option<HttpReadiness> {
    if !field.is_map() {
        return field.parse(report, short_readiness);
    }
    let mut port = None;
    let mut path = Some("/".to_owned());
    for (key, field) in field.entries(report) {
        match key {
            "port" => port = field.number(report, 1, u32::from(u16::MAX)),
            "path" => path = field.parse(report, http_path),
            _ => report.unknown_key(field.at, &field.path, key, READY_KEYS),
        }
    }
    if field.get("port").is_none() {
        field.problem(report, "`port` is missing");
    }
    Some(HttpReadiness {
        port: u16::try_from(port?).ok()?,
        path: path?,
    })
}

fn short_readiness(text: &str) -> Result<HttpReadiness, String> {
    let bad = || format!("`{text}` is not in the format `http://:8080/path`");
    let rest = text.strip_prefix("http://:").ok_or_else(bad)?;
    let (port, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?;
    Ok(HttpReadiness {
        port,
        path: http_path(path)?,
    })
}

fn http_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a valid path: a path starts with `/` and contains no spaces"
        ))
    }
}
