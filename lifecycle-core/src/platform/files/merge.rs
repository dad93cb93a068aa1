//! Merges two trees; the later tree overrides the earlier one. Each node keeps its source position
//! (file, line and column).

use std::collections::{HashMap, HashSet};

use super::super::diagnostic::Report;
use super::super::tree::{Entry, Mark, Node, Position, Value};
use super::rules::{self, Identity, Name, Rule};

/// Merges a file over the previous ones.
pub(super) fn files(earlier: Node, later: Node, report: &mut Report) -> Node {
    let mut merge = Merge {
        report,
        keeps_marks: false,
        path: Vec::new(),
    };
    merge.reject_mark(&later, "the whole file");
    merge.node(earlier, later)
}

/// Merges a service over the service that it extends. Keeps the tags, which also apply to the
/// values in earlier files.
pub(super) fn services(name: &str, extended: Node, own: Node, report: &mut Report) -> Node {
    let mut merge = Merge {
        report,
        keeps_marks: true,
        path: vec!["services".to_owned(), name.to_owned()],
    };
    let mark = own.mark;
    let mut merged = merge.node(extended, own);
    merged.mark = mark;
    merged
}

/// Removes all tags from a tree, and the values with the tag `!reset`.
pub(super) fn finished(node: Node, report: &mut Report) -> Node {
    let mut merge = Merge {
        report,
        keeps_marks: false,
        path: Vec::new(),
    };
    merge.reject_mark(&node, "the whole file");
    merge.finished(node)
}

struct Merge<'r> {
    report: &'r mut Report,
    keeps_marks: bool,
    path: Vec<String>,
}

/// How two values of the same key are combined.
#[derive(Clone, Copy)]
enum Both {
    Merged,
    Replaced,
}

impl Merge<'_> {
    fn shown(&self) -> String {
        self.path.join(".")
    }

    fn reject_mark(&mut self, node: &Node, what: &str) {
        if node.mark != Mark::None {
            let message = format!("`!reset` and `!override` cannot be applied to {what}");
            self.report.problem_with_help(
                node.at,
                &self.shown(),
                message,
                "put the tag on the value of a key",
            );
        }
    }

    fn finished(&mut self, mut node: Node) -> Node {
        node.mark = Mark::None;
        node.value = match node.value {
            Value::List(items) => Value::List(self.finished_items(items)),
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .filter(|entry| entry.node.mark != Mark::Reset)
                    .map(|entry| self.finished_entry(entry))
                    .collect(),
            ),
            scalar @ Value::Scalar { .. } => scalar,
        };
        node
    }

    fn finished_entry(&mut self, entry: Entry) -> Entry {
        self.path.push(entry.key);
        let node = self.finished(entry.node);
        Entry {
            key: self.path.pop().unwrap_or_default(),
            at: entry.at,
            node,
        }
    }

    fn finished_items(&mut self, items: Vec<Node>) -> Vec<Node> {
        items
            .into_iter()
            .map(|item| {
                self.reject_mark(&item, "an item of a list");
                self.finished(item)
            })
            .collect()
    }

    /// Handles a value that has no counterpart in the other tree.
    fn alone(&mut self, node: Node) -> Node {
        if self.keeps_marks {
            node
        } else {
            self.finished(node)
        }
    }

    fn node(&mut self, earlier: Node, later: Node) -> Node {
        if later.mark == Mark::Override {
            return self.alone(later);
        }
        match rules::rule(&self.path) {
            Rule::Replace => self.alone(later),
            _ if later.is_null() => earlier,
            _ if earlier.is_null() => self.alone(later),
            Rule::Plain => self.plain(earlier, later),
            Rule::Pairs => {
                let (earlier_at, later_at) = (earlier.at, later.at);
                match (self.pairs(earlier), self.pairs(later)) {
                    (Some(earlier), Some(later)) => {
                        let entries = self.mappings(earlier, later, Both::Replaced);
                        Node::new(earlier_at, Value::Map(entries))
                    }
                    // The problem was already reported.
                    _ => Node::nothing(later_at),
                }
            }
            Rule::Names(name) => {
                let earlier = named(earlier, name);
                let later = named(later, name);
                self.plain(earlier, later)
            }
            Rule::OneOrList => self.plain(as_list(earlier), as_list(later)),
            Rule::OneOrUnique(identity) => self.unique(as_list(earlier), as_list(later), identity),
            Rule::Hosts => self.hosts(earlier, later),
            Rule::Unique(identity) => self.unique(earlier, later, identity),
            Rule::Short(key) => self.plain(as_mapping(earlier, key), as_mapping(later, key)),
            Rule::OfDriver => {
                let driver = |node: &Node| {
                    node.child("driver")
                        .and_then(Node::as_text)
                        .map(str::to_owned)
                };
                match (driver(&earlier), driver(&later)) {
                    (Some(one), Some(other)) if one != other => self.alone(later),
                    _ => self.plain(earlier, later),
                }
            }
        }
    }

    fn plain(&mut self, earlier: Node, later: Node) -> Node {
        let at = earlier.at;
        match (earlier.value, later.value) {
            (Value::Map(entries), Value::Map(more)) => {
                Node::new(at, Value::Map(self.mappings(entries, more, Both::Merged)))
            }
            (Value::List(mut items), Value::List(more)) => {
                items.extend(self.finished_items(more));
                Node::new(at, Value::List(items))
            }
            (Value::Scalar { .. }, value) => {
                let mark = later.mark;
                self.alone(Node {
                    at: later.at,
                    value,
                    mark,
                })
            }
            (earlier, later_value) => {
                let earlier = Node::new(at, earlier);
                let later = Node::new(later.at, later_value);
                self.differ(&earlier, &later);
                self.alone(later)
            }
        }
    }

    /// Reports two values whose types cannot be merged.
    fn differ(&mut self, earlier: &Node, later: &Node) {
        let message = format!(
            "found {}, but the value at {} is {}; the two cannot be merged",
            later.kind(),
            self.report.describe_position(earlier.at),
            earlier.kind()
        );
        let help = if self.path.is_empty() {
            "write a mapping with keys such as `services`"
        } else {
            "use the same type for both, or put `!override` before this value"
        };
        let path = self.shown();
        self.report
            .problem_with_help(later.at, &path, message, help);
        self.report.suppress(later.at);
    }

    fn mappings(&mut self, earlier: Vec<Entry>, later: Vec<Entry>, both: Both) -> Vec<Entry> {
        let mut slots: Vec<Option<Entry>> = earlier.into_iter().map(Some).collect();
        let mut indices: HashMap<String, usize> = slots
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| Some((entry.as_ref()?.key.clone(), index)))
            .collect();
        for entry in later {
            let slot = indices
                .get(&entry.key)
                .and_then(|index| slots.get_mut(*index));
            let Some(slot) = slot else {
                if entry.node.mark != Mark::Reset || self.keeps_marks {
                    indices.insert(entry.key.clone(), slots.len());
                    let entry = if self.keeps_marks {
                        entry
                    } else {
                        self.finished_entry(entry)
                    };
                    slots.push(Some(entry));
                }
                continue;
            };
            *slot = match (slot.take(), entry.node.mark) {
                (_, Mark::Reset) if self.keeps_marks => Some(entry),
                (_, Mark::Reset) => None,
                (None, _) => Some(self.finished_entry(entry)),
                (Some(earlier), mark) => {
                    self.path.push(entry.key);
                    let later_at = entry.node.at;
                    let mut node = match both {
                        Both::Merged => self.node(earlier.node, entry.node),
                        Both::Replaced => self.alone(entry.node),
                    };
                    if self.keeps_marks && mark == Mark::Override {
                        node.mark = mark;
                    }
                    let at = if node.at == later_at {
                        entry.at
                    } else {
                        earlier.at
                    };
                    let key = self.path.pop().unwrap_or_default();
                    Some(Entry { key, at, node })
                }
            };
        }
        slots.into_iter().flatten().collect()
    }

    /// Converts a list of `NAME=value` to the entries of a mapping.
    fn pairs(&mut self, node: Node) -> Option<Vec<Entry>> {
        match node.value {
            Value::Map(entries) => Some(entries),
            Value::List(items) => {
                let mut entries: Vec<Entry> = Vec::new();
                let mut indices: HashMap<String, usize> = HashMap::new();
                for item in items {
                    self.reject_mark(&item, "an item of a list");
                    let at = item.at;
                    let Some(text) = item.as_text() else {
                        self.unexpected(&item, "`NAME=value`");
                        continue;
                    };
                    let (key, node) = match text.split_once('=') {
                        Some((key, value)) => (key, Node::of_text(at, value)),
                        None => (text, Node::nothing(at)),
                    };
                    let entry = Entry {
                        key: key.to_owned(),
                        at,
                        node,
                    };
                    let slot = indices.get(key).and_then(|index| entries.get_mut(*index));
                    if let Some(slot) = slot {
                        *slot = entry;
                    } else {
                        indices.insert(key.to_owned(), entries.len());
                        entries.push(entry);
                    }
                }
                Some(entries)
            }
            Value::Scalar { .. } => {
                self.unexpected(&node, "a list or a mapping");
                None
            }
        }
    }

    fn unexpected(&mut self, node: &Node, expected: &str) {
        let message = format!("expected {expected}, found {}", node.kind());
        let path = self.shown();
        self.report.final_problem(node.at, &path, message);
    }

    /// Merges addresses of hosts. The later file replaces all addresses of a host that it lists.
    fn hosts(&mut self, earlier: Node, later: Node) -> Node {
        let at = earlier.at;
        let mut items = as_host_list(earlier);
        let more = self.finished_items(as_host_list(later));
        let hosts: HashSet<&str> = more.iter().filter_map(host_of).collect();
        items.retain(|item| host_of(item).is_none_or(|host| !hosts.contains(host)));
        items.extend(more);
        Node::new(at, Value::List(items))
    }

    fn unique(&mut self, earlier: Node, later: Node, identity: Identity) -> Node {
        let (mut items, more) = match (earlier.value, later.value) {
            (Value::List(items), Value::List(more)) => (items, more),
            (one, other) => {
                let later = Node::new(later.at, other);
                return self.plain(Node::new(earlier.at, one), later);
            }
        };
        let mut indices: HashMap<String, usize> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((identity.of(item)?, index)))
            .collect();
        for item in self.finished_items(more) {
            let known = identity.of(&item);
            let slot = known
                .as_ref()
                .and_then(|known| indices.get(known))
                .and_then(|index| items.get_mut(*index));
            if let Some(slot) = slot {
                *slot = item;
            } else {
                if let Some(known) = known {
                    indices.insert(known, items.len());
                }
                items.push(item);
            }
        }
        Node::new(earlier.at, Value::List(items))
    }
}

fn as_list(node: Node) -> Node {
    match node.value {
        Value::Scalar { .. } => Node::new(node.at, Value::List(vec![node])),
        _ => node,
    }
}

fn as_mapping(node: Node, key: &str) -> Node {
    match node.value {
        Value::Scalar { .. } => {
            let at = node.at;
            let entry = Entry {
                key: key.to_owned(),
                at,
                node,
            };
            Node::new(at, Value::Map(vec![entry]))
        }
        _ => node,
    }
}

/// Converts a list of names to a mapping with these keys. Returns any other value unchanged.
fn named(node: Node, name: Name) -> Node {
    let Value::List(items) = &node.value else {
        return node;
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut known: HashSet<String> = HashSet::new();
    for item in items {
        let Some(text) = item.as_text() else {
            return node;
        };
        if known.insert(text.to_owned()) {
            entries.push(Entry {
                key: text.to_owned(),
                at: item.at,
                node: defaults(item.at, name),
            });
        }
    }
    Node::new(node.at, Value::Map(entries))
}

fn defaults(at: Position, name: Name) -> Node {
    match name {
        Name::Bare => Node::nothing(at),
        Name::Dependency => {
            let entry = |key: &str, text: &str| Entry {
                key: key.to_owned(),
                at,
                node: Node::of_text(at, text),
            };
            let entries = vec![
                entry("condition", "service_started"),
                entry("required", "true"),
            ];
            Node::new(at, Value::Map(entries))
        }
    }
}

fn as_host_list(node: Node) -> Vec<Node> {
    match node.value {
        Value::List(items) => items,
        Value::Map(entries) => entries
            .into_iter()
            .flat_map(|entry| {
                let addresses = match entry.node.value {
                    Value::List(addresses) => addresses,
                    _ => vec![entry.node],
                };
                let key = entry.key;
                addresses.into_iter().map(move |address| {
                    let text = address.as_text().unwrap_or_default();
                    Node::of_text(address.at, format!("{key}={text}"))
                })
            })
            .collect(),
        Value::Scalar { .. } => vec![node],
    }
}

fn host_of(item: &Node) -> Option<&str> {
    let text = item.as_text()?;
    text.split(['=', ':']).next()
}
