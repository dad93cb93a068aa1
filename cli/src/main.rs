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
use crate::printer::Printer;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new(arguments.json);
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
        outcome = run(&arguments, &printer) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            failure.code().into()
        }
    }
}

async fn run(arguments: &Arguments, printer: &Printer) -> Result<(), Failure> {
    match &arguments.command {
        Command::Up(options) => commands::up::run(arguments, options, printer).await,
        Command::Status => commands::status::run(arguments, printer).await,
        Command::Logs(options) => commands::logs::run(arguments, options, printer).await,
        Command::Down(options) => commands::down::run(arguments, options, printer).await,
    }
}
