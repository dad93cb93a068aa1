//! Variables that an included file takes from its environment without a value of their own.
//!
//! Who reads the merged tree has the project's environment only, and an included file has a
//! `.env` of its own beneath that. So what such a file leaves open is put in here.

use super::super::interpolation::Lookup;
use super::super::tree::{Node, Value};
use super::paths::values;

/// Gives each such variable the value that it has in the included project.
pub(super) fn fix(root: &mut Node, lookup: Lookup<'_>) {
    for service in values(root.child_mut("services")) {
        if let Some(variables) = service.child_mut("environment") {
            fix_variables(&mut variables.value, lookup);
        }
        if let Some(arguments) = service
            .child_mut("build")
            .and_then(|build| build.child_mut("args"))
        {
            fix_variables(&mut arguments.value, lookup);
        }
    }
    for section in ["configs", "secrets"] {
        for resource in values(root.child_mut(section)) {
            fix_contents(&mut resource.value, lookup);
        }
    }
}

/// `environment: NAME` of a config or secret becomes what is in that variable.
fn fix_contents(resource: &mut Value, lookup: Lookup<'_>) {
    let Value::Map(keys) = resource else { return };
    // Told of by who reads it.
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

fn fix_variables(variables: &mut Value, lookup: Lookup<'_>) {
    match variables {
        Value::Map(entries) => {
            for entry in entries {
                if entry.node.is_null()
                    && let Some(value) = lookup(&entry.key)
                {
                    let mark = entry.node.mark;
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
                    *item = Node::of_text(item.at, format!("{name}={value}"));
                }
            }
        }
        Value::Scalar { .. } => {}
    }
}
