//! What each [`CodeStore`] must do.
#![expect(
    clippy::missing_panics_doc,
    reason = "each check panics when the store fails it; that is what it is for"
)]

use std::fmt::Debug;
use std::io::Read;

use async_trait::async_trait;
use futures_util::TryStreamExt;

use crate::code::{CodeBaseRef, CodeStore};
use crate::error::{Error, Result};

/// A code store that can be written to.
#[async_trait]
pub trait CodeBench: Debug + Send + Sync {
    /// The store.
    fn store(&self) -> &dyn CodeStore;

    /// Writes a code base of these files (path, contents) in place of the one of that name.
    async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()>;

    /// Removes a code base.
    async fn remove(&self, name: &str) -> Result<()>;
}

/// The files of the code base that the checks use, sorted by path.
const FILES: [(&str, &str); 3] = [
    ("Dockerfile", "FROM scratch\nCOPY src /src\n"),
    ("src/main.rs", "fn main() {}\n"),
    ("src/view/page.html", "<p>hello</p>\n"),
];

/// All checks, one after the other. The store has no code bases of the names `conformance-…`.
pub async fn all(bench: &dyn CodeBench) {
    names_are_listed_in_order(bench).await;
    what_is_absent_is_not_found(bench).await;
    digests_follow_contents_alone(bench).await;
    an_archive_holds_what_the_digest_covers(bench).await;
    an_outdated_digest_is_a_conflict(bench).await;
    ignored_files_are_left_out(bench).await;
}

/// The list is sorted, and has what was written until it is removed.
pub async fn names_are_listed_in_order(bench: &dyn CodeBench) {
    let names = ["conformance-b", "conformance-a", "conformance-c"];
    for name in names {
        write(bench, name, &FILES).await;
    }
    let listed = done("list", bench.store().list().await);
    assert!(listed.is_sorted(), "{listed:?}");
    for name in names {
        assert!(listed.iter().any(|n| n == name), "{name} not in {listed:?}");
        remove(bench, name).await;
    }
    let listed = done("list", bench.store().list().await);
    for name in names {
        assert!(!listed.iter().any(|n| n == name), "{name} was removed");
    }
}

/// What is absent has neither digest nor archive.
pub async fn what_is_absent_is_not_found(bench: &dyn CodeBench) {
    let outcome = bench.store().digest("conformance-absent").await;
    is_not_found(&outcome);
    let code = CodeBaseRef {
        name: "conformance-absent".to_owned(),
        digest: "00".repeat(32),
    };
    is_not_found(&bench.store().archive(&code).await.map(|_| ()));
}

/// The same files have one digest, whatever their code base is called; each change of a path
/// or of contents makes another.
pub async fn digests_follow_contents_alone(bench: &dyn CodeBench) {
    let name = "conformance-digest";
    write(bench, name, &FILES).await;
    let first = digest(bench, name).await;
    assert_eq!(first.name, name);
    assert!(
        first.digest.len() == 64 && first.digest.chars().all(|c| c.is_ascii_hexdigit()),
        "{first:?}"
    );
    assert_eq!(digest(bench, name).await, first, "asked twice");
    let reversed: Vec<_> = FILES.iter().rev().copied().collect();
    write(bench, name, &reversed).await;
    assert_eq!(digest(bench, name).await, first, "written again");
    write(bench, "conformance-other", &FILES).await;
    let twin = digest(bench, "conformance-other").await;
    assert_eq!(twin.digest, first.digest, "under another name");
    remove(bench, "conformance-other").await;

    let [dockerfile, main, page] = FILES;
    let changes = [
        vec![dockerfile, main],
        vec![dockerfile, main, ("src/view/page.html", "<p>Hello</p>\n")],
        vec![dockerfile, main, ("src/view/side.html", page.1)],
        vec![dockerfile, main, ("src/view.page.html", page.1)],
        vec![dockerfile, main, page, ("src/more.rs", "")],
    ];
    let mut seen = vec![first.digest];
    for files in changes {
        write(bench, name, &files).await;
        let other = digest(bench, name).await.digest;
        assert!(!seen.contains(&other), "{files:?} has a former digest");
        seen.push(other);
    }
    remove(bench, name).await;
}

/// An archive holds the files in order, without times and owners, the same each time.
pub async fn an_archive_holds_what_the_digest_covers(bench: &dyn CodeBench) {
    let name = "conformance-archive";
    write(bench, name, &FILES).await;
    let code = digest(bench, name).await;
    let first = archive(bench, &code).await;
    let expected: Vec<_> = FILES
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    let unpacked = done("unpacking", unpacked(&first));
    assert_eq!(unpacked, expected);
    write(bench, name, &FILES).await;
    assert!(
        archive(bench, &code).await == first,
        "the same files have another archive"
    );
    remove(bench, name).await;
}

/// Who asks for what is no longer there is told so.
pub async fn an_outdated_digest_is_a_conflict(bench: &dyn CodeBench) {
    let name = "conformance-outdated";
    write(bench, name, &FILES).await;
    let old = digest(bench, name).await;
    write(bench, name, &FILES[..2]).await;
    let outcome = bench.store().archive(&old).await.map(|_| ());
    assert!(
        matches!(outcome, Err(Error::Conflict { .. })),
        "an outdated digest must be a Conflict, was {outcome:?}"
    );
    let new = digest(bench, name).await;
    archive(bench, &new).await;
    remove(bench, name).await;
}

/// What `.dockerignore` leaves out is neither in the digest nor in the archive.
pub async fn ignored_files_are_left_out(bench: &dyn CodeBench) {
    let name = "conformance-ignored";
    let ignore = (".dockerignore", "# built\ntarget\n*.log\n!keep.log\n");
    let [dockerfile, main, _] = FILES;
    let sent = [ignore, dockerfile, ("keep.log", "k"), main];
    write(bench, name, &sent).await;
    let clean = digest(bench, name).await;
    let mut all = sent.to_vec();
    all.extend([("target/debug/app", "binary"), ("build.log", "noise")]);
    write(bench, name, &all).await;
    let littered = digest(bench, name).await;
    assert_eq!(littered, clean, "left-out files are in the digest");
    let unpacked = done("unpacking", unpacked(&archive(bench, &littered).await));
    let paths: Vec<&str> = unpacked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [".dockerignore", "Dockerfile", "keep.log", "src/main.rs"]
    );
    remove(bench, name).await;
}

/// The files of an archive in its order; directories are passed over.
fn unpacked(archive: &[u8]) -> std::io::Result<Vec<(String, String)>> {
    let mut archive = tar::Archive::new(archive);
    let mut files = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let header = entry.header();
        assert_eq!(header.mtime()?, 0, "the archive tells a time");
        assert_eq!((header.uid()?, header.gid()?), (0, 0), "it tells an owner");
        if header.entry_type().is_file() {
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            files.push((path, text));
        }
    }
    Ok(files)
}

async fn write(bench: &dyn CodeBench, name: &str, files: &[(&str, &str)]) {
    done("writing a code base", bench.write(name, files).await);
}

async fn remove(bench: &dyn CodeBench, name: &str) {
    done("removing a code base", bench.remove(name).await);
}

async fn digest(bench: &dyn CodeBench, name: &str) -> CodeBaseRef {
    done("digest", bench.store().digest(name).await)
}

async fn archive(bench: &dyn CodeBench, code: &CodeBaseRef) -> Vec<u8> {
    let stream = done("archive", bench.store().archive(code).await);
    let bytes = stream.try_fold(Vec::new(), |mut all, part| async move {
        all.extend_from_slice(&part);
        Ok(all)
    });
    done("reading the archive", bytes.await)
}

fn is_not_found<T: Debug>(outcome: &Result<T>) {
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "what is absent must be NotFound, was {outcome:?}"
    );
}

fn done<T, E: Debug>(what: &str, outcome: Result<T, E>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}
