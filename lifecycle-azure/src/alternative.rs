//! Lists the alternatives for a node's VM: each size in each zone, in the user's order of
//! preference. Azure tags record the alternatives that Azure could not provide, so that the next
//! attempt continues after them.

use std::fmt;

use lifecycle_core::Error;
use lifecycle_core::model::NodeSpec;

use crate::arm::failure::Refusal;
use crate::options::AzureOptions;

/// Azure's limit for the length of a tag value, from "Use tags to organize your Azure resources".
const LONGEST: usize = 256;

/// A VM size in one zone, or in a zone that Azure chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pub(crate) size: String,
    pub(crate) zone: Option<String>,
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{} in zone {zone}", self.size),
            None => f.write_str(&self.size),
        }
    }
}

impl Alternative {
    /// Returns all alternatives for a node in order of preference: the first size in every zone,
    /// then the second size in every zone, and so on.
    pub(crate) fn of(options: &AzureOptions, spec: &NodeSpec) -> Vec<Self> {
        let sizes: Vec<&String> = match &spec.size {
            Some(size) => std::iter::once(size).chain(&spec.alternatives).collect(),
            None => options.sizes.iter().collect(),
        };
        let zones: Vec<Option<&String>> = match options.zones.as_slice() {
            [] => vec![None],
            zones => zones.iter().map(Some).collect(),
        };
        let mut all: Vec<Self> = Vec::with_capacity(sizes.len() * zones.len());
        for size in sizes {
            for zone in &zones {
                let one = Self {
                    size: size.clone(),
                    zone: zone.cloned(),
                };
                if !all.iter().any(|known| known.is(&one)) {
                    all.push(one);
                }
            }
        }
        all
    }

    /// Compares zones exactly, and sizes case-insensitively.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.size.eq_ignore_ascii_case(&other.size) && self.zone == other.zone
    }

    /// Formats the alternative for a tag, for example `Standard_B2s/1`.
    fn written(&self) -> String {
        match &self.zone {
            Some(zone) => format!("{}/{zone}", self.size),
            None => self.size.clone(),
        }
    }

    fn read(text: &str) -> Self {
        match text.split_once('/') {
            Some((size, zone)) => Self {
                size: size.to_owned(),
                zone: Some(zone.to_owned()),
            },
            None => Self {
                size: text.to_owned(),
                zone: None,
            },
        }
    }
}

/// The alternatives that failed in earlier attempts, each with Azure's error code. The next attempt
/// continues after the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tried(Vec<(Alternative, String)>);

impl Tried {
    /// Parses the value of a tag. Unrecognized text becomes an alternative that matches no
    /// configured one.
    pub(crate) fn read(tag: Option<&str>) -> Self {
        let entries = tag.unwrap_or_default().split("; ");
        let entry = |entry: &str| {
            let (alternative, code) = entry.split_once(' ').unwrap_or((entry, "refused"));
            (Alternative::read(alternative), code.to_owned())
        };
        Self(entries.filter(|e| !e.is_empty()).map(entry).collect())
    }

    /// Returns the value for the tag, or `None` if no alternative has failed. Drops the oldest
    /// entries if the value would be too long.
    pub(crate) fn written(&self) -> Option<String> {
        let entries = self
            .0
            .iter()
            .map(|(alternative, code)| format!("{} {code}", alternative.written()));
        let entries: Vec<String> = entries.collect();
        let texts = (0..entries.len()).map(|from| entries[from..].join("; "));
        let mut fitting = texts.skip_while(|text| text.len() > LONGEST);
        fitting.next()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `alternative` is the last one that failed.
    pub(crate) fn ends_with(&self, alternative: &Alternative) -> bool {
        self.0.last().is_some_and(|(last, _)| last.is(alternative))
    }

    /// Records that `alternative` failed.
    #[must_use]
    pub(crate) fn with(mut self, alternative: &Alternative, refusal: &Refusal) -> Self {
        self.0.retain(|(known, _)| !known.is(alternative));
        self.0.push((alternative.clone(), refusal.code.clone()));
        self
    }

    /// Returns the alternatives in `all` that follow the last failed one. If `all` does not contain
    /// the last failed one, returns `all`.
    pub(crate) fn rest<'a>(&self, all: &'a [Alternative]) -> &'a [Alternative] {
        let last = self.0.last();
        let place = last.and_then(|(last, _)| all.iter().position(|one| one.is(last)));
        place.map_or(all, |place| all.get(place + 1..).unwrap_or_default())
    }

    /// Converts the last refusal to an error. If several alternatives failed, the error lists all
    /// of them.
    pub(crate) fn exhausted(&self, what: String, refusal: Refusal) -> Error {
        let last = refusal.into_error(what);
        match (last, self.0.len()) {
            (
                Error::Exhausted {
                    what, why, hint, ..
                },
                2..,
            ) => {
                let each = self
                    .0
                    .iter()
                    .map(|(alternative, code)| format!("{alternative} ({code})"));
                let each: Vec<String> = each.collect();
                Error::exhausted(
                    what,
                    format!(
                        "Azure cannot provide any of these alternatives: {}; {why}",
                        each.join(", ")
                    ),
                    hint,
                )
            }
            (other, _) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Alternative {
        Alternative::read(text)
    }

    fn refusal(code: &str) -> Refusal {
        Refusal::for_vm(code, "no")
    }

    #[test]
    fn tried_alternatives_round_trip() {
        let tried = Tried::default()
            .with(&one("Standard_B2s/1"), &refusal("ZonalAllocationFailed"))
            .with(&one("Standard_B2s"), &refusal("SkuNotAvailable"));
        let text = tried.written();
        assert_eq!(
            text.as_deref(),
            Some("Standard_B2s/1 ZonalAllocationFailed; Standard_B2s SkuNotAvailable")
        );
        assert_eq!(Tried::read(text.as_deref()), tried);
        assert_eq!(Tried::default().written(), None);
        assert!(Tried::read(None).is_empty());
    }

    #[test]
    fn continues_after_the_last_alternative_even_if_the_tag_was_truncated() {
        let all: Vec<Alternative> = (0..40)
            .map(|n| one(&format!("Standard_D{n}s_v5/1")))
            .collect();
        let mut tried = Tried::default();
        for alternative in &all[..30] {
            tried = tried.with(alternative, &refusal("ZonalAllocationFailed"));
        }
        let text = tried.written().unwrap();
        assert!(text.len() <= LONGEST, "{text}");
        assert_eq!(Tried::read(Some(&text)).rest(&all), &all[30..]);
        let other = Tried::read(Some("Standard_gone/1 SkuNotAvailable"));
        assert_eq!(other.rest(&all), all);
        let last = Tried::default().with(&all[39], &refusal("SkuNotAvailable"));
        assert!(last.rest(&all).is_empty());
    }
}
