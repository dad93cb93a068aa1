//! Reads the keys for the isolation, the process and the output of a container.

use super::super::diagnostic::Report;
use super::super::text_file;
use super::super::tree::Field;
use super::ProjectContext;
use super::keys::{self, supported_entries};
use crate::model::{CgroupNamespace, ContainerTemplate};

/// Reads the value of a key that this module supports. Returns `false` for any other key.
pub(super) fn read(
    key: &str,
    field: &Field<'_>,
    project: &ProjectContext<'_>,
    container: &mut ContainerTemplate,
    report: &mut Report,
) -> bool {
    let (isolation, terminal) = (&mut container.isolation, &mut container.terminal);
    match key {
        "privileged" => isolation.privileged = field.boolean(report).unwrap_or_default(),
        "cap_add" => isolation.cap_add = field.texts(report),
        "cap_drop" => isolation.cap_drop = field.texts(report),
        "security_opt" => isolation.security_opt = security(field, project, report),
        "group_add" => isolation.group_add = field.texts(report),
        "read_only" => isolation.read_only = field.boolean(report).unwrap_or_default(),
        "userns_mode" => isolation.userns_mode = mode(field, &["host"], report),
        "ipc" => {
            let modes = ["host", "none", "private", "shareable"];
            isolation.ipc = mode(field, &modes, report);
        }
        "pid" => isolation.pid = mode(field, &["host"], report),
        "uts" => isolation.uts = mode(field, &["host"], report),
        "cgroup" => {
            let namespaces = [
                ("host", CgroupNamespace::Host),
                ("private", CgroupNamespace::Private),
            ];
            isolation.cgroup = field.word(report, &namespaces);
        }
        "cgroup_parent" => isolation.cgroup_parent = text(field, report),
        "runtime" => isolation.runtime = text(field, report),
        "init" => terminal.init = field.boolean(report),
        "stop_signal" => terminal.stop_signal = text(field, report),
        "stdin_open" => terminal.stdin_open = field.boolean(report).unwrap_or_default(),
        "tty" => terminal.tty = field.boolean(report).unwrap_or_default(),
        "logging" => {
            for (key, field) in supported_entries(field, keys::LOGGING, report) {
                match key {
                    "driver" => container.logging.driver = text(&field, report),
                    _ => {
                        for (name, option) in field.entries(report) {
                            if let Some(value) = option.canonical(report) {
                                let options = &mut container.logging.options;
                                options.insert(name.to_owned(), value.into_owned());
                            }
                        }
                    }
                }
            }
        }
        _ => return false,
    }
    true
}

fn text(field: &Field<'_>, report: &mut Report) -> Option<String> {
    field.parse(report, |text| {
        if text.is_empty() {
            Err("the value is empty".to_owned())
        } else {
            Ok(text.to_owned())
        }
    })
}

/// Reads a mode, which must be one of `modes`. Another container's namespace is rejected: that
/// container may be on another node.
fn mode(field: &Field<'_>, modes: &[&str], report: &mut Report) -> Option<String> {
    let text = field.text(report)?;
    if text.starts_with("service:") || text.starts_with("container:") {
        field.problem_with_help(
            report,
            format!(
                "`{text}`: sharing a namespace with another container is not supported, because \
                 that container may be on another node"
            ),
            "remove this key, or run both processes in one container",
        );
        return None;
    }
    let words: Vec<(&str, &str)> = modes.iter().map(|mode| (*mode, *mode)).collect();
    field.word(report, &words).map(str::to_owned)
}

/// Returns the file that a security option names.
pub(in crate::platform) fn seccomp_file(option: &str) -> Option<&str> {
    let profile = option.strip_prefix("seccomp=");
    let profile = profile.or_else(|| option.strip_prefix("seccomp:"));
    profile.filter(|profile| !matches!(*profile, "unconfined" | "builtin"))
}

/// Reads security options. Replaces the path of a `seccomp` file with the file's contents, because
/// the engine expects the contents.
fn security(field: &Field<'_>, project: &ProjectContext<'_>, report: &mut Report) -> Vec<String> {
    let mut options = Vec::new();
    for item in field.items(report) {
        let Some(text) = item.text(report) else {
            continue;
        };
        let file = seccomp_file(text);
        let Some(file) = file else {
            // Text without `=` uses the older notation `key:value`.
            options.push(if text.contains('=') {
                text.to_owned()
            } else {
                text.replacen(':', "=", 1)
            });
            continue;
        };
        match text_file::read(&project.path(file)) {
            Ok(rules) => options.push(format!("seccomp={rules}")),
            Err(error) => item.problem_with_help(
                report,
                format!("`{file}` cannot be read: {error}"),
                "specify a path relative to the Compose file, or use `seccomp=unconfined`",
            ),
        }
    }
    options
}
