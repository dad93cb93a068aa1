//! Tests that Microsoft's own clients, in Python, can use the simulator in the same way as Azure.

use std::path::{Path, PathBuf};

use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, CLIENT_SECRET, SUBSCRIPTION, SimulatorOptions, TENANT,
};
use tokio::process::Command;

/// Returns the directory that contains the script and its requirements.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/microsoft")
}

/// Returns the Python interpreter of the virtual environment with Microsoft's packages.
/// `script/test` creates this environment.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/microsoft");
    let python = venv.join("bin/python");
    assert!(
        python.exists(),
        "Microsoft's clients are not installed: python3 -m venv {0} && {0}/bin/pip install -r {1}",
        venv.display(),
        scripts().join("requirements.txt").display(),
    );
    python
}

#[tokio::test]
async fn microsofts_clients_manage_a_vm() {
    let python = python();
    let azure = AzureSimulator::start(SimulatorOptions::default())
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    std::fs::write(&authority, azure.authority_pem()).unwrap();
    let run = Command::new(python)
        .arg(scripts().join("compute.py"))
        .arg(azure.secure_endpoint())
        .arg(&authority)
        .args([TENANT, CLIENT, CLIENT_SECRET, SUBSCRIPTION])
        .env_clear()
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "after\n{said}\n{complained}");
    assert!(said.ends_with("done\n"), "{said}");
}
