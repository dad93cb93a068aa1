//! Finds the known name that is most similar to a mistyped one, for hints.

/// Names that are longer than this number of bytes get no suggestion.
const MAX_LENGTH: usize = 64;

/// Returns the known name that is most similar to `name`, if any is similar enough.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    let most = (name.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_LENGTH)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_likely_misspellings() {
        assert_eq!(
            nearest("enviroment", ["environment", "expose"]),
            Some("environment")
        );
        assert_eq!(nearest("foo", ["environment", "expose"]), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), ["x"]), None);
        let long = "x".repeat(1_000_000);
        assert_eq!(nearest("x", [long.as_str()]), None);
    }
}
