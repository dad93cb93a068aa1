//! The lifecycle manager's program. It reads the bootstrapper's handover, creates the backends for
//! `lifecycle-core`'s manager, and serves the manager's API over TLS. The same program runs on each
//! node as the agent of the service network. All decisions are made in `lifecycle-core`.
//!
//! This is a library only so that a benchmark can serve the routes.

mod agent;
mod auth;
mod config;
mod connections;
mod endpoints;
mod idempotency;
mod metrics;
mod openapi;
mod problem;
mod routes;
mod serve;
mod streams;
mod telemetry;
mod watches;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use clap::{Parser, Subcommand};
use lifecycle_core::Error;
use lifecycle_core::manager::Manager;

#[derive(Debug, Parser)]
#[command(name = "lifecycle-manager", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage the platform in a directory and serve its API
    Run {
        /// The platform's directory on this node, created by the bootstrapper
        #[arg(long)]
        directory: PathBuf,
    },
    /// Run this node's agent, which makes service addresses reachable
    Agent(agent::AgentArguments),
    /// Print the description of the API, from which clients can be generated
    Openapi {
        /// Print a page in Markdown instead
        #[arg(long)]
        page: bool,
    },
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    telemetry::start();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // A blocking read from standard input cannot be canceled, so do not wait for its thread.
    runtime.shutdown_background();
    code
}

/// Returns the routes of a manager's API. The caller accepts the connections.
pub fn router(manager: Arc<Manager>) -> Router {
    routes::router(manager.into())
}

async fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // rustls needs a process-wide crypto provider. The call fails only if a provider is installed
    // already, so ignore the result.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ended = match arguments.command {
        Command::Run { directory } => serve::run(&directory).await,
        Command::Agent(arguments) => agent::run(arguments).await,
        Command::Openapi { page } => print_openapi(page),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error.chain(), hint = error.hint(), "the process failed");
            ExitCode::FAILURE
        }
    }
}

fn print_openapi(page: bool) -> lifecycle_core::Result<()> {
    let document = routes::document();
    let text = if page {
        openapi::page(&document)
    } else {
        format!("{document:#}\n")
    };
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .map_err(|error| Error::io("the standard output", error))
}
