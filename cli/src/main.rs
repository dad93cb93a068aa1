//! The bootstrapper's command line: parses, calls `lifecycle-core`, prints. No decision lives
//! here.

mod arguments;
mod commands;
mod confirm;
mod documents;
mod failure;
mod identity;
mod paint;
mod printer;
mod progress;
mod project;
mod simulated_azure;
mod terminal;
mod wiring;

use std::process::ExitCode;

use clap::Parser;
use lifecycle_core::bootstrap::ExitStatus;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return printer::usage(&error),
    };
    printer::choose_colors(arguments.color);
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
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let outcome = runtime.block_on(async {
                if let Command::AzureSimulator(options) = &arguments.command {
                    // It ends by a signal and has to tidy up after that.
                    return commands::azure_simulator::run(&arguments, options).await;
                }
                tokio::select! {
                    outcome = run(&arguments) => outcome,
                    _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
                }
            });
            // A file that is being read on a thread of its own may never end, a pipe for example.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(lifecycle_core::Error::io("starting the runtime", error).into()),
    };
    // Who ends what would not end by itself knows that.
    let only_shows = matches!(
        arguments.command,
        Command::Logs(_) | Command::Events(_) | Command::Status(_) | Command::Why(_)
    );
    match outcome {
        Err(Failure::Interrupted) if only_shows => Failure::Interrupted.code(),
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(failure @ (Failure::CommandEnded(_) | Failure::Told)) => failure.code(),
        Err(failure) => {
            printer::failure(&failure, arguments.json);
            match (&arguments.command, &failure) {
                (_, Failure::Interrupted) => failure.code(),
                (Command::Exec(_), _) => ExitStatus::NotRun.code().into(),
                _ => failure.code(),
            }
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Init(options) => commands::init::run(arguments, options).await,
        Command::Doctor => commands::doctor::run(arguments).await,
        Command::Schema(options) => commands::schema::run(options),
        Command::Completions(options) => commands::pages::completions(options),
        Command::Man(options) => commands::pages::man(options),
        Command::Plan(options) => commands::plan::run(arguments, options).await,
        Command::Up(options) => commands::up::run(arguments, options).await,
        Command::Publish(options) => commands::publish::run(arguments, options).await,
        Command::Status(options) => commands::status::run(arguments, options).await,
        Command::Why(options) => commands::why::run(arguments, options).await,
        Command::Events(options) => commands::events::run(arguments, options).await,
        Command::Logs(options) => commands::logs::run(arguments, options).await,
        Command::Exec(options) => commands::exec::run(arguments, options).await,
        Command::Restart(options) => commands::restart::run(arguments, options).await,
        Command::Retry(options) => commands::retry::run(arguments, options).await,
        Command::Down(options) => commands::down::run(arguments, options).await,
        Command::AzureSimulator(options) => {
            commands::azure_simulator::run(arguments, options).await
        }
    }
}
