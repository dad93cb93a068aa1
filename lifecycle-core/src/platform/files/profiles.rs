//! Removes services whose `profiles` are not active (`15-profiles.md` of the specification).

use std::collections::{BTreeMap, BTreeSet};

use super::super::diagnostic::Report;
use super::super::tree::{Entry, Field, Node, Position, Value};

/// The name that activates every profile.
const ALL: &str = "*";

/// Removes services that are not enabled, and optional references to them.
pub(in super::super) fn remove_disabled(root: &mut Node, active: &[String], report: &mut Report) {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut disabled: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(Value::Map(services)) = root.child_mut("services").map(|node| &mut node.value) else {
        return;
    };
    for service in services.iter_mut() {
        let Some(entry) = service.node.take("profiles") else {
            continue;
        };
        let profiles = read(&service.key, &entry, report);
        known.extend(profiles.iter().cloned());
        let is_enabled = profiles.is_empty()
            || profiles
                .iter()
                .any(|profile| active.iter().any(|one| one == profile || one == ALL));
        if !is_enabled {
            disabled.insert(service.key.clone(), profiles);
        }
    }
    for profile in active {
        if profile != ALL && !known.contains(profile) {
            report.file_warning(format!("no service has the profile `{profile}`"));
        }
    }
    services.retain(|service| !disabled.contains_key(&service.key));
    for service in services {
        References {
            service: &service.key,
            disabled: &disabled,
            report,
        }
        .check(&mut service.node);
    }
}

fn read(service: &str, entry: &Entry, report: &mut Report) -> Vec<String> {
    let field = Field {
        path: format!("services.{service}.profiles"),
        at: entry.at,
        node: &entry.node,
    };
    if field.is_null() {
        return Vec::new();
    }
    let items = field.items(report);
    items
        .iter()
        .filter_map(|item| item.parse(report, profile))
        .collect()
}

fn profile(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inner) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a valid profile: use letters, digits, `_`, `.` and `-`, starting \
             with a letter or digit"
        ))
    }
}

/// Checks whether a service refers to disabled services.
struct References<'a> {
    service: &'a str,
    disabled: &'a BTreeMap<String, Vec<String>>,
    report: &'a mut Report,
}

impl References<'_> {
    fn check(&mut self, service: &mut Node) {
        match service.child_mut("depends_on").map(|node| &mut node.value) {
            Some(Value::Map(entries)) => entries.retain(|entry| {
                let is_disabled = self.disabled.contains_key(&entry.key);
                let required = entry.node.child("required").and_then(Node::as_text);
                if is_disabled && required.is_some_and(is_false) {
                    return false;
                }
                self.reject(&entry.key, entry.at, "depends_on", true);
                true
            }),
            Some(Value::List(items)) => {
                for item in items {
                    if let Some(name) = item.as_text() {
                        self.reject(name, item.at, "depends_on", true);
                    }
                }
            }
            _ => {}
        }
        for key in ["links", "volumes_from"] {
            let items = match service.child(key).map(|node| &node.value) {
                Some(Value::List(items)) => items.as_slice(),
                _ => &[],
            };
            for item in items {
                let name = item.as_text().and_then(|text| text.split(':').next());
                self.reject(name.unwrap_or_default(), item.at, key, false);
            }
        }
        for key in ["network_mode", "ipc", "pid"] {
            if let Some(node) = service.child(key)
                && let Some(name) = node
                    .as_text()
                    .and_then(|text| text.strip_prefix("service:"))
            {
                self.reject(name, node.at, key, false);
            }
        }
    }

    fn reject(&mut self, name: &str, at: Position, key: &str, is_optional: bool) {
        let Some(profiles) = self.disabled.get(name) else {
            return;
        };
        let names: Vec<String> = profiles.iter().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "`{name}` is not enabled: none of its profiles is active ({})",
            names.join(", ")
        );
        let mut help = format!(
            "activate the service with `--profile {}`",
            profiles.first().map_or("", String::as_str)
        );
        if is_optional {
            help.push_str(", or set `required: false` here");
        }
        let path = format!("services.{}.{key}", self.service);
        self.report.problem_with_help(at, &path, message, help);
        self.report.suppress(at);
    }
}

fn is_false(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "false" | "no" | "off" | "n"
    )
}
