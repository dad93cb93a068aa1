//! Reads files of environment variables: `.env` next to the Compose file, and `env_file` of
//! services.
//!
//! The syntax is that of the Compose Specification. Quoted values may span lines. Double quotes
//! support escapes such as `\n`. Variables are replaced except in single quotes.

use std::collections::{BTreeMap, BTreeSet};

use super::interpolation::{Lookup, interpolate};

/// The variables of an environment file. A key without a value maps to `None`: its value comes from
/// the environment.
pub(super) type Variables = BTreeMap<String, Option<String>>;

/// A parsed environment file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) variables: Variables,
    /// The keys whose values refer to variables that are not set, with their lines.
    pub(super) unset: BTreeSet<(usize, String)>,
}

/// The maximum number of variables in a file.
const MAX_VARIABLES: usize = 100_000;

/// The maximum total size of the values of a file, in bytes. Without this limit, variables could
/// expand a small file to any size.
const MAX_BYTES: usize = 4 << 20;

/// Adds the variables of a later file. A key without a value does not remove an earlier value.
pub(super) fn add(variables: &mut Variables, later: Variables) {
    for (key, value) in later {
        match value {
            Some(value) => drop(variables.insert(key, Some(value))),
            None => drop(variables.entry(key).or_insert(None)),
        }
    }
}

/// Checks the size of a file before another variable is added.
fn check_size(variables: &Variables, bytes: usize) -> Result<(), String> {
    if variables.len() >= MAX_VARIABLES {
        return Err(format!("the file has more than {MAX_VARIABLES} variables"));
    }
    if bytes > MAX_BYTES {
        let most = MAX_BYTES >> 20;
        return Err(format!("the values of the file have more than {most} MiB"));
    }
    Ok(())
}

/// The maximum number of entries in [`Parsed::unset`].
const MAX_UNSET: usize = 20;

/// Describes the value of a key that refers to a variable that is not set. The name of the variable
/// may be a part of a password.
pub(super) fn unset_in(key: &str) -> String {
    format!(
        "the value of `{key}` refers to a variable that is not set; it is replaced by an empty string"
    )
}

/// An error in an environment file. The message contains no values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Parses an environment file. Variables are read from `lookup` first, then from the file's earlier
/// variables, then from `earlier`, the variables of earlier files.
pub(super) fn parse(
    text: &str,
    lookup: Lookup<'_>,
    earlier: Lookup<'_>,
) -> Result<Parsed, BadLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Variables::new();
    let mut unset = BTreeSet::new();
    let mut rest = text;
    let (mut line, mut counted) = (1, text);
    let mut bytes = 0;
    while !rest.is_empty() {
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        }
        if rest.starts_with('#') {
            rest = after_line(rest);
            continue;
        }
        line += counted[..counted.len() - rest.len()].matches('\n').count();
        counted = rest;
        let bad_here = |message: String| BadLine { line, message };
        check_size(&variables, bytes).map_err(bad_here)?;
        if let Some(after) = rest.strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            rest = after.trim_start_matches([' ', '\t']);
        }
        let end = rest.find(['=', ':', '\n']).unwrap_or(rest.len());
        let key = rest[..end].trim();
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "\"'#$".contains(c)) {
            return Err(bad_here("expected `KEY=value`".to_owned()));
        }
        let key = key.to_owned();
        if !rest[end..].starts_with(['=', ':']) {
            // A key that is not set in the environment keeps an earlier value.
            match lookup(&key) {
                Some(value) => drop(variables.insert(key, Some(value))),
                None => drop(variables.entry(key).or_insert(None)),
            }
            rest = after_line(rest);
            continue;
        }
        rest = rest[end + 1..].trim_start_matches([' ', '\t']);
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (raw, expands, after) = if let Some(quote) = quote {
            let (value, after) = quoted(&rest[1..], quote)
                .ok_or_else(|| bad_here(format!("the value of `{key}` has no closing {quote}")))?;
            let trailing = after[..after.len() - after_line(after).len()].trim();
            if !trailing.is_empty() && !trailing.starts_with('#') {
                return Err(bad_here(format!(
                    "unexpected text after the quoted value of `{key}`"
                )));
            }
            (value, quote == '"', after_line(after))
        } else {
            let value = rest.split('\n').next().unwrap_or_default();
            (without_comment(value).to_owned(), true, after_line(rest))
        };
        let value = if expands {
            let own = |name: &str| variables.get(name).cloned().flatten();
            let either = |name: &str| {
                let own = || own(name).or_else(|| earlier(name));
                lookup(name).or_else(own)
            };
            let done = interpolate(&raw, &either)
                .map_err(|message| bad_here(format!("in the value of `{key}`: {message}")))?;
            if !done.unset.is_empty() && unset.len() < MAX_UNSET {
                unset.insert((line, key.clone()));
            }
            done.text
        } else {
            raw
        };
        bytes += value.len();
        variables.insert(key, Some(value));
        rest = after;
    }
    Ok(Parsed { variables, unset })
}

/// Parses an environment file with `format: raw`: everything after the first `=` is the value.
pub(super) fn parse_raw(text: &str) -> Result<Parsed, BadLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Variables::new();
    let mut bytes = 0;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.to_owned())),
            None => (line.trim(), None),
        };
        let bad_here = |message: String| BadLine {
            line: index + 1,
            message,
        };
        check_size(&variables, bytes).map_err(bad_here)?;
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(bad_here("expected `KEY=value`".to_owned()));
        }
        bytes += value.as_ref().map_or(0, String::len);
        variables.insert(key.to_owned(), value);
    }
    Ok(Parsed {
        variables,
        unset: BTreeSet::new(),
    })
}

fn after_line(text: &str) -> &str {
    text.find('\n').map_or("", |end| &text[end + 1..])
}

/// Removes a comment from a value without leading white space. As in compose-go, a comment needs a space
/// before `#`; otherwise `#` is part of the value.
fn without_comment(value: &str) -> &str {
    value.split(" #").next().unwrap_or_default().trim_end()
}

/// Returns the value up to its closing quote, and the rest of the text.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        if c == quote {
            return Some((value, &text[index + 1..]));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let (_, escaped) = chars.next()?;
        match (quote, escaped) {
            ('"', 'n') => value.push('\n'),
            ('"', 'r') => value.push('\r'),
            ('"', 't') => value.push('\t'),
            ('"', '\\') => value.push('\\'),
            // Interpolation later turns `$$` into a single dollar sign.
            ('"', '$') => value.push_str("$$"),
            (_, escaped) if escaped == quote => value.push(quote),
            (_, escaped) => value.extend(['\\', escaped]),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, Option<String>)> {
        let lookup = |name: &str| (name == "OUTER").then(|| "outer".to_owned());
        let parsed = parse(text, &lookup, &|_| None).unwrap();
        parsed.variables.into_iter().collect()
    }

    fn one(text: &str) -> String {
        let variables = parsed(text);
        assert_eq!(variables.len(), 1, "{text:?}");
        variables[0].1.clone().unwrap()
    }

    #[test]
    fn parses_the_examples_of_the_specification() {
        for (text, value) in [
            ("VAR=VAL", "VAL"),
            ("VAR=\"VAL\"", "VAL"),
            ("VAR='VAL'", "VAL"),
            ("VAR=VAL # comment", "VAL"),
            ("VAR=VAL# not a comment", "VAL# not a comment"),
            ("VAR=#not-a-comment", "#not-a-comment"),
            ("VAR=VAL#x # comment", "VAL#x"),
            ("VAR=VAL\t# not a comment", "VAL\t# not a comment"),
            ("VAR=\"VAL # not a comment\"", "VAL # not a comment"),
            ("VAR=\"VAL\" # comment", "VAL"),
            ("VAR='$OTHER'", "$OTHER"),
            ("VAR='${OTHER}'", "${OTHER}"),
            ("VAR='Let\\'s go!'", "Let's go!"),
            (
                "VAR=\"{\\\"hello\\\": \\\"json\\\"}\"",
                "{\"hello\": \"json\"}",
            ),
            ("VAR=\"some\\tvalue\"", "some\tvalue"),
            ("VAR='some\\tvalue'", "some\\tvalue"),
            ("VAR=some\\tvalue", "some\\tvalue"),
            ("VAR='two\nlines'", "two\nlines"),
            ("VAR: VAL", "VAL"),
            ("export VAR=VAL\r\n", "VAL"),
            ("VAR=", ""),
            ("VAR=a=b:c", "a=b:c"),
            ("VAR=${OUTER}-${NONE:-d}", "outer-d"),
            ("VAR=\"\\$OUTER\"", "$OUTER"),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
    }

    #[test]
    fn variables_may_refer_to_earlier_ones_and_comments_are_skipped() {
        let text = "# c\n\nA=1\n  # c\nB=${A}2\nC\nexported=x\n";
        let some = |v: &str| Some(v.to_owned());
        assert_eq!(
            parsed(text),
            [
                ("A".to_owned(), some("1")),
                ("B".to_owned(), some("12")),
                ("C".to_owned(), None),
                ("exported".to_owned(), some("x")),
            ]
        );
    }

    #[test]
    fn a_key_without_a_value_keeps_an_earlier_value_unless_the_environment_has_one() {
        let some = |v: &str| Some(v.to_owned());
        let found = parsed("A=1\nOUTER=2\nA\nOUTER\n");
        let expected = [
            ("A".to_owned(), some("1")),
            ("OUTER".to_owned(), some("outer")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn keys_with_unset_variables_are_named_with_their_lines() {
        let text = "A=1\n\nB=${A}${NONE}\nC='$NONE'\nD=${NONE:-d}\n";
        let parsed = parse(text, &|_| None, &|_| None).unwrap();
        assert_eq!(parsed.unset, BTreeSet::from([(3, "B".to_owned())]));
        assert_eq!(parsed.variables["B"].as_deref(), Some("1"));
    }

    #[test]
    fn reports_a_bad_line_without_its_value() {
        for (text, line) in [
            ("A=1\nB='secret\n", 2),
            ("A='x' secret\n", 1),
            ("A='x\ny'\n# c\nB='secret\n", 4),
            ("\n\n=secret\n", 3),
            ("two words=secret\n", 1),
            ("A=${secret", 1),
        ] {
            let bad = parse(text, &|_| None, &|_| None).unwrap_err();
            assert_eq!(bad.line, line, "{text:?}");
            assert!(!bad.message.contains("secret"), "{}", bad.message);
        }
    }

    #[test]
    fn a_small_file_cannot_become_large() {
        let bomb = format!("A={}\n{}", "x".repeat(500_000), "B=$A$A\nC=$B\n".repeat(20));
        let bad = parse(&bomb, &|_| None, &|_| None).unwrap_err();
        assert!(bad.message.contains("more than 4 MiB"), "{}", bad.message);
        let many: Vec<String> = (0..=100_000).map(|n| format!("A{n}=1\n")).collect();
        let many = many.concat();
        let bad = parse(&many, &|_| None, &|_| None).unwrap_err();
        assert_eq!(bad.line, 100_001);
        assert!(bad.message.contains("more than 100000 variables"));
        assert!(parse_raw(&many).is_err());
    }

    #[test]
    fn a_raw_file_is_not_interpreted() {
        let raw = parse_raw("# c\nA='x' # y\nB=$C\n").unwrap().variables;
        assert_eq!(raw["A"].as_deref(), Some("'x' # y"));
        assert_eq!(raw["B"].as_deref(), Some("$C"));
    }
}
