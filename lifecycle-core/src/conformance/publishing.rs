//! The conformance suite for [`CodePublisher`]. A publisher must also pass the suite for code
//! stores.
#![expect(
    clippy::missing_panics_doc,
    reason = "each check panics if the store fails it"
)]

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;

use crate::code::publishing::{Outdated, outdated, publish};
use crate::code::{CodeBaseRef, CodePublisher, CodeStore, DirectoryStore, Published};
use crate::error::{Error, Result};

/// The files of the code base that the checks use.
const FILES: [(&str, &str); 4] = [
    (".dockerignore", "target\n*.log\n!keep.log\n"),
    ("Dockerfile", "FROM scratch\nCOPY src /src\n"),
    ("keep.log", "k"),
    ("src/main.rs", "fn main() {}\n"),
];

/// How often code bases are changed while they are read.
const CHANGES: usize = 6;

/// Runs all checks in sequence. `work` is an empty directory for local code bases. The store must
/// not contain code bases named `conformance-…`. The code bases of the checks remain in the store.
pub async fn all(store: &dyn CodePublisher, work: &Path) {
    the_store_equals_the_directory(store, work).await;
    unchanged_files_are_not_sent(store, work).await;
    excluded_files_are_not_sent(store, work).await;
    code_bases_may_be_nested(store, work).await;
    readers_see_either_version(store, work).await;
    concurrent_publishers_do_not_mix(store, work).await;
    a_missing_directory_is_not_found_and_changes_nothing(store, work).await;
    outdated_code_bases_are_reported(store, work).await;
}

/// Checks that the digest and the archive are the same as for the local directory, including modes,
/// links and empty directories.
pub async fn the_store_equals_the_directory(store: &dyn CodePublisher, work: &Path) {
    let local = LocalCode::new(work, "same");
    let name = "conformance-same";
    local.write(name, &FILES);
    local.write(name, &[("bin/run", "#!/bin/sh\n"), ("empty", "")]);
    done(
        "a directory",
        fs::create_dir_all(local.at(name).join("a/b")),
    );
    special(&local.at(name));
    let published = local.publish(store, name).await;
    assert_eq!(published.code.name, name);
    assert!(!published.unchanged, "{published:?}");
    local.is_there(store, name).await;

    // Replace all files.
    done("rmdir", fs::remove_dir_all(local.at(name)));
    local.write(name, &FILES[1..2]);
    local.publish(store, name).await;
    local.is_there(store, name).await;
}

/// Checks that unchanged contents are not written again.
pub async fn unchanged_files_are_not_sent(store: &dyn CodePublisher, work: &Path) {
    let local = LocalCode::new(work, "twice");
    let name = "conformance-twice";
    local.write(name, &FILES);
    let first = local.publish(store, name).await;
    assert!(!first.unchanged && first.bytes_sent > 0, "{first:?}");
    let again = local.publish(store, name).await;
    assert!(again.unchanged && again.bytes_sent == 0, "{again:?}");
    assert_eq!(again.code, first.code);
    local.write(name, &[("src/main.rs", "fn main() { loop {} }\n")]);
    let changed = local.publish(store, name).await;
    assert!(!changed.unchanged && changed.code != first.code);
    local.write(name, &FILES);
    let back = local.publish(store, name).await;
    assert_eq!(
        back.code, first.code,
        "after publishing the first version again"
    );
    local.is_there(store, name).await;
}

/// Checks that excluded files are not part of the digest and are not sent.
pub async fn excluded_files_are_not_sent(store: &dyn CodePublisher, work: &Path) {
    let local = LocalCode::new(work, "excluded");
    let name = "conformance-excluded";
    local.write(name, &FILES);
    let clean = local.publish(store, name).await;
    local.write(name, &[("target/debug/app", "binary"), ("build.log", "x")]);
    let littered = local.publish(store, name).await;
    assert!(littered.unchanged, "{littered:?}");
    assert_eq!(littered.code, clean.code);
    local.is_there(store, name).await;
}

/// Checks that names are paths: `a`, `a/b` and `a/b/c` are three code bases.
pub async fn code_bases_may_be_nested(store: &dyn CodePublisher, work: &Path) {
    let local = LocalCode::new(work, "within");
    let names = [
        "conformance-top/in/most",
        "conformance-top",
        "conformance-top/in",
    ];
    for name in names {
        local.write(name, &[("Dockerfile", name)]);
    }
    for name in names {
        local.publish(store, &format!("./{name}/")).await;
    }
    for name in names {
        local.is_there(store, name).await;
    }
}

/// Checks that, during a publish, readers get either the complete old version or the complete new
/// one.
pub async fn readers_see_either_version(store: &dyn CodePublisher, work: &Path) {
    let local = LocalCode::new(work, "readers");
    let name = "conformance-readers";
    let mut known: Vec<(CodeBaseRef, Vec<u8>)> = Vec::new();
    for round in 0..2 {
        local.write(name, &FILES);
        let text = format!("round {round}\n").repeat(2_000);
        local.write(name, &[("src/main.rs", &text), ("data", &text)]);
        let code = done("digest", local.store.digest(name).await);
        let bytes = archive(&local.store, &code).await;
        known.push((code, done("the archive", bytes)));
        if round == 0 {
            local.publish(store, name).await;
        }
    }
    let publishing = async {
        for change in 1..=CHANGES {
            let text = format!("round {}\n", change % 2).repeat(2_000);
            local.write(name, &[("src/main.rs", &text), ("data", &text)]);
            local.publish(store, name).await;
        }
    };
    let reading = async {
        loop {
            let code = done("digest", store.digest(name).await);
            let version = known.iter().find(|(one, _)| *one == code);
            let Some((_, expected)) = version else {
                panic!("{code:?} was never published");
            };
            match archive(store, &code).await {
                Ok(bytes) => assert!(bytes == *expected, "an archive mixes two versions"),
                // The code base was replaced between the two calls.
                Err(Error::Conflict { .. }) => {}
                Err(error) => panic!("reading during a publish: {error:?}"),
            }
        }
    };
    tokio::select! {
        () = publishing => {}
        () = reading => {}
    }
    local.is_there(store, name).await;
}

/// Checks that concurrent publishers succeed or get a conflict, and that the result is one complete
/// version.
pub async fn concurrent_publishers_do_not_mix(store: &dyn CodePublisher, work: &Path) {
    let (one, two) = (LocalCode::new(work, "one"), LocalCode::new(work, "two"));
    let name = "conformance-several";
    one.write(name, &[("Dockerfile", "FROM one\n"), ("of-one", "1")]);
    two.write(name, &[("Dockerfile", "FROM two\n"), ("of-two", "2")]);
    let (at_one, at_two) = (one.at(name), two.at(name));
    let (a, b) = tokio::join!(store.publish(name, &at_one), store.publish(name, &at_two));
    let outcomes = [a, b];
    assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
    for outcome in &outcomes {
        let is_expected = matches!(outcome, Ok(_) | Err(Error::Conflict { .. }));
        assert!(is_expected, "{outcome:?}");
    }
    let now = done("digest", store.digest(name).await);
    let of_one = done("digest", one.store.digest(name).await);
    let winner = if now == of_one { &one } else { &two };
    winner.is_there(store, name).await;
}

/// Checks that a missing directory does not count as an empty code base.
pub async fn a_missing_directory_is_not_found_and_changes_nothing(
    store: &dyn CodePublisher,
    work: &Path,
) {
    let local = LocalCode::new(work, "absent");
    let name = "conformance-kept";
    local.write(name, &FILES);
    let kept = local.publish(store, name).await;
    done("rmdir", fs::remove_dir_all(local.at(name)));
    let outcome = store.publish(name, &local.at(name)).await;
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "publishing a missing directory must return NotFound, but returned {outcome:?}"
    );
    let still = done("digest", store.digest(name).await);
    assert_eq!(still, kept.code);
}

/// Checks that a code base that differs from the store, or is missing there, is reported as
/// outdated until it is published.
pub async fn outdated_code_bases_are_reported(store: &dyn CodePublisher, work: &Path) {
    let local = LocalCode::new(work, "differs");
    let names = ["same", "changed", "new", "remote"].map(|n| format!("conformance-differs-{n}"));
    let [same, changed, new, remote] = names.each_ref().map(String::as_str);
    for name in [same, changed, remote] {
        local.write(name, &FILES);
        local.publish(store, name).await;
    }
    local.write(changed, &[("src/main.rs", "fn main() { loop {} }\n")]);
    local.write(new, &FILES);
    done("rmdir", fs::remove_dir_all(local.at(remote)));

    let found = done(
        "outdated",
        outdated(&local.store, store, names.clone()).await,
    );
    let there = done("digest", store.digest(changed).await);
    let expected = [
        Outdated {
            local: done("digest", local.store.digest(changed).await),
            published: Some(there.digest),
        },
        Outdated {
            local: done("digest", local.store.digest(new).await),
            published: None,
        },
    ];
    assert_eq!(found, expected);
    for one in &found {
        local.publish(store, &one.local.name).await;
    }
    let found = done("outdated", outdated(&local.store, store, names).await);
    assert_eq!(found, []);
}

/// The local code bases that the checks publish.
struct LocalCode {
    root: PathBuf,
    store: DirectoryStore,
}

impl LocalCode {
    fn new(work: &Path, name: &str) -> Self {
        let root = work.join(name);
        done("a directory", fs::create_dir_all(&root));
        let store = DirectoryStore::new(root.clone());
        Self { root, store }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes files in addition to existing ones.
    fn write(&self, name: &str, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = self.at(name).join(path);
            if let Some(parent) = path.parent() {
                done("a directory", fs::create_dir_all(parent));
            }
            done("a file", fs::write(path, text));
        }
    }

    async fn publish(&self, store: &dyn CodePublisher, name: &str) -> Published {
        done("publish", publish(&self.store, store, name).await)
    }

    /// Checks that the store has exactly the local contents.
    async fn is_there(&self, store: &dyn CodePublisher, name: &str) {
        let code = done("digest", self.store.digest(name).await);
        assert_eq!(done("digest", store.digest(name).await), code);
        let local = done("the local archive", archive(&self.store, &code).await);
        let there = done("the published archive", archive(store, &code).await);
        assert!(local == there, "the archives of `{name}` differ");
    }
}

async fn archive(store: &dyn CodeStore, code: &CodeBaseRef) -> Result<Vec<u8>> {
    let parts = store.archive(code).await?;
    parts
        .try_fold(Vec::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .map_err(|error| Error::io("reading an archive", error))
}

/// Adds a file mode and a link, which simple stores may not preserve.
#[cfg(unix)]
fn special(directory: &Path) {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let executable = fs::Permissions::from_mode(0o755);
    let program = directory.join("bin/run");
    done("a mode", fs::set_permissions(program, executable));
    done("a link", symlink("bin/run", directory.join("link")));
}

#[cfg(not(unix))]
fn special(_: &Path) {}

fn done<T, E: std::fmt::Debug>(what: &str, outcome: Result<T, E>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}
