//! Changes single values in the text of a YAML file. All other lines stay as they are, with their
//! comments and formatting.

use std::fmt::Write as _;

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};

use super::tree::{Entry, Node, Position, Value};

/// The maximum nesting depth, as for files that are read.
const MAX_DEPTH: usize = 64;

/// A value with its place in the text.
struct Spot {
    start: usize,
    /// The end of the value's last token. A block has no token at its end.
    end: usize,
    kind: Kind,
}

enum Document {
    Empty,
    Root(Spot),
}

enum Kind {
    /// `is_number` is whether the text is a whole number without quotes.
    Scalar { is_number: bool },
    Map {
        style: StructureStyle,
        entries: Vec<Pair>,
    },
    /// A list, an alias, or a block scalar, in which no value is changed.
    Other,
}

struct Pair {
    key: String,
    at: usize,
    /// The number of characters before the key in its line.
    column: usize,
    value: Spot,
}

/// Returns whether there is a value with this path. Aliases and merge keys are not followed.
pub(super) fn contains(text: &str, path: &[&str]) -> bool {
    matches!(parse(text), Some(Document::Root(root)) if root.at(path).is_some())
}

/// Returns whether the value with this path is a whole number.
pub(super) fn is_number(text: &str, path: &[&str]) -> bool {
    let Some(Document::Root(root)) = parse(text) else {
        return false;
    };
    let found = root.at(path);
    found.is_some_and(|spot| matches!(spot.kind, Kind::Scalar { is_number: true }))
}

/// Returns the text with this value. An existing value is replaced if both values are scalars; a
/// missing one is inserted, with the mappings around it. Returns `None` if the text has no place for
/// the value.
pub(super) fn set(text: &str, path: &[&str], value: &Node) -> Option<String> {
    let edited = match parse(text)? {
        Document::Root(root) => edit(text, &root, path, value)?,
        Document::Empty => {
            let (key, rest) = path.split_first()?;
            insert(text, text.len(), &entry_lines(key, &nested(rest, value)), 0)
        }
    };
    Some(edited)
}

fn edit(text: &str, spot: &Spot, path: &[&str], value: &Node) -> Option<String> {
    let Kind::Map { style, entries } = &spot.kind else {
        return None;
    };
    let (key, rest) = path.split_first()?;
    if let Some(pair) = entries.iter().find(|pair| pair.key == *key) {
        if !rest.is_empty() {
            return edit(text, &pair.value, rest, value);
        }
        let place = &pair.value;
        let is_scalar = matches!(place.kind, Kind::Scalar { .. }) && place.start < place.end;
        let new = inline(value).filter(|_| is_scalar)?;
        let (before, after) = (text.get(..place.start)?, text.get(place.end..)?);
        return Some(format!("{before}{new}{after}"));
    }
    let value = nested(rest, value);
    if *style == StructureStyle::Block {
        let column = entries.first()?.column;
        let at = next_line(text, spot.end)?;
        return Some(insert(text, at, &entry_lines(key, &value), column));
    }
    let at = entries.last().map_or(spot.start + 1, |pair| pair.value.end);
    let separator = if entries.is_empty() { "" } else { ", " };
    let is_quoted = |pair: &Pair| text.get(pair.at..).is_some_and(|t| t.starts_with('"'));
    let key = match entries.first() {
        Some(first) if is_quoted(first) => quoted(key),
        _ => key_text(key),
    };
    let (before, after) = (text.get(..at)?, text.get(at..)?);
    Some(format!("{before}{separator}{key}: {}{after}", flow(&value)))
}

/// Inserts lines with this indentation.
fn insert(text: &str, at: usize, lines: &[String], column: usize) -> String {
    let (before, after) = text.split_at(at.min(text.len()));
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let indentation = " ".repeat(column);
    let mut edited = before.to_owned();
    if !before.is_empty() && !before.ends_with('\n') {
        edited.push_str(end);
    }
    if column == 0 && !before.trim().is_empty() {
        edited.push_str(end);
    }
    for line in lines {
        edited.push_str(&indentation);
        edited.push_str(line);
        edited.push_str(end);
    }
    edited.push_str(after);
    edited
}

/// Returns the start of the line after the token that ends here.
fn next_line(text: &str, end: usize) -> Option<usize> {
    if text.get(..end)?.ends_with('\n') {
        return Some(end);
    }
    let rest = text.get(end..)?;
    Some(rest.find('\n').map_or(text.len(), |more| end + more + 1))
}

/// Returns the value within mappings with these keys.
fn nested(keys: &[&str], value: &Node) -> Node {
    keys.iter().rev().fold(value.clone(), |node, key| {
        let at = Position::START;
        let entry = Entry {
            key: (*key).to_owned(),
            at,
            node,
        };
        Node::new(at, Value::Map(vec![entry]))
    })
}

impl Spot {
    fn at(&self, path: &[&str]) -> Option<&Self> {
        let Some((key, rest)) = path.split_first() else {
            return Some(self);
        };
        let Kind::Map { entries, .. } = &self.kind else {
            return None;
        };
        let pair = entries.iter().find(|pair| pair.key == *key)?;
        pair.value.at(rest)
    }
}

type Events<'e> = std::vec::IntoIter<(Event<'e>, granit_parser::Span)>;

/// Parses a document. Returns `None` if the text is not valid YAML.
fn parse(text: &str) -> Option<Document> {
    let mut parser = Parser::new_from_str(text);
    let mut events = Vec::new();
    while let Some(next) = parser.next_event() {
        let (event, span) = next.ok()?;
        let is_content = !matches!(
            event,
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd
        );
        if is_content {
            events.push((event, span));
        }
    }
    let is_empty = match events.as_slice() {
        [] => true,
        [(Event::Scalar(value, ScalarStyle::Plain, ..), _)] => value.is_empty(),
        _ => false,
    };
    if is_empty {
        return Some(Document::Empty);
    }
    let mut events = events.into_iter();
    let first = events.next()?;
    spot(text, first, &mut events, 0, 0).map(Document::Root)
}

/// Reads the value that begins with this event. `after` is the end of the value's key.
fn spot(
    text: &str,
    (event, span): (Event<'_>, granit_parser::Span),
    events: &mut Events<'_>,
    after: usize,
    depth: usize,
) -> Option<Spot> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (start, end) = (span.start.byte_offset()?, span.end.byte_offset()?);
    let one = |kind| Some(Spot { start, end, kind });
    match event {
        Event::Scalar(value, ScalarStyle::Plain, ..) if value.is_empty() => Some(Spot {
            start: after,
            end: after,
            kind: Kind::Other,
        }),
        // The parser ends a block scalar where the next token begins.
        Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => Some(Spot {
            start,
            end: text.get(..end)?.trim_end().len(),
            kind: Kind::Other,
        }),
        Event::Scalar(value, style, ..) => {
            let is_plain = style == ScalarStyle::Plain;
            let is_number = is_plain && value.bytes().all(|byte| byte.is_ascii_digit());
            one(Kind::Scalar { is_number })
        }
        Event::Alias(_) => one(Kind::Other),
        Event::SequenceStart(style, ..) => {
            let mut last = end;
            loop {
                let (event, span) = events.next()?;
                if event == Event::SequenceEnd {
                    let end = closing(style, last, &span)?;
                    let kind = Kind::Other;
                    return Some(Spot { start, end, kind });
                }
                last = spot(text, (event, span), events, last, depth + 1)?.end;
            }
        }
        Event::MappingStart(style, ..) => {
            let mut entries: Vec<Pair> = Vec::new();
            let mut last = end;
            loop {
                let (event, span) = events.next()?;
                let key = match event {
                    Event::MappingEnd => {
                        let end = closing(style, last, &span)?;
                        let kind = Kind::Map { style, entries };
                        return Some(Spot { start, end, kind });
                    }
                    Event::Scalar(key, ..) => key.into_owned(),
                    _ => return None,
                };
                let (at, column) = (span.start.byte_offset()?, span.start.col());
                let next = events.next()?;
                let value = spot(text, next, events, span.end.byte_offset()?, depth + 1)?;
                last = value.end;
                entries.push(Pair {
                    key,
                    at,
                    column,
                    value,
                });
            }
        }
        _ => None,
    }
}

/// Returns the end of a collection: of its bracket, or of its last token.
fn closing(style: StructureStyle, last: usize, span: &granit_parser::Span) -> Option<usize> {
    match style {
        StructureStyle::Flow => span.end.byte_offset(),
        StructureStyle::Block => Some(last),
    }
}

fn entry_lines(key: &str, value: &Node) -> Vec<String> {
    let key = key_text(key);
    match inline(value) {
        Some(text) if text.is_empty() => vec![format!("{key}:")],
        Some(text) => vec![format!("{key}: {text}")],
        None => {
            let inner = lines(value).into_iter().map(|line| format!("  {line}"));
            std::iter::once(format!("{key}:")).chain(inner).collect()
        }
    }
}

fn lines(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Scalar { .. } => inline(node).into_iter().collect(),
        Value::Map(entries) => {
            let entries = entries.iter();
            entries
                .flat_map(|entry| entry_lines(&entry.key, &entry.node))
                .collect()
        }
        Value::List(items) => {
            let of = |item: &Node| {
                let inner = inline(item).map_or_else(|| lines(item), |text| vec![text]);
                let marked = inner.into_iter().enumerate().map(|(index, line)| {
                    let mark = if index == 0 { "- " } else { "  " };
                    format!("{mark}{line}")
                });
                marked.collect::<Vec<_>>()
            };
            items.iter().flat_map(of).collect()
        }
    }
}

/// Returns a value that fits on one line: a scalar, or an empty collection.
fn inline(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar { .. } if node.is_null() => Some(String::new()),
        Value::Scalar { text, plain } => Some(scalar(text, *plain)),
        Value::List(items) if items.is_empty() => Some("[]".to_owned()),
        Value::Map(entries) if entries.is_empty() => Some("{}".to_owned()),
        Value::List(_) | Value::Map(_) => None,
    }
}

fn flow(node: &Node) -> String {
    match &node.value {
        Value::Scalar { .. } if node.is_null() => "null".to_owned(),
        Value::Scalar { text, plain } => scalar(text, *plain),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|e| format!("{}: {}", quoted(&e.key), flow(&e.node)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Writes a scalar. A text that was written without quotes may be a number, and gets none if it
/// consists of characters without special meaning.
fn scalar(text: &str, plain: bool) -> String {
    let first = text.chars().next().unwrap_or(' ');
    let begins = first.is_ascii_alphabetic() || first == '/';
    let is_word = |word: &str| {
        let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
        words.contains(&word.to_ascii_lowercase().as_str())
    };
    let number = plain && (first.is_ascii_digit() || "+-.".contains(first));
    if is_simple(text) && (number || begins && (plain || !is_word(text))) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn is_simple(text: &str) -> bool {
    let simple = |c: char| c.is_ascii_alphanumeric() || "_-./@+=:".contains(c);
    !text.is_empty()
        && text.chars().all(simple)
        && !text.ends_with(':')
        && !text.starts_with(['=', '@', ':'])
        && !text.starts_with("---")
        && text != "-"
}

fn key_text(key: &str) -> String {
    scalar(key, false)
}

/// Writes a text in double quotes, which TOML reads in the same way.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::diagnostic::Report;
    use crate::platform::yaml;

    fn node(text: &str) -> Node {
        yaml::parse(text, &mut Report::new("f")).unwrap()
    }

    #[test]
    fn values_are_replaced_and_inserted_where_they_belong() {
        let path = ["services", "web", "deploy", "replicas"];
        for (before, after) in [
            (
                "services:\n  web:\n    deploy: {replicas: 2} # two\n",
                "services:\n  web:\n    deploy: {replicas: 5} # two\n",
            ),
            (
                "services:\n    web: # first\n        deploy:\n            replicas: \"2\"\n",
                "services:\n    web: # first\n        deploy:\n            replicas: 5\n",
            ),
            (
                "services:\n  web:\n    image: a # pinned\n\n    # the end\n  db: {image: b}\n",
                "services:\n  web:\n    image: a # pinned\n    deploy:\n      replicas: 5\n\n    # the \
                 end\n  db: {image: b}\n",
            ),
            (
                "services:\n  web:\n    command: |\n      a\n\n      b\n  db: {image: b}\n",
                "services:\n  web:\n    command: |\n      a\n\n      b\n    deploy:\n      replicas: \
                 5\n  db: {image: b}\n",
            ),
            (
                "services:\n  web: {image: a, deploy: {}}",
                "services:\n  web: {image: a, deploy: {replicas: 5}}",
            ),
            (
                r#"{"services": {"web": {"image": "a"}}}"#,
                r#"{"services": {"web": {"image": "a", "deploy": {"replicas": 5}}}}"#,
            ),
            (
                "services:\r\n  web:\r\n    image: a",
                "services:\r\n  web:\r\n    image: a\r\n    deploy:\r\n      replicas: 5\r\n",
            ),
            (
                "# empty",
                "# empty\n\nservices:\n  web:\n    deploy:\n      replicas: 5\n",
            ),
        ] {
            assert_eq!(set(before, &path, &node("5")).as_deref(), Some(after));
        }
        for no_place in ["services: [a]\n", "services:\n", "services: *a\n", "a: [\n"] {
            assert_eq!(set(no_place, &path, &node("5")), None, "{no_place}");
        }
    }

    #[test]
    fn written_values_are_read_as_the_same_values() {
        let text = "image: a:1\ncommand: [sh, -c, \"echo \\\"$HOME\\\"; true\", 'yes', yes, \"8080\", 80]\n\
                    environment: {A: \"1\", B: 1, C: null, \"D: #\": \"\\ttab\\n\", E: '', F: -x, G: '-'}\n\
                    volumes:\n- {type: volume, source: a, target: /a, volume: {nocopy: true}}\n- - b\n  - {}\n\
                    x-a: {}\nx-b: []\nx-c: '@at'\nx-d: \"\\u2028\\x07\"\nx-e: 'null'\nx-f: ~\nx-g: 1e3\n";
        let value = node(text);
        for before in ["a: 1\n", "{\"a\": 1}", "a:\n  b: 2\n"] {
            let after = set(before, &["new", "key"], &value).unwrap();
            let read = node(&after);
            let read = read.child("new").unwrap().child("key").unwrap();
            assert!(read.is_same_value(&value), "{after}");
            assert!(contains(&after, &["new", "key", "image"]));
            assert!(!contains(&after, &["new", "image"]));
        }
    }
}
