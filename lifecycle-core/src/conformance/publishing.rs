//! What each [`CodePublisher`] must do, beside all that a code store must.
#![expect(
    clippy::missing_panics_doc,
    reason = "each check panics when the store fails it; that is what it is for"
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

/// How often code bases change while they are read.
const CHANGES: usize = 6;

/// All checks, one after the other. `work` is an empty directory, for what is published; the
/// store has no code bases of the names `conformance-…`, and keeps those of the checks.
pub async fn all(store: &dyn CodePublisher, work: &Path) {
    what_is_published_is_what_lies_here(store, work).await;
    nothing_is_sent_twice(store, work).await;
    what_is_left_out_is_not_sent(store, work).await;
    a_code_base_may_lie_within_another(store, work).await;
    readers_see_the_former_or_the_new(store, work).await;
    of_several_publishers_one_is_in_force(store, work).await;
    what_is_absent_is_not_found_and_takes_nothing_away(store, work).await;
    what_differs_is_told(store, work).await;
}

/// Digest and archive are those of the directory, bits, links and empty directories included.
pub async fn what_is_published_is_what_lies_here(store: &dyn CodePublisher, work: &Path) {
    let here = Here::new(work, "what-lies-here");
    let name = "conformance-same";
    here.write(name, &FILES);
    here.write(name, &[("bin/run", "#!/bin/sh\n"), ("empty", "")]);
    done("a directory", fs::create_dir_all(here.at(name).join("a/b")));
    special(&here.at(name));
    let published = here.publish(store, name).await;
    assert_eq!(published.code.name, name);
    assert!(!published.unchanged, "{published:?}");
    here.is_there(store, name).await;

    // Whatever it was, it is that no more.
    done("rmdir", fs::remove_dir_all(here.at(name)));
    here.write(name, &FILES[1..2]);
    here.publish(store, name).await;
    here.is_there(store, name).await;
}

/// What is there already is not written again.
pub async fn nothing_is_sent_twice(store: &dyn CodePublisher, work: &Path) {
    let here = Here::new(work, "twice");
    let name = "conformance-twice";
    here.write(name, &FILES);
    let first = here.publish(store, name).await;
    assert!(!first.unchanged && first.bytes_sent > 0, "{first:?}");
    let again = here.publish(store, name).await;
    assert!(again.unchanged && again.bytes_sent == 0, "{again:?}");
    assert_eq!(again.code, first.code);
    here.write(name, &[("src/main.rs", "fn main() { loop {} }\n")]);
    let changed = here.publish(store, name).await;
    assert!(!changed.unchanged && changed.code != first.code);
    here.write(name, &FILES);
    let back = here.publish(store, name).await;
    assert_eq!(back.code, first.code, "the way back");
    here.is_there(store, name).await;
}

/// What `.dockerignore` leaves out neither counts nor travels.
pub async fn what_is_left_out_is_not_sent(store: &dyn CodePublisher, work: &Path) {
    let here = Here::new(work, "left-out");
    let name = "conformance-left-out";
    here.write(name, &FILES);
    let clean = here.publish(store, name).await;
    here.write(name, &[("target/debug/app", "binary"), ("build.log", "x")]);
    let littered = here.publish(store, name).await;
    assert!(littered.unchanged, "{littered:?}");
    assert_eq!(littered.code, clean.code);
    here.is_there(store, name).await;
}

/// Names are paths: `a`, `a/b` and `a/b/c` are three code bases.
pub async fn a_code_base_may_lie_within_another(store: &dyn CodePublisher, work: &Path) {
    let here = Here::new(work, "within");
    let names = [
        "conformance-top/in/most",
        "conformance-top",
        "conformance-top/in",
    ];
    for name in names {
        here.write(name, &[("Dockerfile", name)]);
    }
    for name in names {
        here.publish(store, &format!("./{name}/")).await;
    }
    for name in names {
        here.is_there(store, name).await;
    }
}

/// Readers beside a publisher get one whole version or another.
pub async fn readers_see_the_former_or_the_new(store: &dyn CodePublisher, work: &Path) {
    let here = Here::new(work, "readers");
    let name = "conformance-readers";
    let mut known: Vec<(CodeBaseRef, Vec<u8>)> = Vec::new();
    for round in 0..2 {
        here.write(name, &FILES);
        let text = format!("round {round}\n").repeat(2_000);
        here.write(name, &[("src/main.rs", &text), ("data", &text)]);
        let code = done("digest", here.store.digest(name).await);
        let bytes = archive(&here.store, &code).await;
        known.push((code, done("the archive", bytes)));
        if round == 0 {
            here.publish(store, name).await;
        }
    }
    let publishing = async {
        for change in 1..=CHANGES {
            let text = format!("round {}\n", change % 2).repeat(2_000);
            here.write(name, &[("src/main.rs", &text), ("data", &text)]);
            here.publish(store, name).await;
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
                Ok(bytes) => assert!(bytes == *expected, "an archive is mixed"),
                // It was replaced between the two calls.
                Err(Error::Conflict { .. }) => {}
                Err(error) => panic!("reading beside a publisher: {error:?}"),
            }
        }
    };
    tokio::select! {
        () = publishing => {}
        () = reading => {}
    }
    here.is_there(store, name).await;
}

/// Of publishers at once each succeeds or is told; what is in force is whole.
pub async fn of_several_publishers_one_is_in_force(store: &dyn CodePublisher, work: &Path) {
    let (one, two) = (Here::new(work, "one"), Here::new(work, "two"));
    let name = "conformance-several";
    one.write(name, &[("Dockerfile", "FROM one\n"), ("of-one", "1")]);
    two.write(name, &[("Dockerfile", "FROM two\n"), ("of-two", "2")]);
    let (at_one, at_two) = (one.at(name), two.at(name));
    let (a, b) = tokio::join!(store.publish(name, &at_one), store.publish(name, &at_two));
    let outcomes = [a, b];
    assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
    for outcome in &outcomes {
        let is_told = matches!(outcome, Ok(_) | Err(Error::Conflict { .. }));
        assert!(is_told, "{outcome:?}");
    }
    let now = done("digest", store.digest(name).await);
    let of_one = done("digest", one.store.digest(name).await);
    let winner = if now == of_one { &one } else { &two };
    winner.is_there(store, name).await;
}

/// A directory that is not there is no empty code base.
pub async fn what_is_absent_is_not_found_and_takes_nothing_away(
    store: &dyn CodePublisher,
    work: &Path,
) {
    let here = Here::new(work, "absent");
    let name = "conformance-kept";
    here.write(name, &FILES);
    let kept = here.publish(store, name).await;
    done("rmdir", fs::remove_dir_all(here.at(name)));
    let outcome = store.publish(name, &here.at(name)).await;
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "a directory that is absent must be NotFound, was {outcome:?}"
    );
    let still = done("digest", store.digest(name).await);
    assert_eq!(still, kept.code);
}

/// What differs, or is not there at all, is outdated until it is published.
pub async fn what_differs_is_told(store: &dyn CodePublisher, work: &Path) {
    let here = Here::new(work, "differs");
    let names = ["same", "changed", "new", "remote"].map(|n| format!("conformance-differs-{n}"));
    let [same, changed, new, remote] = names.each_ref().map(String::as_str);
    for name in [same, changed, remote] {
        here.write(name, &FILES);
        here.publish(store, name).await;
    }
    here.write(changed, &[("src/main.rs", "fn main() { loop {} }\n")]);
    here.write(new, &FILES);
    done("rmdir", fs::remove_dir_all(here.at(remote)));

    let found = done(
        "outdated",
        outdated(&here.store, store, names.clone()).await,
    );
    let there = done("digest", store.digest(changed).await);
    let expected = [
        Outdated {
            local: done("digest", here.store.digest(changed).await),
            published: Some(there.digest),
        },
        Outdated {
            local: done("digest", here.store.digest(new).await),
            published: None,
        },
    ];
    assert_eq!(found, expected);
    for one in &found {
        here.publish(store, &one.local.name).await;
    }
    let found = done("outdated", outdated(&here.store, store, names).await);
    assert_eq!(found, []);
}

/// Code bases of this machine.
struct Here {
    root: PathBuf,
    store: DirectoryStore,
}

impl Here {
    fn new(work: &Path, name: &str) -> Self {
        let root = work.join(name);
        done("a directory", fs::create_dir_all(&root));
        let store = DirectoryStore::new(root.clone());
        Self { root, store }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes files beside those that are there.
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

    /// The store has what lies here, to the byte.
    async fn is_there(&self, store: &dyn CodePublisher, name: &str) {
        let code = done("digest", self.store.digest(name).await);
        assert_eq!(done("digest", store.digest(name).await), code);
        let here = done("the archive here", archive(&self.store, &code).await);
        let there = done("the archive there", archive(store, &code).await);
        assert!(here == there, "`{name}` has another archive");
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

/// What not every store could keep by itself.
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
