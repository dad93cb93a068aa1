//! Reads `deploy`, and older keys with the same effect: replicas, placement, resources.

use super::super::diagnostic::Report;
use super::super::tree::{Field, Value};
use super::keys::{self, supported_entries};
use super::value;
use super::{ProjectContext, devices, limits, update};
use crate::model::{Constraint, ConstraintOperator, NodeName, Resources, ServiceSpec};

/// The maximum number of replicas of a service.
pub(in crate::platform) const MAX_REPLICAS: u32 = 10_000;

/// Placement keys of Swarm mode that are not supported.
const FOREIGN_KEYS: [&str; 3] = ["node.id", "node.role", "node.platform.arch"];

pub(super) fn read(
    field: &Field<'_>,
    spec: &mut ServiceSpec,
    project: &ProjectContext<'_>,
    report: &mut Report,
) {
    for (key, field) in supported_entries(field, keys::DEPLOY, report) {
        match key {
            "replicas" => replicas(&field, spec, report),
            "mode" => {
                field.word(report, &[("replicated", ()), ("global", ())]);
            }
            "placement" => {
                for (key, field) in supported_entries(&field, keys::PLACEMENT, report) {
                    if key == "max_replicas_per_node" {
                        let most = field.number(report, 1, MAX_REPLICAS);
                        spec.max_per_node = most.and_then(|most| u16::try_from(most).ok());
                        continue;
                    }
                    for item in field.items(report) {
                        spec.constraints.extend(constraint(&item, project, report));
                    }
                }
            }
            "resources" => resources(&field, spec, report),
            "restart_policy" => spec.restart = update::restart(&field, report),
            "update_config" => spec.update.update = Some(update::update(&field, report)),
            "rollback_config" => spec.update.rollback = Some(update::rollback(&field, report)),
            "endpoint_mode" => {
                field.word(report, &[("vip", ()), ("dnsrr", ())]);
                if field.text(report) == Some("dnsrr") {
                    let consequence = "a service has one address, which distributes connections \
                                       to its replicas";
                    report.unsupported(field.at, &field.path, consequence, true);
                }
            }
            _ => {}
        }
    }
}

/// Returns whether a service declares how many replicas it has.
pub(super) fn declares_replicas(field: &Field<'_>) -> bool {
    if !field.is_map() {
        return false;
    }
    let deploy = field.get("deploy").filter(Field::is_map);
    let given = |field: &Field<'_>, key: &str| field.get(key).is_some_and(|field| !field.is_null());
    given(field, "scale")
        || deploy.is_some_and(|deploy| given(&deploy, "replicas") || is_global(&deploy))
}

fn is_global(deploy: &Field<'_>) -> bool {
    deploy.get("mode").is_some_and(
        |mode| matches!(&mode.node.value, Value::Scalar { text, .. } if text == "global"),
    )
}

/// Gives a global service one replica on each node that satisfies the service's constraints. Call
/// this after all other keys are read.
pub(super) fn settle(
    field: &Field<'_>,
    spec: &mut ServiceSpec,
    project: &ProjectContext<'_>,
    report: &mut Report,
) {
    let deploy = field.get("deploy");
    if !deploy.as_ref().is_some_and(is_global) {
        return;
    }
    let given = deploy.and_then(|deploy| deploy.get("replicas"));
    if let Some(given) = given.or_else(|| field.get("scale")) {
        given.problem_with_help(
            report,
            "a global service has exactly one replica on each node",
            "remove this key, or `mode: global`",
        );
    }
    let nodes = project.nodes.values();
    let nodes = nodes.filter(|node| spec.constraints.iter().all(|c| c.holds(node)));
    spec.replicas = u16::try_from(nodes.count()).unwrap_or(u16::MAX);
    spec.max_per_node = Some(1);
}

pub(super) fn replicas(field: &Field<'_>, spec: &mut ServiceSpec, report: &mut Report) {
    let count = field.number(report, 0, MAX_REPLICAS);
    if let Some(count) = count.and_then(|count| u16::try_from(count).ok()) {
        spec.replicas = count;
    }
}

fn resources(field: &Field<'_>, spec: &mut ServiceSpec, report: &mut Report) {
    for (key, field) in supported_entries(field, keys::RESOURCES, report) {
        let (table, amount) = if key == "limits" {
            (keys::LIMITS, &mut spec.container.limits)
        } else {
            (keys::RESERVATIONS, &mut spec.reserves)
        };
        for (key, field) in supported_entries(&field, table, report) {
            match key {
                "cpus" => cpus(&field, amount, report),
                "memory" => memory(&field, amount, report),
                "pids" => {
                    let most = i64::from(i32::MAX);
                    spec.container.kernel.pids = limits::integer(&field, -1, most, report);
                }
                _ => devices::requests(&field, &mut spec.container.devices, report),
            }
        }
    }
}

pub(super) fn cpus(field: &Field<'_>, amount: &mut Resources, report: &mut Report) {
    if let Some(millis) = field.parse_number(report, value::cpu_millis) {
        amount.cpu_millis = millis;
    }
}

pub(super) fn memory(field: &Field<'_>, amount: &mut Resources, report: &mut Report) {
    if let Some(bytes) = field.parse_number(report, value::bytes) {
        amount.memory_bytes = bytes;
    }
}

/// Reads `node.hostname == vm1` or `node.labels.zone != a`.
fn constraint(
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    report: &mut Report,
) -> Option<Constraint> {
    let text = field.text(report)?;
    let form = "write `node.hostname == <node>` or `node.labels.<key> != <value>`";
    let parts = text
        .split_once("==")
        .map(|parts| (parts, ConstraintOperator::Equal))
        .or_else(|| {
            text.split_once("!=")
                .map(|parts| (parts, ConstraintOperator::NotEqual))
        });
    let Some(((key, value), operator)) = parts else {
        field.problem_with_help(report, format!("`{text}` is not a valid constraint"), form);
        return None;
    };
    let (key, value) = (key.trim(), value.trim());
    if key == "node.platform.os" {
        let is_linux = value == "linux";
        if is_linux != (operator == ConstraintOperator::Equal) {
            field.problem_with_help(report, "every node runs Linux", "remove this constraint");
        }
        return None;
    }
    if FOREIGN_KEYS.contains(&key) || key.starts_with("engine.labels.") {
        let consequence = "nodes do not have this property, so the constraint is ignored";
        report.unsupported(field.value_at(), &field.path, consequence, true);
        return None;
    }
    let is_label = key
        .strip_prefix("node.labels.")
        .is_some_and(|label| !label.is_empty());
    if (key != "node.hostname" && !is_label) || value.is_empty() {
        field.problem_with_help(report, format!("`{text}` is not a valid constraint"), form);
        return None;
    }
    if key == "node.hostname" && !project.nodes.keys().any(|node| node.as_str() == value) {
        report.unknown_name(
            field.value_at(),
            &field.path,
            format!("the node `{value}` is not declared"),
            value,
            project.nodes.keys().map(NodeName::as_str),
        );
        return None;
    }
    Some(Constraint {
        key: key.to_owned(),
        operator,
        value: value.to_owned(),
    })
}
