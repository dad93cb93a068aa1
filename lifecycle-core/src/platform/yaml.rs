//! Parses YAML text to a [`Node`] tree with source positions. Expands aliases and merge keys
//! (`<<`).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::diagnostic::Report;
use super::tree::{Entry, FileId, Mark, Node, Position, Value};
use crate::similar::nearest;

/// The maximum number of values. Without this limit, aliases could expand a small file to any size.
const MAX_NODES: usize = 100_000;
/// The maximum size of the text, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// The maximum length of a key, in bytes. Keys are parts of the paths in messages.
const MAX_KEY: usize = 1024;
/// The maximum nesting depth. Deeper trees could overflow the stack, because they are read and
/// dropped recursively.
const MAX_DEPTH: usize = 64;

/// Parses a document. If the text is not valid YAML, reports the problem and returns `None`. An
/// empty file is an empty mapping. Positions belong to the current file of `report`.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let file = report.current();
    let mut builder = Builder {
        file,
        ..Builder::default()
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let step = match next {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(Failure {
                at: position(file, error.marker().line(), error.marker().col()),
                message: format!("invalid YAML: {}", error.info()),
                help: None,
            }),
        };
        if let Err(failure) = step {
            match failure.help {
                Some(help) => report.problem_with_help(failure.at, "", failure.message, help),
                None => report.problem(failure.at, "", failure.message),
            }
            return None;
        }
    }
    let start = Position {
        file,
        ..Position::START
    };
    Some(
        builder
            .root
            .unwrap_or(Node::new(start, Value::Map(Vec::new()))),
    )
}

struct Failure {
    at: Position,
    message: String,
    help: Option<String>,
}

fn fail<T>(at: Position, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure {
        at,
        message: message.into(),
        help: None,
    })
}

/// Builds the tree. `open` contains the collections that are still being read, innermost last.
#[derive(Default)]
struct Builder {
    file: FileId,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    documents: usize,
    root: Option<Node>,
}

struct Open {
    at: Position,
    mark: Mark,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        lines: HashMap<String, usize>,
        merged: Vec<Node>,
        key: Option<(String, Position)>,
    },
}

fn position(file: FileId, line: usize, column: usize) -> Position {
    Position {
        file,
        line: line.max(1),
        column: column + 1,
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Failure> {
        let at = position(self.file, span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Failure {
                        at,
                        message: "a second document starts here".to_owned(),
                        help: Some("keep one document per file".to_owned()),
                    });
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let (quoted_by_tag, mark) = read_tag(at, tag.as_ref())?;
                if text.contains('\0') {
                    return fail(at, "a value cannot contain a NUL character");
                }
                self.count(at, 0, text.len())?;
                let value = Value::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain && !quoted_by_tag,
                };
                let node = Node { at, value, mark };
                self.complete(node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let (_, mark) = read_tag(at, tag.as_ref())?;
                self.begin(at, mark, anchor, OpenKind::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let (_, mark) = read_tag(at, tag.as_ref())?;
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    lines: HashMap::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(at, mark, anchor, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return fail(
                        at,
                        "this alias refers to a value that contains the alias itself",
                    );
                };
                let weight = node.weight();
                if self.open.len() + depth(node) > MAX_DEPTH {
                    return fail(at, format!("nested more than {MAX_DEPTH} levels deep"));
                }
                self.count(at, weight.0, weight.1)?;
                let node = self.anchors.get(&anchor).cloned();
                node.map_or(Ok(()), |node| self.complete(node, 0))
            }
            _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        at: Position,
        mark: Mark,
        anchor: usize,
        kind: OpenKind,
    ) -> Result<(), Failure> {
        if self.open.len() >= MAX_DEPTH {
            return fail(at, format!("nested more than {MAX_DEPTH} levels deep"));
        }
        self.open.push(Open {
            at,
            mark,
            anchor,
            kind,
        });
        Ok(())
    }

    fn end(&mut self, at: Position) -> Result<(), Failure> {
        let Some(open) = self.open.pop() else {
            return fail(at, "unexpected end of a collection");
        };
        let value = match open.kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map {
                mut entries,
                lines,
                merged,
                ..
            } => {
                let mut keys: HashSet<String> = lines.into_keys().collect();
                for node in merged {
                    merge(&mut entries, &mut keys, node)?;
                }
                Value::Map(entries)
            }
        };
        let node = Node {
            at: open.at,
            value,
            mark: open.mark,
        };
        self.complete(node, open.anchor)
    }

    /// Counts values before they are added. Fails if the totals exceed the limits.
    fn count(&mut self, at: Position, nodes: usize, bytes: usize) -> Result<(), Failure> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > MAX_NODES {
            return fail(at, format!("the file has more than {MAX_NODES} values"));
        }
        if self.bytes > MAX_BYTES {
            let most = MAX_BYTES >> 20;
            return fail(at, format!("the file has more than {most} MiB of text"));
        }
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Failure> {
        let at = node.at;
        self.count(at, 1, 0)?;
        if anchor != 0 {
            // The copy counts, too: anchors can be nested.
            let (nodes, bytes) = node.weight();
            self.count(at, nodes, bytes)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map {
                entries,
                lines,
                merged,
                key,
            } => match key.take() {
                None => match node.value {
                    Value::Scalar { text, .. } if text.len() > MAX_KEY => {
                        return fail(at, format!("a key is longer than {MAX_KEY} bytes"));
                    }
                    Value::Scalar { text, .. } => *key = Some((text, at)),
                    _ => return fail(at, "a key must be a single value"),
                },
                Some((name, _)) if name == "<<" => merged.push(node),
                Some((name, key_at)) => {
                    if let Some(line) = lines.insert(name.clone(), key_at.line) {
                        return fail(
                            key_at,
                            format!("`{name}` is already defined at line {line}"),
                        );
                    }
                    entries.push(Entry {
                        key: name,
                        at: key_at,
                        node,
                    });
                }
            },
        }
        Ok(())
    }
}

/// Merges a mapping: existing entries take precedence, and earlier merges take precedence over
/// later ones.
fn merge(entries: &mut Vec<Entry>, keys: &mut HashSet<String>, node: Node) -> Result<(), Failure> {
    match node.value {
        Value::Map(merged) => {
            for entry in merged {
                if keys.insert(entry.key.clone()) {
                    entries.push(entry);
                }
            }
            Ok(())
        }
        Value::List(nodes) => nodes.into_iter().try_for_each(|node| match node.value {
            Value::Map(_) => merge(entries, keys, node),
            _ => fail(node.at, "`<<` needs a mapping or a list of mappings"),
        }),
        Value::Scalar { .. } => fail(node.at, "`<<` needs a mapping or a list of mappings"),
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|e| depth(&e.node)).max().unwrap_or(0),
    }
}

/// Returns whether a tag turns a plain scalar into a string, and how the tag affects merging.
fn read_tag(at: Position, tag: Option<&Cow<'_, Tag>>) -> Result<(bool, Mark), Failure> {
    let Some(tag) = tag else {
        return Ok((false, Mark::None));
    };
    match (tag.core_suffix(), tag.original().as_str()) {
        (Some("str"), _) => Ok((true, Mark::None)),
        (Some("int" | "float" | "bool" | "null" | "map" | "seq"), _) => Ok((false, Mark::None)),
        (_, "!reset") => Ok((false, Mark::Reset)),
        (_, "!override") => Ok((false, Mark::Override)),
        (_, original) => Err(Failure {
            at,
            message: format!("unknown tag `{original}`"),
            help: nearest(original, ["!reset", "!override"])
                .map(|near| format!("did you mean `{near}`?")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::tree::Field;

    fn tree(text: &str) -> Node {
        let mut report = Report::new("f");
        let node = parse(text, &mut report);
        match Report::problems_of(vec![report]) {
            Some(problems) => panic!("{problems}"),
            None => node.unwrap(),
        }
    }

    fn problem(text: &str) -> String {
        let mut report = Report::new("f");
        assert!(parse(text, &mut report).is_none());
        Report::problems_of(vec![report]).unwrap().to_string()
    }

    fn text(node: &Node, path: &[&str]) -> String {
        let mut report = Report::new("f");
        let mut field = Field::root(node);
        for part in path {
            field = field.get(part).unwrap();
        }
        field.text(&mut report).unwrap().to_owned()
    }

    #[test]
    fn expands_aliases_and_merge_keys() {
        let node = tree(
            "x-base: &base\n  a: 1\n  b: 2\nother: &o {b: 3, c: 4}\n\
             one:\n  <<: *base\n  b: own\ntwo:\n  <<: [*base, *o]\nthree: *o\n",
        );
        assert_eq!(text(&node, &["one", "a"]), "1");
        assert_eq!(text(&node, &["one", "b"]), "own");
        assert_eq!(text(&node, &["two", "b"]), "2");
        assert_eq!(text(&node, &["two", "c"]), "4");
        assert_eq!(text(&node, &["three", "c"]), "4");
    }

    #[test]
    fn every_node_has_its_position() {
        let node = tree("a:\n  b: x\n  - c\n".trim_end_matches("  - c\n"));
        let at = |line, column| Position {
            file: 0,
            line,
            column,
        };
        assert_eq!(node.position_of(&["a", "b"]), at(2, 3));
        assert_eq!(node.position_of(&["a", "zz"]), at(1, 1));
    }

    #[test]
    fn rejects_duplicate_keys_and_several_documents() {
        for (text, message) in [
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: `a` is already defined at line 1",
            ),
            ("a: [1, 2\n", "f:"),
            ("a: *b\n", "f:1:4: "),
            (
                "a: &a [*a]\n",
                "f:1:8: this alias refers to a value that contains the alias itself",
            ),
            ("? [a]\n: b\n", "f:1:3: a key must be a single value"),
            ("a: 1\n---\nb: 2\n", "f:2:1: a second document starts here"),
            (
                "a: !rest null\n",
                "f:1:10: unknown tag `!rest`; did you mean `!reset`?",
            ),
            ("a:\n  <<: 3\n", "f:2:7: `<<` needs a mapping"),
        ] {
            let found = problem(text);
            assert!(found.starts_with(message), "{text:?}: {found}");
        }
    }

    #[test]
    fn limits_the_expansion_of_aliases() {
        let level = |level: usize| {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            format!("a{level}: &a{level} [{refs}]\n")
        };
        let bomb = format!("a0: &a0 x\n{}", (1..12).map(level).collect::<String>());
        assert!(problem(&bomb).contains("more than 100000 values"));
        let long = format!(
            "a: &a \"{}\"\nb: [{}]\n",
            "x".repeat(1 << 20),
            "*a, ".repeat(20)
        );
        assert!(problem(&long).contains("more than 16 MiB of text"));
        let anchors: Vec<String> = (0..50).map(|level| format!("&a{level} [")).collect();
        let anchors = anchors.concat();
        let nested = format!("{anchors}{}{}", "x, ".repeat(5000), "]".repeat(50));
        assert!(problem(&nested).contains("more than 100000 values"));
        let key = format!("? {}\n: x\n", "k".repeat(2000));
        assert!(problem(&key).contains("a key is longer than 1024 bytes"));
        problem(&"[".repeat(10_000));
        let deep = format!("{}x{}", "[".repeat(80), "]".repeat(80));
        assert!(problem(&deep).contains("levels deep"));
    }
}
