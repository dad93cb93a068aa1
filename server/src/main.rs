//! The lifecycle manager's program: reads what the bootstrapper handed over, wires the backends
//! to `lifecycle-core`'s manager, and serves its API over TLS. On each node the same program is
//! the agent of the service network. No decision lives here.

mod agent;
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
    /// Make service addresses work on this node, as its agent
    Agent(agent::AgentArguments),
}

fn main() -> ExitCode {
    telemetry::start();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // Reading standard input cannot be broken off; nobody waits for it.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // The one process-wide choice that rustls asks for; a second call would be a mistake of ours
    // and changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ended = match arguments.command {
        Command::Run { directory } => serve::run(&directory).await,
        Command::Agent(arguments) => agent::run(arguments).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error.chain(), hint = error.hint(), "ends");
            ExitCode::FAILURE
        }
    }
}
