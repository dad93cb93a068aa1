//! Parses the name of a code base, which is also the path of its directory in the share. The share
//! has the same layout as the project's directory.

use std::fmt;

use lifecycle_core::code::DirectoryStore;
use lifecycle_core::code::digest::OWN_DIRECTORY;
use lifecycle_core::{Error, Result};

/// Azure's limit for the length of one path component, in characters.
const LONGEST: usize = 255;

/// The path of a code base's directory in a share. The root of the share is stored as an empty
/// string and displayed as `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    pub(super) fn parse(name: &str) -> Result<Self> {
        let normalised = match DirectoryStore::normalised(name) {
            top if top == "." && !name.is_empty() => return Ok(Self(String::new())),
            normalised => normalised,
        };
        match normalised.split('/').find_map(fault) {
            None => Ok(Self(normalised)),
            Some(why) => Err(Error::invalid(
                format!("code base `{name}` of an Azure Files share"),
                why,
                "use a directory below the project's directory, such as `api` or `team/api`; to \
                       use another published code base, set `x-lifecycle.code`",
            )),
        }
    }

    /// Returns the path of the directory in the share. The path is empty for the root.
    pub(super) fn directory(&self) -> &str {
        &self.0
    }

    /// Returns the path of an entry in this directory.
    pub(super) fn join(&self, path: &str) -> String {
        join(&self.0, path)
    }

    /// Iterates over all ancestor directories, starting at the root. Each item also contains the
    /// name of the next directory on the path.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = (&str, &str)> {
        let ends = self.0.match_indices('/').map(|(end, _)| end);
        let ends = ends.chain((!self.0.is_empty()).then_some(self.0.len()));
        let mut start = 0_usize;
        ends.map(move |end| {
            let step = (&self.0[..start.saturating_sub(1)], &self.0[start..end]);
            start = end + 1;
            step
        })
    }
}

/// Returns the path of an entry in `directory`. The root is an empty string.
pub(super) fn join(directory: &str, path: &str) -> String {
    if directory.is_empty() {
        path.to_owned()
    } else {
        format!("{directory}/{path}")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// Returns the reason why `part` is not a valid path component in a share, or `None` if it is
/// valid.
pub(super) fn fault(part: &str) -> Option<&'static str> {
    if part.is_empty() || part == "." || part == ".." {
        return Some("it refers to a directory outside the share, or to the whole share");
    }
    if part.eq_ignore_ascii_case(OWN_DIRECTORY) {
        return Some("the name `.lifecycle` is reserved for published code bases");
    }
    if part
        .chars()
        .any(|c| c.is_control() || "\"\\:|<>*?".contains(c))
    {
        return Some("names in a share cannot contain any of `\" \\ : | < > * ?`");
    }
    if part.trim() != part || part.ends_with('.') {
        return Some("a name in a share cannot begin with a space, or end with a space or a dot");
    }
    if part.chars().count() > LONGEST {
        return Some("a part of the name is longer than 255 characters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_the_spelling_of_a_name() {
        for text in ["team/api", "./team/api", "team/x/../api", "team//api/"] {
            assert_eq!(Name::parse(text).unwrap().directory(), "team/api");
        }
        for text in [".", "./", "team/.."] {
            let top = Name::parse(text).unwrap();
            assert_eq!((top.directory(), top.to_string().as_str()), ("", "."));
            assert_eq!(top.join("api"), "api");
            assert_eq!(top.ancestors().count(), 0);
        }
        assert!(Name::parse("ü & 100% ++").is_ok());
    }

    #[test]
    fn ancestors_start_at_the_root() {
        let name = Name::parse("a/b/c").unwrap();
        let steps: Vec<_> = name.ancestors().collect();
        assert_eq!(steps, [("", "a"), ("a", "b"), ("a/b", "c")]);
    }

    #[test]
    fn rejects_invalid_directory_names() {
        for text in [
            "",
            "..",
            "/",
            "/etc",
            "../x",
            "a:b",
            "a*",
            "a. /b",
            "a.",
            "a\n",
            ".lifecycle",
            "x/.Lifecycle/y",
            &"x".repeat(256),
        ] {
            let error = Name::parse(text).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{text:?}");
        }
    }
}
