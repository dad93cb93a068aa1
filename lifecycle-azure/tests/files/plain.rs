//! Tests code bases that other tools copied to the share.

use lifecycle_core::code::{CodePublisher as _, CodeStore};

use crate::bench::{Bench, archive, local_archive, local_digest, pattern, unpacked, write};
use crate::wire::Wire;

#[tokio::test]
async fn plain_files_have_the_digest_of_the_same_local_files() {
    let bench = Bench::start().await;
    let (store, wire) = (bench.with_key(), Wire::new(&bench));
    bench.service.set_page(3);
    let big = pattern(9 << 20, 5);
    let mut files: Vec<(&str, &[u8])> = vec![
        ("Dockerfile", b"FROM scratch\n"),
        (".dockerignore", b"out\n!out/keep\n"),
        ("n\u{fc} & a b+c%20 ++/100%25/x y.txt", b"odd"),
        ("big.bin", &big),
        ("empty", b""),
        ("out/left", b"x"),
        ("out/keep/this", b"kept"),
    ];
    let many: Vec<String> = (0..20)
        .map(|n| format!("deep/{}/file {n}", n % 4))
        .collect();
    files.extend(many.iter().map(|path| (path.as_str(), path.as_bytes())));
    let root = tempfile::TempDir::new().unwrap();
    write(root.path(), &files);
    for (path, contents) in &files {
        wire.put(&format!("svc/{path}"), contents).await;
    }
    let code = store.digest("svc").await.unwrap();
    assert_eq!(code.digest, local_digest(root.path()).await);
    let read = archive(&store, &code).await;
    assert!(
        read == local_archive(root.path()).await,
        "the archives differ"
    );
    assert!(!unpacked(&read).contains_key("out/left"));
}

#[tokio::test]
async fn reads_a_file_again_after_a_change() {
    let bench = Bench::start().await;
    let (store, wire) = (bench.with_key(), Wire::new(&bench));
    for path in ["svc/Dockerfile", "svc/a", "svc/b"] {
        wire.put(path, b"one").await;
    }
    bench.requests.clear();
    let first = store.digest("svc").await.unwrap();
    assert_eq!(bench.downloads(), 3);
    bench.requests.clear();
    assert_eq!(store.digest("svc").await.unwrap(), first);
    assert_eq!(bench.downloads(), 0);
    wire.put("svc/a", b"two").await;
    bench.requests.clear();
    assert_ne!(store.digest("svc").await.unwrap(), first);
    assert_eq!(bench.downloads(), 1);
}

#[tokio::test]
async fn reports_a_file_that_changes_before_it_is_read() {
    let bench = Bench::start().await;
    let (store, wire) = (bench.with_key(), Wire::new(&bench));
    wire.put("svc/Dockerfile", b"FROM scratch\n").await;
    wire.put("svc/z", b"one").await;
    let code = store.digest("svc").await.unwrap();
    let stream = store.archive(&code).await.unwrap();
    // The archive sends no request until it is polled, so this change happens before the file is
    // read.
    wire.put("svc/z", b"two").await;
    let parts: Vec<_> = futures_util::StreamExt::collect::<Vec<_>>(stream).await;
    let error = parts.last().unwrap().as_ref().unwrap_err();
    assert!(error.to_string().contains("`z`"), "{error}");
}

#[tokio::test]
async fn lists_only_directories_that_can_be_built() {
    let bench = Bench::start().await;
    let (store, wire) = (bench.with_key(), Wire::new(&bench));
    assert_eq!(store.list().await.unwrap(), Vec::<String>::new());
    wire.put("b/Dockerfile", b"x").await;
    wire.put("notes/readme", b"x").await;
    wire.put("stray", b"x").await;
    let root = tempfile::TempDir::new().unwrap();
    write(
        root.path(),
        &[("readme", b"this code base has no Dockerfile")],
    );
    store.publish("a", root.path()).await.unwrap();
    assert_eq!(store.list().await.unwrap(), ["a", "b"]);
}
