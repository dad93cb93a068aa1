//! Decides which files of a build context are sent to the engine, according to `.dockerignore`.
//!
//! The rules are those of `patternmatcher`, the library of Docker's clients and engines. Some of
//! them differ from the rules of `.gitignore`:
//!
//! - Each pattern is anchored at the root of the context.
//! - `*` never matches a `/`.
//! - The last pattern that matches a path or one of its parents wins.
//! - `!` re-includes even files in an excluded directory.
//! - `**foo` at the start of a pattern matches every path that ends in `foo`.
//! - A line is a comment only if `#` is its very first character.
//!
//! Exceptions that start with a wildcard also apply to files in excluded directories. `BuildKit`
//! does the same, but Docker's classic client does not.
//!
//! Each pattern is translated to a regular expression that also matches everything below the
//! matching path. All expressions are compiled into one [`Regex`], so that a path needs only one
//! search.

use std::fmt::{self, Write as _};

use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternSet};

/// The memory limit for the compiled patterns of one file, in bytes.
const COMPILED_LIMIT: usize = 64 << 20;

/// The maximum number of patterns of one file.
const MAX_PATTERNS: usize = 2000;

/// The maximum number of wildcards and classes in a pattern, and in all patterns of a file. Each
/// of them makes every search slower.
const MAX_WILDCARDS: usize = 64;
const MAX_ALL_WILDCARDS: usize = 4000;

/// The maximum length of a pattern, in bytes. The kernel has the same limit for a path.
const MAX_LENGTH: usize = 4095;

/// The rules of one `.dockerignore`.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// All patterns; `None` if there are none.
    patterns: Option<Regex>,
    /// For each pattern, in order, whether it is an exception.
    exceptions: Vec<bool>,
    /// For each exception, the common prefix of all paths that it matches.
    exception_prefixes: Vec<String>,
}

/// The reason why a `.dockerignore` is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadRules {
    /// A malformed pattern.
    Pattern { line: usize, pattern: String },
    /// The compiled patterns need too much memory.
    TooLarge,
}

impl fmt::Display for BadRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern { line, pattern } => {
                write!(f, "line {line}: `{pattern}` is not a valid pattern")
            }
            Self::TooLarge => f.write_str("there are too many patterns, or they are too long"),
        }
    }
}

impl Rules {
    /// Parses a `.dockerignore`.
    pub(super) fn parse(text: &str) -> Result<Self, BadRules> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Self::default();
        let mut patterns = Vec::new();
        let mut wildcards = 0;
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
            let bad = || BadRules::Pattern {
                line: index + 1,
                pattern: line.to_owned(),
            };
            if pattern.is_empty() {
                return Err(bad());
            }
            let is_wildcard = |c: &char| matches!(c, '*' | '?' | '[');
            let count = pattern.chars().filter(is_wildcard).count();
            wildcards += count;
            if patterns.len() == MAX_PATTERNS
                || pattern.len() > MAX_LENGTH
                || count > MAX_WILDCARDS
                || wildcards > MAX_ALL_WILDCARDS
            {
                return Err(BadRules::TooLarge);
            }
            let pattern = clean(pattern);
            patterns.push(translate(&pattern).ok_or_else(bad)?);
            rules.exceptions.push(exception);
            if exception {
                let prefix = pattern.split(['*', '?', '[', '\\']).next();
                rules
                    .exception_prefixes
                    .push(prefix.unwrap_or_default().to_owned());
            }
        }
        if !patterns.is_empty() {
            let config = Regex::config()
                .match_kind(MatchKind::All)
                .nfa_size_limit(Some(COMPILED_LIMIT))
                .which_captures(WhichCaptures::None);
            let compiled = Regex::builder()
                .syntax(syntax::Config::new().dot_matches_new_line(true))
                .configure(config)
                .build_many(&patterns);
            rules.patterns = Some(compiled.map_err(|_| BadRules::TooLarge)?);
        }
        Ok(rules)
    }

    /// Returns whether a path in the context is excluded. The separator of the path is `/`.
    pub(super) fn excludes(&self, path: &str) -> bool {
        let last = self.matched(path).iter().next_back();
        last.is_some_and(|pattern| !self.exceptions[pattern.as_usize()])
    }

    /// Returns the patterns that match a path or one of its parents.
    fn matched(&self, path: &str) -> PatternSet {
        let mut matched = PatternSet::new(self.exceptions.len());
        if let Some(patterns) = &self.patterns {
            patterns.which_overlapping_matches(&Input::new(path), &mut matched);
        }
        matched
    }

    /// Returns whether an exception may match something below a directory.
    pub(super) fn may_include_below(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        let mut prefixes = self.exception_prefixes.iter();
        prefixes.any(|prefix| prefix.starts_with(&below) || below.starts_with(prefix.as_str()))
    }
}

/// Normalizes a pattern like Go's `filepath.Clean`, and also removes the leading `/`.
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

/// Translates a pattern to a regular expression, or returns `None` if the pattern is malformed. The
/// expression matches the same paths as the pattern, and everything below them.
fn translate(pattern: &str) -> Option<String> {
    let mut regex = String::from("^");
    let mut chars = pattern.chars().peekable();
    if let Some(text) = pattern.strip_prefix("**")
        && text.starts_with(|c| c != '/')
        && !text.contains(['*', '?', '[', ']', '\\'])
    {
        // The pattern `**foo` matches every path that ends in `foo`.
        regex.push_str(".*");
        chars = text.chars().peekable();
    }
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                let at_end = chars.peek().is_none();
                regex.push_str(if at_end { ".*" } else { "(?:.*/)?" });
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '\\' => push_literal(&mut regex, chars.next()?),
            '[' => push_class(&mut regex, &mut chars)?,
            other => push_literal(&mut regex, other),
        }
    }
    regex.push_str("(?:/.*)?$");
    Some(regex)
}

fn push_literal(regex: &mut String, c: char) {
    if c.is_ascii_alphanumeric() {
        regex.push(c);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(regex, "\\x{{{:x}}}", u32::from(c));
    }
}

/// Translates the part of a character class that follows the `[`.
fn push_class(
    regex: &mut String,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Option<()> {
    regex.push('[');
    if chars.next_if_eq(&'^').is_some() {
        regex.push('^');
    }
    let mut is_empty = true;
    loop {
        let from = match chars.next()? {
            ']' if is_empty => return None,
            ']' => break,
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
        if from > to {
            return None;
        }
        push_literal(regex, from);
        regex.push('-');
        push_literal(regex, to);
        is_empty = false;
    }
    regex.push(']');
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(rules: &str, path: &str) -> bool {
        Rules::parse(rules).unwrap().excludes(path)
    }

    /// Checks the examples in Docker's documentation of `.dockerignore`.
    #[test]
    fn matches_the_documented_examples() {
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

    /// Checks the test cases of moby/patternmatcher and some more. Cases with a path that ends in
    /// `/` are omitted, because a context contains no such paths.
    #[test]
    fn patterns_match_as_in_patternmatcher() {
        let whl = "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl";
        for (pattern, path, out) in [
            ("*", "fileutils.go", true),
            ("*.go", "fileutils.go", true),
            ("*.go", ".", false),
            ("**", "file", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**file", "dir/dir/file", true),
            ("**file", "dir/myfile", true),
            ("**file", "dir/file.txt", false),
            ("**/file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file", "dir/myfile", false),
            ("**/file*", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            ("a[^b-d]e", "abe", false),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abc.def", true),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a(b)c/def", "a(b)c/xyz", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            (whl, whl, true),
            ("dist/*.whl", whl, true),
            ("*/util", "util", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("x/../y", "y", true),
            // Cases that `patternmatcher` took from Go's `filepath.Match`.
            ("abc", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("a[^a][^a][^a]b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "-", true),
            ("[\\-x]", "a", false),
            ("*x", "xxx", true),
        ] {
            assert_eq!(left_out(pattern, path), out, "{pattern:?} on {path}");
        }
    }

    #[test]
    fn the_last_of_several_patterns_wins_as_in_patternmatcher() {
        let whl = "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl";
        for (rules, path, out) in [
            ("!fileutils.go\n*.go", "fileutils.go", true),
            ("*.go\n!fileutils.go", "fileutils.go", false),
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("docs/\n!docs/README.md", "docs/README.md", false),
            ("docs/*\n!docs/README.md", "docs/README.md", false),
            ("docs\n  !docs/README.md  ", "docs/README.md", false),
            ("**\n!util/docker/web", "util/docker/web/foo", false),
            (
                "**\n!util/docker/web\nutil/docker/web/foo",
                "util/docker/web/foo",
                true,
            ),
            ("**\n!dist/*.whl", whl, false),
            ("", "any/path/there", false),
        ] {
            assert_eq!(left_out(rules, path), out, "{rules:?} on {path}");
        }
    }

    #[test]
    fn rejects_the_same_patterns_as_patternmatcher() {
        for pattern in [
            "!",
            "[",
            "[]a]",
            "[-]",
            "[x-]",
            "[-x]",
            "\\",
            "[a-b-c]",
            "[^",
            "[^bc",
            "a[",
            "[Local-Only]/",
        ] {
            assert!(Rules::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn one_search_finds_all_matching_patterns() {
        let text = format!("{}!keep\n", "**/node_modules/\n".repeat(52));
        let rules = Rules::parse(&text).unwrap();
        assert_eq!(rules.patterns.as_ref().unwrap().pattern_len(), 53);
        let path = format!("{}node_modules/x", "a/".repeat(100));
        let matched: Vec<usize> = rules
            .matched(&path)
            .iter()
            .map(|id| id.as_usize())
            .collect();
        assert_eq!(matched, (0..52).collect::<Vec<_>>());
    }

    #[test]
    fn skips_directories_in_which_no_exception_can_match() {
        let rules = Rules::parse("*\n!src/*.rs\n!docs").unwrap();
        for (directory, enter) in [
            ("src", true),
            ("docs/deep", true),
            ("node_modules", false),
            ("sr", false),
            ("srcs", false),
        ] {
            assert_eq!(rules.may_include_below(directory), enter, "{directory}");
        }
        let rules = Rules::parse("*\n!**/*.rs").unwrap();
        assert!(rules.may_include_below("any/where"));
    }

    proptest::proptest! {
        #[test]
        fn skipped_directories_contain_no_included_paths(
            lines in proptest::collection::vec("!?(a|b|ab|\\*|\\?|\\*\\*|/|\\[ab\\]){1,5}", 1..5),
            path in "(a|b|ab)(/(a|b|ab)){1,4}",
        ) {
            let Ok(rules) = Rules::parse(&lines.join("\n")) else {
                return Ok(());
            };
            for (end, _) in path.match_indices('/') {
                let directory = &path[..end];
                if rules.excludes(directory) && !rules.may_include_below(directory) {
                    proptest::prop_assert!(rules.excludes(&path), "{directory} of {path}");
                }
            }
        }
    }

    #[test]
    fn a_later_exception_re_includes_files_of_an_excluded_directory() {
        let rules = "node_modules\n!node_modules/keep";
        assert!(left_out(rules, "node_modules/x"));
        assert!(!left_out(rules, "node_modules/keep"));
        assert!(!left_out(rules, "node_modules/keep/deep"));
        assert!(!left_out("*\n!src/**/*.rs", "src/a/b.rs"));
        assert!(left_out("*\n!src/**/*.rs", "src/a/b.c"));
    }

    #[test]
    fn only_a_hash_in_the_first_column_starts_a_comment() {
        assert!(!left_out("#a\n", "#a"));
        assert!(left_out(" #a\n", "#a"));
        assert!(left_out("\u{feff}a\n  \n", "a"));
        assert!(!left_out("a\n! a\n", "a"));
    }

    #[test]
    fn reports_a_malformed_pattern_with_its_line() {
        let error = Rules::parse("ok\n[a\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: `[a` is not a valid pattern");
        assert!(Rules::parse("!\n").is_err());
        assert!(Rules::parse("a\\\n").is_err());
    }

    #[test]
    fn matching_never_takes_exponential_time() {
        let pattern = "*a".repeat(60);
        assert!(!left_out(&pattern, &"a".repeat(59)));
    }
}
