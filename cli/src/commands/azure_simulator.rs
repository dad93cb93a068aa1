//! `azure-simulator`: runs a simulated Azure until a signal arrives, then removes all created
//! machines.

use std::path::PathBuf;

use lifecycle_azure::simulator::{STORAGE_ACCOUNT, STORAGE_SHARE, SUBSCRIPTION, TENANT};
use lifecycle_core::Error;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::{Arguments, AzureSimulator};
use crate::failure::Failure;
use crate::simulated_azure::{Ports, Settings, SimulatedAzure};
use crate::{printer, simulated_azure, trust, wiring};

/// The document of `azure-simulator --json`, written as soon as the simulator is listening.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Running {
    /// The HTTPS endpoint of all services except Azure Files.
    endpoint: String,
    /// The HTTP endpoint of all services except Azure Files.
    http_endpoint: String,
    /// The HTTPS endpoint of Azure Files.
    files_endpoint: String,
    /// The HTTP endpoint of Azure Files.
    files_http_endpoint: String,
    /// The file with the CA certificate to trust.
    ca: PathBuf,
    /// The id of the simulator's only subscription.
    subscription: String,
    /// The id of the simulator's only tenant.
    tenant: String,
    /// The file with the client secret.
    client_secret: PathBuf,
    /// The name of the simulator's storage account.
    storage_account: String,
    /// The name of the file share in the storage account.
    share: String,
    /// The file with the storage account's key.
    storage_key: PathBuf,
    /// The lines to add to a platform.toml that uses the simulator.
    platform_toml: String,
}

pub(crate) async fn run(arguments: &Arguments, options: &AzureSimulator) -> Result<(), Failure> {
    let mut signals = ShutdownSignals::new()?;
    let settings = settings(options)?;
    let azure = tokio::select! {
        started = SimulatedAzure::start(settings) => started?,
        () = signals.next() => return Err(Failure::Interrupted),
    };
    let printed = print_settings(arguments, options, &azure);
    if printed.is_ok() {
        signals.next().await;
        printer::message("Removing the created machines.");
    }
    tokio::select! {
        stopped = azure.stop() => stopped?,
        // The next start of the simulator removes the remaining machines.
        () = signals.next() => return Err(Failure::Interrupted),
    }
    printed
}

fn settings(options: &AzureSimulator) -> Result<Settings, Failure> {
    let directory = match &options.directory {
        Some(directory) => std::path::absolute(directory)
            .map_err(|error| Error::io("finding the current directory", error))?,
        None => simulated_azure::default_directory(&wiring::configuration_directory()?),
    };
    Ok(Settings {
        engine: if options.state_only {
            None
        } else {
            Some(wiring::engine_socket()?)
        },
        directory,
        listen: options.listen,
        names: options.names.clone(),
        ports: Ports {
            http: options.http,
            https: options.https,
            files_http: options.files_http,
            files_https: options.files_https,
        },
        record: options.record.clone(),
    })
}

fn print_settings(
    arguments: &Arguments,
    options: &AzureSimulator,
    azure: &SimulatedAzure,
) -> Result<(), Failure> {
    let simulator = &azure.simulator;
    if arguments.json {
        return printer::document(&Running {
            endpoint: simulator.secure_endpoint(),
            http_endpoint: simulator.endpoint(),
            files_endpoint: simulator.secure_files_endpoint(),
            files_http_endpoint: simulator.files_endpoint(),
            ca: azure.authority_file(),
            subscription: SUBSCRIPTION.to_owned(),
            tenant: TENANT.to_owned(),
            client_secret: azure.secret_file(),
            storage_account: STORAGE_ACCOUNT.to_owned(),
            share: STORAGE_SHARE.to_owned(),
            storage_key: azure.key_file(),
            platform_toml: azure.platform_toml(),
        });
    }
    printer::message(&format!(
        "The simulated Azure listens at {}; its Azure Files service listens at {}.\nAdd the following lines to a platform.toml. Ctrl-C stops the simulator and removes its machines.\n",
        simulator.secure_endpoint(),
        simulator.secure_files_endpoint()
    ));
    if options.directory.is_some() {
        // Commands find only the simulator in the default directory.
        printer::message(&format!(
            "Also set {}=\"{}\" in the environment of the commands that use it.\n",
            trust::VARIABLE,
            azure.addresses().join(" ")
        ));
    }
    printer::data(&azure.platform_toml())
}

/// The signals that stop the simulator.
struct ShutdownSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl ShutdownSignals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("waiting for signals", error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
