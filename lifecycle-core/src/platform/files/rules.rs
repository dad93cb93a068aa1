//! Rules for merging two values of the same key, and for identifying the items of a list.
//!
//! The rules follow the specification: `13-merge.md`, and the section on `extends` in
//! `05-services.md`.

use super::super::tree::{Node, Value};

/// How two values are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Mappings are merged, lists concatenated, and single values replaced.
    Plain,
    /// The later value replaces the earlier one, even if it is null.
    Replace,
    /// `NAME=value`, as a list or as a mapping: merged by name.
    Pairs,
    /// `host:address`, as a list or as a mapping: merged by host.
    Hosts,
    /// Names, as a list or as the keys of a mapping.
    Names(Name),
    /// A list or a single value, which counts as a list with one item.
    OneOrList,
    /// Like `OneOrList`, but a later item replaces an earlier one with the same identity.
    OneOrUnique(Identity),
    /// A list in which a later item replaces an earlier one with the same identity.
    Unique(Identity),
    /// A single value is short for a mapping with this key.
    Short(&'static str),
    /// Values with the same driver are merged; otherwise, the later value replaces the earlier one.
    OfDriver,
}

/// How a name in a list is converted to a mapping entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// A key without a value.
    Bare,
    /// A dependency with the default settings.
    Dependency,
}

/// The part of a list item that identifies the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// The whole text.
    Text,
    /// The container port, host address, host port and protocol.
    Port,
    /// The path in the container.
    Mount,
    /// The target file of a secret or config; a relative target is in this directory.
    File(&'static str),
    /// The port, in any notation.
    Exposed,
    /// The path in the container, without the mount options.
    Memory,
    /// The subnet of an address pool.
    Subnet,
}

/// Returns the rule for a path.
pub(super) fn rule(path: &[String]) -> Rule {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["services", _, rest @ ..] => of_service(rest),
        ["networks" | "volumes" | "secrets" | "configs", _, "labels"] => Rule::Pairs,
        ["networks", _, "ipam", "config"] => Rule::Unique(Identity::Subnet),
        _ => Rule::Plain,
    }
}

fn of_service(path: &[&str]) -> Rule {
    match path {
        ["command" | "entrypoint"]
        | ["healthcheck", "test"]
        | ["ulimits", _]
        | ["x-lifecycle", "ready"] => Rule::Replace,
        ["environment" | "labels" | "annotations" | "sysctls" | "storage_opt"]
        | ["build", "args" | "labels" | "additional_contexts"]
        | ["deploy", "labels"] => Rule::Pairs,
        ["extra_hosts"] | ["build", "extra_hosts"] => Rule::Hosts,
        ["build"] => Rule::Short("context"),
        ["depends_on"] => Rule::Names(Name::Dependency),
        ["networks" | "models"] => Rule::Names(Name::Bare),
        ["env_file" | "label_file"] => Rule::OneOrList,
        ["dns" | "dns_search"] => Rule::OneOrUnique(Identity::Text),
        ["tmpfs"] => Rule::OneOrUnique(Identity::Memory),
        ["ports"] => Rule::Unique(Identity::Port),
        ["volumes" | "devices"] => Rule::Unique(Identity::Mount),
        ["secrets"] => Rule::Unique(Identity::File("/run/secrets/")),
        ["configs"] => Rule::Unique(Identity::File("/")),
        ["expose"] => Rule::Unique(Identity::Exposed),
        [
            "cap_add"
            | "cap_drop"
            | "device_cgroup_rules"
            | "dns_opt"
            | "external_links"
            | "group_add"
            | "links"
            | "profiles"
            | "security_opt"
            | "volumes_from",
        ]
        | ["build", "tags" | "platforms"]
        | ["deploy", "placement", "constraints"]
        | ["networks", _, "aliases" | "link_local_ips"] => Rule::Unique(Identity::Text),
        ["logging"] => Rule::OfDriver,
        _ => Rule::Plain,
    }
}

impl Identity {
    /// Returns the identity of an item, or `None` for a malformed item. A malformed item never
    /// replaces another item.
    pub(super) fn of(self, item: &Node) -> Option<String> {
        let text = item.as_text();
        let part = |key: &str| item.child(key).and_then(Node::as_text);
        let is_map = matches!(item.value, Value::Map(_));
        match self {
            Self::Text => text.map(str::to_owned),
            Self::Port if is_map => Some(port(
                part("host_ip").unwrap_or_default(),
                part("published").unwrap_or_default(),
                part("target")?,
                part("protocol").unwrap_or("tcp"),
            )),
            Self::Port => short_port(text?),
            Self::Mount if is_map => part("target").map(normal_path),
            Self::Mount => {
                let mut parts = text?.splitn(3, ':');
                let first = parts.next()?;
                Some(normal_path(parts.next().unwrap_or(first)))
            }
            Self::File(directory) => {
                let target = if is_map {
                    part("target").or_else(|| part("source"))
                } else {
                    text
                };
                let target = target?;
                Some(if target.starts_with('/') {
                    normal_path(target)
                } else {
                    format!("{directory}{target}")
                })
            }
            Self::Exposed => {
                let text = text?;
                Some(text.strip_suffix("/tcp").unwrap_or(text).to_owned())
            }
            Self::Memory => text?.split(':').next().map(normal_path),
            Self::Subnet => part("subnet").map(str::to_owned),
        }
    }
}

fn normal_path(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => path.to_owned(),
        shorter => shorter.to_owned(),
    }
}

fn port(host_ip: &str, published: &str, target: &str, protocol: &str) -> String {
    let host_ip = match host_ip {
        "0.0.0.0" => "",
        other => other,
    };
    let published = if published == "0" { "" } else { published };
    let protocol = protocol.to_ascii_lowercase();
    format!("{host_ip}|{published}|{target}|{protocol}")
}

/// Returns the identity of a port in the format `[[IP:][HOST]:]CONTAINER[/PROTOCOL]`.
fn short_port(text: &str) -> Option<String> {
    let (addresses, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let (before, target) = match addresses.rsplit_once(':') {
        Some((before, target)) => (before, target),
        None => ("", addresses),
    };
    let (host_ip, published) = before.rsplit_once(':').unwrap_or(("", before));
    let host_ip = host_ip
        .strip_prefix('[')
        .and_then(|ip| ip.strip_suffix(']'))
        .unwrap_or(host_ip);
    (!target.is_empty()).then(|| port(host_ip, published, target, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::diagnostic::Report;
    use crate::platform::yaml;

    fn identities(identity: Identity, items: &str) -> Vec<Option<String>> {
        let mut report = Report::new("f");
        let node = yaml::parse(items, &mut report).unwrap();
        let Value::List(items) = node.value else {
            panic!("{items}");
        };
        items.iter().map(|item| identity.of(item)).collect()
    }

    #[test]
    fn short_and_long_forms_have_the_same_identity() {
        for (identity, items) in [
            (
                Identity::Port,
                "['8080:80', '0.0.0.0:8080:80/tcp', {target: 80, published: '8080'}]",
            ),
            (Identity::Port, "['80', ':80', {target: 80}, '0:80/TCP']"),
            (Identity::Port, "['[::1]:80:80/udp', '::1:80:80/udp']"),
            (
                Identity::Mount,
                "['/x', 'a:/x', './b:/x/:ro', {type: bind, source: c, target: /x}]",
            ),
            (
                Identity::File("/run/secrets/"),
                "[key, {source: key}, {source: other, target: key}, {source: x, target: /run/secrets/key}]",
            ),
            (Identity::Exposed, "['80', '80/tcp', 80]"),
            (
                Identity::Memory,
                "['/run', '/run/', '/run:size=64m,mode=1777']",
            ),
        ] {
            let found = identities(identity, items);
            assert!(found[0].is_some());
            assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
        }
    }

    #[test]
    fn items_that_differ_in_one_part_have_different_identities() {
        let found = identities(
            Identity::Port,
            "['8080:80', '8081:80', '8080:81', '8080:80/udp', '127.0.0.1:8080:80', '80']",
        );
        for (index, one) in found.iter().enumerate() {
            assert!(!found[..index].contains(one), "{found:?}");
        }
        assert_eq!(identities(Identity::Mount, "[[], {}]"), [None, None]);
    }
}
