//! Checks that sources, help texts, and documents do not use the words that the glossary in
//! CONTRIBUTING.md replaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{files_below, is_rust, root};

/// Words that must not be used, with their replacements.
const REPLACED: &[(&str, &str)] = &[
    ("mend mends mended mending", "hint, fix, repair"),
    (
        "tell tells told telling",
        "report, return, show, contain, notify",
    ),
    ("says said saying", "report, return, show, contain"),
    ("lie lies lying", "be, be stored"),
    ("stand stands stood", "be, be listed"),
    ("beside", "next to, besides, in addition to"),
    ("anew", "again, re-create"),
    ("former formerly", "previous, old"),
    ("meant", "resolved, intended"),
    ("wanted", "desired, requested"),
    ("unwell", "failing its health check"),
    ("heed heeds heeded", "acknowledge, follow"),
    ("silent silence", "unreachable, not responding"),
    (
        "look looks looked looking",
        "observation, poll, check, read",
    ),
];

/// Phrases that must not be used, with their replacements.
const REPLACED_PHRASES: &[(&str, &str)] = &[
    ("once more", "again"),
    ("give up", "reject, abandon"),
    ("gives up", "reject, abandon"),
    ("given up", "reject, abandon"),
    ("gave up", "reject, abandon"),
    ("take down", "delete, stop"),
    ("takes down", "delete, stop"),
    ("taken down", "delete, stop"),
    ("taking down", "delete, stop"),
    ("way back", "rollback"),
    ("is ours", "belongs to this platform"),
];

/// Phrases in which a replaced word is allowed, because the word has another meaning.
const ALLOWED: &[(&str, &str)] = &[
    ("look up", "the verb of a look-up"),
    ("looks up", "the verb of a look-up"),
    ("looked up", "the verb of a look-up"),
    ("looking up", "the verb of a look-up"),
    ("look for", "search"),
    ("looks for", "search"),
    ("look like", "resemble"),
    ("looks like", "resemble"),
];

#[test]
fn replaced_words_are_not_used() {
    let mut places: Vec<_> = ["ARCHITECTURE.md", "CHANGELOG.md", "README.md", "docs"]
        .iter()
        .flat_map(|place| files_below(&root().join(place)))
        .collect();
    for source in [
        "cli/src",
        "lifecycle-azure/src",
        "lifecycle-core/src",
        "lifecycle-docker/src",
        "server/src",
    ] {
        places.extend(files_below(&root().join(source)));
    }
    let is_text = |path: &Path| is_rust(path) || path.extension().is_some_and(|e| e == "md");
    let mut found = BTreeSet::new();
    for path in places.iter().filter(|path| is_text(path)) {
        let text = fs::read_to_string(path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display();
        for (number, line) in text.lines().enumerate() {
            for (word, instead) in replaced_in(line) {
                found.insert(format!("{shown}:{}: `{word}`: {instead}", number + 1));
            }
        }
    }
    let found: Vec<_> = found.into_iter().collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn words_inside_names_count() {
    let found = |line| {
        replaced_in(line)
            .iter()
            .map(|(word, _)| *word)
            .collect::<Vec<_>>()
    };
    assert_eq!(found("fn is_told(&self)"), ["told"]);
    assert_eq!(found("enum NotTold"), ["told"]);
    assert_eq!(found("It is given\u{20}up."), ["given up"]);
    assert_eq!(found("Looks up the standby's informer."), [""; 0]);
}

/// Returns the replaced words in a line, each with its replacement.
fn replaced_in(line: &str) -> Vec<(&'static str, &'static str)> {
    let mut plain = words(line).join(" ");
    for (phrase, _) in ALLOWED {
        plain = format!(" {plain} ").replace(&format!(" {phrase} "), "  ");
    }
    let padded = format!(" {plain} ");
    let single = REPLACED.iter().flat_map(|(replaced, instead)| {
        replaced
            .split(' ')
            .map(|word| (word, *instead))
            .collect::<Vec<_>>()
    });
    single
        .chain(REPLACED_PHRASES.iter().copied())
        .filter(|(phrase, _)| padded.contains(&format!(" {phrase} ")))
        .collect()
}

/// Returns the words of a line in lower case. Names are split into their parts.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous = ' ';
    for letter in line.chars() {
        if !letter.is_ascii_alphabetic() || (letter.is_uppercase() && previous.is_lowercase()) {
            words.push(String::new());
        }
        if letter.is_ascii_alphabetic() {
            let lower = letter.to_ascii_lowercase();
            words.last_mut().unwrap().push(lower);
        }
        previous = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}
