//! The tree of a parsed file, in which every node has its source position (line and column). YAML
//! and TOML are parsed to the same kind of tree, so that both use the same readers and diagnostics.

use std::borrow::Cow;
use std::collections::HashMap;

use super::diagnostic::Report;
use super::scalar;
use crate::similar::nearest;

/// The index of a file in a [`Report`]; the first file is 0.
pub(super) type FileId = u16;

/// A position in a file. Line and column start at 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    pub(super) file: FileId,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    pub(super) const START: Self = Self {
        file: 0,
        line: 1,
        column: 1,
    };
}

/// The YAML tag of a value. It determines how the value is merged with an earlier value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// The two values are merged.
    None,
    /// `!reset`: both values are removed.
    Reset,
    /// `!override`: this value replaces the earlier one.
    Override,
}

/// A value in a file. Does not implement `Debug`, because values may be secrets.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
    pub(super) mark: Mark,
}

#[derive(Clone)]
pub(super) enum Value {
    /// Kept as text, because only the reader of the key knows the type.
    Scalar {
        text: String,
        /// Whether the text was written without quotes. If so, `null` and an empty string mean "no
        /// value".
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) node: Node,
}

impl Node {
    /// Creates a value without a tag.
    pub(super) fn new(at: Position, value: Value) -> Self {
        Self {
            at,
            value,
            mark: Mark::None,
        }
    }

    /// Creates a string, as if it were quoted.
    pub(super) fn of_text(at: Position, text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new(at, Value::Scalar { text, plain: false })
    }

    /// Creates a null value.
    pub(super) fn nothing(at: Position) -> Self {
        let text = String::new();
        Self::new(at, Value::Scalar { text, plain: true })
    }

    /// Returns the text of a scalar.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// Returns the text of a scalar. A plain number or boolean has its canonical form: `0x10` is `16`.
    pub(super) fn as_canonical(&self) -> Option<Cow<'_, str>> {
        self.converted(scalar::canonical)
    }

    /// Returns the text of a scalar. A plain number has its decimal notation: `1e6` is `1000000`.
    pub(super) fn as_decimal(&self) -> Option<Cow<'_, str>> {
        self.converted(scalar::decimal)
    }

    fn converted(&self, convert: fn(&str) -> Option<String>) -> Option<Cow<'_, str>> {
        let text = self.as_text()?;
        let converted = match &self.value {
            Value::Scalar { plain: true, .. } => convert(text),
            _ => None,
        };
        Some(converted.map_or(Cow::Borrowed(text), Cow::Owned))
    }

    /// Returns the value of a key of this mapping.
    pub(super) fn child(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.node)
    }

    /// Returns a mutable reference to the value of a key of this mapping.
    pub(super) fn child_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let entry = entries.iter_mut().find(|entry| entry.key == key)?;
        Some(&mut entry.node)
    }

    /// Removes an entry from this mapping.
    pub(super) fn take(&mut self, key: &str) -> Option<Entry> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }

    /// Returns whether two values are equal, ignoring positions.
    pub(super) fn is_same_value(&self, other: &Node) -> bool {
        match (&self.value, &other.value) {
            (
                Value::Scalar { text, .. },
                Value::Scalar {
                    text: other_text, ..
                },
            ) => match (self.is_null(), other.is_null()) {
                (false, false) => text == other_text,
                (one, other) => one && other,
            },
            (Value::List(items), Value::List(others)) => {
                items.len() == others.len()
                    && items
                        .iter()
                        .zip(others)
                        .all(|(item, other)| item.is_same_value(other))
            }
            (Value::Map(entries), Value::Map(others)) => {
                let others: HashMap<&str, &Node> = others
                    .iter()
                    .map(|entry| (entry.key.as_str(), &entry.node))
                    .collect();
                entries.len() == others.len()
                    && entries.iter().all(|entry| {
                        others
                            .get(entry.key.as_str())
                            .is_some_and(|other| entry.node.is_same_value(other))
                    })
            }
            _ => false,
        }
    }

    /// Returns the number of nodes and the number of text bytes in this value.
    pub(super) fn weight(&self) -> (usize, usize) {
        let sum = |(nodes, bytes), (more, text)| (nodes + more, bytes + text);
        match &self.value {
            Value::Scalar { text, .. } => (1, text.len()),
            Value::List(items) => items.iter().map(Self::weight).fold((1, 0), sum),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| sum(entry.node.weight(), (0, entry.key.len())))
                .fold((1, 0), sum),
        }
    }

    /// Returns whether this is a null value.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain: true } => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Returns the position of the deepest existing part of a path.
    pub(super) fn position_of(&self, path: &[&str]) -> Position {
        let mut position = self.at;
        let mut node = self;
        for part in path {
            let Value::Map(entries) = &node.value else {
                break;
            };
            let Some(entry) = entries.iter().find(|entry| entry.key == *part) else {
                break;
            };
            position = entry.at;
            node = &entry.node;
        }
        position
    }
}

/// A value with its path.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    /// The position of the value's key, or of the list item.
    pub(super) at: Position,
    pub(super) node: &'a Node,
}

impl<'a> Field<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self {
            path: String::new(),
            at: node.at,
            node,
        }
    }

    fn under(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Returns the position of the value, or of its key if the value is null.
    pub(super) fn value_at(&self) -> Position {
        if self.node.is_null() {
            self.at
        } else {
            self.node.at
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// Returns whether the value is a text without characters, for example the value of a variable that
    /// is not set.
    pub(super) fn is_empty_text(&self) -> bool {
        self.node.as_text() == Some("")
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(super) fn problem(&self, report: &mut Report, message: impl Into<String>) {
        report.problem(self.value_at(), &self.path, message);
    }

    pub(super) fn problem_with_help(
        &self,
        report: &mut Report,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        report.problem_with_help(self.value_at(), &self.path, message, help);
    }

    pub(super) fn wrong_kind(&self, report: &mut Report, expected: &str) {
        self.problem(
            report,
            format!("expected {expected}, found {}", self.node.kind()),
        );
    }

    pub(super) fn entries(&self, report: &mut Report) -> Vec<(&'a str, Field<'a>)> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_kind(report, "a mapping");
            return Vec::new();
        };
        entries
            .iter()
            .map(|entry| {
                let field = Field {
                    path: self.under(&entry.key),
                    at: entry.at,
                    node: &entry.node,
                };
                (entry.key.as_str(), field)
            })
            .collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<Field<'a>> {
        let Value::Map(entries) = &self.node.value else {
            return None;
        };
        entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| Field {
                path: self.under(key),
                at: entry.at,
                node: &entry.node,
            })
    }

    pub(super) fn items(&self, report: &mut Report) -> Vec<Field<'a>> {
        let Value::List(items) = &self.node.value else {
            self.wrong_kind(report, "a list");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(index, node)| Field {
                path: format!("{}[{index}]", self.path),
                at: node.at,
                node,
            })
            .collect()
    }

    /// Returns the items of a list. A value that is not a list counts as a list with one item.
    pub(super) fn items_or_one(&self, report: &mut Report) -> Vec<Field<'a>> {
        if self.is_list() {
            self.items(report)
        } else {
            vec![self.clone()]
        }
    }

    /// Returns the text of a single value, unchanged.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => {
                self.wrong_kind(report, "a single value");
                None
            }
        }
    }

    pub(super) fn texts(&self, report: &mut Report) -> Vec<String> {
        self.items(report)
            .iter()
            .filter_map(|item| item.text(report).map(str::to_owned))
            .collect()
    }

    /// Parses a single value; the parser's error becomes the diagnostic.
    pub(super) fn parse<T>(
        &self,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(report)?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(report, message);
                None
            }
        }
    }

    /// Returns the text of a single value. A plain number or boolean has its canonical form.
    pub(super) fn canonical(&self, report: &mut Report) -> Option<Cow<'a, str>> {
        self.text(report)?;
        self.node.as_canonical()
    }

    /// Like [`Self::parse`], for values that may be numbers: a plain number is parsed in its decimal
    /// notation.
    pub(super) fn parse_number<T>(
        &self,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.text(report)?;
        match parse(&self.node.as_decimal()?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(report, message);
                None
            }
        }
    }

    /// Parses a part of this value; the parser's error becomes the diagnostic.
    pub(super) fn parse_as<T>(
        &self,
        part: &str,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(part)
            .map_err(|message| self.problem(report, message))
            .ok()
    }

    /// Parses a whole number within bounds.
    pub(super) fn number(&self, report: &mut Report, least: u32, most: u32) -> Option<u32> {
        self.parse_number(report, |text| {
            text.parse()
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}"))
        })
    }

    /// Parses a boolean. Also accepts the spellings of old YAML versions, such as `yes` and `on`.
    pub(super) fn boolean(&self, report: &mut Report) -> Option<bool> {
        self.parse(report, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        })
    }

    /// Parses a string that must be one of `words`.
    pub(super) fn word<T: Copy>(&self, report: &mut Report, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(report)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let message = format!("`{text}` is not one of {}", known.join(", "));
        match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => {
                self.problem_with_help(report, message, format!("did you mean `{near}`?"));
            }
            None => self.problem(report, message),
        }
        None
    }
}
