//! Microsoft's own client accepts the simulator, and reads and writes what our store does.

use std::path::Path;

use lifecycle_core::code::CodeStore as _;
use secrecy::ExposeSecret as _;
use tokio::process::Command;

use crate::bench::{ACCOUNT, Bench};

#[tokio::test]
async fn microsofts_client_is_content() {
    let bench = Bench::start().await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../target/microsoft/bin/python");
    assert!(
        python.exists(),
        "{} is absent: python3 -m venv target/microsoft && target/microsoft/bin/pip install \
         -r lifecycle-azure/tests/microsoft/requirements.txt",
        python.display()
    );
    let output = Command::new(python)
        .arg(here.join("tests/microsoft/files.py"))
        .arg(bench.url())
        .arg(ACCOUNT)
        .env("AZURE_STORAGE_KEY", bench.key.expose_secret())
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .await
        .unwrap();
    let shown = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{shown}");
    assert!(shown.ends_with("all done\n"), "{shown}");
    // What it left is a code base of ours.
    let store = bench.with_key();
    assert_eq!(store.list().await.unwrap(), ["left"]);
    let code = store.digest("left").await.unwrap();
    let docker = lifecycle_core::code::read_file(&store, &code, "Dockerfile", 100).await;
    assert_eq!(
        docker.unwrap().as_deref(),
        Some(b"FROM scratch\n".as_slice())
    );
}
