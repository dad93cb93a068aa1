//! Interpolates variables in values, as the Compose Specification defines: `$VAR`, `${VAR}`,
//! `${VAR:-default}`, `${VAR-default}`, `${VAR:?message}`, `${VAR?message}`, `${VAR:+instead}`,
//! `${VAR+instead}`, and `$$` for a dollar sign. A `$` before anything else is kept.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::diagnostic::Report;
use super::tree::{Node, Position, Value};

/// The maximum nesting of defaults.
const MAX_DEPTH: usize = 32;

/// The maximum size of one value, in bytes. Without this limit, variables could expand a short text
/// to any size.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The maximum total size of all values, in bytes.
const MAX_BYTES_OF_ALL: usize = 16 << 20;

/// Looks up a variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Text with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interpolated {
    pub(super) text: String,
    /// Variables that have no value and no default; they expand to an empty string.
    pub(super) unset: BTreeSet<String>,
    /// Whether the text contains variables.
    has_variables: bool,
}

/// Replaces the variables in a text.
pub(super) fn interpolate(text: &str, lookup: Lookup<'_>) -> Result<Interpolated, String> {
    let mut unset = BTreeSet::new();
    let whole = Whole {
        text,
        braces: Braces::of(text),
    };
    let has_variables = Cell::new(false);
    let lookup = |name: &str| {
        has_variables.set(true);
        lookup(name)
    };
    let text = whole.expand(0..text.len(), &lookup, &mut unset, 0)?;
    Ok(Interpolated {
        text,
        unset,
        has_variables: has_variables.get(),
    })
}

/// Replaces the variables in every value of a tree; keys are not changed.
pub(super) fn interpolate_tree(
    node: &mut Node,
    lookup: Lookup<'_>,
    totals: &mut Totals,
    report: &mut Report,
) {
    walk(node, Path::ROOT, lookup, report, totals);
}

/// The path of a node. It is formatted only for messages.
#[derive(Clone, Copy)]
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    part: Part<'p>,
}

#[derive(Clone, Copy)]
enum Part<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl Path<'_> {
    const ROOT: Path<'static> = Path {
        parent: None,
        part: Part::Root,
    };

    fn shown(&self) -> String {
        let before = self.parent.map(Path::shown).unwrap_or_default();
        match self.part {
            Part::Root => before,
            Part::Key(key) if before.is_empty() => key.to_owned(),
            Part::Key(key) => format!("{before}.{key}"),
            Part::Index(index) => format!("{before}[{index}]"),
        }
    }
}

/// State that is shared between all files.
#[derive(Default)]
pub(super) struct Totals {
    /// Variables for which a warning was already reported.
    unset: BTreeSet<String>,
    /// The size of all expanded text.
    bytes: usize,
    /// The positions of the values that contain variables.
    pub(super) with_variables: HashSet<Position>,
}

fn walk(
    node: &mut Node,
    path: Path<'_>,
    lookup: Lookup<'_>,
    report: &mut Report,
    totals: &mut Totals,
) {
    if totals.bytes > MAX_BYTES_OF_ALL {
        // The problem was already reported.
        return;
    }
    match &mut node.value {
        Value::Scalar { text, plain } if text.contains('$') => match interpolate(text, lookup) {
            Ok(done) => {
                totals.bytes = totals.bytes.saturating_add(done.text.len());
                if totals.bytes > MAX_BYTES_OF_ALL {
                    let most = MAX_BYTES_OF_ALL >> 20;
                    let message =
                        format!("up to this line, variables expand to more than {most} MiB");
                    report.final_problem(node.at, &path.shown(), message);
                    return;
                }
                if done.has_variables {
                    totals.with_variables.insert(node.at);
                }
                *text = done.text;
                // Empty variables result in an empty string, not a null value.
                *plain = false;
                if !done.unset.is_empty() {
                    let names: Vec<String> =
                        done.unset.iter().map(|name| format!("`{name}`")).collect();
                    report.note(node.at, format!("{} not set", names.join(", ")));
                }
                for name in done.unset {
                    if totals.unset.insert(name.clone()) {
                        let message =
                            format!("`{name}` is not set and is replaced by an empty string");
                        report.warning(node.at, &path.shown(), message);
                    }
                }
            }
            Err(message) => report.final_problem(node.at, &path.shown(), message),
        },
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let path = Path {
                    parent: Some(&path),
                    part: Part::Index(index),
                };
                walk(item, path, lookup, report, totals);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let path = Path {
                    parent: Some(&path),
                    part: Part::Key(&entry.key),
                };
                walk(&mut entry.node, path, lookup, report, totals);
            }
        }
    }
}

/// A text with the positions of its variables.
struct Whole<'t> {
    text: &'t str,
    braces: Braces,
}

impl Whole<'_> {
    /// Expands a part of the text.
    fn expand(
        &self,
        part: Range<usize>,
        lookup: Lookup<'_>,
        unset: &mut BTreeSet<String>,
        depth: usize,
    ) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err("variables are nested too deeply".to_owned());
        }
        let end_of_part = part.end;
        let mut rest = self.text.get(part).unwrap_or_default();
        if rest.len() > MAX_BYTES && rest.contains('$') {
            return Err(too_long());
        }
        let mut out = String::with_capacity(rest.len());
        while let Some(dollar) = rest.find('$') {
            if out.len() > MAX_BYTES {
                return Err(too_long());
            }
            out.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let start = end_of_part - after.len();
                let end = self
                    .braces
                    .closing(start, end_of_part)
                    .ok_or("`${` is not closed by `}`")?;
                out.push_str(&self.braced(start..end, lookup, unset, depth)?);
                rest = &after[end + 1 - start..];
            } else {
                let name = name_at_start(rest);
                if name.is_empty() {
                    // No variable follows; keep the dollar sign.
                    out.push('$');
                } else {
                    out.push_str(&value(name, lookup, unset));
                }
                rest = &rest[name.len()..];
            }
        }
        out.push_str(rest);
        if out.len() > MAX_BYTES {
            return Err(too_long());
        }
        Ok(out)
    }

    /// Expands the text between `${` and the matching `}`.
    fn braced(
        &self,
        part: Range<usize>,
        lookup: Lookup<'_>,
        unset: &mut BTreeSet<String>,
        depth: usize,
    ) -> Result<String, String> {
        let end = part.end;
        let inside = self.text.get(part).unwrap_or_default();
        let name = name_at_start(inside);
        let operator_and_word = &inside[name.len()..];
        if name.is_empty() {
            return Err(
                "`${` is not followed by a variable name; write `$$` for a dollar sign".to_owned(),
            );
        }
        let (empty_counts_as_unset, rest) = match operator_and_word.strip_prefix(':') {
            Some(rest) => (true, rest),
            None => (false, operator_and_word),
        };
        let set = lookup(name).filter(|value| !(empty_counts_as_unset && value.is_empty()));
        let mut chars = rest.chars();
        let operator = chars.next();
        let word = end - chars.as_str().len()..end;
        match (operator, set) {
            (None, _) if !empty_counts_as_unset => Ok(value(name, lookup, unset)),
            (Some('-' | '?'), Some(value)) => Ok(value),
            (Some('-'), None) | (Some('+'), Some(_)) => self.expand(word, lookup, unset, depth + 1),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), None) => {
                let why = self.expand(word, lookup, unset, depth + 1)?;
                Err(if why.is_empty() {
                    format!("the variable `{name}` must be set")
                } else {
                    format!("the variable `{name}` must be set: {why}")
                })
            }
            _ => Err(format!(
                "`${{{name}` must be followed by `}}`, `:-`, `-`, `:?`, `?`, `:+` or `+`"
            )),
        }
    }
}

fn too_long() -> String {
    let most = MAX_BYTES >> 20;
    format!("variables expand this value to more than {most} MiB")
}

fn value(name: &str, lookup: Lookup<'_>, unset: &mut BTreeSet<String>) -> String {
    lookup(name).unwrap_or_else(|| {
        unset.insert(name.to_owned());
        String::new()
    })
}

fn name_at_start(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return "";
    }
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    &text[..end]
}

/// For each `${` in a text, the index of the matching `}`. The keys are the indices after the `{`.
#[derive(Default)]
struct Braces {
    /// Counts every `{`, so that a default may be JSON.
    counting_all: HashMap<usize, usize>,
    /// Counts only `${`. Used where `counting_all` finds no match.
    counting_variables: HashMap<usize, usize>,
}

impl Braces {
    fn of(text: &str) -> Self {
        if !text.contains("${") {
            return Self::default();
        }
        Self {
            counting_all: matching(text, |_| true),
            counting_variables: matching(text, |before| before == b'$'),
        }
    }

    /// Returns the `}` for the variable that starts at this index, if it is in the part of the text
    /// before `end`.
    fn closing(&self, start: usize, end: usize) -> Option<usize> {
        let find = |pairs: &HashMap<usize, usize>| {
            let index = pairs.get(&start).copied();
            index.filter(|index| *index < end)
        };
        find(&self.counting_all).or_else(|| find(&self.counting_variables))
    }
}

/// Finds the matching braces in a single pass.
fn matching(text: &str, opens: impl Fn(u8) -> bool) -> HashMap<usize, usize> {
    let mut open = Vec::new();
    let mut pairs = HashMap::new();
    let mut before = b' ';
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if opens(before) => open.push((index + 1, before == b'$')),
            b'}' => {
                if let Some((start, is_variable)) = open.pop()
                    && is_variable
                {
                    pairs.insert(start, index);
                }
            }
            _ => {}
        }
        before = byte;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        interpolate(text, &lookup).map(|done| done.text)
    }

    #[test]
    fn expands_every_form_of_the_specification() {
        for (text, expected) in [
            ("$SET", "value"),
            ("${SET}", "value"),
            ("a$SET-b", "avalue-b"),
            ("$SET$SET", "valuevalue"),
            ("${NONE}", ""),
            ("${SET:-d}", "value"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NONE-d}", "d"),
            ("${NONE:-}", ""),
            ("${SET:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${NONE+r}", ""),
            ("${SET:?e}", "value"),
            ("${EMPTY?e}", ""),
            ("${NONE:-${OTHER:-deep}}", "deep"),
            ("${NONE:-${SET}-x}", "value-x"),
            ("${NONE:-a$$b}", "a$b"),
            ("$$SET $${SET}", "$SET ${SET}"),
            ("100 $$", "100 $"),
            ("${NONE:-http://x:80/?a-b}", "http://x:80/?a-b"),
            ("${SET:-{\"a\": {}}}", "value"),
            ("${NONE:-{\"a\": {}}}", "{\"a\": {}}"),
            ("${NONE:-{}", "{"),
            ("${NONE:-${NONE:-{}}", "{"),
            ("${NONE:-${SET:-{}} {}", "value {}"),
            ("{${SET}} ${NONE:-{${SET}}}", "{value} {value}"),
            ("$(date) 5$ $1 $", "$(date) 5$ $1 $"),
        ] {
            assert_eq!(with(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn malformed_text_and_missing_required_variables_are_errors() {
        for (text, message) in [
            ("${NONE:?set it}", "the variable `NONE` must be set: set it"),
            ("${EMPTY:?}", "the variable `EMPTY` must be set"),
            ("${NONE?$SET}", "the variable `NONE` must be set: value"),
            ("${SET", "`${` is not closed by `}`"),
            ("${NONE:-${A}", "`${` is not closed by `}`"),
        ] {
            assert_eq!(with(text), Err(message.to_owned()), "{text}");
        }
        for text in ["${}", "${1}", "${SET!x}", "${SET:}", "${SET/foo/bar}"] {
            assert!(with(text).is_err(), "{text}");
        }
        let deep = format!("{}x{}", "${A:-".repeat(500), "}".repeat(500));
        assert!(with(&deep).is_err());
        let long = |_: &str| Some("x".repeat(1 << 16));
        let text = "$A".repeat(17);
        let refused = interpolate(&text, &long).unwrap_err();
        assert_eq!(refused, "variables expand this value to more than 1 MiB");
    }

    #[test]
    fn many_braces_take_linear_time() {
        let text = "${A:-{}".repeat(100_000);
        assert!(with(&text).is_ok());
        let text = "{$".repeat(300_000);
        assert!(with(&text).is_err());
    }

    #[test]
    fn reports_variables_without_a_value() {
        let done = interpolate("$A ${B} ${C:-}", &|_| None).unwrap();
        assert_eq!(done.unset, ["A", "B"].map(str::to_owned).into());
    }
}
