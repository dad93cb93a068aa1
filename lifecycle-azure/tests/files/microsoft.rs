//! Tests that Microsoft's own client accepts the simulator and is compatible with the code store.

use std::path::{Path, PathBuf};

use lifecycle_core::code::CodeStore as _;
use secrecy::ExposeSecret as _;
use tokio::process::Command;

use crate::bench::{ACCOUNT, Bench};

#[tokio::test]
async fn microsofts_client_accepts_the_simulator() {
    let bench = Bench::start().await;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/microsoft");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let python = target.join("microsoft/bin/python");
    assert!(
        python.exists(),
        "Microsoft's clients are not installed: python3 -m venv {0} && {0}/bin/pip install -r {1}",
        target.join("microsoft").display(),
        scripts.join("requirements.txt").display(),
    );
    let output = Command::new(python)
        .arg(scripts.join("files.py"))
        .arg(bench.url())
        .arg(ACCOUNT)
        .env_clear()
        .env("AZURE_STORAGE_KEY", bench.key.expose_secret())
        .kill_on_drop(true)
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
    // The code store must find a code base in the files that the client left behind.
    let store = bench.with_key();
    assert_eq!(store.list().await.unwrap(), ["left"]);
    let code = store.digest("left").await.unwrap();
    let docker = lifecycle_core::code::read_file(&store, &code, "Dockerfile", 100).await;
    assert_eq!(
        docker.unwrap().as_deref(),
        Some(b"FROM scratch\n".as_slice())
    );
}
