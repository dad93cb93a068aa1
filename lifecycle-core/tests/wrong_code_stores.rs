//! Code stores that do one thing wrong: the suite that all stores pass finds each of them, by the
//! check that is about it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use futures_util::stream;
use lifecycle_core::code::{CodeBaseRef, CodeStore, FileContent, Packed, pack};
use lifecycle_core::conformance::code::{self, CodeBench};
use lifecycle_core::host::ByteStream;
use lifecycle_core::{Error, Result};
use sha2::{Digest as _, Sha256};

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The digest is one of paths and contents, but in a form of the store's own.
    OwnDigest,
    /// The archive is that of the files as they are now, whatever digest was asked for.
    ArchiveOfNow,
    /// `.dockerignore` counts for nothing.
    IgnoresNothing,
}

type Files = BTreeMap<String, FileContent>;

/// Code bases in memory.
#[derive(Debug)]
struct Store {
    bases: Mutex<BTreeMap<String, Files>>,
    wrong: Wrong,
}

impl Store {
    fn new(wrong: Wrong) -> Self {
        let bases = Mutex::default();
        Self { bases, wrong }
    }

    fn bases(&self) -> MutexGuard<'_, BTreeMap<String, Files>> {
        self.bases.lock().unwrap()
    }

    fn packed(&self, name: &str) -> Result<Packed> {
        let bases = self.bases();
        let missing = || Error::not_found(format!("code base {name}"));
        let files = bases.get(name).ok_or_else(missing)?;
        let mut packed = pack(files)?;
        if self.wrong == Wrong::OwnDigest {
            let mut text = String::new();
            // What `pack` leaves out has no part in it either.
            let mut archive = tar::Archive::new(packed.archive.as_ref());
            for entry in archive.entries().unwrap() {
                let path = entry.unwrap().path().unwrap().display().to_string();
                let content = files.get(&path).map(|file| file.bytes.clone());
                writeln!(text, "{path} {content:?}").unwrap();
            }
            packed.digest = hex::encode(Sha256::digest(text));
        }
        Ok(packed)
    }
}

#[async_trait]
impl CodeStore for Store {
    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.bases().keys().cloned().collect())
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        let digest = self.packed(name)?.digest;
        let name = name.to_owned();
        Ok(CodeBaseRef { name, digest })
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let packed = self.packed(&code.name)?;
        if packed.digest != code.digest && self.wrong != Wrong::ArchiveOfNow {
            return Err(Error::conflict(
                format!("code base {}", code.name),
                "it has other contents now",
            ));
        }
        Ok(Box::pin(stream::iter([Ok(packed.archive)])))
    }
}

#[async_trait]
impl CodeBench for Store {
    fn store(&self) -> &dyn CodeStore {
        self
    }

    async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        let mut files: Files = files
            .iter()
            .map(|(path, text)| {
                let file = FileContent {
                    executable: false,
                    bytes: (*text).to_owned().into(),
                };
                ((*path).to_owned(), file)
            })
            .collect();
        if self.wrong == Wrong::IgnoresNothing
            && let Some(ignore) = files.get_mut(".dockerignore")
        {
            ignore.bytes = "".into();
        }
        self.bases().insert(name.to_owned(), files);
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.bases().remove(name);
        Ok(())
    }
}

#[tokio::test]
async fn a_store_that_packs_its_files_passes_the_suite() {
    code::all(&Store::new(Wrong::Nothing)).await.unwrap();
}

#[tokio::test]
async fn each_wrong_store_fails_the_check_that_is_about_it() {
    for (wrong, check) in [
        (Wrong::OwnDigest, "the_digest_is_the_same_in_every_store"),
        (Wrong::ArchiveOfNow, "an_outdated_digest_is_a_conflict"),
        (Wrong::IgnoresNothing, "ignored_files_are_excluded"),
    ] {
        let failed = code::all(&Store::new(wrong)).await.unwrap_err();
        assert_eq!(failed.check, check, "{wrong:?}: {failed}");
    }
}
