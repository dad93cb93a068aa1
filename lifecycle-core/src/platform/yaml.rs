//! YAML text to a [`Node`] tree: aliases put in place, merge keys (`<<`) merged, places kept.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::diagnostic::Report;
use super::tree::{Entry, FileId, Mark, Node, Place, Value};
use crate::similar::nearest;

/// Aliases can multiply a small file without end; no file that a person wrote comes near this.
const MOST_NODES: usize = 100_000;
/// Nor near this much text.
const MOST_BYTES: usize = 16 << 20;
/// Nor near this depth. The tree is read and dropped by recursion.
const DEEPEST: usize = 64;

/// Reads a document; `None` if it is no YAML, and then `report` says why. A file without
/// content is an empty mapping. Its places are in the file that `report` was last told of.
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
                at: place(file, error.marker().line(), error.marker().col()),
                message: format!("this is no YAML: {}", error.info()),
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
    let start = Place {
        file,
        ..Place::START
    };
    Some(
        builder
            .root
            .unwrap_or(Node::new(start, Value::Map(Vec::new()))),
    )
}

struct Failure {
    at: Place,
    message: String,
    help: Option<String>,
}

fn fail<T>(at: Place, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure {
        at,
        message: message.into(),
        help: None,
    })
}

/// Half-read collections, innermost last.
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
    at: Place,
    mark: Mark,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        /// The line of each key.
        lines: HashMap<String, usize>,
        merged: Vec<Node>,
        key: Option<(String, Place)>,
    },
}

fn place(file: FileId, line: usize, column: usize) -> Place {
    Place {
        file,
        line: line.max(1),
        column: column + 1,
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Failure> {
        let at = place(self.file, span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Failure {
                        at,
                        message: "a second document begins here".to_owned(),
                        help: Some("keep one document in the file".to_owned()),
                    });
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let (quoted_by_tag, mark) = read_tag(at, tag.as_ref())?;
                if text.contains('\0') {
                    return fail(at, "a value cannot hold the character of number 0");
                }
                self.weigh(at, 0, text.len())?;
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
                    return fail(at, "this alias refers to what it is part of");
                };
                let weight = node.weight();
                if self.open.len() + depth(node) > DEEPEST {
                    return fail(at, format!("nested more than {DEEPEST} levels deep"));
                }
                self.weigh(at, weight.0, weight.1)?;
                let node = self.anchors.get(&anchor).cloned();
                node.map_or(Ok(()), |node| self.complete(node, 0))
            }
            _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        at: Place,
        mark: Mark,
        anchor: usize,
        kind: OpenKind,
    ) -> Result<(), Failure> {
        if self.open.len() >= DEEPEST {
            return fail(at, format!("nested more than {DEEPEST} levels deep"));
        }
        self.open.push(Open {
            at,
            mark,
            anchor,
            kind,
        });
        Ok(())
    }

    fn end(&mut self, at: Place) -> Result<(), Failure> {
        let Some(open) = self.open.pop() else {
            return fail(at, "this ends what never began");
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

    /// Takes account of what is about to be kept.
    fn weigh(&mut self, at: Place, nodes: usize, bytes: usize) -> Result<(), Failure> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > MOST_NODES {
            return fail(at, format!("the file has more than {MOST_NODES} values"));
        }
        if self.bytes > MOST_BYTES {
            let most = MOST_BYTES >> 20;
            return fail(at, format!("the file has more than {most} MiB of text"));
        }
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Failure> {
        let at = node.at;
        self.weigh(at, 1, 0)?;
        if anchor != 0 {
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
                    Value::Scalar { text, .. } => *key = Some((text, at)),
                    _ => return fail(at, "a key must be a single value"),
                },
                Some((name, _)) if name == "<<" => merged.push(node),
                Some((name, key_at)) => {
                    if let Some(line) = lines.insert(name.clone(), key_at.line) {
                        return fail(
                            key_at,
                            format!("`{name}` stands here already at line {line}"),
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

/// What stands in the mapping itself wins over what is merged, an earlier merge over a later.
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
            _ => fail(node.at, "`<<` takes a mapping or a list of mappings"),
        }),
        Value::Scalar { .. } => fail(node.at, "`<<` takes a mapping or a list of mappings"),
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|e| depth(&e.node)).max().unwrap_or(0),
    }
}

/// Whether the tag makes text of a plain scalar, and what it says to a merge.
fn read_tag(at: Place, tag: Option<&Cow<'_, Tag>>) -> Result<(bool, Mark), Failure> {
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
            message: format!("the tag `{original}` is not known"),
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
    fn aliases_and_merge_keys_are_put_in_place() {
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
    fn every_part_knows_where_it_stands() {
        let node = tree("a:\n  b: x\n  - c\n".trim_end_matches("  - c\n"));
        let at = |line, column| Place {
            file: 0,
            line,
            column,
        };
        assert_eq!(node.place_of(&["a", "b"]), at(2, 3));
        assert_eq!(node.place_of(&["a", "zz"]), at(1, 1));
    }

    #[test]
    fn what_is_no_single_document_without_doubles_is_refused() {
        for (text, message) in [
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: `a` stands here already at line 1",
            ),
            ("a: [1, 2\n", "f:"),
            ("a: *b\n", "f:1:4: "),
            (
                "a: &a [*a]\n",
                "f:1:8: this alias refers to what it is part of",
            ),
            ("? [a]\n: b\n", "f:1:3: a key must be a single value"),
            ("a: 1\n---\nb: 2\n", "f:2:1: a second document begins here"),
            (
                "a: !rest null\n",
                "f:1:10: the tag `!rest` is not known; did you mean `!reset`?",
            ),
            ("a:\n  <<: 3\n", "f:2:7: `<<` takes a mapping"),
        ] {
            let found = problem(text);
            assert!(found.starts_with(message), "{text:?}: {found}");
        }
    }

    #[test]
    fn aliases_cannot_multiply_without_end() {
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
        problem(&"[".repeat(10_000));
        let deep = format!("{}x{}", "[".repeat(80), "]".repeat(80));
        assert!(problem(&deep).contains("levels deep"));
    }
}
