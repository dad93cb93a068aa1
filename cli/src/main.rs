//! The bootstrapper's command line: parses, calls `lifecycle-core`, prints. No decision lives
//! here.

mod arguments;
mod commands;
mod confirm;
mod failure;
mod printer;
mod progress;
mod project;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The one process-wide choice that rustls asks for; a second call would be a mistake of ours
    // and changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LIFECYCLE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .init();
    let outcome = tokio::select! {
        outcome = run(&arguments) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer::failure(&failure);
            failure.code()
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Plan(options) => commands::plan::run(arguments, options).await,
        Command::Up(options) => commands::up::run(arguments, options).await,
        Command::Status => commands::status::run(arguments).await,
        Command::Logs(options) => commands::logs::run(arguments, options).await,
        Command::Down(options) => commands::down::run(arguments, options).await,
    }
}
