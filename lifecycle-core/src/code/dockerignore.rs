//! `.dockerignore`: which files of a build context are sent to the engine.
//!
//! Its patterns are not Git's: each is anchored at the root of the context, `*` never crosses
//! a `/`, the last pattern that matches a path or one of its parents wins, and `!` brings back
//! even what lies in a left-out directory. The rules here are those of the `patternmatcher`
//! that Docker's clients and engines share, including two that surprise: `**foo` at the start
//! matches every path that ends in `foo`, and a comment counts only if `#` is the line's very
//! first character. Unlike Docker's classic client, and like `BuildKit`, an exception whose
//! pattern begins with a wildcard is found in left-out directories too.

use std::fmt;

/// The rules of one `.dockerignore`.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
}

/// A pattern that can match nothing, because it is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPattern {
    pub(super) line: usize,
    pub(super) pattern: String,
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}` is no pattern", self.line, self.pattern)
    }
}

#[derive(Debug)]
struct Rule {
    exception: bool,
    tokens: Vec<Token>,
    /// For a pattern that is `**` and then plain text: what a path may end with.
    suffix: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    AnyChar,
    /// `*`
    AnyInName,
    /// `**` before more: [`Token::Directories`], which always follows, or nothing.
    PerhapsDirectories,
    /// Any directories with the `/` after them.
    Directories,
    /// `**` at the end.
    Rest,
    /// `[a-z]`, `[^a-z]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Rules {
    /// Reads the text of a `.dockerignore`.
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (exception, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if line.is_empty() {
                continue;
            }
            let bad = || BadPattern {
                line: index + 1,
                pattern: line.to_owned(),
            };
            if pattern.is_empty() {
                return Err(bad());
            }
            let pattern = clean(pattern);
            let tokens = tokens(&pattern).ok_or_else(bad)?;
            let suffix = pattern
                .strip_prefix("**")
                .filter(|rest| !rest.is_empty() && !rest.contains(['*', '?', '[', ']', '\\']))
                .map(str::to_owned);
            rules.push(Rule {
                exception,
                tokens,
                suffix,
            });
        }
        Ok(Self { rules })
    }

    /// Whether a path of the context (with `/`) is left out.
    pub(super) fn leave_out(&self, path: &str) -> bool {
        let mut out = false;
        for rule in &self.rules {
            if rule.exception == out && rule.matches_with_parents(path) {
                out = !rule.exception;
            }
        }
        out
    }

    /// Whether something below a left-out directory may be brought back.
    pub(super) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }
}

impl Rule {
    fn matches_with_parents(&self, path: &str) -> bool {
        self.matches(path)
            || path
                .match_indices('/')
                .any(|(end, _)| self.matches(&path[..end]))
    }

    fn matches(&self, path: &str) -> bool {
        if let Some(suffix) = &self.suffix {
            return path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path);
        }
        glob(&self.tokens, path)
    }
}

/// All positions in the pattern are followed at once, so the time is bounded by pattern times
/// path, whatever the pattern.
fn glob(tokens: &[Token], path: &str) -> bool {
    let mut at = vec![false; tokens.len() + 1];
    at[0] = true;
    take_empty_steps(tokens, &mut at);
    for c in path.chars() {
        let mut next = vec![false; tokens.len() + 1];
        for (index, token) in tokens.iter().enumerate() {
            if !at[index] {
                continue;
            }
            match token {
                Token::Char(wanted) => next[index + 1] |= *wanted == c,
                Token::AnyChar => next[index + 1] |= c != '/',
                Token::AnyInName => next[index] |= c != '/',
                Token::Rest => next[index] = true,
                Token::PerhapsDirectories => {}
                Token::Directories => {
                    next[index] = true;
                    next[index + 1] |= c == '/';
                }
                Token::Class { negated, ranges } => {
                    let inside = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                    next[index + 1] |= inside != *negated;
                }
            }
        }
        take_empty_steps(tokens, &mut next);
        at = next;
    }
    at[tokens.len()]
}

/// Adds the positions that are reached without a character. They all lie ahead.
fn take_empty_steps(tokens: &[Token], at: &mut [bool]) {
    for (index, token) in tokens.iter().enumerate() {
        if !at[index] {
            continue;
        }
        match token {
            Token::AnyInName | Token::Rest => at[index + 1] = true,
            Token::PerhapsDirectories => {
                at[index + 1] = true;
                at[index + 2] = true;
            }
            Token::Char(_) | Token::AnyChar | Token::Directories | Token::Class { .. } => {}
        }
    }
}

/// Go's `filepath.Clean`, and without the leading `/`.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if pattern.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    }
}

fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() {
                    Token::Rest
                } else {
                    tokens.push(Token::PerhapsDirectories);
                    Token::Directories
                }
            }
            '*' => Token::AnyInName,
            '?' => Token::AnyChar,
            '\\' => Token::Char(chars.next()?),
            '[' => class(&mut chars)?,
            other => Token::Char(other),
        };
        tokens.push(token);
    }
    Some(tokens)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match chars.next()? {
            ']' if ranges.is_empty() => return None,
            ']' => return Some(Token::Class { negated, ranges }),
            '\\' => chars.next()?,
            '-' => return None,
            other => other,
        };
        let to = if chars.next_if_eq(&'-').is_some() {
            match chars.next()? {
                ']' | '-' => return None,
                '\\' => chars.next()?,
                other => other,
            }
        } else {
            from
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(rules: &str, path: &str) -> bool {
        Rules::parse(rules).unwrap().leave_out(path)
    }

    /// The examples of Docker's documentation of `.dockerignore`.
    #[test]
    fn the_documented_examples_hold() {
        for (rules, path, out) in [
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "somedir/temp", true),
            ("*/temp*", "temp", false),
            ("*/temp*", "a/b/temp", false),
            ("*/*/temp*", "somedir/subdir/temporary.txt", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "tempab", false),
            ("/foo/bar", "foo/bar", true),
            ("foo/bar", "foo/bar/baz", true),
            ("/foo/bar/", "foo/bar", true),
            ("**/*.go", "main.go", true),
            ("**/*.go", "a/b/main.go", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "CHANGES.md", true),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "README-secret.md",
                true,
            ),
            ("*.md\n!README*.md\nREADME-secret.md", "README-x.md", false),
            (
                "*.md\nREADME-secret.md\n!README*.md",
                "README-secret.md",
                false,
            ),
        ] {
            assert_eq!(left_out(rules, path), out, "{rules:?} on {path}");
        }
    }

    /// Cases of the tests of moby/patternmatcher.
    #[test]
    fn patterns_mean_what_patternmatcher_says() {
        for (pattern, path, out) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            ("a[^b-d]e", "abe", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abc.def", true),
            ("abc?def", "abcZdef", true),
            ("a\\*b", "a*b", true),
            ("a\\\\", "a\\", true),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            (
                "dist/proxy.py-2.4.0rc3.dev36",
                "dist/proxy.py-2.4.0rc3.dev36",
                true,
            ),
            ("*/util", "util", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("x/../y", "y", true),
        ] {
            assert_eq!(left_out(pattern, path), out, "{pattern:?} on {path}");
        }
    }

    #[test]
    fn a_later_exception_brings_back_what_lies_in_a_left_out_directory() {
        let rules = "node_modules\n!node_modules/keep";
        assert!(left_out(rules, "node_modules/x"));
        assert!(!left_out(rules, "node_modules/keep"));
        assert!(!left_out(rules, "node_modules/keep/deep"));
        assert!(!left_out("*\n!src/**/*.rs", "src/a/b.rs"));
        assert!(left_out("*\n!src/**/*.rs", "src/a/b.c"));
    }

    #[test]
    fn only_a_hash_in_the_first_column_opens_a_comment() {
        assert!(!left_out("#a\n", "#a"));
        assert!(left_out(" #a\n", "#a"));
        assert!(left_out("\u{feff}a\n  \n", "a"));
        assert!(!left_out("a\n! a\n", "a"));
    }

    #[test]
    fn a_malformed_pattern_is_named_with_its_line() {
        let error = Rules::parse("ok\n[a\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: `[a` is no pattern");
        assert!(Rules::parse("!\n").is_err());
        assert!(Rules::parse("a\\\n").is_err());
    }

    #[test]
    fn a_nasty_pattern_takes_no_exponential_time() {
        let pattern = "*a".repeat(60);
        assert!(!left_out(&pattern, &"a".repeat(59)));
    }
}
