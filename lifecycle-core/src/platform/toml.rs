//! Parses TOML text to a [`Node`] tree with source positions.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Report;
use super::tree::{Entry, Node, Position, Value};

/// The maximum nesting depth. Deeper trees could overflow the stack, because they are read and
/// dropped recursively.
const MAX_DEPTH: usize = 64;

/// Parses a document. If the text is not valid TOML, reports the problem and returns `None`.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => {
            let node = lines.table(table.get_ref(), Position::START, 0);
            if node.is_none() {
                let message = format!("nested more than {MAX_DEPTH} levels deep");
                report.problem(Position::START, "", message);
            }
            node
        }
        Err(error) => {
            let at = error
                .span()
                .map_or(Position::START, |span| lines.position(span.start));
            report.problem(at, "", format!("invalid TOML: {}", error.message()));
            None
        }
    }
}

/// The start offsets of the lines of a text.
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

    fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Position {
            file: 0,
            line: line.max(1),
            column: before.chars().count() + 1,
        }
    }

    /// Reads a table and restores the order of the keys, which the parser changes. By default, the
    /// manager runs on the first declared node.
    fn table(&self, table: &DeTable<'_>, at: Position, depth: usize) -> Option<Node> {
        let mut entries = Vec::new();
        for (key, value) in table {
            entries.push(Entry {
                key: key.get_ref().to_string(),
                at: self.position(key.span().start),
                node: self.value(value, depth + 1)?,
            });
        }
        entries.sort_by_key(|entry| entry.at);
        Some(Node::new(at, Value::Map(entries)))
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        let at = self.position(value.span().start);
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
    fn entries_keep_the_order_and_positions_of_the_file() {
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
        let position = node.position_of(&["nodes", "alpha", "labels", "b"]);
        assert_eq!(
            position,
            Position {
                file: 0,
                line: 3,
                column: 21
            }
        );
    }

    #[test]
    fn reports_invalid_toml_with_its_position() {
        let mut report = Report::new("f");
        assert!(parse("a = 1\nb = = 2\n", &mut report).is_none());
        let text = Report::problems_of(vec![report]).unwrap().to_string();
        assert!(text.starts_with("f:2:"), "{text}");
    }
}
