//! The known name that a mistyped one resembles, for hints.

/// Longer names than this were not mistyped.
const LONGEST_TYPO: usize = 64;

/// The known name that `name` is most likely a slip of.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > LONGEST_TYPO {
        return None;
    }
    let most = (name.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_likely_slips_are_suggested() {
        assert_eq!(
            nearest("enviroment", ["environment", "expose"]),
            Some("environment")
        );
        assert_eq!(nearest("foo", ["environment", "expose"]), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), ["x"]), None);
    }
}
