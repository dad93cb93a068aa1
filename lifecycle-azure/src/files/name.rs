//! A code base's name, which is its path in the share.

use std::fmt;

use lifecycle_core::code::DirectoryStore;
use lifecycle_core::code::digest::OWN_DIRECTORY;
use lifecycle_core::{Error, Result};

/// The longest part of a path, in characters; Azure's limit.
const LONGEST: usize = 255;

/// A name that can be a directory of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    pub(super) fn parse(name: &str) -> Result<Self> {
        let normalised = DirectoryStore::normalised(name);
        match normalised.split('/').find_map(fault) {
            None => Ok(Self(normalised)),
            Some(why) => Err(Error::Invalid {
                what: format!("code base `{name}` of an Azure Files share"),
                why: why.to_owned(),
                mend: "name a directory of the share, such as `api` or `team/api`".to_owned(),
            }),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why something is no part of a path in a share.
pub(super) fn fault(part: &str) -> Option<&'static str> {
    if part.is_empty() || part == "." || part == ".." {
        return Some("it leads out of the share, or to all of it");
    }
    if part.eq_ignore_ascii_case(OWN_DIRECTORY) {
        return Some("that directory holds what was published");
    }
    if part
        .chars()
        .any(|c| c.is_control() || "\"\\:|<>*?".contains(c))
    {
        return Some("a share's names hold none of `\" \\ : | < > * ?`");
    }
    if part.trim() != part || part.ends_with('.') {
        return Some("a share's names neither begin nor end with a space, nor end with a dot");
    }
    if part.chars().count() > LONGEST {
        return Some("a part of it is longer than 255 characters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_one() {
        for text in ["team/api", "./team/api", "team/x/../api", "team//api/"] {
            assert_eq!(Name::parse(text).unwrap().as_str(), "team/api");
        }
        assert!(Name::parse("ü & 100% ++").is_ok());
    }

    #[test]
    fn what_no_directory_can_be_called_is_refused() {
        for text in [
            "",
            ".",
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
