//! A file as a tree whose every part knows where it stands. YAML and TOML are both read into
//! it, so that one reader with one kind of diagnostics serves both.

use super::diagnostic::{Report, nearest};

/// A place in a file, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// A value in a file. Without `Debug`: values may be secrets.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    /// Kept as text until the reader knows which type the key has: interpolation can make a
    /// number of what looked like text.
    Scalar {
        text: String,
        /// Written without quotes, so that `null` and nothing at all mean "no value".
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Place,
    pub(super) node: Node,
}

impl Node {
    /// Whether there is no value.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain: true } => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Where the deepest part of a path that exists stands.
    pub(super) fn place_of(&self, path: &[&str]) -> Place {
        let mut place = self.at;
        let mut node = self;
        for part in path {
            let Value::Map(entries) = &node.value else {
                break;
            };
            let Some(entry) = entries.iter().find(|entry| entry.key == *part) else {
                break;
            };
            place = entry.at;
            node = &entry.node;
        }
        place
    }
}

/// A value with the path that leads to it.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    /// Where its key stands; for an item of a list, where the item does.
    pub(super) at: Place,
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

    /// Where the value stands, or its key if there is none.
    pub(super) fn value_at(&self) -> Place {
        if self.node.is_null() {
            self.at
        } else {
            self.node.at
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
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

    pub(super) fn wrong_kind(&self, report: &mut Report, wanted: &str) {
        self.problem(
            report,
            format!("expected {wanted}, found {}", self.node.kind()),
        );
    }

    /// The entries of a mapping.
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

    /// One entry of a mapping.
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

    /// The items of a list.
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

    /// The items of a list, or the one value that stands for a list of one.
    pub(super) fn items_or_one(&self, report: &mut Report) -> Vec<Field<'a>> {
        if self.is_list() {
            self.items(report)
        } else {
            vec![self.clone()]
        }
    }

    /// A single value as it is written.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => {
                self.wrong_kind(report, "a single value");
                None
            }
        }
    }

    /// A list of single values.
    pub(super) fn texts(&self, report: &mut Report) -> Vec<String> {
        self.items(report)
            .iter()
            .filter_map(|item| item.text(report).map(str::to_owned))
            .collect()
    }

    /// A single value through a parser whose error says what is wrong with it.
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

    /// A part of this value through such a parser.
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

    /// A whole number within bounds.
    pub(super) fn number(&self, report: &mut Report, least: u32, most: u32) -> Option<u32> {
        self.parse(report, |text| {
            text.parse()
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("`{text}` is no whole number from {least} to {most}"))
        })
    }

    /// `true` or `false`, in YAML's old spellings too.
    pub(super) fn boolean(&self, report: &mut Report) -> Option<bool> {
        self.parse(report, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        })
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, report: &mut Report, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(report)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let message = format!("`{text}` is none of {}", known.join(", "));
        match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => {
                self.problem_with_help(report, message, format!("did you mean `{near}`?"));
            }
            None => self.problem(report, message),
        }
        None
    }
}
