//! Runs the conformance suites for code stores and publishers, with published and with plain code
//! bases.

use std::fmt;

use async_trait::async_trait;
use chrono::TimeDelta;
use lifecycle_azure::AzureFiles;
use lifecycle_core::code::{CodePublisher as _, CodeStore};
use lifecycle_core::conformance::code::{self, CodeBench};
use lifecycle_core::conformance::publishing;
use lifecycle_core::{Error, Result};
use tempfile::TempDir;

use crate::bench::{Bench, write};
use crate::wire::Wire;

/// Writes code bases by publishing them.
#[derive(Debug)]
struct Publishing(AzureFiles);

#[async_trait]
impl CodeBench for Publishing {
    fn store(&self) -> &dyn CodeStore {
        &self.0
    }

    async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        let root = TempDir::new().map_err(|error| Error::io("a directory", error))?;
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (*path, text.as_bytes()))
            .collect();
        write(root.path(), &files);
        self.0.publish(name, root.path()).await.map(drop)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name).await
    }
}

#[tokio::test]
async fn the_suite_passes_with_an_account_key() {
    let bench = Bench::start().await;
    code::all(&Publishing(bench.with_key())).await.unwrap();
    assert_eq!(
        bench.paths(),
        Vec::<String>::new(),
        "the share must be empty afterwards"
    );
}

#[tokio::test]
async fn the_suite_passes_with_an_account_signature() {
    let bench = Bench::start().await;
    code::all(&Publishing(
        bench.with_account_sas("rwdlc", TimeDelta::hours(1)),
    ))
    .await
    .unwrap();
}

#[tokio::test]
async fn the_suite_passes_with_a_share_signature() {
    let bench = Bench::start().await;
    code::all(&Publishing(bench.with_share_sas("rcwdl")))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_suite_passes_in_a_directory_with_small_pages() {
    let bench = Bench::start().await;
    bench.service.set_page(2);
    let key = lifecycle_azure::FilesCredential::SharedKey(bench.key.clone());
    let store = bench
        .builder(key)
        .root("/code bases/\u{fc}+%/")
        .build()
        .unwrap();
    code::all(&Publishing(store)).await.unwrap();
}

#[tokio::test]
async fn the_publisher_suite_passes_with_an_account_key() {
    let (bench, work) = (Bench::start().await, TempDir::new().unwrap());
    publishing::all(&bench.with_key(), work.path()).await;
}

#[tokio::test]
async fn the_publisher_suite_passes_with_a_signature_and_small_pages() {
    let (bench, work) = (Bench::start().await, TempDir::new().unwrap());
    bench.service.set_page(2);
    let sas = bench.share_sas("rcwdl");
    let store = bench
        .builder(lifecycle_azure::FilesCredential::Sas(sas))
        .root("teams/one")
        .build()
        .unwrap();
    publishing::all(&store, work.path()).await;
}

/// Writes code bases as plain files, as another tool would.
struct Plainly {
    store: AzureFiles,
    wire: Wire,
}

impl fmt::Debug for Plainly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plainly")
    }
}

#[async_trait]
impl CodeBench for Plainly {
    fn store(&self) -> &dyn CodeStore {
        &self.store
    }

    async fn write(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        self.wire.remove_tree(name).await;
        for (path, text) in files {
            self.wire
                .put(&format!("{name}/{path}"), text.as_bytes())
                .await;
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.wire.remove_tree(name).await;
        Ok(())
    }
}

#[tokio::test]
async fn the_suite_passes_with_plain_files() {
    let bench = Bench::start().await;
    let (store, wire) = (bench.with_key(), Wire::new(&bench));
    code::all(&Plainly { store, wire }).await.unwrap();
}
