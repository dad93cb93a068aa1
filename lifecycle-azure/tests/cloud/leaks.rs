//! Searches for planted secrets in everything that leaves the process: logs, errors, and `Debug`
//! output.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use http::StatusCode;
use lifecycle_azure::simulator::files::AccountSas;
use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, Fault, HostChange, HostRequest, MANAGED_IDENTITY, STORAGE_ACCOUNT,
    STORAGE_SHARE, Selector, TENANT, When,
};
use lifecycle_azure::{AzureFiles, FilesCredential, Login};
use lifecycle_core::Error;
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::cloud::{CloudProvider as _, NodeChange};
use lifecycle_core::code::{CodePublisher as _, CodeStore as _};
use lifecycle_core::model::NodeName;
use lifecycle_core::secret::Sensitive;
use secrecy::{ExposeSecret as _, SecretString};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::secrets::{in_none, planted};
use crate::steps;
use crate::support::{azure, carry, get, options, provider, provision, spec};

/// All collected output.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    /// Collects the most verbose log of the whole process, including all its tasks and libraries
    /// that use the `log` crate.
    fn everything() -> Self {
        let said = Self::default();
        let writer = said.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish()
            .try_init()
            .unwrap();
        said
    }

    fn add(&self, text: &str) {
        let mut said = self.0.lock().unwrap();
        said.extend_from_slice(text.as_bytes());
        said.push(b'\n');
    }

    fn shown(&self, value: &dyn Debug) {
        self.add(&format!("{value:?}\n{value:#?}"));
    }

    fn failed(&self, error: &Error) {
        self.add(&format!("{error} {}", error.chain()));
        self.add(error.hint().unwrap_or_default());
        self.shown(error);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn faults() -> Vec<(steps::Step, Fault)> {
    let refused = |status: StatusCode, code: &str| Fault::error(status, code, "so it is");
    let fails = Fault::OperationFails {
        code: "InternalExecutionError".to_owned(),
        message: "An internal execution error occurred.".to_owned(),
    };
    vec![
        (steps::TOKEN, Fault::Dropped),
        (
            steps::TOKEN,
            refused(StatusCode::UNAUTHORIZED, "invalid_client"),
        ),
        (steps::VM, Fault::Dropped),
        (
            steps::VM,
            refused(StatusCode::UNAUTHORIZED, "ExpiredAuthenticationToken"),
        ),
        (steps::MAKE_RULES, Fault::AnswerLost),
        (steps::MAKE_NETWORK, fails.clone()),
        (steps::MAKE_VM, Fault::Dropped),
        (
            steps::MAKE_VM,
            Fault::Throttled {
                retry_after: Duration::ZERO,
            },
        ),
        (
            steps::MAKE_VM,
            refused(StatusCode::BAD_REQUEST, "InvalidParameter"),
        ),
        (
            steps::MAKE_VM,
            refused(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        ),
        (steps::MAKE_VM, Fault::QuotaExceeded),
        (steps::MAKE_VM, Fault::AllocationFailed),
        (steps::FIX_NIC, fails),
    ]
}

/// Runs a node's whole lifecycle, with a fault in each attempt to provision the node.
async fn live(azure: &AzureSimulator, said: &Said) {
    for (step, fault) in faults() {
        azure.faults().add(step.when(), fault);
        let ours = provider(azure, 1);
        match carry(&ours, provision("one")).await {
            Ok(()) => {}
            Err(error) => said.failed(&error),
        }
        assert_eq!(azure.faults().pending(), 0, "{step:?}");
        let node = NodeName::try_from("one").unwrap();
        carry(&ours, NodeChange::Delete { node }).await.unwrap();
        ours.delete_shared().await.unwrap();
    }
    let ours = provider(azure, 1);
    let report = ours.preflight(&[spec("two")]).await.unwrap();
    said.shown(&report);
    let operation = ours.begin(provision("one")).await.unwrap();
    said.shown(&operation);
    said.add(&serde_json::to_string(&operation).unwrap());
    carry(&ours, provision("one")).await.unwrap();
    let node = get(&ours, "one").await.unwrap();
    said.shown(&node);
    said.add(&serde_json::to_string(&node).unwrap());
    said.shown(&ours);
    said.shown(&ours.list().await.unwrap());
    said.shown(&azure.vms());
    said.shown(&HostChange::Create(HostRequest {
        vm: "one".to_owned(),
        host_name: "one".to_owned(),
        cores: 2,
        system: "debian".to_owned(),
        admin: "lifecycle".to_owned(),
        ssh_keys: Vec::new(),
        custom_data: azure.vms()[0].custom_data.clone(),
        private_address: None,
        subnet: None,
        inbound_ports: Vec::new(),
    }));
    said.shown(azure);
    let node = NodeName::try_from("one").unwrap();
    carry(&ours, NodeChange::Stop { node }).await.unwrap();
}

/// Publishes and reads a code base with a credential while faults occur.
async fn publish(azure: &AzureSimulator, said: &Said, credential: FilesCredential) {
    said.shown(&credential);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let builder = AzureFiles::builder(STORAGE_ACCOUNT, STORAGE_SHARE, credential)
        .endpoint(&azure.secure_files_endpoint())
        .authority(&azure.authority_pem());
    said.shown(&builder);
    let store = builder.build().unwrap();
    said.shown(&store);
    let at_shares = || When::next(Selector::any().path("/code"));
    for fault in [
        Fault::Dropped,
        Fault::error(StatusCode::FORBIDDEN, "AuthenticationFailed", "so it is"),
        Fault::error(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", "so it is"),
        Fault::error(StatusCode::BAD_REQUEST, "InvalidInput", "so it is"),
    ] {
        azure.faults().add(at_shares(), fault);
        match store.publish("svc", directory.path()).await {
            Ok(published) => said.shown(&published),
            Err(error) => said.failed(&error),
        }
    }
    // Make all connections fail. The library's error for a failed connection may contain the
    // complete URL.
    azure.faults().add(at_shares().always(), Fault::Dropped);
    said.failed(&store.digest("svc").await.unwrap_err());
    azure.faults().clear();
    said.shown(&store.digest("svc").await.unwrap());
    said.shown(&store);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_appears_in_logs_errors_or_debug_output() {
    let said = Said::everything();
    let azure = azure().await;
    live(&azure, &said).await;
    let mut secrets = planted(&azure);

    let terms = AccountSas {
        permissions: "rcwdl".to_owned(),
        resource_types: "co".to_owned(),
        starts: None,
        expires: SystemClock.now() + TimeDelta::days(1),
    };
    let sas = azure.files().account_sas(STORAGE_ACCOUNT, &terms).unwrap();
    let signature = sas
        .expose_secret()
        .rsplit("sig=")
        .next()
        .unwrap()
        .to_owned();
    assert!(
        signature.len() > 40,
        "the signature was not found in the token"
    );
    // Search for the signature as it was sent and as it was generated.
    secrets.push(
        signature
            .replace("%2B", "+")
            .replace("%2F", "/")
            .replace("%3D", "="),
    );
    secrets.push(signature);
    let key = SecretString::from(lifecycle_azure::simulator::STORAGE_KEY);
    publish(&azure, &said, FilesCredential::SharedKey(key)).await;
    publish(&azure, &said, FilesCredential::Sas(sas)).await;
    said.shown(&azure.requests().all());
    said.shown(&azure);

    let secret = Sensitive::new(lifecycle_azure::simulator::CLIENT_SECRET);
    for login in [
        Login::InOrder,
        Login::AzureCli,
        Login::ManagedIdentity {
            client: Some(MANAGED_IDENTITY.to_owned()),
        },
        Login::WorkloadIdentity,
        Login::ClientSecret {
            tenant: TENANT.to_owned(),
            client: CLIENT.to_owned(),
            secret,
        },
    ] {
        said.shown(&login);
    }
    said.shown(&options(&azure, 1));
    said.shown(azure.options());
    said.shown(azure.files());

    let text = said.text();
    assert!(
        text.contains("injecting a fault"),
        "the log was not collected"
    );
    assert!(
        text.contains("InvalidParameter"),
        "the errors were not collected"
    );
    in_none(&secrets, &[&text]);
}
