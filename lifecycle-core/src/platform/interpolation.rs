//! Variables in values, as the Compose Specification has them: `$VAR`, `${VAR}`,
//! `${VAR:-default}`, `${VAR-default}`, `${VAR:?message}`, `${VAR?message}`,
//! `${VAR:+instead}`, `${VAR+instead}`, and `$$` for a dollar sign. A `$` before anything else is
//! one as well.

use std::collections::BTreeSet;

use super::diagnostic::Report;
use super::tree::{Node, Value};

/// Defaults within defaults; nobody writes more.
const DEEPEST: usize = 32;

/// Variables can multiply a small text without end; no value that a person wrote comes near this.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// Nor all values of a file together near this.
const MOST_BYTES_OF_ALL: usize = 16 << 20;

/// Looks a variable up.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Text with its variables put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interpolated {
    pub(super) text: String,
    /// Variables that have no value and no default; each is an empty text.
    pub(super) unset: BTreeSet<String>,
}

/// Puts the variables into a text.
pub(super) fn interpolate(text: &str, lookup: Lookup<'_>) -> Result<Interpolated, String> {
    let mut unset = BTreeSet::new();
    let text = expand(text, lookup, &mut unset, 0)?;
    Ok(Interpolated { text, unset })
}

/// Puts the variables into every value of a tree; keys stay as they are.
pub(super) fn interpolate_tree(
    node: &mut Node,
    lookup: Lookup<'_>,
    so_far: &mut SoFar,
    report: &mut Report,
) {
    walk(node, "", lookup, report, so_far);
}

/// What the variables of all files have come to.
#[derive(Default)]
pub(super) struct SoFar {
    /// Variables that were told of.
    unset: BTreeSet<String>,
    /// How much text variables have made.
    bytes: usize,
}

fn walk(node: &mut Node, path: &str, lookup: Lookup<'_>, report: &mut Report, so_far: &mut SoFar) {
    if so_far.bytes > MOST_BYTES_OF_ALL {
        // Told already, and the file refused.
        return;
    }
    match &mut node.value {
        Value::Scalar { text, plain } if text.contains('$') => match interpolate(text, lookup) {
            Ok(done) => {
                so_far.bytes = so_far.bytes.saturating_add(done.text.len());
                if so_far.bytes > MOST_BYTES_OF_ALL {
                    let most = MOST_BYTES_OF_ALL >> 20;
                    let message = format!("up to here variables make more than {most} MiB of text");
                    report.last_word(node.at, path, message);
                    return;
                }
                *text = done.text;
                // What a variable left empty is an empty text, not "no value".
                *plain = false;
                if !done.unset.is_empty() {
                    let names: Vec<String> =
                        done.unset.iter().map(|name| format!("`{name}`")).collect();
                    report.note(node.at, format!("{} not set", names.join(", ")));
                }
                for name in done.unset {
                    if so_far.unset.insert(name.clone()) {
                        let message = format!("`{name}` is not set, so it is taken as empty");
                        report.warning(node.at, path, message);
                    }
                }
            }
            Err(message) => report.last_word(node.at, path, message),
        },
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{path}[{index}]"), lookup, report, so_far);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let path = if path.is_empty() {
                    entry.key.clone()
                } else {
                    format!("{path}.{}", entry.key)
                };
                walk(&mut entry.node, &path, lookup, report, so_far);
            }
        }
    }
}

fn expand(
    text: &str,
    lookup: Lookup<'_>,
    unset: &mut BTreeSet<String>,
    depth: usize,
) -> Result<String, String> {
    if depth > DEEPEST {
        return Err("variables are nested too deeply".to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        if out.len() > MOST_BYTES {
            return Err(format!(
                "variables make more than {} MiB of it",
                MOST_BYTES >> 20
            ));
        }
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing_brace(after).ok_or("`${` is not closed by `}`")?;
            out.push_str(&braced(&after[..end], lookup, unset, depth)?);
            rest = &after[end + 1..];
        } else {
            let name = name_at_start(rest);
            if name.is_empty() {
                // It is followed by no variable, and stays what it is.
                out.push('$');
            } else {
                out.push_str(&value(name, lookup, unset));
            }
            rest = &rest[name.len()..];
        }
    }
    out.push_str(rest);
    if out.len() > MOST_BYTES {
        return Err(format!(
            "variables make more than {} MiB of it",
            MOST_BYTES >> 20
        ));
    }
    Ok(out)
}

/// What stands between `${` and its `}`.
fn braced(
    inside: &str,
    lookup: Lookup<'_>,
    unset: &mut BTreeSet<String>,
    depth: usize,
) -> Result<String, String> {
    let name = name_at_start(inside);
    let operator_and_word = &inside[name.len()..];
    if name.is_empty() {
        return Err("`${` is followed by no variable; write `$$` for a dollar sign".to_owned());
    }
    let (empty_counts_as_unset, rest) = match operator_and_word.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operator_and_word),
    };
    let set = lookup(name).filter(|value| !(empty_counts_as_unset && value.is_empty()));
    let mut chars = rest.chars();
    let operator = chars.next();
    let word = chars.as_str();
    match (operator, set) {
        (None, _) if !empty_counts_as_unset => Ok(value(name, lookup, unset)),
        (Some('-' | '?'), Some(value)) => Ok(value),
        (Some('-'), None) | (Some('+'), Some(_)) => expand(word, lookup, unset, depth + 1),
        (Some('+'), None) => Ok(String::new()),
        (Some('?'), None) => {
            let why = expand(word, lookup, unset, depth + 1)?;
            Err(if why.is_empty() {
                format!("the variable `{name}` must be set")
            } else {
                format!("the variable `{name}` must be set: {why}")
            })
        }
        _ => Err(format!(
            "after `${{{name}` only `}}`, `:-`, `-`, `:?`, `?`, `:+` or `+` may stand"
        )),
    }
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

/// Where the `}` stands that closes what is open; each `{` opens another, so that a default may
/// be JSON. Where they do not come out even, only each `${` does.
fn closing_brace(text: &str) -> Option<usize> {
    closing(text, |_| true).or_else(|| closing(text, |before| before == '$'))
}

fn closing(text: &str, opens: impl Fn(char) -> bool) -> Option<usize> {
    let mut open = 1_usize;
    let mut before = ' ';
    for (index, c) in text.char_indices() {
        match c {
            '{' if opens(before) => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(index);
        }
        before = c;
    }
    None
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
    fn every_form_of_the_specification_works() {
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
            ("$(date) 5$ $1 $", "$(date) 5$ $1 $"),
        ] {
            assert_eq!(with(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_or_required_is_an_error() {
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
        assert_eq!(refused, "variables make more than 1 MiB of it");
    }

    #[test]
    fn variables_without_a_value_are_named() {
        let done = interpolate("$A ${B} ${C:-}", &|_| None).unwrap();
        assert_eq!(done.unset, ["A", "B"].map(str::to_owned).into());
    }
}
