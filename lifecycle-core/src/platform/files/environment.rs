//! Resolves variables that an included file takes from its environment.
//!
//! An included file has its own `.env`, but the merged tree is read with the main project's
//! environment. Therefore, the file's variables without a value are resolved here.

use std::collections::HashSet;

use super::super::interpolation::Lookup;
use super::super::tree::{Node, Position, Value};
use super::paths::values;

/// Sets each variable without a value to its value in the included project, and records its position.
pub(super) fn resolve(root: &mut Node, lookup: Lookup<'_>, resolved: &mut HashSet<Position>) {
    for service in values(root.child_mut("services")) {
        if let Some(variables) = service.child_mut("environment") {
            resolve_variables(&mut variables.value, lookup, resolved);
        }
        if let Some(arguments) = service
            .child_mut("build")
            .and_then(|build| build.child_mut("args"))
        {
            resolve_variables(&mut arguments.value, lookup, resolved);
        }
    }
    for section in ["configs", "secrets"] {
        for resource in values(root.child_mut(section)) {
            resolve_contents(&mut resource.value, lookup);
        }
    }
}

/// Replaces `environment: NAME` of a config or secret with the value of the variable.
fn resolve_contents(resource: &mut Value, lookup: Lookup<'_>) {
    let Value::Map(keys) = resource else { return };
    // A resource with both `content` and `environment` is reported when the tree is read.
    if keys.iter().any(|entry| entry.key == "content") {
        return;
    }
    let source = keys.iter_mut().find(|entry| entry.key == "environment");
    if let Some(source) = source
        && let Some(value) = source.node.as_text().and_then(lookup)
    {
        "content".clone_into(&mut source.key);
        source.node = Node::of_text(source.node.at, value);
    }
}

fn resolve_variables(variables: &mut Value, lookup: Lookup<'_>, resolved: &mut HashSet<Position>) {
    match variables {
        Value::Map(entries) => {
            for entry in entries {
                if entry.node.is_null()
                    && let Some(value) = lookup(&entry.key)
                {
                    let mark = entry.node.mark;
                    resolved.insert(entry.node.at);
                    entry.node = Node::of_text(entry.node.at, value);
                    entry.node.mark = mark;
                }
            }
        }
        Value::List(items) => {
            for item in items {
                if let Some(name) = item.as_text()
                    && !name.contains('=')
                    && let Some(value) = lookup(name)
                {
                    resolved.insert(item.at);
                    *item = Node::of_text(item.at, format!("{name}={value}"));
                }
            }
        }
        Value::Scalar { .. } => {}
    }
}
