//! The lifecycle manager's program: reads what the bootstrapper handed over, wires the backends
//! to `lifecycle-core`'s manager, and serves its API over TLS. No decision lives here.

mod auth;
mod config;
mod problem;
mod routes;
mod serve;
mod telemetry;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "lifecycle-manager", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the platform of a hand-over alive and serve its API
    Run {
        /// The platform's directory on this node, as the bootstrapper made it
        #[arg(long)]
        directory: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    telemetry::start();
    // The one process-wide choice that rustls asks for; a second call would be a mistake of ours
    // and changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    let Command::Run { directory } = arguments.command;
    match serve::run(&directory).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error.chain(), hint = error.hint(), "the manager ends");
            ExitCode::FAILURE
        }
    }
}
