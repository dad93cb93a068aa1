//! Checks of the sources: which module may use which other, which words, what is documented.

#![expect(
    clippy::unwrap_used,
    reason = "a source that cannot be read is a test that fails"
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

/// The files below a directory, or the file itself, sorted.
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
