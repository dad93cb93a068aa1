//! Creates projects for tests.

/// Creates a temporary directory with these files.
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::TempDir::new().unwrap();
    for (name, text) in files {
        let file = directory.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    directory
}
