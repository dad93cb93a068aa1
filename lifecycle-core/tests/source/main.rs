//! Checks rules for the sources themselves: dependencies between modules, replaced words, missing
//! documentation, unused symbols, and where actions are handled.

#![expect(
    clippy::unwrap_used,
    reason = "a source that cannot be read fails the test"
)]

mod actions;
mod documented;
mod glossary;
mod layers;
mod used;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the files below a directory, sorted. For a file, returns only the file.
fn files_below(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let mut paths: Vec<_> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().flat_map(|path| files_below(path)).collect()
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}
