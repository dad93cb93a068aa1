//! By which rule the two values of a key are merged, and what makes two items of a list one.
//!
//! From the specification's `13-merge.md` and from the lists of keys in the section on `extends`
//! of its `05-services.md`.

use super::super::tree::{Node, Value};

/// How two values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Mappings are merged, lists joined, and a single value is replaced.
    Plain,
    /// The later value stays, also where it is none.
    Replace,
    /// `NAME=value`, as a list or as a mapping: by name.
    Pairs,
    /// `host:address`, as a list or as a mapping: by host.
    Hosts,
    /// Names, as a list or as the keys of a mapping.
    Names(Name),
    /// A single value stands for a list of one.
    OneOrList,
    /// The same, and its items are one if they are alike in this.
    OneOrUnique(Identity),
    /// A list whose items are one if they are alike in this.
    Unique(Identity),
    /// A single value stands for a mapping with this one key.
    Short(&'static str),
    /// Merged if both are of one driver, else replaced.
    OfDriver,
}

/// What a name alone stands for in a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// A key without a value.
    Bare,
    /// A dependency with the specification's defaults.
    Dependency,
}

/// What two items of a list are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// The whole text.
    Text,
    /// The port in the container, the address, the host's port, and the protocol.
    Port,
    /// The path in the container.
    Mount,
    /// The file that a secret or a config becomes, in this directory if it is not absolute.
    File(&'static str),
    /// The port, whichever way it is written.
    Exposed,
    /// The path in the container, with the mount's options behind it.
    Memory,
    /// The subnet of an address pool.
    Subnet,
}

/// The rule for what stands at this path.
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
    /// What an item is known by; `None` where it is malformed, and so like no other.
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

/// `[[IP:][HOST]:]CONTAINER[/PROTOCOL]`
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
    fn the_short_and_the_long_form_of_one_thing_are_one() {
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
    fn what_differs_in_one_part_is_another() {
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
