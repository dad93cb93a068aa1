//! Tests the conformance suite for code stores. Each store has one deliberate fault; only the check
//! for that fault must fail.

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

/// The deliberate fault of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The store computes the digest of the right files, but in its own format.
    OwnDigest,
    /// The archive always contains the current files, even if another digest was requested.
    ArchiveOfNow,
    /// The store does not apply `.dockerignore`.
    IgnoresNothing,
}

type Files = BTreeMap<String, FileContent>;

/// A store with code bases in memory.
#[derive(Debug)]
struct Store {
    bases: Mutex<BTreeMap<String, Files>>,
    fault: Fault,
}

impl Store {
    fn new(fault: Fault) -> Self {
        let bases = Mutex::default();
        Self { bases, fault }
    }

    fn bases(&self) -> MutexGuard<'_, BTreeMap<String, Files>> {
        self.bases.lock().unwrap()
    }

    fn packed(&self, name: &str) -> Result<Packed> {
        let bases = self.bases();
        let missing = || Error::not_found(format!("code base {name}"));
        let files = bases.get(name).ok_or_else(missing)?;
        let mut packed = pack(files)?;
        if self.fault == Fault::OwnDigest {
            let mut text = String::new();
            // Hash only the files in the archive: `pack` has left out ignored files.
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
        if packed.digest != code.digest && self.fault != Fault::ArchiveOfNow {
            return Err(Error::conflict(
                format!("code base {}", code.name),
                "the contents have changed",
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
        if self.fault == Fault::IgnoresNothing
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
    code::all(&Store::new(Fault::Nothing)).await.unwrap();
}

#[tokio::test]
async fn each_faulty_store_fails_its_check() {
    for (fault, check) in [
        (Fault::OwnDigest, "the_digest_is_the_same_in_every_store"),
        (Fault::ArchiveOfNow, "an_outdated_digest_is_a_conflict"),
        (Fault::IgnoresNothing, "ignored_files_are_excluded"),
    ] {
        let failed = code::all(&Store::new(fault)).await.unwrap_err();
        assert_eq!(failed.check, check, "{fault:?}: {failed}");
    }
}
