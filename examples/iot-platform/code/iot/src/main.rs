//! The seven services of an IoT platform in one program. Each service in `compose.yaml` runs
//! `iot-platform <service>`. The services call each other by name, wherever they run, and keep
//! working while other services are unavailable. Monitoring gets all replicas from the lifecycle
//! manager.

mod authentication;
mod deployment_manager;
mod failure;
mod monitoring;
mod peer;
mod request_manager;
mod sensor_binder;
mod sensor_controller;
mod sensor_manager;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::str::FromStr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use failure::{Failure, Result};

/// The port of every service inside its container.
const PORT: u16 = 8000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let service = std::env::args().nth(1).unwrap_or_default();
    match run(&service).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{service}: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(service: &str) -> Result<()> {
    let routes = match service {
        "authentication" => authentication::routes()?,
        "sensor-manager" => sensor_manager::routes()?,
        "sensor-controller" => sensor_controller::routes()?,
        "sensor-binder" => sensor_binder::routes(),
        "deployment-manager" => deployment_manager::routes()?,
        "request-manager" => request_manager::routes(),
        "monitoring" => monitoring::routes()?,
        // The containers' health checks run this command.
        "check" => return peer::check_health(PORT).await,
        _ => {
            return Err(Failure::Setting(
                "the first argument must be the name of a service".into(),
            ));
        }
    };
    serve(service, routes).await
}

/// Serves until the engine stops the container.
async fn serve(service: &str, routes: Router) -> Result<()> {
    let routes = routes.route("/health", get(|| async { "ok\n" }));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let mut stop = signal(SignalKind::terminate())?;
    tracing::info!("{service} listens on port {PORT}");
    // Handle SIGTERM: the first process in a container has no default signal handlers.
    tokio::select! {
        ended = axum::serve(listener, routes) => Ok(ended?),
        _ = stop.recv() => Ok(()),
    }
}

/// Reads a setting from the environment.
fn setting<T: FromStr>(name: &str) -> Result<T> {
    let value = std::env::var(name)
        .map_err(|_| Failure::Setting(format!("the environment variable {name} is not set")))?;
    value
        .parse()
        .map_err(|_| Failure::Setting(format!("the value of {name} is invalid")))
}
