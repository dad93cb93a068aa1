//! `replicas SERVICE` gets the replicas of a service from the manager and prints them. Run it in a
//! container of a service that declares `x-lifecycle: {api: read}`. Needs the Cargo feature `api`
//! of `lifecycle-core`.

use std::process::ExitCode;

use lifecycle_core::Error;
use lifecycle_core::api::wire::{EndpointV1, ServiceV1};
use lifecycle_core::api::{ApiClient, ManagerApi};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: replicas SERVICE");
        return ExitCode::from(2);
    };
    let found = match ApiClient::of_this_service() {
        Ok(manager) => replicas(&manager, &name).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(lines) => {
            println!("{}", lines.join("\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.chain());
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Returns one line for each replica, with its state and its addresses.
async fn replicas(manager: &dyn ManagerApi, name: &str) -> Result<Vec<String>, Error> {
    let services: Vec<ServiceV1> = manager.services().await?;
    let Some(service) = services
        .into_iter()
        .find(|service| service.name.as_str() == name)
    else {
        return Err(Error::not_found(format!("service `{name}`")));
    };
    let lines = service.instances.iter().map(|instance| {
        let at: Vec<String> = instance.endpoints.iter().map(address).collect();
        format!("{} {:?} {}", instance.id, instance.state, at.join(" "))
    });
    Ok(lines.collect())
}

fn address(endpoint: &EndpointV1) -> String {
    format!("{}:{}", endpoint.ip, endpoint.port)
}
