//! TOML text to a [`Node`] tree, places kept.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Report;
use super::tree::{Entry, Node, Place, Value};

/// The tree is read and dropped by recursion.
const DEEPEST: usize = 64;

/// Reads a document; `None` if it is no TOML, and then `report` says why.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => {
            let node = lines.table(table.get_ref(), Place::START, 0);
            if node.is_none() {
                let message = format!("nested more than {DEEPEST} levels deep");
                report.problem(Place::START, "", message);
            }
            node
        }
        Err(error) => {
            let at = error
                .span()
                .map_or(Place::START, |span| lines.place(span.start));
            report.problem(at, "", format!("this is no TOML: {}", error.message()));
            None
        }
    }
}

/// Where the lines of a text begin.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Place {
            file: 0,
            line: line.max(1),
            column: before.chars().count() + 1,
        }
    }

    /// In the order of the file: the crate sorts keys, and the first node declared has a meaning.
    fn table(&self, table: &DeTable<'_>, at: Place, depth: usize) -> Option<Node> {
        let mut entries = Vec::new();
        for (key, value) in table {
            entries.push(Entry {
                key: key.get_ref().to_string(),
                at: self.place(key.span().start),
                node: self.value(value, depth + 1)?,
            });
        }
        entries.sort_by_key(|entry| entry.at);
        Some(Node::new(at, Value::Map(entries)))
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Option<Node> {
        if depth > DEEPEST {
            return None;
        }
        let at = self.place(value.span().start);
        let scalar = |text: String, plain| Value::Scalar { text, plain };
        let value = match value.get_ref() {
            DeValue::String(text) => scalar(text.to_string(), false),
            DeValue::Integer(number) => scalar(number.to_string(), true),
            DeValue::Float(number) => scalar(number.to_string(), true),
            DeValue::Boolean(truth) => scalar(truth.to_string(), true),
            DeValue::Datetime(time) => scalar(time.to_string(), true),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| self.value(item, depth + 1))
                    .collect::<Option<_>>()?,
            ),
            DeValue::Table(table) => return self.table(table, at, depth),
        };
        Some(Node::new(at, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::tree::Field;

    #[test]
    fn entries_keep_the_order_and_the_places_of_the_file() {
        let mut report = Report::new("f");
        let text = "[nodes.zeta]\n[nodes.alpha]\nlabels = { \"ä\" = 1, b = 3 }\n";
        let node = parse(text, &mut report).unwrap();
        let nodes = Field::root(&node).get("nodes").unwrap();
        let names: Vec<&str> = nodes
            .entries(&mut report)
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(names, ["zeta", "alpha"]);
        let place = node.place_of(&["nodes", "alpha", "labels", "b"]);
        assert_eq!(
            place,
            Place {
                file: 0,
                line: 3,
                column: 21
            }
        );
    }

    #[test]
    fn what_is_no_toml_is_said_with_its_place() {
        let mut report = Report::new("f");
        assert!(parse("a = 1\nb = = 2\n", &mut report).is_none());
        let text = Report::problems_of(vec![report]).unwrap().to_string();
        assert!(text.starts_with("f:2:"), "{text}");
    }
}
