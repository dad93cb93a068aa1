//! The conformance suite for [`CodeStore`].

use std::fmt::Debug;
use std::io::Read;

use async_trait::async_trait;
use futures_util::TryStreamExt;

use super::{Checked, done, ensure, ensure_eq, run_checks};
use crate::code::{CodeBaseRef, CodeStore};
use crate::error::{Error, Result};

/// A code store that the checks can write to.
#[async_trait]
pub trait CodeBench: Debug + Send + Sync {
    /// Returns the store.
    fn store(&self) -> &dyn CodeStore;

    /// Writes a code base with these files (path, contents). Replaces a code base with the same
    /// name.
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

/// The digest of [`FILES`] in every store.
const DIGEST: &str = "465ec244a04ad4098486bc88e892c4fec0003e474e3dc1c7d8b569406b55f5b6";

/// Runs all checks in sequence. The store must not contain code bases named `conformance-…`.
///
/// # Errors
/// The first failed check.
pub async fn all(bench: &dyn CodeBench) -> Checked {
    run_checks!(bench;
        names_are_listed_in_order,
        a_missing_code_base_is_not_found,
        the_digest_is_the_same_in_every_store,
        digests_depend_only_on_contents,
        an_archive_contains_what_the_digest_covers,
        an_outdated_digest_is_a_conflict,
        ignored_files_are_excluded,
    );
    Ok(())
}

/// Checks that the list is sorted, and contains each code base until it is removed.
pub async fn names_are_listed_in_order(bench: &dyn CodeBench) -> Checked {
    let names = ["conformance-b", "conformance-a", "conformance-c"];
    for name in names {
        write(bench, name, &FILES).await?;
    }
    let listed = done("list", bench.store().list().await)?;
    ensure!(listed.is_sorted(), "the list is not sorted: {listed:?}");
    for name in names {
        ensure!(
            listed.iter().any(|n| n == name),
            "{name} is not listed: {listed:?}"
        );
        remove(bench, name).await?;
    }
    let listed = done("list", bench.store().list().await)?;
    for name in names {
        ensure!(
            !listed.iter().any(|n| n == name),
            "{name} is listed after its removal"
        );
    }
    Ok(())
}

/// Checks that a missing code base has neither a digest nor an archive.
pub async fn a_missing_code_base_is_not_found(bench: &dyn CodeBench) -> Checked {
    let outcome = bench.store().digest("conformance-absent").await;
    is_not_found(&outcome)?;
    let code = CodeBaseRef {
        name: "conformance-absent".to_owned(),
        digest: "00".repeat(32),
    };
    is_not_found(&bench.store().archive(&code).await.map(|_| ()))
}

/// Checks that the same files have the same digest in every store, so that stores can be compared.
pub async fn the_digest_is_the_same_in_every_store(bench: &dyn CodeBench) -> Checked {
    let name = "conformance-golden";
    write(bench, name, &FILES).await?;
    ensure_eq!(
        digest(bench, name).await?.digest,
        DIGEST,
        "the digest of a fixed set of files, as `code::pack` computes it"
    );
    remove(bench, name).await
}

/// Checks that the digest does not depend on the code base's name, but changes with any path or
/// contents.
pub async fn digests_depend_only_on_contents(bench: &dyn CodeBench) -> Checked {
    let name = "conformance-digest";
    write(bench, name, &FILES).await?;
    let first = digest(bench, name).await?;
    ensure_eq!(first.name, name, "the name of a code base");
    ensure_eq!(digest(bench, name).await?, first, "read twice");
    let reversed: Vec<_> = FILES.iter().rev().copied().collect();
    write(bench, name, &reversed).await?;
    ensure_eq!(digest(bench, name).await?, first, "written again");
    write(bench, "conformance-other", &FILES).await?;
    let twin = digest(bench, "conformance-other").await?;
    ensure_eq!(twin.digest, first.digest, "under another name");
    remove(bench, "conformance-other").await?;

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
        write(bench, name, &files).await?;
        let other = digest(bench, name).await?.digest;
        ensure!(
            !seen.contains(&other),
            "{files:?} has the digest of other files"
        );
        seen.push(other);
    }
    remove(bench, name).await
}

/// Checks that an archive is reproducible, and contains the files in order and without times or
/// owners.
pub async fn an_archive_contains_what_the_digest_covers(bench: &dyn CodeBench) -> Checked {
    let name = "conformance-archive";
    write(bench, name, &FILES).await?;
    let code = digest(bench, name).await?;
    let first = archive(bench, &code).await?;
    let expected: Vec<_> = FILES
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    let unpacked = done("unpacking", unpacked(&first))?;
    ensure_eq!(unpacked, expected, "the files of an archive");
    write(bench, name, &FILES).await?;
    ensure!(
        archive(bench, &code).await? == first,
        "two archives of the same files differ"
    );
    remove(bench, name).await
}

/// Checks that requesting the archive for an outdated digest returns a conflict.
pub async fn an_outdated_digest_is_a_conflict(bench: &dyn CodeBench) -> Checked {
    let name = "conformance-outdated";
    write(bench, name, &FILES).await?;
    let old = digest(bench, name).await?;
    write(bench, name, &FILES[..2]).await?;
    let outcome = bench.store().archive(&old).await.map(|_| ());
    ensure!(
        matches!(outcome, Err(Error::Conflict { .. })),
        "a request with an outdated digest must return Conflict, but returned {outcome:?}"
    );
    let new = digest(bench, name).await?;
    archive(bench, &new).await?;
    remove(bench, name).await
}

/// Checks that files that `.dockerignore` excludes are neither in the digest nor in the archive.
pub async fn ignored_files_are_excluded(bench: &dyn CodeBench) -> Checked {
    let name = "conformance-ignored";
    let ignore = (".dockerignore", "# built\ntarget\n*.log\n!keep.log\n");
    let [dockerfile, main, _] = FILES;
    let sent = [ignore, dockerfile, ("keep.log", "k"), main];
    write(bench, name, &sent).await?;
    let clean = digest(bench, name).await?;
    let mut all = sent.to_vec();
    all.extend([("target/debug/app", "binary"), ("build.log", "noise")]);
    write(bench, name, &all).await?;
    let littered = digest(bench, name).await?;
    ensure_eq!(littered, clean, "excluded files are in the digest");
    let unpacked = done("unpacking", unpacked(&archive(bench, &littered).await?))?;
    let paths: Vec<&str> = unpacked.iter().map(|(path, _)| path.as_str()).collect();
    ensure_eq!(
        paths,
        [".dockerignore", "Dockerfile", "keep.log", "src/main.rs"],
        "the files of an archive"
    );
    remove(bench, name).await
}

/// Returns the files of an archive, in order; directories are skipped.
fn unpacked(archive: &[u8]) -> std::io::Result<Vec<(String, String)>> {
    let mut archive = tar::Archive::new(archive);
    let mut files = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let header = entry.header();
        if (header.mtime()?, header.uid()?, header.gid()?) != (0, 0, 0) {
            return Err(std::io::Error::other(
                "the archive contains a time or an owner",
            ));
        }
        if header.entry_type().is_file() {
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            files.push((path, text));
        }
    }
    Ok(files)
}

async fn write(bench: &dyn CodeBench, name: &str, files: &[(&str, &str)]) -> Checked {
    done("writing a code base", bench.write(name, files).await)
}

async fn remove(bench: &dyn CodeBench, name: &str) -> Checked {
    done("removing a code base", bench.remove(name).await)
}

async fn digest(bench: &dyn CodeBench, name: &str) -> Checked<CodeBaseRef> {
    done("digest", bench.store().digest(name).await)
}

async fn archive(bench: &dyn CodeBench, code: &CodeBaseRef) -> Checked<Vec<u8>> {
    let stream = done("archive", bench.store().archive(code).await)?;
    let bytes = stream.try_fold(Vec::new(), |mut all, part| async move {
        all.extend_from_slice(&part);
        Ok(all)
    });
    done("reading the archive", bytes.await)
}

fn is_not_found<T: Debug>(outcome: &Result<T>) -> Checked {
    ensure!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "a request for a missing code base must return NotFound, but returned {outcome:?}"
    );
    Ok(())
}
