//! Provides a simulated storage account with one share, and helpers for tests.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt as _;
use lifecycle_azure::simulator::files::{AccountSas, FilesService, ShareSas};
use lifecycle_azure::simulator::{Faults, Listener, Requests, Selector, StorageAccount, observed};
use lifecycle_azure::{AzureFiles, AzureFilesBuilder, FilesCredential};
use lifecycle_core::clock::{Clock, RandomIds, SystemClock};
use lifecycle_core::code::{CodeBaseRef, CodeStore, DirectoryStore};
use lifecycle_core::secret::Sensitive;
use secrecy::SecretString;
use tempfile::TempDir;

pub(crate) const ACCOUNT: &str = "devacct";
pub(crate) const SHARE: &str = "code";

/// Returns the storage account with this key.
pub(crate) fn account(key: &str) -> StorageAccount {
    StorageAccount {
        name: ACCOUNT.to_owned(),
        key: Sensitive::new(key),
        shares: vec![SHARE.to_owned()],
    }
}

/// A clock that tests can advance.
#[derive(Debug, Default)]
pub(crate) struct ShiftedClock(AtomicI64);

impl ShiftedClock {
    pub(crate) fn advance(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_seconds(), Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + TimeDelta::seconds(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Bench {
    pub(crate) service: FilesService,
    pub(crate) requests: Requests,
    pub(crate) faults: Faults,
    pub(crate) clock: Arc<ShiftedClock>,
    pub(crate) key: SecretString,
    listener: Listener,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let service = FilesService::new(clock.clone(), Arc::new(RandomIds));
        let key = account("a2V5IG9uZSBvZiBhIHRlc3Q=");
        service.add(&key).unwrap();
        let key = SecretString::from(key.key.expose());
        let requests = Requests::new(clock.clone());
        let faults = Faults::default();
        let router = observed(service.router(false), &requests, &faults);
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::start(address, router, None).await.unwrap();
        Self {
            service,
            requests,
            faults,
            clock,
            key,
            listener,
        }
    }

    pub(crate) fn url(&self) -> String {
        self.listener.url()
    }

    pub(crate) fn builder(&self, credential: FilesCredential) -> AzureFilesBuilder {
        AzureFiles::builder(ACCOUNT, SHARE, credential).endpoint(&self.url())
    }

    pub(crate) fn with_key(&self) -> AzureFiles {
        let key = FilesCredential::SharedKey(self.key.clone());
        self.builder(key).build().unwrap()
    }

    /// Returns a store whose signature is valid for `lasts` by the simulator's clock.
    pub(crate) fn with_account_sas(&self, permissions: &str, lasts: TimeDelta) -> AzureFiles {
        let terms = AccountSas {
            permissions: permissions.to_owned(),
            resource_types: "co".to_owned(),
            starts: None,
            expires: self.clock.now() + lasts,
        };
        let sas = self.service.account_sas(ACCOUNT, &terms).unwrap();
        self.builder(FilesCredential::Sas(sas)).build().unwrap()
    }

    pub(crate) fn with_share_sas(&self, permissions: &str) -> AzureFiles {
        let sas = self.share_sas(permissions);
        self.builder(FilesCredential::Sas(sas)).build().unwrap()
    }

    pub(crate) fn share_sas(&self, permissions: &str) -> SecretString {
        let terms = ShareSas {
            share: SHARE.to_owned(),
            permissions: permissions.to_owned(),
            starts: Some(self.clock.now() - TimeDelta::minutes(1)),
            expires: self.clock.now() + TimeDelta::hours(1),
        };
        self.service.share_sas(ACCOUNT, &terms).unwrap()
    }

    /// Returns the paths of all files in the share.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.service.files(ACCOUNT, SHARE).into_keys().collect()
    }

    /// Returns the number of read requests since the recording was last cleared.
    pub(crate) fn downloads(&self) -> usize {
        let all = self.requests.all();
        let reads = all.iter().filter(|one| {
            one.method == axum::http::Method::GET && !one.query.contains("comp=list")
        });
        reads.count()
    }
}

pub(crate) fn any() -> Selector {
    Selector::any()
}

/// Writes files below `root`. Files whose names end with `.sh` are executable.
pub(crate) fn write(root: &Path, files: &[(&str, &[u8])]) {
    for (path, contents) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        let is_program = path.extension().is_some_and(|end| end == "sh");
        let mode = if is_program { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Returns bytes whose value changes every `step` bytes.
pub(crate) fn pattern(size: usize, step: usize) -> Vec<u8> {
    let steps = (0..=250_u8).cycle();
    let bytes = steps.flat_map(|byte| std::iter::repeat_n(byte, step));
    bytes.take(size).collect()
}

/// Creates a code base that contains everything that a share cannot store directly.
pub(crate) fn sample() -> TempDir {
    let root = TempDir::new().unwrap();
    let big = pattern(9 << 20, 7);
    write(
        root.path(),
        &[
            ("Dockerfile", b"FROM scratch\n"),
            (".dockerignore", b"target\n"),
            ("run.sh", b"#!/bin/sh\n"),
            ("makefile", b"lower"),
            ("Makefile", b"upper"),
            ("empty", b""),
            ("big.bin", &big),
            ("target/left/out", b"x"),
            (
                "n\u{fc} & <a> b+c%20 ++/100%/what? \"yes\": a|b*.txt",
                b"odd",
            ),
            ("trailing. /x", b"dot"),
        ],
    );
    std::fs::create_dir(root.path().join("hollow")).unwrap();
    symlink("run.sh", root.path().join("link")).unwrap();
    symlink("../nowhere/\u{fc}", root.path().join("dangling")).unwrap();
    root
}

pub(crate) async fn local_digest(root: &Path) -> String {
    let store = DirectoryStore::new(root.to_owned());
    store.digest(".").await.unwrap().digest
}

pub(crate) async fn archive(store: &dyn CodeStore, code: &CodeBaseRef) -> Vec<u8> {
    let stream = store.archive(code).await.unwrap();
    let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
    parts.concat()
}

/// Returns the archive of a local code base, for comparison with the share's archive.
pub(crate) async fn local_archive(root: &Path) -> Vec<u8> {
    let store = DirectoryStore::new(root.to_owned());
    let code = store.digest(".").await.unwrap();
    archive(&store, &code).await
}

/// Returns the files of an archive.
pub(crate) fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut contents = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut contents).unwrap();
        files.insert(path, contents);
    }
    files
}
